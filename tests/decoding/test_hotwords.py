"""The bonus of a text is the sum over the places where hotwords stand as whole words."""

import itertools
import logging
import math
import re

import numpy as np
import pytest

from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.decoding.hotwords import build_hotwords, follow, hotword_weights
from hfaudio.decoding.lexicon import Alphabet
from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.table import NGramTable

LABELS = ["", " ", "a", "b"]
ALPHABET = Alphabet.of(["a", "b"])
OPEN = {"token_min_logp": -math.inf, "beam_prune_logp": -math.inf, "beam_width": 100_000, "recombine": False}
PHRASES = {"ab": 3.0, "a": 1.0, "b ab": 2.5, "ab b a": 7.0, "bb": -2.0, "aab ba": 4.0}


def occurrences(text: str, phrases: dict[str, float]) -> float:
    """Sum of weights over whole-word matches, overlapping ones too."""
    return sum(w * len(re.findall(rf"(?=(?<!\S){re.escape(p)}(?!\S))", text)) for p, w in phrases.items())


def test_the_automaton_counts_whole_words() -> None:
    hotwords = build_hotwords(PHRASES, ALPHABET)
    for length in range(9):
        for characters in itertools.product(" ab", repeat=length):
            text = "".join(characters)
            if text != " ".join(text.split()):
                continue
            state, bonus = 0, 0.0
            for symbol in ALPHABET.symbols(text):
                if symbol == 0 and state >= 0:
                    bonus += hotwords.bonus[state]
                state = follow(hotwords, state, symbol)
            bonus += hotwords.bonus[state] if state >= 0 else 0.0
            assert bonus == pytest.approx(occurrences(text, PHRASES)), text


def random_log_probs(num_frames: int, seed: int) -> np.ndarray:
    logits = 1.5 * np.random.default_rng(seed).normal(size=(num_frames, 4))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize("given_to", ["decoder", "call"])
def test_the_score_of_a_text_has_its_bonus(given_to: str) -> None:
    log_probs = random_log_probs(6, 2)
    plain = {h.text: h.score for h in BeamSearchDecoder(LABELS, **OPEN).decode_n_best(log_probs, 10**6)}
    if given_to == "decoder":
        found = BeamSearchDecoder(LABELS, hotwords=PHRASES, **OPEN).decode_n_best(log_probs, 10**6)
    else:
        found = BeamSearchDecoder(LABELS, **OPEN).decode_n_best(log_probs, 10**6, hotwords=PHRASES)
    assert {h.text for h in found} == set(plain)
    for h in found:
        assert h.lm_score == pytest.approx(occurrences(h.text, PHRASES), abs=1e-9)
        assert h.acoustic_score == pytest.approx(plain[h.text], abs=1e-5)


def lm_of(words: list[str]) -> NGramLM:
    size = len(words) + 3
    zeros = np.zeros(size, np.int32)
    table = NGramTable(
        zeros, np.arange(size, dtype=np.int32), zeros, np.full(size, -1, np.float32), np.zeros(size, np.float32)
    )
    return NGramLM.from_tables(["<unk>", "<s>", "</s>", *words], [table])


@pytest.mark.parametrize("offset", [-10.0, -math.inf])
def test_a_hotword_that_the_lm_lacks_is_an_unknown_word_without_the_penalty(offset: float) -> None:
    decoder = BeamSearchDecoder(LABELS, lm_of(["a"]), alpha=1.0, beta=0.0, unk_score_offset=offset, **OPEN)
    found = {h.text: h for h in decoder.decode_n_best(random_log_probs(5, 0), 10**6, hotwords={"b ab": 2.0})}
    ln10 = math.log(10)
    assert found["b"].lm_score == pytest.approx(-2 * ln10)  # <unk> and </s>
    assert found["a b"].lm_score == pytest.approx(-3 * ln10)
    assert found["b ab"].lm_score == pytest.approx(-3 * ln10 + 2.0)
    if math.isinf(offset):
        assert "ba" not in found
    else:
        assert found["ba"].lm_score == pytest.approx(-12 * ln10)


def test_weights() -> None:
    assert hotword_weights(["new  york", "a"], 10.0) == {"new york": 10.0, "a": 10.0}
    assert hotword_weights({"a": 2}, 10.0) == {"a": 2.0}
    with pytest.raises(ValueError, match="list of phrases"):
        hotword_weights("new york", 10.0)
    with pytest.raises(ValueError, match="finite"):
        hotword_weights({"a": math.nan}, 10.0)


def test_what_the_labels_cannot_spell_is_counted_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        decoder = BeamSearchDecoder(LABELS, hotwords=["ab", "Ab c", "zz"])
    assert "2 of 3 hotwords are left out" in caplog.text and "'zz'" in caplog.text
    log_probs = random_log_probs(6, 1)
    assert decoder.decode(log_probs).score == BeamSearchDecoder(LABELS, hotwords=["ab"]).decode(log_probs).score


def test_other_settings_encode_hotwords_again_only_for_another_weight(caplog: pytest.LogCaptureFixture) -> None:
    decoder = BeamSearchDecoder(LABELS, hotwords=["ab", "zz"])
    assert caplog.text.count("hotwords are left out") == 1
    wider = decoder.with_settings(beam_width=200)
    assert wider._hotwords is decoder._hotwords and caplog.text.count("hotwords are left out") == 1
    heavier = wider.with_settings(hotword_weight=20.0)
    np.testing.assert_allclose(heavier._hotwords.bonus, 2 * decoder._hotwords.bonus)
    log_probs = random_log_probs(6, 1)
    expected = BeamSearchDecoder(LABELS, hotwords={"ab": 20.0}, beam_width=200).decode(log_probs)
    assert heavier.decode(log_probs).score == expected.score
