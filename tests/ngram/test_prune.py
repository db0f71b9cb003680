"""Entropy pruning against the sums it stands for, on models small enough to sum over all words and contexts."""

import math
import random

import pytest

from hfaudio.ngram.estimate import Estimate, estimate
from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.prune import prune_entropy
from hfaudio.ngram.query import step
from hfaudio.ngram.table import BOS, EOS, NGramTable


def text(seed: int, lines: int, words: int = 7) -> list[str]:
    """Sentences of a random chain, in which some words follow others more often."""
    rng = random.Random(seed)
    result = []
    for _ in range(lines):
        sentence = [rng.randrange(words)]
        while rng.random() < 0.8:
            sentence.append(rng.choice([(2 * sentence[-1] + 1) % words, rng.randrange(words)]))
        result.append(" ".join(f"w{word}" for word in sentence))
    return result


def ngrams(model: Estimate, tables: list[NGramTable]) -> list[set[tuple[int, ...]]]:
    rows: list[list[tuple[int, ...]]] = [[()]]
    for k, table in enumerate(tables, start=1):
        rows.append([(*rows[-1][p if k > 1 else 0], int(w)) for p, w in zip(table.prefix, table.word, strict=True)])
    return [set(level) for level in rows[1:]]


def distribution(lm: NGramLM, context: tuple[int, ...]) -> dict[int, float]:
    state = 0
    for word in context:
        state = step(lm.kernel, state, word)[1]
    return {word: 10.0 ** step(lm.kernel, state, word)[0] for word in range(len(lm.words)) if word != BOS}


def history(lm: NGramLM, context: tuple[int, ...]) -> float:
    """Probability of words in a row; <s> is as frequent as </s>."""
    result = distribution(lm, ())[EOS if context[0] == BOS else context[0]]
    for index in range(1, len(context)):
        result *= distribution(lm, context[:index])[context[index]]
    return result


@pytest.mark.parametrize("order", [2, 3])
def test_an_ngram_is_dropped_if_and_only_if_perplexity_rises_by_less(order: int) -> None:
    model = estimate(text(1, 60), order)
    lm = NGramLM.from_tables(model.words, model.tables)
    levels = ngrams(model, model.tables)
    increases = {}
    for gram in levels[order - 1]:
        context = gram[:-1]
        p = distribution(lm, context)
        lower = distribution(lm, context[1:])
        listed = {other[-1] for other in levels[order - 1] if other[:-1] == context and other != gram}
        left = 1 - sum(p[word] for word in listed)
        alpha = left / (1 - sum(lower[word] for word in listed))  # without the n-gram
        pruned = {word: p[word] if word in listed else alpha * lower[word] for word in p}
        assert sum(pruned.values()) == pytest.approx(1, abs=1e-5)
        divergence = sum(p[word] * math.log(p[word] / pruned[word]) for word in p)
        increases[gram] = math.expm1(history(lm, context) * divergence)
    ranked = sorted(increases.values())
    for low, high in zip(ranked[5:-1:12], ranked[6::12], strict=True):
        if high - low < 1e-7:
            continue
        kept = ngrams(model, prune_entropy(model.tables, (low + high) / 2))
        assert kept[order - 1] == {gram for gram, increase in increases.items() if increase >= high}


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("threshold", [1e-3, 1e-2, 1e-1])
def test_what_is_left_sums_to_one_and_is_closed(order: int, threshold: float) -> None:
    model = estimate(text(2, 80), order)
    tables = prune_entropy(model.tables, threshold)
    lm = NGramLM.from_tables(model.words, tables)
    levels = ngrams(model, tables)
    assert sum(map(len, levels)) < sum(len(table) for table in model.tables)
    for k, level in enumerate(levels, start=1):
        assert all(gram[:-1] in levels[k - 2] and gram[1:] in levels[k - 2] for gram in level if k > 1)
        for gram in level:
            assert sum(distribution(lm, gram[-order + 1 :]).values()) == pytest.approx(1, abs=1e-5)


def test_kept_ngrams_keep_their_probabilities() -> None:
    model = estimate(text(3, 80), 3)
    tables = prune_entropy(model.tables, 1e-3)
    a, b = NGramLM.from_tables(model.words, model.tables), NGramLM.from_tables(model.words, tables)
    for gram in set().union(*ngrams(model, tables)):
        before, after = distribution(a, gram[:-1]), distribution(b, gram[:-1])
        assert gram[-1] == BOS or after[gram[-1]] == pytest.approx(before[gram[-1]], rel=1e-5)


def test_the_limits() -> None:
    model = estimate(text(4, 50), 3)
    same = prune_entropy(model.tables, 0.0)
    dropped = sum(len(a) - len(b) for a, b in zip(model.tables, same, strict=True))
    assert dropped == 0
    only_words = prune_entropy(model.tables, math.inf)
    assert [len(table) for table in only_words] == [len(model.words)]
    assert sum(distribution(NGramLM.from_tables(model.words, only_words), ()).values()) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        prune_entropy(model.tables, -1)


def test_perplexity_rises_by_little() -> None:
    lines = text(5, 3000, words=40)
    model = estimate(lines, 3)
    before = NGramLM.from_tables(model.words, model.tables).perplexity(lines).perplexity
    tables = prune_entropy(model.tables, 1e-5)
    assert len(tables[2]) < 0.8 * len(model.tables[2])
    assert NGramLM.from_tables(model.words, tables).perplexity(lines).perplexity < 1.1 * before
