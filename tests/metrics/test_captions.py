from collections.abc import Callable

import numpy as np
import pytest
import sacrebleu

from hfaudio.metrics.captions import bleu, chrf, fact_accuracy
from hfaudio.metrics.results import Mean

WORDS = "a slow fast sad happy tune song played on the piano flute violin in four".split()
SCORES = [(chrf, sacrebleu.corpus_chrf), (bleu, sacrebleu.corpus_bleu)]


def corpus(seed: int, clips: int) -> tuple[list[str], list[str]]:
    """References of 6 to 12 words, and captions with about a fifth of the words changed."""
    rng = np.random.default_rng(seed)
    references = [list(rng.choice(WORDS, rng.integers(6, 13))) for _ in range(clips)]
    captions = [[str(rng.choice(WORDS)) if rng.random() < 0.2 else word for word in words] for words in references]
    return [" ".join(words) for words in references], [" ".join(words) for words in captions]


@pytest.mark.parametrize(("score", "expected"), SCORES)
def test_the_value_is_that_of_sacrebleu(score: Callable[..., Mean], expected: Callable) -> None:
    references, captions = corpus(0, 40)
    captions[3], references[5] = "", "Piano, no less."
    found = score(references, captions, num_resamples=10)
    assert found.value == pytest.approx(expected(captions, [references]).score, abs=1e-9)
    assert found.n == 40


@pytest.mark.parametrize(("score", "expected"), SCORES)
def test_the_interval_is_that_of_corpora_drawn_clip_by_clip(score: Callable[..., Mean], expected: Callable) -> None:
    """Here every drawn corpus is scored anew from its texts; the draws differ, so the ends agree roughly."""
    references, captions = corpus(1, 40)
    rng = np.random.default_rng(2)
    draws = []
    for _ in range(300):
        index = rng.integers(40, size=40)
        draws.append(expected([captions[i] for i in index], [[references[i] for i in index]]).score)
    low, high = np.quantile(draws, [0.025, 0.975])
    found = score(references, captions)
    assert found.low < found.value < found.high
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.2 * (high - low))
    assert score(references, captions) == found
    assert score(references, captions, seed=1) != found


@pytest.mark.parametrize("score", [chrf, bleu])
def test_the_ends_of_the_scale(score: Callable[..., Mean]) -> None:
    references, _ = corpus(3, 10)
    assert score(references, references) == Mean(pytest.approx(100), pytest.approx(100), pytest.approx(100), 10)
    assert score(references, [""] * 10) == Mean(0, 0, 0, 10)


@pytest.mark.parametrize("score", [chrf, bleu])
def test_pairs_are_needed(score: Callable[..., Mean]) -> None:
    with pytest.raises(ValueError, match="got 2 references and 1 captions"):
        score(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="zero captions"):
        score([], [])


@pytest.mark.parametrize(
    ("caption", "right"),
    [
        ("a tune on the guitar", True),
        ("A tune on the GUITAR.", True),
        ("guitar, guitar and guitar again", True),
        ("a guitar-like sound", True),  # a hyphen ends a word
        ("a tune on the bass guitar", False),
        ("a tune on the bass  guitar", False),
        ("a guitar and a bass guitar", False),
        ("a guitar and a flute", False),
        ("two guitars", False),
        ("an eguitar", False),
        ("a tune", False),
        ("", False),
    ],
)
def test_a_caption_is_right_that_names_the_guitar_and_nothing_else(caption: str, right: bool) -> None:
    vocabulary = {"instrument": ["guitar", "Bass Guitar", "flute"]}
    found = fact_accuracy([{"instrument": "Guitar"}], [caption], vocabulary)["instrument"]
    assert (found.count, found.n) == (right, 1)


def test_values_with_signs_are_whole_words() -> None:
    vocabulary = {"metre": ["3/4", "3+2/8"], "key": ["C major", "C# major"]}
    facts = [{"metre": "3/4", "key": "C major"}, {"metre": "3+2/8", "key": "C# major"}]
    captions = ["in 3/4 and c major", "C# major, 3+2/8"]
    found = fact_accuracy(facts, captions, vocabulary)
    assert (found["metre"].count, found["key"].count) == (2, 2)
    found = fact_accuracy(facts, captions[::-1], vocabulary)
    assert (found["metre"].count, found["key"].count) == (0, 0)
    found = fact_accuracy([{"key": "F"}] * 3, ["in F# minor", "in F♯ minor", "in F minor"])  # no clip is in F#
    assert found["key"].count == 1


def test_of_values_that_begin_alike_the_longest_is_named() -> None:
    facts, captions = [{"instrument": "flute choir"}, {"instrument": "flute"}], ["a flute choir"] * 2
    assert fact_accuracy(facts, captions)["instrument"].count == 1
    assert fact_accuracy(facts[::-1], captions)["instrument"].count == 1
    assert fact_accuracy(facts[:1], captions[:1], {"instrument": ["flute", "flute choir"]})["instrument"].count == 1


def test_facts_that_a_clip_lacks_are_not_counted_and_chance_is_the_commonest_value() -> None:
    facts = [
        {"tempo": "slow", "mood": "sad"},
        {"tempo": "fast", "mood": None},
        {"tempo": "fast"},
        {"tempo": "Fast", "mood": ""},
        {"tempo": "slow", "mood": "happy", "key": None},
    ]
    captions = ["slow and sad", "fast", "slow", "fast and happy", "slow, sad"]
    found = fact_accuracy(facts, captions)
    assert {name: (accuracy.count, accuracy.n) for name, accuracy in found.items()} == {
        "tempo": (4, 5),
        "tempo/chance": (3, 5),
        "mood": (1, 2),
        "mood/chance": (1, 2),
    }


def test_other_values_are_noticed_if_they_are_in_the_vocabulary() -> None:
    facts, captions = [{"mood": "sad"}], ["sad and angry"]
    assert fact_accuracy(facts, captions)["mood"].count == 1
    assert fact_accuracy(facts, captions, {"mood": ["sad", "angry"]})["mood"].count == 0


def test_facts_are_checked() -> None:
    with pytest.raises(ValueError, match="mood 'sad' is not in the vocabulary of mood"):
        fact_accuracy([{"mood": "sad"}], ["sad"], {"mood": ["happy"]})
    with pytest.raises(ValueError, match="facts of 1 clips and 2 captions"):
        fact_accuracy([{"mood": "sad"}], ["sad", "sad"])
    assert fact_accuracy([], []) == {}
