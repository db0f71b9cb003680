"""Word, character and match error rates with their counts, 95 % intervals and a paired test between two systems.

Texts are compared as they are; normalise both sides first (`hfaudio.text.normalize`). Edits come from jiwer.

Undefined cases: an empty reference makes every hypothesis word an insertion. A corpus whose references are all empty
has the number of insertions as its rate, as in jiwer. No utterances at all is an error.
"""

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer
import numpy as np

Measure = Literal["wer", "cer", "mer"]

CONFIDENCE = 0.95
BLOCK = 1 << 20  # indices drawn at once while resampling: 8 MB


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn a reference into a hypothesis, in words or in characters."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference unit; with an empty reference, the number of insertions."""
        return self.errors / max(self.reference_length, 1)

    @property
    def mer(self) -> float:
        """Share of the aligned pairs that are errors, in [0, 1]; 0 when both sides are empty."""
        return self.errors / max(self.hits + self.errors, 1)


@dataclass(frozen=True)
class ErrorRate:
    """A rate over `n` utterances, the ends of its 95 % interval, and the counts it comes from."""

    value: float
    low: float
    high: float
    n: int
    counts: ErrorCounts


@dataclass(frozen=True)
class PairedDifference:
    """Rate of system b minus rate of system a on the same `n` utterances: negative where b is better."""

    value: float
    low: float
    high: float
    p_value: float
    n: int


@dataclass(frozen=True)
class Utterance:
    """One scored pair; `counts` are in words."""

    reference: str
    hypothesis: str
    group: str | None
    counts: ErrorCounts


def count_word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Edits between two texts in words, which any white space separates."""
    words = reference.split()
    if not words:
        return ErrorCounts(insertions=len(hypothesis.split()))
    # jiwer splits at single blanks only: "a\tb" would be one word
    edits = jiwer.process_words(" ".join(words), " ".join(hypothesis.split()))
    return ErrorCounts(edits.hits, edits.substitutions, edits.deletions, edits.insertions)


def count_char_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Edits between two texts in code points; blanks inside count, blanks at the ends do not."""
    reference, hypothesis = reference.strip(), hypothesis.strip()
    if not reference:
        return ErrorCounts(insertions=len(hypothesis))
    edits = jiwer.process_characters(reference, hypothesis)
    return ErrorCounts(edits.hits, edits.substitutions, edits.deletions, edits.insertions)


def correct_words(reference: str, hypothesis_words: Sequence[str]) -> list[bool]:
    """Which of the recognised words are right, by the alignment that the word error rate counts."""
    correct = [False] * len(hypothesis_words)
    words = reference.split()
    if not words or not hypothesis_words:  # jiwer refuses empty references
        return correct
    for chunk in jiwer.process_words(" ".join(words), " ".join(hypothesis_words)).alignments[0]:
        if chunk.type == "equal":
            correct[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
    return correct


class ErrorTally:
    """Running error counts of a corpus: eight integers an utterance, and the texts of the worst few.

    Groups are what the utterances cluster in, usually speakers. Give one with every utterance or with none.
    """

    def __init__(self, keep_worst: int = 100) -> None:
        self.keep_worst = keep_worst
        self._words = array("i")  # hits, substitutions, deletions, insertions of each utterance in turn
        self._chars = array("i")
        self._groups = array("i")  # index of the utterance's group in _group_names
        self._group_names: dict[str, int] = {}
        self._worst: list[tuple[int, int, Utterance]] = []  # heap: fewest errors first, of these the latest

    def __len__(self) -> int:
        return len(self._words) // 4

    def add(self, reference: str, hypothesis: str, group: str | None = None) -> ErrorCounts:
        """Word counts of this utterance, after adding it to the tally."""
        if len(self) and (group is None) != (not self._group_names):
            raise ValueError(
                f"got group {group!r} for utterance {len(self)}, and the utterances before it "
                f"had {'groups' if self._group_names else 'none'}; give a group with every utterance or with none"
            )
        index = len(self)
        words, chars = count_word_errors(reference, hypothesis), count_char_errors(reference, hypothesis)
        self._words.extend((words.hits, words.substitutions, words.deletions, words.insertions))
        self._chars.extend((chars.hits, chars.substitutions, chars.deletions, chars.insertions))
        if group is not None:
            self._groups.append(self._group_names.setdefault(group, len(self._group_names)))
        if words.errors:
            heapq.heappush(self._worst, (words.errors, -index, Utterance(reference, hypothesis, group, words)))
            if len(self._worst) > self.keep_worst:
                heapq.heappop(self._worst)
        return words

    @property
    def has_groups(self) -> bool:
        return bool(self._group_names)

    def rate(self, measure: Measure, *, seed: int = 0, num_resamples: int = 1000) -> ErrorRate:
        """Rate of all utterances; its interval resamples groups where there are two or more, else utterances.

        The interval is the percentile bootstrap of Bisani & Ney, "Bootstrap estimates for confidence intervals in
        ASR performance evaluation" (ICASSP 2004). Errors of one speaker go together, so with groups it is the
        groups that are drawn (with all their utterances). One single utterance has an interval of no width.
        """
        edits = self._edits(measure)
        return _error_rate(edits, self._units(), measure, seed, num_resamples)

    def by_group(self, measure: Measure, *, seed: int = 0, num_resamples: int = 1000) -> dict[str, ErrorRate]:
        """Rate of each group, in the order the groups came; intervals resample the utterances of the group."""
        if not self._group_names:
            raise ValueError("the utterances were added without groups; pass group= to add()")
        edits, groups = self._edits(measure), np.asarray(self._groups)
        rates = {}
        for name, index in self._group_names.items():
            members = edits[groups == index]
            rates[name] = _error_rate(members, np.arange(len(members)), measure, seed, num_resamples)
        return rates

    def worst(self, n: int) -> list[Utterance]:
        """The n utterances with most word errors, most first; fewer when fewer have errors."""
        if n > self.keep_worst:
            raise ValueError(f"asked for {n} utterances, {self.keep_worst} are kept; raise ErrorTally(keep_worst=)")
        return [utterance for *_, utterance in sorted(self._worst, key=lambda entry: entry[:2], reverse=True)[:n]]

    def _edits(self, measure: Measure) -> np.ndarray:
        """(utterances, 4) counts in the unit of this measure."""
        if not len(self):
            raise ValueError("the error rate of zero utterances is undefined; check that the split is not empty")
        return np.array(self._chars if measure == "cer" else self._words, dtype=np.int64).reshape(-1, 4)

    def _units(self) -> np.ndarray:
        """(utterances,) index of the unit each belongs to: what the bootstrap draws."""
        return np.asarray(self._groups) if len(self._group_names) > 1 else np.arange(len(self))


def word_error_rate(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    num_resamples: int = 1000,
) -> ErrorRate:
    """Word errors per reference word, with a 95 % interval over utterances, or over groups when given."""
    return _tally(references, hypotheses, groups).rate("wer", seed=seed, num_resamples=num_resamples)


def char_error_rate(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    num_resamples: int = 1000,
) -> ErrorRate:
    """Character errors per reference character, with a 95 % interval over utterances, or over groups when given."""
    return _tally(references, hypotheses, groups).rate("cer", seed=seed, num_resamples=num_resamples)


def match_error_rate(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    num_resamples: int = 1000,
) -> ErrorRate:
    """Share of aligned word pairs that are wrong, with a 95 % interval over utterances, or over groups when given.

    Morris, Maier & Green, "From WER and RIL to MER and WIL" (Interspeech 2004): unlike WER it stays below 1.
    """
    return _tally(references, hypotheses, groups).rate("mer", seed=seed, num_resamples=num_resamples)


def paired_bootstrap(
    references: Sequence[str],
    hypotheses_a: Sequence[str],
    hypotheses_b: Sequence[str],
    *,
    measure: Measure = "wer",
    groups: Sequence[str] | None = None,
    seed: int = 0,
    num_resamples: int = 10_000,
) -> PairedDifference:
    """Rate of b minus rate of a with its 95 % interval and a two-sided p-value of "both are equally good".

    Every draw takes the same utterances (or groups) for both systems (Bisani & Ney 2004), so what makes an utterance
    hard for both cancels out. p is the share of draws, shifted to a mean difference of zero, that lie at least as far
    from zero as the difference seen (Efron & Tibshirani 1993, section 16.4), never below 1 / (num_resamples + 1).
    """
    tally_a, tally_b = _tally(references, hypotheses_a, groups), _tally(references, hypotheses_b, groups)
    sums_a = _unit_sums(tally_a._edits(measure), tally_a._units(), measure)
    sums_b = _unit_sums(tally_b._edits(measure), tally_b._units(), measure)
    value = float(_ratio(sums_b.sum(0)) - _ratio(sums_a.sum(0)))
    draws = _resample(np.hstack([sums_a, sums_b]), seed, num_resamples)
    differences = _ratio(draws[:, 2:]) - _ratio(draws[:, :2])
    low, high = _interval(differences)
    # 1e-12: a draw that ties with the difference seen must count in spite of rounding
    extreme = int((np.abs(differences - value) >= abs(value) - 1e-12).sum())
    return PairedDifference(value, low, high, p_value=(extreme + 1) / (num_resamples + 1), n=len(tally_a))


def _tally(references: Sequence[str], hypotheses: Sequence[str], groups: Sequence[str] | None) -> ErrorTally:
    if len(references) != len(hypotheses):
        raise ValueError(f"got {len(references)} references and {len(hypotheses)} hypotheses; pass them in pairs")
    if groups is not None and len(groups) != len(references):
        raise ValueError(f"got {len(references)} references and {len(groups)} groups; pass one group for each")
    tally = ErrorTally()
    for index, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        tally.add(reference, hypothesis, None if groups is None else groups[index])
    return tally


def _error_rate(edits: np.ndarray, units: np.ndarray, measure: Measure, seed: int, num_resamples: int) -> ErrorRate:
    sums = _unit_sums(edits, units, measure)
    low, high = _interval(_ratio(_resample(sums, seed, num_resamples)))
    counts = ErrorCounts(*map(int, edits.sum(0)))
    return ErrorRate(float(_ratio(sums.sum(0))), low, high, n=len(edits), counts=counts)


def _unit_sums(edits: np.ndarray, units: np.ndarray, measure: Measure) -> np.ndarray:
    """(units, 2) errors and denominators: all that a resampled rate needs."""
    hits, substitutions, deletions, insertions = edits.T
    errors = substitutions + deletions + insertions
    if measure == "wer" or measure == "cer":
        lengths = hits + substitutions + deletions
    elif measure == "mer":
        lengths = hits + errors
    else:
        raise ValueError(f"unknown measure {measure!r}; choose wer, cer or mer")
    return np.stack([np.bincount(units, errors), np.bincount(units, lengths)], axis=1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """(..., 2) errors and denominators -> (...) rates, by the rule of `ErrorCounts.rate`."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _resample(sums: np.ndarray, seed: int, num_resamples: int) -> np.ndarray:
    """(units, K) sums -> (num_resamples, K): column sums of as many units, drawn with replacement."""
    rng = np.random.default_rng(seed)
    units = len(sums)
    draws = np.empty((num_resamples, sums.shape[1]))
    block = max(BLOCK // units, 1)  # 1000 draws of 100 000 utterances at once would be 0.8 GB
    for start in range(0, num_resamples, block):
        # drawn indices, column by column: 7 times faster than multinomial weights @ sums, which is the same sample
        index = rng.integers(units, size=(min(block, num_resamples - start), units))
        for column, values in enumerate(sums.T.copy()):
            draws[start : start + len(index), column] = values[index].sum(1)
    return draws


def _interval(draws: np.ndarray) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
