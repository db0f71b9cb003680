"""Interpolated modified Kneser-Ney estimation, with the numbers of KenLM's lmplz.

Chen & Goodman 1998 (TR-10-98) for the discounts, Heafield et al. 2013 for how lmplz counts. Differences to lmplz:
small corpora, for which the discounts are not defined, get fixed ones and a note instead of an error; words outside a
given vocabulary become <unk> before counting, as in SRILM.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from hfaudio.ngram.scratch import Scratch
from hfaudio.ngram.table import BOS, LOG_ZERO, MARKS, SPACE_MARK, UNITS, UNK, NGramTable
from hfaudio.ngram.vocabulary import Vocabulary, number_lines

logger = logging.getLogger(__name__)

MAX_ORDER = 6
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # of counts 1, 2, and 3 or more; lmplz --discount_fallback


@dataclass(frozen=True, eq=False)
class Estimate:
    """A model as tables, and what there is to say about it."""

    words: list[str]
    tables: list[NGramTable]
    unit: str
    discounts: np.ndarray  # (N, 3), of adjusted counts 1, 2, and 3 or more
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Counts:
    """N-grams of one order as they were counted, rows sorted by (prefix, word); arrays (n,)."""

    prefix: np.ndarray  # int32
    word: np.ndarray  # int32
    suffix: np.ndarray  # int32
    raw: np.ndarray  # int64, how often it is in the text
    starts: np.ndarray  # bool, begins with <s>


def estimate(
    lines: Iterable[str],
    order: int = 3,
    *,
    unit: str = "word",
    tokenize: Callable[[str], Sequence[str]] | None = None,
    prune: Sequence[int] = (),
    vocabulary: Collection[str] | None = None,
    vocab_size: int | None = None,
    min_count: int = 1,
    closed: bool = False,
    memory: int | None = None,
    temp_dir: str | os.PathLike[str] | None = None,
) -> Estimate:
    """A model of sentences.

    Args:
        lines: sentences; what white space parts are words. An empty line is an empty sentence.
        order: words of the longest n-grams, 1 to 6.
        unit: "word"; "char" for characters, the space as "▁"; "bpe" for the pieces that `tokenize` makes.
        prune: drop n-grams of order k that occur at most prune[k - 1] times; the last number holds for higher orders.
        vocabulary: words outside of it become <unk>.
        vocab_size: keep so many words, the most frequent ones.
        min_count: keep words that occur at least so often.
        closed: give <unk> no probability; for texts in which there are no other words, so without the three limits.
        memory: bytes to sort in, beside the vocabulary and the model; the text and its counts go to files. Without
            it, all is in memory: about 100 bytes for a word of the text at order 3, 150 at order 5.
        temp_dir: where these files are, if not in the system's folder for them.

    Raises:
        ValueError: no text, a mark such as <s> inside it, or options that contradict each other.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"the order of a model is 1 to {MAX_ORDER}, got {order}")
    if unit not in UNITS:
        raise ValueError(f"the unit of a model is one of {', '.join(UNITS)}, got {unit!r}")
    if vocab_size is not None and vocab_size < 1:
        raise ValueError(f"vocab_size is how many words are kept, at least 1; got {vocab_size}")
    if closed and (vocabulary is not None or vocab_size is not None or min_count > 1):
        raise ValueError(
            "a closed vocabulary gives <unk> no probability, but a limit of the vocabulary makes the other words of "
            "the text <unk>, which are counted; leave out --closed, or the limit, or take these words out of the text"
        )
    if (unit == "bpe") != (tokenize is not None):
        raise ValueError("unit 'bpe' and a tokenize function belong together; give both or neither")
    minimum = thresholds(prune, order)
    words_of = Vocabulary()
    with Scratch(memory, temp_dir) as scratch:
        ids = scratch.joined(number_lines(unit_lines(lines, unit, tokenize), words_of), np.int32)
        words = words_of.words()
        if len(words) == len(MARKS):
            raise ValueError("there is no word in the text to estimate a language model from; is it empty?")
        words = limit_vocabulary(ids, words, vocabulary, vocab_size, min_count, scratch)
        counts = count_ngrams(ids, order, len(words), scratch)
        return estimate_counts(words, counts, minimum, unit=unit, closed=closed, scratch=scratch)


def unit_lines(lines: Iterable[str], unit: str, tokenize: Callable[[str], Sequence[str]] | None) -> Iterable[str]:
    """Sentences with a space between their units."""
    if unit == "word":
        return lines
    if unit == "char":
        return (" ".join(" ".join(line.split()).replace(" ", SPACE_MARK)) for line in lines)
    assert tokenize is not None
    split = tokenize
    return (" ".join(split(" ".join(line.split()))) for line in lines)


def count_words(ids: np.ndarray, num_words: int, scratch: Scratch) -> np.ndarray:
    """How often each word is in the text: (W,) int64."""
    counts = np.zeros(num_words, np.int64)
    for piece in scratch.pieces(len(ids)):
        counts += np.bincount(ids[piece], minlength=num_words)
    return counts


def limit_vocabulary(
    ids: np.ndarray,
    words: list[str],
    vocabulary: Collection[str] | None,
    vocab_size: int | None,
    min_count: int,
    scratch: Scratch,
) -> list[str]:
    """The words that the limits leave; in `ids`, the others become <unk>."""
    if vocabulary is None and vocab_size is None and min_count <= 1:
        return words
    counts = count_words(ids, len(words), scratch)
    keep = counts >= min_count
    if vocabulary is not None:
        allowed = set(vocabulary)
        keep &= np.array([word in allowed for word in words])
    if vocab_size is not None and keep[len(MARKS) :].sum() > vocab_size:
        candidates = np.where(keep, counts, -1)
        candidates[: len(MARKS)] = -1
        chosen = np.argsort(-candidates, kind="stable")[:vocab_size]
        keep = np.zeros(len(words), bool)
        keep[chosen] = True
    keep[: len(MARKS)] = True
    if keep.sum() == len(MARKS):
        raise ValueError("no word of the text is inside the limits of the vocabulary; is it written in another case?")
    numbers = np.where(keep, np.cumsum(keep) - 1, UNK).astype(np.int32)
    for piece in scratch.pieces(len(ids)):
        ids[piece] = numbers[ids[piece]]
    return [word for word, kept in zip(words, keep, strict=True) if kept]


def thresholds(prune: Sequence[int], order: int) -> list[int]:
    """The count at which n-grams of each order are dropped; the last one given holds for the orders above."""
    values = [*prune, *[prune[-1] if prune else 0] * order][:order]
    if len(prune) > order or any(value < 0 for value in values) or values != sorted(values):
        raise ValueError(f"--prune takes up to {order} counts of at least 0 that do not fall, got {list(prune)}")
    return values


def count_ngrams(ids: np.ndarray, order: int, num_words: int, scratch: Scratch) -> list[Counts]:
    """Counts of the n-grams of order 1 to N in sentences <s> ... </s>; none crosses a sentence.

    An n-gram is numbered by the row of its prefix times the number of words, plus its last word; sorting these numbers
    brings equal ones together, and makes the rows of the next order. Pieces of the text are sorted one by one, and
    what they hold is merged.
    """
    n = len(ids)
    position = scratch.empty(n, np.int32)
    fill_positions(ids, position)
    zeros = np.zeros(num_words, np.int32)
    every = np.arange(num_words, dtype=np.int32)
    counts = [Counts(zeros, every, zeros, count_words(ids, num_words, scratch), every == BOS)]
    row_at = ids  # the row of the n-gram that ends at each place of the text
    for k in range(2, order + 1):
        runs: list[Run] = []
        run_row = scratch.empty(n if k < order else 0, np.int32)  # the same, in the run of its piece
        for piece in scratch.pieces(n):
            at = np.flatnonzero(position[piece] >= k - 1)
            at += piece.start
            key = row_at[at - 1].astype(np.int64)
            key *= num_words
            key += ids[at]
            sorting = np.argsort(key)
            key = key[sorting]
            is_new = np.ones(len(key), bool)
            np.not_equal(key[1:], key[:-1], out=is_new[1:])
            first = np.flatnonzero(is_new)
            count = np.diff(np.append(first, len(key)))
            runs.append(Run(scratch.kept(key[first]), scratch.kept(count), scratch.kept(at[sorting[first]])))
            if k < order:
                run_row[at[sorting]] = np.cumsum(is_new, dtype=np.int32) - 1
        merged = merge_runs(runs, scratch)
        size = len(merged.key)
        prefix, word, suffix = (scratch.empty(size, np.int32) for _ in range(3))
        starts = scratch.empty(size, bool)
        for piece in scratch.pieces(size):
            prefix[piece], word[piece] = np.divmod(merged.key[piece], num_words)
            suffix[piece] = row_at[merged.example[piece]]
            starts[piece] = position[merged.example[piece]] == k - 1
        counts.append(Counts(prefix, word, suffix, merged.count, starts))
        if k < order and len(runs) > 1:
            for piece, run in zip(scratch.pieces(n), runs, strict=True):
                at = np.flatnonzero(position[piece] >= k - 1)
                at += piece.start
                run_row[at] = np.searchsorted(merged.key, run.key)[run_row[at]]
        row_at = run_row
    return counts


@njit(cache=True, nogil=True)
def fill_positions(ids: np.ndarray, position: np.ndarray) -> None:
    """How many words are before each one in its sentence."""
    since = np.int32(0)
    for index in range(len(ids)):
        since = np.int32(0) if ids[index] == BOS else np.int32(since + 1)
        position[index] = since


@dataclass(frozen=True, eq=False)
class Run:
    """The n-grams of a piece of text, sorted: arrays (n,) int64."""

    key: np.ndarray
    count: np.ndarray
    example: np.ndarray  # a place of the text where it ends


def merge_runs(runs: Sequence[Run], scratch: Scratch) -> Run:
    """One run of several: ranges of keys, of which all runs together hold what is worked on at once, one by one."""
    if len(runs) == 1:
        return runs[0]
    total = sum(len(run.key) for run in runs)
    columns = [scratch.empty(total, np.int64) for _ in range(3)]
    num_ranges = 1 + sum(1 for _ in scratch.pieces(2 * total))  # twice as many, as samples cut them unevenly
    samples = np.sort(np.concatenate([run.key[:: 1 + len(run.key) // 1000] for run in runs]))
    limits = np.unique(samples[np.linspace(0, len(samples) - 1, num_ranges + 1).astype(int)[1:-1]])
    bounds = [[0, *np.searchsorted(run.key, limits).tolist(), len(run.key)] for run in runs]
    size = 0
    for index in range(len(limits) + 1):
        parts = [(run, slice(bound[index], bound[index + 1])) for run, bound in zip(runs, bounds, strict=True)]
        key = np.concatenate([run.key[part] for run, part in parts])
        if not len(key):
            continue
        sorting = np.argsort(key)
        key = key[sorting]
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
        count = np.concatenate([run.count[part] for run, part in parts])[sorting]
        example = np.concatenate([run.example[part] for run, part in parts])[sorting[first]]
        found = slice(size, size + len(first))
        columns[0][found], columns[1][found], columns[2][found] = key[first], np.add.reduceat(count, first), example
        size += len(first)
    return Run(*(column[:size] for column in columns))


def estimate_counts(
    words: list[str], counts: list[Counts], minimum: Sequence[int], *, unit: str, closed: bool, scratch: Scratch
) -> Estimate:
    """The model of counts: n-grams of order k that occur at most minimum[k - 1] times are dropped."""
    tables: list[NGramTable] = []
    discounts = np.zeros((len(counts), 3))
    notes: list[str] = []
    kept_words = kept_below = np.zeros(0, np.int32)  # new rows of the words, and of what is one order lower
    lower = np.zeros(0)  # probabilities one order lower, of all rows
    for k, count in enumerate(counts, start=1):
        size = len(count.word)
        adjusted = adjusted_counts(counts, k, scratch)
        discounts[k - 1], remarks = modified_discounts(counts_of_counts(adjusted), k)
        notes += remarks
        keep = count.raw > minimum[k - 1]
        if k == 1:
            keep[: len(MARKS)] = True
            prob = word_probabilities(adjusted, keep, discounts[0], closed=closed)
        else:
            prob, backoff = scratch.empty(size, np.float64), scratch.empty(len(lower), np.float64)
            fill_probabilities(count.prefix, count.suffix, adjusted, keep, discounts[k - 1], lower, prob, backoff)
            write_log10(tables[-1].log_backoff, backoff, kept_below >= 0, scratch)
        lower = prob
        kept = np.cumsum(keep, dtype=np.int32)
        kept -= 1
        kept[~keep] = -1
        if k == 1:
            kept_words = kept_below = kept
        num_kept = int(keep.sum())
        tables.append(
            NGramTable(
                kept_below[count.prefix[keep]] if k > 1 else np.zeros(num_kept, np.int32),
                kept_words[count.word[keep]],
                kept_below[count.suffix[keep]] if k > 1 else np.zeros(num_kept, np.int32),
                np.empty(num_kept, np.float32),
                np.zeros(num_kept, np.float32),
            )
        )
        write_log10(tables[-1].log_prob, prob, keep, scratch)
        kept_below = kept
    words = [word for word, row in zip(words, kept_words.tolist(), strict=True) if row >= 0]
    for note in notes:
        logger.warning(note)
    return Estimate(words, tables, unit, discounts, tuple(notes))


def adjusted_counts(counts: Sequence[Counts], k: int, scratch: Scratch) -> np.ndarray:
    """Counts (n,) int64 of order k for Kneser-Ney: below the highest order the number of words seen before an n-gram.

    What begins with <s> has nothing before it and keeps its count; <s> itself is never predicted.
    """
    count = counts[k - 1]
    adjusted = scratch.empty(len(count.word), np.int64)
    adjusted[:] = count.raw
    if k < len(counts):
        count_before(counts[k].suffix, count.starts, adjusted)
    if k == 1:
        adjusted[BOS] = 0
    return adjusted


@njit(cache=True, nogil=True)
def count_before(suffix: np.ndarray, starts: np.ndarray, adjusted: np.ndarray) -> None:
    """Set the counts of what does not begin with <s> to the number of longer n-grams that end with it."""
    for row in range(len(adjusted)):
        if not starts[row]:
            adjusted[row] = 0
    for row in suffix:  # none begins with <s>, which nothing precedes
        adjusted[row] += 1


@njit(cache=True, nogil=True)
def counts_of_counts(adjusted: np.ndarray) -> np.ndarray:
    """How many n-grams have the counts 0 to 4, and more: (6,) int64."""
    result = np.zeros(6, np.int64)
    for count in adjusted:
        result[min(count, 5)] += 1
    return result


def modified_discounts(counts_of_counts: np.ndarray, k: int) -> tuple[np.ndarray, list[str]]:
    """Discounts of the adjusted counts 1, 2, and 3 or more (Chen & Goodman, equation 26); a note if they are fixed.

    They are not defined, or not between 0 and the count, where few n-grams occur once to four times.
    """
    t1, t2, t3, t4 = counts_of_counts[1:5].astype(float)
    if min(t1, t2, t3) > 0:
        y = t1 / (t1 + 2 * t2)
        found = np.array([1 - 2 * y * t2 / t1, 2 - 3 * y * t3 / t2, 3 - 4 * y * t4 / t3])
        if ((found >= 0) & (found <= (1, 2, 3))).all():
            return found, []
    note = (
        f"order {k}: {int(t1)}, {int(t2)}, {int(t3)} and {int(t4)} n-grams with the counts 1 to 4 are too few for "
        f"Kneser-Ney's discounts, fixed ones {FALLBACK_DISCOUNTS} are used"
    )
    return np.array(FALLBACK_DISCOUNTS), [note]


def word_probabilities(adjusted: np.ndarray, keep: np.ndarray, discounts: np.ndarray, *, closed: bool) -> np.ndarray:
    """Probabilities (W,) of words without context; what discounting leaves is spread evenly over them and <unk>."""
    subtracted = np.append(0.0, discounts)[np.minimum(adjusted, 3)]
    given_up = np.where(keep, subtracted, adjusted)
    num_predicted = keep.sum() - (2 if closed else 1)  # neither <s>, nor <unk> if closed
    prob = (adjusted - subtracted + given_up.sum() / num_predicted) / adjusted.sum()
    if closed:
        prob[UNK] = 0.0
    prob[BOS] = 1.0  # never predicted; log10 p = 0, as lmplz writes
    return prob


@njit(cache=True, nogil=True, error_model="numpy")
def fill_probabilities(
    prefix: np.ndarray,
    suffix: np.ndarray,
    adjusted: np.ndarray,
    keep: np.ndarray,
    discounts: np.ndarray,
    lower: np.ndarray,
    prob: np.ndarray,
    backoff: np.ndarray,
) -> None:
    """Probabilities (n,) of the n-grams of one order, and back-off weights of their contexts.

    A context gives up the discounts of n-grams that stay, and the whole counts of those that are dropped.
    """
    first = 0
    for row in range(len(backoff)):
        end, total, given_up = first, 0.0, 0.0
        while end < len(prefix) and prefix[end] == row:
            count = adjusted[end]
            total += count
            if not keep[end]:
                given_up += count
            elif count > 0:
                given_up += discounts[min(count, 3) - 1]
            end += 1
        backoff[row] = given_up / total if total > 0 else 1.0
        for index in range(first, end):
            count = adjusted[index]
            subtracted = discounts[min(count, 3) - 1] if count > 0 else 0.0
            prob[index] = (count - subtracted) / total + backoff[row] * lower[suffix[index]]
        first = end


def write_log10(target: np.ndarray, values: np.ndarray, keep: np.ndarray, scratch: Scratch) -> None:
    """Logarithms of the values that are kept, at least LOG_ZERO and at most 0 for what rounding puts above."""
    first = 0
    for piece in scratch.pieces(len(values)):
        kept = values[piece][keep[piece]]
        target[first : first + len(kept)] = np.log10(np.clip(kept, 10.0**LOG_ZERO, 1.0))
        first += len(kept)
