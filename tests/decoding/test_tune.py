"""Tuning finds a better point than where it starts, never a worse one, and the cache keeps what decoding needs."""

import dataclasses

import numpy as np
import pytest

from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.decoding.tune import LogProbCache, moves, tune
from hfaudio.ngram.model import NGramLM

LABELS = ["", " ", *"abcdefgh"]
WORDS = ["bad", "bed", "bead", "cab", "face", "fade", "egg", "head"]


def sentences(count: int, seed: int) -> list[str]:
    """Sentences in which every word has two likely successors."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        index, line = rng.integers(len(WORDS)), []
        for _ in range(rng.integers(2, 6)):
            line.append(WORDS[index])
            index = (index * 3 + 1 + rng.integers(2)) % len(WORDS)
        lines.append(" ".join(line))
    return lines


def spoken(text: str, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Log-probabilities (2 U + 1, V) of a text: a blank between labels, Gaussian noise on the logits."""
    ids = [LABELS.index(character) for character in text]
    logits = rng.normal(0, noise, (2 * len(ids) + 1, len(LABELS)))
    logits[::2, 0] += 6
    logits[np.arange(1, 2 * len(ids), 2), ids] += 4
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def errors(reference: str, hypothesis: str) -> int:
    return sum(a != b for a, b in zip(reference.split(), hypothesis.split(), strict=False)) + abs(
        len(reference.split()) - len(hypothesis.split())
    )


@pytest.fixture(scope="module")
def dev() -> tuple[list[np.ndarray], list[str]]:
    rng = np.random.default_rng(5)
    texts = sentences(60, seed=1)
    return [spoken(text, rng, noise=2.5) for text in texts], texts


def test_the_weights_it_finds_make_fewer_errors(dev: tuple[list[np.ndarray], list[str]]) -> None:
    log_probs, texts = dev
    decoder = BeamSearchDecoder(LABELS, NGramLM.from_text(sentences(400, seed=2), order=3), alpha=0.0, beta=4.0)
    tuning = tune(decoder, log_probs, texts, count_errors=errors, progress=False)
    rates = {trial.settings: trial.error_rate for trial in tuning.trials}
    assert rates[tuning.best] == min(rates.values()) < 0.8 * rates[decoder.settings]
    assert tuning.trials[0].settings == decoder.settings
    assert {trial.settings.beta for trial in tuning.grid} == {-1.0, 0.5, 2.0, 4.0}
    hypotheses = decoder.with_settings(**dataclasses.asdict(tuning.best)).decode_batch(log_probs)
    counted = sum(errors(text, hypothesis.text) for text, hypothesis in zip(texts, hypotheses, strict=True))
    assert counted / sum(len(text.split()) for text in texts) == pytest.approx(rates[tuning.best])
    again = tune(decoder, log_probs, texts, count_errors=errors, progress=False)
    assert again.best == tuning.best


def test_a_closed_vocabulary_stays_closed(dev: tuple[list[np.ndarray], list[str]]) -> None:
    log_probs, texts = dev
    lm = NGramLM.from_text(sentences(400, seed=2), order=2)
    decoder = BeamSearchDecoder(LABELS, lm, unk_score_offset=-np.inf)
    tuning = tune(decoder, log_probs[:10], texts[:10], count_errors=errors, progress=False)
    assert all(trial.settings.unk_score_offset == -np.inf for trial in tuning.trials)


def test_nothing_to_tune_is_an_error(dev: tuple[list[np.ndarray], list[str]]) -> None:
    log_probs, texts = dev
    with pytest.raises(ValueError, match="without a language model"):
        tune(BeamSearchDecoder(LABELS), log_probs, texts, count_errors=errors)
    decoder = BeamSearchDecoder(LABELS, NGramLM.from_text(["bad bed"], order=2))
    with pytest.raises(ValueError, match="the 2 references hold no word"):
        tune(decoder, log_probs[:2], ["", ""], count_errors=errors)


def test_steps_respect_the_ranges() -> None:
    assert moves("alpha", 0.1, 0.2) == [0.0, 0.3]
    assert moves("unk_score_offset", -2.0, 4.0) == [-6.0, 0.0]
    assert moves("beta", 0.0, 0.5) == [-0.5, 0.5]


def test_the_cache_of_a_small_vocabulary_is_the_input_in_half_precision() -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(10), size=30))
    cache = LogProbCache([log_probs])
    assert len(cache) == 1 and cache[0].dtype == np.float32
    np.testing.assert_allclose(cache[0], log_probs, rtol=1e-3)


def test_the_cache_of_a_large_vocabulary_keeps_the_best_and_the_mass() -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.full(500, 0.02), size=30) + 1e-30)
    kept = LogProbCache([log_probs], top_k=16)[0]
    assert kept.shape == (30, 500)
    best = np.argsort(log_probs, axis=1)[:, -16:]
    np.testing.assert_allclose(
        np.take_along_axis(kept, best, 1), np.take_along_axis(log_probs, best, 1), rtol=2e-3, atol=1e-3
    )
    assert (kept.argmax(1) == log_probs.argmax(1)).all()
    assert np.exp(kept).sum(1).max() < 1.01
    assert (np.sort(kept, axis=1)[:, :-16] <= np.sort(kept, axis=1)[:, [-16]]).all()  # no other label overtakes
    assert len(LogProbCache([log_probs, log_probs[:3]], top_k=16)[:2]) == 2
