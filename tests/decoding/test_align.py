"""Forced alignment against torchaudio's, against every path of small cases, and on texts that do not fit."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torchaudio

from hfaudio.decoding.align import WILDCARD, AlignmentCosts, align_words, label_sequence, read_emissions, viterbi
from hfaudio.decoding.greedy import collapse

STRICT = AlignmentCosts(math.inf, math.inf, math.inf)
DELIMITER = 1


def random_log_probs(num_frames: int, num_labels: int, seed: int, sharpness: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, sharpness, (num_frames, num_labels))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def spoken(path: list[int], num_labels: int = 8, sure: float = 0.97) -> np.ndarray:
    """Log-probabilities of a recording in which each frame is nearly sure of the label of `path`."""
    probabilities = np.full((len(path), num_labels), (1 - sure) / (num_labels - 1))
    probabilities[np.arange(len(path)), path] = sure
    return np.log(probabilities).astype(np.float32)


def path_score(log_probs: np.ndarray, frames: np.ndarray, ids: np.ndarray) -> float:
    path = np.zeros(len(log_probs), int)
    for (start, end), label in zip(frames, ids, strict=True):
        path[start:end] = label
    return float(log_probs[np.arange(len(path)), path].sum(dtype=np.float64))


@pytest.mark.parametrize("seed", range(20))
def test_the_path_is_as_good_as_that_of_torchaudio(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = [rng.integers(2, 5, rng.integers(1, 4)).tolist() for _ in range(4)]
    log_probs = random_log_probs(40, 5, seed)
    ids, _ = label_sequence(words, DELIMITER)
    spans = align_words([log_probs[:7], log_probs[7:]], words, 0, delimiter_id=DELIMITER, costs=STRICT)
    path, _ = torchaudio.functional.forced_align(
        torch.from_numpy(log_probs)[None], torch.from_numpy(ids)[None].int(), blank=0
    )
    tokens, starts, ends = collapse(path[0].numpy(), 0)
    theirs = np.stack([starts, ends], axis=1)
    assert tokens.tolist() == ids.tolist()
    expected = path_score(log_probs, theirs, ids)
    ours = np.concatenate([span.frames for span in spans])
    np.testing.assert_array_equal(ours, theirs[ids != DELIMITER])  # ties do not occur in random numbers
    score, _ = run_viterbi(log_probs, words, STRICT)
    assert score == pytest.approx(expected, abs=1e-3)


def run_viterbi(log_probs: np.ndarray, words: list[list[int]], costs: AlignmentCosts) -> tuple[float, np.ndarray]:
    ids, owners = label_sequence(words, None if DELIMITER not in range(log_probs.shape[1]) else DELIMITER)
    labels, columns = np.unique(ids[ids != WILDCARD], return_inverse=True)
    tokens = np.full(len(ids), 1)
    tokens[ids != WILDCARD] = columns + 2
    first = np.append(True, owners[1:] != owners[:-1]) & (owners >= 0)
    last = np.append(owners[1:] != owners[:-1], True) & (owners >= 0)
    emissions = read_emissions([log_probs], labels, 0)
    return viterbi(emissions, tokens, first, last, costs.wildcard, costs.outside, costs.unspoken, math.inf)


@pytest.mark.parametrize("seed", range(10))
def test_no_path_at_all_is_better(seed: int) -> None:
    """Every path of 6 frames and 4 labels, words left out at both ends and speech around the text included."""
    log_probs = random_log_probs(6, 4, seed, sharpness=3.0)
    words, costs = [[2], [3, 2], [3]], AlignmentCosts(1.0, 0.7, 1.5)
    num_labels = len(label_sequence(words, DELIMITER)[0])
    best = -math.inf
    outside = np.maximum(log_probs[:, 0], log_probs[:, 1:].max(1) - costs.outside)
    for first in range(3):
        for end in range(first + 1, 4):
            ids = label_sequence(words[first:end], DELIMITER)[0].tolist()
            for start, stop in product(range(7), range(7)):
                around = outside[:start].sum() + outside[stop:].sum() - costs.unspoken * (num_labels - len(ids))
                for path in product(range(4), repeat=max(0, stop - start)):
                    if path and collapse(np.array(path), 0)[0].tolist() == ids:
                        best = max(best, around + log_probs[np.arange(start, stop), path].sum())
    assert run_viterbi(log_probs, words, costs)[0] == pytest.approx(best, abs=1e-4)


def test_a_double_letter_needs_a_blank_and_times_are_those_of_the_path() -> None:
    spans = align_words([spoken([0, 2, 2, 0, 2, 1, 1, 3, 0])], [[2, 2], [3]], 0, delimiter_id=1)
    assert [span.frames.tolist() for span in spans] == [[[1, 3], [4, 5]], [[7, 8]]]
    assert spans[0].confidence == pytest.approx(0.97, rel=1e-4)


def test_a_wildcard_takes_what_is_said_in_its_place() -> None:
    # "a 3 b", spoken "a cdd b": the model has no label for "3"
    spans = align_words([spoken([2, 0, 1, 4, 5, 0, 5, 1, 3])], [[2], [WILDCARD], [3]], 0, delimiter_id=1)
    assert [span.frames.tolist() for span in spans] == [[[0, 1]], [[3, 7]], [[8, 9]]]


def test_words_that_are_not_said_at_the_ends_and_speech_around_the_text() -> None:
    log_probs = spoken([4, 5, 4, 5, 1, 2, 0, 3, 1, 3, 3, 2, 1, 5, 4, 5, 6], sure=0.999)
    absent, present = [6, 7], [[2, 3], [3, 2]]
    spans = align_words([log_probs], [absent, *present, absent], 0, delimiter_id=1)
    assert [span.is_spoken for span in spans] == [False, True, True, False]
    assert spans[1].frames.tolist() == [[5, 6], [7, 8]] and spans[2].frames.tolist() == [[9, 11], [11, 12]]
    assert spans[0].confidence == 0.0
    forced = align_words([log_probs], [absent, *present], 0, delimiter_id=1, costs=STRICT)
    assert all(span.is_spoken for span in forced)


def test_a_long_recording_is_aligned_in_a_window_as_without() -> None:
    rng = np.random.default_rng(0)
    words = [rng.integers(2, 30, 5).tolist() for _ in range(600)]
    path: list[int] = []
    for word in words:
        for label in word:
            path += [0] * int(rng.integers(1, 3)) + [label] * int(rng.integers(1, 3))
        path += [0, 1]
    heard = spoken(path, 30, 0.8)
    whole = align_words([heard], words, 0, delimiter_id=1, margin=math.inf)
    window = align_words([heard], words, 0, delimiter_id=1, margin=50.0)
    for a, b in zip(whole, window, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        assert [path[start] for start in a.frames[:, 0]] == words[whole.index(a)]


def test_a_window_that_loses_the_way_is_widened() -> None:
    # after the first label only blanks are heard: states further on are 5 nats behind, then 10
    log_probs = spoken([2, 0, 0, 0, 0, 0])
    narrow, whole = (
        align_words([log_probs], [[2, 3, 4]], 0, costs=STRICT, margin=margin)[0] for margin in (1.0, math.inf)
    )
    np.testing.assert_array_equal(narrow.frames, whole.frames)
    assert len(narrow.frames) == 3


def test_a_wildcard_costs_by_the_frame_and_a_confidence_is_a_mean_over_frames() -> None:
    heard = spoken([0, 4, 4, 5, 0])
    score, frames = run_viterbi(heard, [[WILDCARD]], AlignmentCosts(0.25, math.inf, math.inf))
    assert score == pytest.approx(5 * math.log(0.97) - 3 * 0.25, abs=1e-4)
    assert frames.tolist() == [[1, 4]]
    log_probs = np.log([[0.05, 0.9, 0.05], [0.1, 0.5, 0.4], [0.9, 0.05, 0.05]]).astype(np.float32)
    assert align_words([log_probs], [[1]], 0)[0].confidence == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("words", "length", "message"),
    [
        ([], 9, "no word"),
        ([[2], []], 9, "word 1 has no label"),
        ([[2, 2, 3]], 3, "needs 4 frames and the recording has 3"),
        ([[2]], 0, "has 0"),
        ([[0]], 9, "without the blank"),
        ([[99]], 9, "id 99"),
    ],
)
def test_a_text_that_cannot_be_aligned_says_why(words: list[list[int]], length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_words([random_log_probs(9, 5, 0)[:length]], words, 0)


def test_nan_is_refused_with_its_frame() -> None:
    log_probs = random_log_probs(9, 5, 0)
    log_probs[5, 3] = np.nan
    with pytest.raises(ValueError, match="frame 5"):
        align_words([log_probs[:4], log_probs[4:]], [[2]], 0)
