from itertools import groupby, product

import numpy as np
import pytest
import torch

from hfaudio.decoding import Word, collapse, greedy_path, greedy_search, words_with_times

BLANK = 0
LETTERS = "_abcdefghijklmnopqrstuvwxyz|"


def path(letters: str) -> np.ndarray:
    return np.array([LETTERS.index(letter) for letter in letters], dtype=np.int64)


def text(tokens: np.ndarray) -> str:
    return "".join(LETTERS[token] for token in tokens)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_drawing_of_the_docstring() -> None:
    tokens, starts, ends = collapse(path("aa_abb_"), BLANK)
    assert text(tokens) == "aab"
    assert starts.tolist() == [0, 3, 4]
    assert ends.tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("letters", "expected"),
    [("hel_lo", "hello"), ("hello", "helo"), ("bo_ok", "book"), ("_hh_", "h"), ("____", ""), ("", ""), ("aaa", "a")],
)
def test_doubled_letters_need_a_blank_between(letters: str, expected: str) -> None:
    assert text(collapse(path(letters), BLANK)[0]) == expected


def test_any_path_of_a_text_collapses_to_that_text() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        tokens = rng.integers(1, 5, size=rng.integers(0, 12))
        frames: list[int] = [BLANK] * int(rng.integers(3))
        spans = []
        for index, token in enumerate(tokens):
            repeats = index > 0 and tokens[index - 1] == token
            frames += [BLANK] * int(rng.integers(1 if repeats else 0, 3))
            spans.append((len(frames), len(frames) + int(rng.integers(1, 4))))
            frames += [int(token)] * (spans[-1][1] - spans[-1][0])
        frames += [BLANK] * int(rng.integers(3))
        padding = rng.integers(0, 5, size=rng.integers(4))
        found, starts, ends = collapse(np.array([*frames, *padding], dtype=int), BLANK, length=len(frames))
        assert found.tolist() == tokens.tolist()
        assert list(zip(starts, ends, strict=True)) == spans


def test_equals_torch_unique_consecutive() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        ids = rng.integers(0, 4, size=rng.integers(1, 30))
        unique = torch.unique_consecutive(torch.from_numpy(ids))
        assert collapse(ids, BLANK)[0].tolist() == unique[unique != BLANK].tolist()


def test_greedy_is_the_best_of_all_paths() -> None:
    """T=4, V=3: all 81 paths by brute force."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        log_probs = log_softmax(rng.normal(size=(4, 3)))
        best = max(product(range(3), repeat=4), key=lambda labels: sum(log_probs[range(4), labels]))
        expected = [label for label, _ in groupby(best) if label != BLANK]
        assert greedy_search(log_probs, BLANK).tokens.tolist() == expected


def test_confidence_is_the_mean_probability_over_the_frames_of_the_token() -> None:
    probs = np.array([[0.1, 0.9, 0.0], [0.3, 0.7, 0.0], [0.8, 0.1, 0.1], [0.1, 0.3, 0.6]])
    with np.errstate(divide="ignore"):
        found = greedy_search(np.log(probs), BLANK)
    assert found.tokens.tolist() == [1, 2]
    assert found.confidences == pytest.approx([0.8, 0.6])


def test_padding_is_left_out() -> None:
    log_probs = log_softmax(np.random.default_rng(3).normal(size=(20, 5)))
    alone, padded = greedy_search(log_probs[:11], BLANK), greedy_search(log_probs, BLANK, length=11)
    for name in ("tokens", "starts", "ends", "confidences"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(padded, name))


def test_no_frames_no_tokens() -> None:
    assert greedy_search(np.zeros((0, 5)), BLANK).tokens.tolist() == []
    assert greedy_search(np.zeros((0, 5)), BLANK).confidences.tolist() == []


def test_wrong_input_is_refused() -> None:
    log_probs = log_softmax(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="apply log_softmax"):
        greedy_search(log_probs + 5, BLANK)
    log_probs[2, 1] = np.nan
    with pytest.raises(ValueError, match="frame 2 has log-probability nan"):
        greedy_search(log_probs, BLANK)
    with pytest.raises(ValueError, match=r"got shape \(2, 4, 3\)"):
        greedy_search(np.zeros((2, 4, 3)), BLANK)
    with pytest.raises(ValueError, match=r"got shape \(2, 4\)"):
        collapse(np.zeros((2, 4), dtype=int), BLANK)


@pytest.mark.parametrize("delimiter", ["|", " "])
def test_words_with_times(delimiter: str) -> None:
    tokens = ["a", "b", delimiter, delimiter, "c", delimiter]
    words = words_with_times(
        tokens,
        [0, 3, 5, 7, 8, 11],
        [2, 4, 6, 8, 10, 12],
        [0.9, 0.4, 1.0, 1.0, 0.5, 1.0],
        frame_seconds=0.02,
        delimiter=delimiter,
    )
    assert [word.text for word in words] == ["ab", "c"]
    assert [(word.start, word.end) for word in words] == [pytest.approx((0.0, 0.08)), pytest.approx((0.16, 0.2))]
    assert [word.confidence for word in words] == pytest.approx([0.6, 0.5])


def test_words_of_a_path() -> None:
    found = greedy_search(np.log(np.eye(len(LETTERS))[path("|hi||y_ou")] * 0.998 + 1e-6), BLANK)
    words = words_with_times(
        list(text(found.tokens)), found.starts, found.ends, found.confidences, frame_seconds=0.5, delimiter="|"
    )
    assert [(word.text, word.start, word.end) for word in words] == [("hi", 0.5, 1.5), ("you", 2.5, 4.5)]
    assert all(word.confidence == pytest.approx(0.998, abs=1e-4) for word in words)
    assert words_with_times([], [], [], [], frame_seconds=0.5) == []
    assert Word("a", 0.0, 1.0, 1.0) == Word("a", 0.0, 1.0, 1.0)


def test_path_from_ids_and_probabilities_equals_greedy_search() -> None:
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * 3
    log_probs = logits.log_softmax(-1).numpy()
    expected = greedy_search(log_probs, blank_id=0)
    found = greedy_path(log_probs.argmax(1), np.exp(log_probs.max(1)), blank_id=0)
    for name in ("tokens", "starts", "ends", "confidences"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)
    with pytest.raises(ValueError, match="frame 2 is not a number"):
        greedy_path(np.zeros(4, dtype=int), np.array([0.5, 0.5, np.nan, 0.5]), blank_id=0)
