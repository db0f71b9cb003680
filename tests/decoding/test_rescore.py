"""Scores against the model's own loss, one text at a time; weights against every setting."""

import math
from itertools import product
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import hfaudio.auto  # noqa: F401
from hfaudio.decoding.beam import Hypothesis
from hfaudio.decoding.rescore import (
    NBestScores,
    NeuralRescorer,
    RescoreWeights,
    combine,
    fit_weights,
    rescore,
    score_n_best,
)
from hfaudio.models import LstmLMConfig, LstmLMForCausalLM

TEXTS = ["abba", "a", "", "baab ab", "abba", "bbbbbbbbbbbb"]


@pytest.fixture(scope="module", params=["gpt2", "gpt2 without marks", "lstm"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "b", " "])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    marks = {} if "without" in request.param else {"bos_token": "<s>", "eos_token": "</s>"}
    path = tmp_path_factory.mktemp("lm")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **marks).save_pretrained(path)
    if request.param == "lstm":
        LstmLMForCausalLM(LstmLMConfig(vocab_size=7, hidden_size=16)).save_pretrained(path)
    else:
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20}
        GPT2LMHeadModel(GPT2Config(vocab_size=7, initializer_range=0.5, **sizes)).save_pretrained(path)
    return path


def test_batched_scores_are_those_of_the_loss_of_one_text(folder: Path) -> None:
    scores = NeuralRescorer(folder, batch_size=3)(TEXTS)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, score in zip(TEXTS, scores, strict=True):
        marks = (tokenizer.bos_token or "", tokenizer.eos_token or "")
        ids = tokenizer(marks[0] + text + marks[1], add_special_tokens=False, return_tensors="pt").input_ids.long()
        if ids.shape[1] < 2:
            assert score == 0
            continue
        loss = model(input_ids=ids, labels=ids).loss.item()
        assert score == pytest.approx(-loss * (ids.shape[1] - 1), rel=1e-4)


def test_the_text_is_written_as_the_model_was_trained(folder: Path) -> None:
    lowered = NeuralRescorer(folder, format_text=str.lower)(["ABBA"])
    np.testing.assert_allclose(lowered, NeuralRescorer(folder)(["abba"]), rtol=1e-5)


def test_a_text_that_is_too_long_is_refused(folder: Path) -> None:
    rescorer = NeuralRescorer(folder)
    if rescorer.longest < math.inf:
        with pytest.raises(ValueError, match="the model reads 20"):
            rescorer(["ab" * 30])
    else:
        assert np.isfinite(rescorer(["ab" * 30])).all()


def hypothesis(text: str, acoustic: float, lm: float) -> Hypothesis:
    nothing = np.zeros(0)
    return Hypothesis(text, acoustic + lm, acoustic, lm, nothing, nothing, nothing, [])


def test_rescoring_reorders_and_scores_still_add_up() -> None:
    n_best = [[hypothesis("a b", -1.0, -2.0), hypothesis("ab", -1.5, -2.5)], [hypothesis("b", -3.0, -1.0)]]
    scores = score_n_best(n_best, lambda texts: np.array([{"a b": -9.0, "ab": -4.0, "b": -1.0}[t] for t in texts]))
    kept = rescore(n_best, scores, RescoreWeights())
    assert [[h.text for h in hypotheses] for hypotheses in kept] == [["a b", "ab"], ["b"]]
    changed = rescore(n_best, scores, RescoreWeights(ngram=0.5, neural=1.0, word_bonus=0.25))
    assert [h.text for h in changed[0]] == ["ab", "a b"]
    assert changed[0][0].score == pytest.approx(-1.5 - 1.25 - 4.0 + 0.25)
    assert all(h.score == pytest.approx(h.acoustic_score + h.lm_score) for h in changed[0] + changed[1])


def word_errors(reference: str, text: str) -> int:
    output = jiwer.process_words(reference, text)
    return output.substitutions + output.deletions + output.insertions


def test_no_weights_of_the_grid_have_fewer_errors() -> None:
    rng = np.random.default_rng(0)
    scores, texts, references = [], [], []
    for _ in range(40):
        acoustic, ngram, neural = rng.normal(size=(3, 5))
        candidates = [" ".join(rng.choice(list("abc"), rng.integers(1, 5))) for _ in range(5)]
        words = np.array([len(candidate.split()) for candidate in candidates])
        right = int((acoustic + 0.5 * ngram + 0.7 * neural + 1.0 * words).argmax())
        scores.append(NBestScores(acoustic, ngram, neural, words))
        texts.append(candidates)
        references.append(candidates[right])
    grid = {"neural": (0.0, 0.7), "word_bonus": (0.0, 1.0), "ngram": (0.5, 1.0)}
    found = fit_weights(scores, texts, references, count_errors=word_errors, **grid)
    assert (found.weights, found.errors) == (RescoreWeights(0.5, 0.7, 1.0), 0)
    for neural, bonus, ngram in product(*grid.values()):
        chosen = [combine(part, RescoreWeights(ngram, neural, bonus)).argmax() for part in scores]
        errors = sum(word_errors(r, t[i]) for r, t, i in zip(references, texts, chosen, strict=True))
        assert found.errors <= errors
        if (neural, bonus, ngram) == (0.0, 0.0, 1.0):
            assert found.errors_before == errors > 0


def test_weights_that_change_nothing_are_left_alone() -> None:
    scores = [NBestScores(np.array([0.0, -50.0]), np.zeros(2), np.zeros(2), np.ones(2))]
    found = fit_weights(scores, [["a", "b"]], ["a"], count_errors=word_errors)
    assert found.weights == RescoreWeights()
    with pytest.raises(ValueError, match="each have a hypothesis"):
        fit_weights([], [], [], count_errors=word_errors)
