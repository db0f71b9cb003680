"""Mixtures against the weighted sums that they stand for, and weights against a search over them."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from hfaudio.ngram.interpolate import fit_weights, interpolate, mapping, mixture_words, score_text
from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.query import step
from hfaudio.ngram.table import BOS


def text(seed: int, lines: int, factor: int, words: range) -> list[str]:
    """Sentences of a random chain: word n is likely to be followed by factor * n + 1."""
    rng = random.Random(seed)
    result = []
    for _ in range(lines):
        sentence = [rng.choice(words)]
        while rng.random() < 0.8:
            sentence.append(rng.choice([words[(factor * sentence[-1] + 1) % len(words)], rng.choice(words)]))
        result.append(" ".join(f"w{word}" for word in sentence))
    return result


def probability(lm: NGramLM, context: tuple[str, ...], word: str) -> float:
    """By the words' spelling; <unk> for those that it does not know."""
    state = 0
    for other in context:
        state = step(lm.kernel, state, lm.words.index(other) if other in lm.words else 0)[1]
    return 10.0 ** step(lm.kernel, state, lm.words.index(word) if word in lm.words else 0)[0]


def ngrams(lm: NGramLM) -> list[list[tuple[str, ...]]]:
    rows: list[list[tuple[str, ...]]] = [[()]]
    for k, table in enumerate(lm.tables(), start=1):
        last = [lm.words[word] for word in table.word]
        rows.append([(*rows[-1][p if k > 1 else 0], w) for p, w in zip(table.prefix, last, strict=True)])
    return rows[1:]


A = NGramLM.from_text(text(1, 60, 2, range(6)), order=3)
B = NGramLM.from_text(text(2, 60, 3, range(3, 9)), order=2)
LIMITED = NGramLM.from_text(text(3, 60, 2, range(9)), order=3, vocab_size=4)  # has n-grams with <unk>


@pytest.mark.parametrize("models", [[A, B], [B, A], [A, LIMITED], [A, B, LIMITED], [A]])
def test_every_ngram_has_its_probability_in_the_mixture(models: list[NGramLM]) -> None:
    weights = [0.5, 0.2, 0.3] if len(models) == 3 else [0.7, 0.3][: len(models)] if len(models) == 2 else [1.0]
    mixed = interpolate(models, weights)
    assert set(mixed.words) == {word for lm in models for word in lm.words}
    levels = ngrams(mixed)
    for k, level in enumerate(levels):
        assert set(level) == {gram for lm in models if lm.order > k for gram in ngrams(lm)[k]}
        for gram in level:
            if gram[-1] == "<s>":
                continue
            expected = 0.0
            for lm, weight in zip(models, weights, strict=True):
                unknown = 1 + sum(word not in lm.words for word in mixed.words)
                share = 1 if gram[-1] in lm.words[1:] else 1 / unknown
                expected += weight * share * probability(lm, gram[:-1], gram[-1])
            assert probability(mixed, gram[:-1], gram[-1]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("models", [[A, B], [A, B, LIMITED]])
def test_every_context_sums_to_one(models: list[NGramLM]) -> None:
    mixed = interpolate(models, [1 / len(models)] * len(models))
    for level in [[()], *ngrams(mixed)]:
        for context in level:
            total = sum(probability(mixed, context[-2:], word) for word in mixed.words if word != "<s>")
            assert total == pytest.approx(1, abs=2e-5)


def test_a_mixture_of_one_model_is_the_model() -> None:
    same = interpolate([A, A], [0.25, 0.75])
    assert same.words == A.words
    for ours, theirs in zip(same.tables(), A.tables(), strict=True):
        assert (ours.prefix == theirs.prefix).all() and (ours.word == theirs.word).all()
        assert (ours.suffix == theirs.suffix).all()
        assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-6)
        assert ours.log_backoff == pytest.approx(theirs.log_backoff, abs=1e-4)


def test_weights_are_the_most_likely_ones() -> None:
    dev = text(8, 150, 2, range(6)) + text(9, 50, 3, range(3, 9))
    weights = fit_weights([A, B], dev)
    assert sum(weights) == pytest.approx(1) and weights[0] > weights[1]

    union = 1 + len(set(A.words) | set(B.words))

    def likelihood(weight: float) -> float:
        total = 0.0
        for line in dev:
            words = ["<s>", *line.split(), "</s>"]
            for i in range(1, len(words)):
                parts = []
                for lm in (A, B):
                    share = 1.0 if words[i] in lm.words else 1 / (union - len(lm.words))
                    parts.append(share * probability(lm, tuple(words[max(i - 2, 0) : i]), words[i]))
                total += math.log(weight * parts[0] + (1 - weight) * parts[1])
        return total

    best = likelihood(weights[0])
    assert best > likelihood(weights[0] + 0.02) and best > likelihood(weights[0] - 0.02)


def test_sentences_are_scored_one_by_one() -> None:
    words = mixture_words([A, B])
    lines = ["w0 w1 w3", "w4", "w1 w3 w3 w5"]
    ids = np.array([words.index(word) for line in lines for word in (*line.split(), "</s>")])
    expected = [10.0**score for line in lines for score, _, _ in A.full_scores(line)]
    assert score_text(A.kernel, ids, *mapping(A, words)) == pytest.approx(expected, rel=1e-6)


def test_the_mixture_predicts_mixed_text_better() -> None:
    dev = text(8, 100, 2, range(6)) + text(9, 100, 3, range(3, 9))
    mixed = interpolate([A, B], fit_weights([A, B], dev))
    held_out = text(10, 100, 2, range(6)) + text(11, 100, 3, range(3, 9))
    assert mixed.perplexity(held_out).perplexity < A.perplexity(held_out).perplexity
    assert mixed.perplexity(held_out).oov == 0 < min(A.perplexity(held_out).oov, B.perplexity(held_out).oov)


def test_a_model_that_does_not_help_gets_no_weight() -> None:
    uniform = NGramLM.from_text([f"w{word}" for word in range(6)], order=1)
    assert fit_weights([A, uniform], text(1, 60, 2, range(6)))[1] < 0.01


def test_rows_are_sorted() -> None:
    mixed = interpolate([B, A], [0.5, 0.5])
    for table in mixed.tables():
        keys = list(zip(table.prefix.tolist(), table.word.tolist(), strict=True))
        assert all(a < b for a, b in pairwise(keys))
        assert np.isfinite(table.log_prob).all() and np.isfinite(table.log_backoff).all()
    assert mixed.tables()[0].log_prob[BOS] == 0


def test_mistakes() -> None:
    characters = NGramLM.from_text(["a b"], order=2, unit="char")
    with pytest.raises(ValueError, match="one unit can be mixed, got char, word"):
        interpolate([A, characters], [0.5, 0.5])
    with pytest.raises(ValueError, match="2 models need as many weights"):
        interpolate([A, B], [1.0])
    with pytest.raises(ValueError, match="that sum to one"):
        interpolate([A, B], [0.5, 0.6])
    with pytest.raises(ValueError, match="at least 0"):
        interpolate([A, B], [-0.5, 1.5])
    with pytest.raises(ValueError, match="no sentence"):
        fit_weights([A, B], [])
