"""The search finds what pyctcdecode 0.5.0 finds, at its settings, with its fault at the end of an utterance mended.

`python tests/decoding/test_search.py` (with pyctcdecode and kenlm) writes the fixture that stands in for it.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.decoding.search import kth_highest
from hfaudio.ngram.model import NGramLM

FIXTURES = Path(__file__).parent / "fixtures"
ARPA, EXPECTED = FIXTURES / "bigram.arpa", FIXTURES / "pyctcdecode.json"
LABELS = ["", " ", *"abcdefghij'"]
# name -> how sharp the log-probabilities are, and whether there is an LM
CONDITIONS = {"sharp": (9.0, False), "sharp-lm": (9.0, True), "flat": (3.0, False), "flat-lm": (3.0, True)}
UTTERANCES = 10


def utterance(sharpness: float, seed: int) -> np.ndarray:
    """Log-probabilities (80, 13) of some words of the LM, letter by letter with blanks, under noise."""
    rng = np.random.default_rng(seed)
    words = [line.split("\t")[1] for line in ARPA.read_text().splitlines() if line.count("\t") == 2]
    words = [word for word in words if word.isalpha()]
    text = " ".join(rng.choice(words, 12))
    logits = rng.normal(size=(80, len(LABELS)))
    logits[:, 0] += sharpness / 2
    for frame, character in zip(range(0, 80, 2), text, strict=False):
        if rng.random() < 0.85:
            logits[frame, LABELS.index(character)] += sharpness
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def pyctcdecode_result(with_lm: bool, log_probs: np.ndarray) -> tuple[str, float]:
    """Text and score of the oracle."""
    import kenlm
    import pyctcdecode
    from pyctcdecode.language_model import LanguageModel

    class Mended(LanguageModel):
        def score(self, prev_state: Any, word: str, is_last_word: bool = False) -> Any:
            if word == "":  # not an unknown word, only the end
                end = self._kenlm_model.BaseScore(getattr(prev_state, "state", prev_state), "</s>", kenlm.State())
                return self.alpha * math.log(10) * end, prev_state
            return super().score(prev_state, word, is_last_word)

    lm = None
    if with_lm:
        words = NGramLM.load(ARPA).words
        lm = Mended(kenlm.Model(str(ARPA)), list(words)[3:], alpha=0.5, beta=1.5)
    decoder = pyctcdecode.BeamSearchDecoderCTC(pyctcdecode.Alphabet.build_alphabet(LABELS), lm)
    best = decoder.decode_beams(log_probs)[0]
    return best[0], float(best[-1])


def check(condition: str, expected: list[tuple[str, float]]) -> None:
    sharpness, with_lm = CONDITIONS[condition]
    decoder = BeamSearchDecoder(
        LABELS,
        NGramLM.load(ARPA) if with_lm else None,
        token_min_logp=-5.0,
        beam_prune_logp=-10.0,
        look_ahead=False,
        recombine=False,
    )
    for seed, (text, score) in enumerate(expected):
        found = decoder.decode(utterance(sharpness, seed))
        assert found.score == pytest.approx(score, abs=1e-3)
        assert found.text == text


@pytest.mark.parametrize("condition", CONDITIONS)
def test_agrees_with_what_pyctcdecode_gave(condition: str) -> None:
    check(condition, json.loads(EXPECTED.read_text())[condition])


@pytest.mark.parametrize("condition", CONDITIONS)
def test_agrees_with_pyctcdecode(condition: str) -> None:
    pytest.importorskip("pyctcdecode")
    pytest.importorskip("kenlm")
    sharpness, with_lm = CONDITIONS[condition]
    check(condition, [pyctcdecode_result(with_lm, utterance(sharpness, seed)) for seed in range(3)])


def test_recombination_makes_room_in_the_beam() -> None:
    """It gives up sums over a few alignments for it, a thousandth; the scores of the texts found rise."""
    plain = BeamSearchDecoder(LABELS, NGramLM.load(ARPA), look_ahead=False, recombine=False)
    recombined = plain.with_settings(recombine=True)
    gains = []
    for seed in range(UTTERANCES):
        log_probs = utterance(6.0, seed)
        gains.append(recombined.decode(log_probs).score - plain.decode(log_probs).score)
    assert min(gains) > -1e-2
    assert max(gains) > 1e-2


def test_the_kth_highest() -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 30):
        values = rng.integers(0, 8, size).astype(np.float64)  # with ties
        for k in range(1, size + 1):
            assert kth_highest(values.copy(), size, k) == np.sort(values)[-k]


if __name__ == "__main__":
    results = {
        condition: [pyctcdecode_result(with_lm, utterance(sharpness, seed)) for seed in range(UTTERANCES)]
        for condition, (sharpness, with_lm) in CONDITIONS.items()
    }
    EXPECTED.write_text(json.dumps(results, indent=1) + "\n")
