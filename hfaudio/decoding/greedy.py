"""Best-path CTC decoding in NumPy: the best label of each frame, repeats collapsed, blanks dropped, in that order.

Frames are counted from 0; a token spans frames [start, end). T frames, V labels, N tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Word:
    """A word with its time in seconds and a confidence in [0, 1]."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, eq=False)
class GreedyPath:
    """Tokens of the best path, each array (N,): ids, first frames, frames after the last, mean probabilities."""

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    confidences: np.ndarray


def collapse(ids: np.ndarray, blank_id: int, length: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, first frames and frames after the last of a path of label ids (T,); `length` leaves padding out.

        a a _ a b b _   ->   a [0, 2)   a [3, 4)   b [4, 6)

    Repeats go before blanks (Graves et al. 2006, the map B): the other way round "hello" would be "helo".
    """
    if ids.ndim != 1:
        raise ValueError(
            f"expected the label ids of one utterance (T,), got shape {ids.shape}; call once for each row"
        )
    ids = ids[:length]
    is_first = np.ones(len(ids), dtype=bool)
    is_first[1:] = ids[1:] != ids[:-1]
    starts = np.flatnonzero(is_first)
    ends = np.append(starts[1:], len(ids))[: len(starts)]
    spoken = ids[starts] != blank_id
    return ids[starts][spoken], starts[spoken], ends[spoken]


def greedy_search(log_probs: np.ndarray, blank_id: int, length: int | None = None) -> GreedyPath:
    """Best path through (T, V) natural-log probabilities; a token's confidence is its mean over its frames."""
    if log_probs.ndim != 2:
        raise ValueError(
            f"expected log-probabilities (T, V), got shape {log_probs.shape}; call once for each utterance"
        )
    log_probs = log_probs[:length]
    ids = log_probs.argmax(1)
    best = np.take_along_axis(log_probs, ids[:, None], axis=1)[:, 0].astype(np.float64)
    # argmax finds NaN where there is one, so the best column shows both faults
    if not (best <= 1e-3).all():
        frame = int(np.argmin(best <= 1e-3))
        raise ValueError(
            f"frame {frame} has log-probability {best[frame]}, above 0 or NaN; apply log_softmax to logits"
        )
    return greedy_path(ids, np.exp(best), blank_id)


def greedy_path(ids: np.ndarray, probabilities: np.ndarray, blank_id: int) -> GreedyPath:
    """The same from the best label and its probability in each frame, both (T,), where (T, V) would be too large."""
    if np.isnan(probabilities).any():
        raise ValueError(
            f"the probability of frame {int(np.isnan(probabilities).argmax())} is not a number: the model's training "
            "diverged, or its numbers are too large for half precision; open it with dtype='float32'"
        )
    tokens, starts, ends = collapse(ids, blank_id)
    total = np.concatenate([[0.0], np.cumsum(probabilities, dtype=np.float64)])
    confidences = np.clip((total[ends] - total[starts]) / (ends - starts), 0, 1)
    return GreedyPath(tokens, starts, ends, confidences)


def words_with_times(
    tokens: Sequence[str],
    starts: Sequence[int] | np.ndarray,
    ends: Sequence[int] | np.ndarray,
    confidences: Sequence[float] | np.ndarray,
    *,
    frame_seconds: float,
    delimiter: str = "|",
) -> list[Word]:
    """Words between delimiter tokens, from the first frame of the first letter to the last frame of the last.

    A word's confidence is the geometric mean of its letters', so that long words are not less sure than short ones.
    CTC peaks are short and late: a token's first frame is where it was recognised, not where its sound began.
    """
    words = []
    first = 0  # of the open word
    for index, token in enumerate([*tokens, delimiter]):
        if token != delimiter:
            continue
        if index > first:
            words.append(
                Word(
                    text="".join(tokens[first:index]),
                    start=float(starts[first] * frame_seconds),
                    end=float(ends[index - 1] * frame_seconds),
                    confidence=float(np.prod(confidences[first:index]) ** (1 / (index - first))),
                )
            )
        first = index + 1
    return words
