"""What a recipe does after training: an LM, decoding in every way, and honest comparisons."""

import gc
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.ngram.model import NGramLM
from hfaudio.training.language_model import (
    DecodedSplit,
    LanguageModelArguments,
    LMDecoding,
    build_lm,
    decode_split,
    describe_lm,
    rate_split,
    rescore_split,
)
from hfaudio.training.scoring import CTCScorer

LABELS = ["", " ", *"abcdefgh"]
TEXTS = ["bad bed", "a cab", "head bead", "bad cab", "a bed", "head a cab"] * 4


def filled_scorer(noise: float) -> CTCScorer:
    """A scorer that has seen the texts spoken with noise, by three speakers."""
    rng = np.random.default_rng(0)
    scorer = CTCScorer(LABELS, blank_id=0)
    scorer._speakers = [f"speaker {index % 3}" for index in range(len(TEXTS))]
    for index, text in enumerate(TEXTS):
        logits = rng.normal(0, noise, (2 * len(text) + 1, len(LABELS)))
        logits[::2, 0] += 6
        logits[np.arange(1, 2 * len(text), 2), [LABELS.index(character) for character in text]] += 4
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        hypothesis = BeamSearchDecoder(LABELS, beam_width=1).decode(log_probs).text
        scorer.references.append(text)
        scorer.hypotheses.append(hypothesis)
        scorer.log_probs.append(log_probs)
        scorer.tally.add(text, hypothesis, scorer._speakers[index])
    return scorer


@pytest.fixture(scope="module")
def decoder() -> BeamSearchDecoder:
    return BeamSearchDecoder(LABELS, NGramLM.from_text(TEXTS[:6], order=2), blank_id=0)


def test_every_way_of_decoding_is_rated_and_compared(decoder: BeamSearchDecoder) -> None:
    split = decode_split(filled_scorer(noise=2.5), decoder, LanguageModelArguments(n_best=20))
    rates, differences = rate_split(split, "test", seed=0)
    assert {f"test/wer/{variant}" for variant in ("greedy", "beam", "lm", "oracle")} <= set(rates)
    assert rates["test/wer/lm"].value < 0.6 * rates["test/wer/greedy"].value
    assert rates["test/wer/oracle"].value <= rates["test/wer/lm"].value
    assert rates["test/wer/lm/speaker 1"].n == len(TEXTS) // 3
    difference = differences["test/wer/lm - test/wer/greedy"]
    assert difference["value"] == pytest.approx(rates["test/wer/lm"].value - rates["test/wer/greedy"].value)
    assert difference["low"] <= difference["value"] <= difference["high"] < 0
    assert not any("oracle" in name for name in differences)


def test_the_oracle_takes_the_best_of_the_list(decoder: BeamSearchDecoder) -> None:
    scorer = filled_scorer(noise=3.0)
    split = decode_split(scorer, decoder, LanguageModelArguments(n_best=30))
    for reference, text, hypotheses in zip(split.references, split.texts["oracle"], split.n_best, strict=True):
        texts = [hypothesis.text for hypothesis in hypotheses]
        assert text in texts and (reference not in texts or text == reference)


def test_n_best_lists_do_not_keep_the_log_probabilities(
    decoder: BeamSearchDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref] = []
    prepare = BeamSearchDecoder._prepare

    def noted(self: BeamSearchDecoder, *args: Any) -> np.ndarray:
        values = prepare(self, *args)
        held.append(weakref.ref(values))
        return values

    monkeypatch.setattr(BeamSearchDecoder, "_prepare", noted)
    split = decode_split(filled_scorer(noise=2.5), decoder, LanguageModelArguments(n_best=20))
    gc.collect()
    assert len(held) >= 3 * len(TEXTS) and not any(values() is not None for values in held)
    hypothesis = split.n_best[0][0]
    assert hypothesis.text and hypothesis.score == hypothesis.acoustic_score + hypothesis.lm_score
    with pytest.raises(ValueError, match="kept without its times"):
        print(hypothesis.words)


def test_weights_are_fitted_on_a_part_of_one_split_and_used_for_the_next(
    decoder: BeamSearchDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    decode_batch = BeamSearchDecoder.decode_batch

    def counted(self: BeamSearchDecoder, batch, *args, **kwargs):  # type: ignore[no-untyped-def]
        seen.append(len(batch))
        return decode_batch(self, batch, *args, **kwargs)

    monkeypatch.setattr(BeamSearchDecoder, "decode_batch", counted)
    assert decoder.lm is not None
    args = LanguageModelArguments(tune_examples=7)
    decoding = LMDecoding(args, decoder.lm, filled_scorer(noise=2.5), seed=0, device="cpu")
    decoding.fit(tmp_path)
    assert set(seen[:-1]) == {7} and seen[-1] == len(TEXTS)  # tuned on a part, calibrated on all
    assert (tmp_path / "language_model" / "lm.ngram").exists() and (tmp_path / "lm_tuning.png").exists()
    fitted = decoding.decoder.settings
    rates = decoding.rate("test")
    assert decoding.decoder.settings == fitted and rates["test/wer/lm"].value < rates["test/wer/greedy"].value
    assert decoding.facts["language_model"]["settings"]["alpha"] == fitted.alpha
    assert "test/wer/lm - test/wer/greedy" in decoding.facts["comparisons"]
    confidence = decoding.facts["confidence"]
    assert confidence["temperature"] == decoding.decoder.calibration.temperature != 1
    assert confidence["test/ece"] < confidence["test/ece_not_calibrated"]


def test_an_lm_from_transcripts_and_normalised_text_files(tmp_path: Path) -> None:
    file = tmp_path / "more.txt"
    file.write_text("A Dog!\nA cat.\n", encoding="utf-8")
    lm = build_lm(LanguageModelArguments(lm_order=2, lm_text=[str(file)]), ["a bird"], "basic")
    assert {"a", "dog", "cat", "bird"} <= set(lm.words) and lm.order == 2
    assert lm.score("a dog") > lm.score("dog a")


def test_an_lm_from_a_file(tmp_path: Path) -> None:
    lm = NGramLM.from_text(["a dog", "a cat"], order=2)
    lm.save(tmp_path)
    assert build_lm(LanguageModelArguments(lm=str(tmp_path)), [], "none").score("a dog") == pytest.approx(
        lm.score("a dog"), abs=1e-5
    )


def test_an_lm_from_a_model_folder(tmp_path: Path) -> None:
    lm = NGramLM.from_text(["a dog", "a cat"], order=2)
    lm.save(tmp_path / "language_model")
    (tmp_path / "training_args.bin").write_bytes(b"no LM")
    opened = build_lm(LanguageModelArguments(lm=str(tmp_path)), [], "none")
    assert opened.score("a dog") == pytest.approx(lm.score("a dog"), abs=1e-5)


def test_options_that_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="--lm_text is read by --lm train only"):
        LanguageModelArguments(lm="none", lm_text=["x.txt"])
    with pytest.raises(ValueError, match="--rescore_with needs"):
        LanguageModelArguments(lm="none", rescore_with="gpt2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lm_order": 0}, "--lm_order is 0; give 1 to 6"),
        ({"lm_order": 7}, "--lm_order is 7; give 1 to 6"),
        ({"beam_width": 0}, "--beam_width is 0; give at least 1"),
        ({"tune_examples": 0}, "--tune_examples is 0"),
        ({"n_best": -1}, "--n_best is -1"),
        ({"lm_text": ["nowhere.txt", "-"]}, "--lm_text: there is no file nowhere.txt; check the path"),
        ({"lm": "no/such/folder"}, "--lm: there is no no/such/folder here, and it is no Hub id"),
        ({"lm": "nowhere.arpa.gz"}, "--lm: there is no nowhere.arpa.gz"),
        ({"lm": "nowhere.ngram"}, "--lm: there is no nowhere.ngram"),
        ({"rescore_with": "./nowhere"}, "--rescore_with: there is no ./nowhere"),
    ],
)
def test_mistakes_are_said_before_the_training(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LanguageModelArguments(**options)


def test_folders_without_a_model_are_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold lm\.ngram or one ARPA"):
        LanguageModelArguments(lm=str(tmp_path))
    with pytest.raises(ValueError, match=r"--rescore_with: .* has no config\.json"):
        LanguageModelArguments(rescore_with=str(tmp_path))
    NGramLM.from_text(["a"]).save(tmp_path / "language_model")
    (tmp_path / "config.json").write_text("{}")
    LanguageModelArguments(lm=str(tmp_path), rescore_with=str(tmp_path))
    LanguageModelArguments(lm="user/model", rescore_with="gpt2")  # the Hub is asked later


def test_a_rescorer_that_does_not_open_is_found_before_the_training(
    decoder: BeamSearchDecoder, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    args = LanguageModelArguments(rescore_with=str(tmp_path))
    assert decoder.lm is not None
    with pytest.raises((OSError, ValueError)):
        LMDecoding(args, decoder.lm, CTCScorer(LABELS, blank_id=0), seed=0, device="cpu")


def test_no_speakers_no_groups() -> None:
    split = DecodedSplit(["a b", "c"], None, {"greedy": ["a", "c"], "lm": ["a b", "c"]}, [])
    rates, differences = rate_split(split, "validation", seed=0)
    assert set(rates) == {f"validation/{m}/{v}" for m in ("wer", "cer", "mer") for v in ("greedy", "lm")}
    assert differences["validation/wer/lm - validation/wer/greedy"]["value"] == pytest.approx(-1 / 3)


class Oracle:
    """Scores as a language model would that knows what was said."""

    def __call__(self, texts: list[str]) -> np.ndarray:
        return np.array([0.0 if text in TEXTS else -20.0 for text in texts])


def test_rescoring_fits_weights_on_one_split_and_keeps_them_for_the_next(decoder: BeamSearchDecoder) -> None:
    split = decode_split(filled_scorer(noise=3.0), decoder, LanguageModelArguments(n_best=20))
    rescored, weights = rescore_split(split, Oracle(), None)
    assert weights.neural > 0
    errors = {
        name: sum(text != reference for text, reference in zip(texts, split.references, strict=True))
        for name, texts in rescored.texts.items()
    }
    assert errors["oracle"] <= errors["rescored"] < errors["lm"]
    again, same = rescore_split(split, Oracle(), weights)
    assert same is weights and again.texts["rescored"] == rescored.texts["rescored"]


def test_the_lm_is_described(decoder: BeamSearchDecoder) -> None:
    facts = describe_lm(decoder, ["bad bed", "a zoo"])
    assert facts["order"] == 2 and facts["ngrams"] == list(decoder.lm.counts)
    assert facts["validation_oov"] == pytest.approx(1 / 6, abs=1e-4) and facts["settings"]["alpha"] == 0.5
    assert facts["validation_perplexity"] == pytest.approx(
        decoder.lm.perplexity(["bad bed", "a zoo"]).perplexity, 1e-2
    )


def test_a_model_that_says_nothing_is_rated_all_the_same(decoder: BeamSearchDecoder, tmp_path: Path) -> None:
    scorer = CTCScorer(LABELS, blank_id=0)
    silence = np.full((20, len(LABELS)), -30.0, dtype=np.float32)
    silence[:, 0] = 0.0
    for text in TEXTS[:4]:
        scorer.references.append(text)
        scorer.hypotheses.append("")
        scorer.log_probs.append(silence)
        scorer.tally.add(text, "", None)
    assert decoder.lm is not None
    decoding = LMDecoding(LanguageModelArguments(), decoder.lm, scorer, seed=0, device="cpu")
    decoding.fit(tmp_path)
    assert decoding.rate("validation")["validation/wer/lm"].value == 1
    assert decoding.facts["confidence"] == {"temperature": 1.0, "bias": 0.0}
