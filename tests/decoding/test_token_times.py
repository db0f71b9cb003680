"""The alignment of labels to frames is the best of all that spell the same."""

import itertools
import math

import numpy as np
import pytest

from hfaudio.decoding.beam import encode_labels
from hfaudio.decoding.lexicon import Alphabet
from hfaudio.decoding.token_times import MARGIN, token_times

TEXTS = ["", " ", "a", "b"]
LABELS = encode_labels(TEXTS, Alphabet.of(TEXTS), None)
SPACE = 1


def spelled(path: tuple[int, ...]) -> tuple[int, ...]:
    """What an alignment spells: repeats, blanks, and spaces at the ends and after spaces dropped."""
    tokens: list[int] = []
    for label, _ in itertools.groupby(path):
        if label and not (label == SPACE and (not tokens or tokens[-1] == SPACE)):
            tokens.append(label)
    return tuple(tokens[:-1] if tokens and tokens[-1] == SPACE else tokens)


@pytest.mark.parametrize("tokens", [(2,), (2, 2), (2, 3), (2, 1, 2), (3, 2, 1, 3), (2, 2, 2)])
def test_it_is_the_best_of_all_alignments(tokens: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(tokens))
    for _ in range(5):
        log_probs = np.log(rng.dirichlet(np.full(4, 0.5), size=6)).astype(np.float32)
        best = max(
            (path for path in itertools.product(range(4), repeat=6) if spelled(path) == tokens),
            key=lambda path: sum(float(log_probs[t, label]) for t, label in enumerate(path)),
        )
        frames, sums = token_times(log_probs, np.array(tokens, np.int32), LABELS, MARGIN)
        # the frames outside the labels go to blanks, or to spaces that spell nothing
        path = np.zeros(6, int)
        for (first, end), token in zip(frames, tokens, strict=True):
            path[first:end] = token
        gaps = path == 0
        score = sum(float(log_probs[t, label]) for t, label in enumerate(best))
        after_space = np.array([t < frames[0, 0] or t >= frames[-1, 1] for t in range(6)])
        for (_, end), (first, _), token in zip(frames, frames[1:], tokens, strict=False):
            after_space[end:first] |= token == SPACE
        gap_scores = np.where(after_space, log_probs[:, [0, SPACE]].max(1), log_probs[:, 0])
        found = np.where(gaps, gap_scores, log_probs[np.arange(6), path]).sum()
        assert found == pytest.approx(score, abs=1e-4)
        expected = [
            np.exp(log_probs[first:end, token]).sum() for (first, end), token in zip(frames, tokens, strict=True)
        ]
        assert sums == pytest.approx(expected)


def test_the_window_is_widened_until_the_end_is_reached() -> None:
    """Ten frames that deny all labels, then just the frames that they need."""
    log_probs = np.full((30, 4), -200.0, np.float32)
    log_probs[:, 0] = 0.0
    frames, _ = token_times(log_probs, np.array([2, 3] * 10, np.int32), LABELS, 1.0)
    assert (frames[:, 1] > frames[:, 0]).all() and (frames[1:, 0] >= frames[:-1, 1]).all()


def test_too_few_frames_have_no_alignment() -> None:
    log_probs = np.log(np.full((2, 4), 0.25, np.float32))
    frames, sums = token_times(log_probs, np.array([2, 2], np.int32), LABELS, MARGIN)
    assert (frames == -1).all() and (sums == 0).all()
    assert math.isclose(token_times(log_probs, np.array([2, 3], np.int32), LABELS, MARGIN)[1].sum(), 0.5)
