"""Weights of a language model found on development data, from log-probabilities that are computed once.

Decoding a split again takes a fraction of a second where the acoustic model took minutes, so dozens of settings can be
tried. Never tune on a test split: the weights would be fitted to it.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from hfaudio.decoding.beam import BeamSearchDecoder, BeamSettings

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
BETAS = (-1.0, 0.5, 2.0, 4.0)
GRID_EXAMPLES = 150  # utterances that the grid is decoded on; the rest of the search takes all of them
# First steps of the search around the best point of the grid; they are halved ROUNDS - 1 times.
STEPS = {"alpha": 0.2, "beta": 0.5, "unk_score_offset": 4.0}
ROUNDS = 2
# Faster and slower searches than the default, the fastest first, tried at the end. Their times are not what decides:
# a run would not repeat another one's choice.
FASTER: tuple[dict[str, Any], ...] = ({"beam_width": 25}, {"token_min_logp": -5.0}, {"beam_width": 50})
SLOWER: tuple[dict[str, Any], ...] = ({"beam_width": 200, "beam_prune_logp": -14.0},)


class LogProbCache(Sequence[np.ndarray]):
    """Natural-log probabilities (T, V) of many utterances, the `top_k` best of each frame in float16.

    An hour at 50 frames a second takes 17 MB with 24 labels kept, whatever the size of the vocabulary. What is not
    kept comes back as an even share of the mass that is left.
    """

    def __init__(self, utterances: Iterable[np.ndarray] = (), *, top_k: int = 24) -> None:
        self.top_k = top_k
        self._items: list[tuple[int, np.ndarray | None, np.ndarray]] = []  # vocabulary size, ids, values
        for log_probs in utterances:
            self.append(log_probs)

    def append(self, log_probs: np.ndarray) -> None:
        """Add one utterance (T, V)."""
        size = log_probs.shape[1]
        if size <= self.top_k:
            self._items.append((size, None, log_probs.astype(np.float16)))
            return
        ids = np.argpartition(log_probs, size - self.top_k, axis=1)[:, size - self.top_k :]
        values = np.take_along_axis(log_probs, ids, axis=1).astype(np.float16)
        self._items.append((size, ids.astype(np.int32), values))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        size, ids, values = self._items[index]
        kept = values.astype(np.float32)
        if ids is None:
            return kept
        rest = np.maximum(1 - np.exp(kept).sum(1, keepdims=True), 1e-10) / (size - self.top_k)
        log_probs = np.minimum(np.log(rest), kept.min(1, keepdims=True)).repeat(size, axis=1)
        np.put_along_axis(log_probs, ids, kept, axis=1)
        return log_probs

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Trial:
    """One setting, its errors per reference word on development data, and the seconds that decoding it took."""

    settings: BeamSettings
    error_rate: float
    seconds: float


@dataclass(frozen=True)
class Tuning:
    """The best setting, the grid over alpha and beta on a part of the data, and what was tried on all of it."""

    best: BeamSettings
    grid: tuple[Trial, ...]
    trials: tuple[Trial, ...]


def tune(
    decoder: BeamSearchDecoder,
    log_probs: Sequence[np.ndarray],
    references: Sequence[str],
    *,
    count_errors: Callable[[str, str], int],
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
    num_threads: int | None = None,
    progress: bool = True,
) -> Tuning:
    """LM weight, word bonus, unknown-word score, beam and pruning with the fewest errors on development data.

    A grid over alpha and beta on the first utterances; then on all of them steps along alpha, beta and the
    unknown-word score from the best point, halved when none of them helps; then faster and slower searches, of which
    the fastest stays that makes no more errors than the best. The decoder's own settings are among what is tried.

    Args:
        count_errors: word errors of (reference, hypothesis).

    Raises:
        ValueError: no utterance, no reference word, or a decoder without a language model.
    """
    if decoder.lm is None:
        raise ValueError("there is nothing to tune without a language model; give the decoder one")
    if not any(reference.split() for reference in references):
        raise ValueError(f"the {len(references)} references hold no word; tune on transcripts that have some")
    start = decoder.settings
    points = [dataclasses.replace(start, alpha=alpha, beta=beta) for alpha in alphas for beta in betas]
    bar = tqdm(desc="tuning the language model", unit="trial", disable=not progress)

    def attempt(settings: BeamSettings, count: int) -> Trial:
        bar.update()
        return try_settings(decoder, settings, log_probs[:count], references[:count], count_errors, num_threads)

    grid = tuple(attempt(settings, GRID_EXAMPLES) for settings in points)
    trials: dict[BeamSettings, Trial] = {}

    def errors(settings: BeamSettings) -> float:
        if settings not in trials:
            trials[settings] = attempt(settings, len(references))
        return trials[settings].error_rate

    best = min([start, min(grid, key=lambda trial: trial.error_rate).settings], key=errors)
    steps: Mapping[str, float] = STEPS
    for _ in range(ROUNDS):
        best = descend(best, steps, errors)
        steps = {name: step / 2 for name, step in steps.items()}
    faster, slower = ([dataclasses.replace(best, **changes) for changes in group] for group in (FASTER, SLOWER))
    best = min([*faster, best, *slower], key=errors)
    bar.close()
    return Tuning(best, grid, tuple(trials.values()))


def try_settings(
    decoder: BeamSearchDecoder,
    settings: BeamSettings,
    log_probs: Sequence[np.ndarray],
    references: Sequence[str],
    count_errors: Callable[[str, str], int],
    num_threads: int | None,
) -> Trial:
    """Decode utterances with these settings."""
    start = time.perf_counter()
    hypotheses = decoder.with_settings(**dataclasses.asdict(settings)).decode_batch(log_probs, num_threads=num_threads)
    seconds = time.perf_counter() - start
    pairs = zip(references, hypotheses, strict=True)
    count = sum(count_errors(reference, hypothesis.text) for reference, hypothesis in pairs)
    return Trial(settings, count / max(sum(len(reference.split()) for reference in references), 1), seconds)


def descend(best: BeamSettings, steps: Mapping[str, float], errors: Callable[[BeamSettings], float]) -> BeamSettings:
    """Coordinate search: a step up or down in one setting, as long as one of them makes fewer errors."""
    improved = True
    while improved:
        improved = False
        for name, step in steps.items():
            value = getattr(best, name)
            if not np.isfinite(value):  # a closed vocabulary has no unknown-word score to move
                continue
            changes: list[dict[str, Any]] = [{name: moved} for moved in moves(name, value, step)]
            neighbours = [dataclasses.replace(best, **change) for change in changes]
            candidate = min(neighbours, key=errors)
            if errors(candidate) < errors(best):
                best, improved = candidate, True
    return best


def moves(name: str, value: float, step: float) -> list[float]:
    """A step down and a step up; an LM weight stays positive, an unknown word never gets a bonus."""
    down, up = round(value - step, 6), round(value + step, 6)
    if name == "alpha":
        return [max(down, 0.0), up]
    return [down, min(up, 0.0)] if name == "unk_score_offset" else [down, up]
