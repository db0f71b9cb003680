"""The beam search against all alignments counted one by one, and its undefined cases."""

import itertools
import math

import numpy as np
import pytest
import torch

from hfaudio.decoding.beam import BeamSearchDecoder, BeamSettings
from hfaudio.decoding.confidence import Calibration
from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.table import NGramTable

LN10 = math.log(10)
CHARACTERS = ["", " ", "a", "b"]
PIECES = ["", " a", "b", " ", "ab"]
OPEN = {"token_min_logp": -math.inf, "beam_prune_logp": -math.inf, "beam_width": 100_000, "recombine": False}


def random_log_probs(num_frames: int, num_labels: int, seed: int, sharpness: float = 1.5) -> np.ndarray:
    logits = sharpness * np.random.default_rng(seed).normal(size=(num_frames, num_labels))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def bigram_lm(unit: str = "word", words: tuple[str, ...] = ("a", "b", "ab", "ba")) -> NGramLM:
    """Words after <s> and after the first word are listed, all else backs off; probabilities need not sum to one."""
    rng = np.random.default_rng(5)
    vocabulary = ["<unk>", "<s>", "</s>", *words]
    size = len(vocabulary)
    prefix = np.repeat([1, 3], [2, 2]).astype(np.int32)
    word = np.array([3, 4, 2, 4], np.int32)
    log_prob = -rng.uniform(0.2, 2.0, size).astype(np.float32)
    log_backoff = -rng.uniform(0.1, 0.5, size).astype(np.float32)
    one = NGramTable(
        np.zeros(size, np.int32), np.arange(size, dtype=np.int32), np.zeros(size, np.int32), log_prob, log_backoff
    )
    two = NGramTable(prefix, word, word, np.array([-0.3, -0.6, -0.2, -0.9], np.float32), np.zeros(4, np.float32))
    return NGramLM.from_tables(vocabulary, [one, two], unit=unit)


def collapse(path: tuple[int, ...], labels: list[str]) -> tuple[int, ...]:
    """Labels of an alignment: repeats, blanks, then spaces that spell nothing dropped."""
    tokens: list[int] = []
    for label in (label for label, _ in itertools.groupby(path)):
        is_bare_space = labels[label] == " " and (not tokens or labels[tokens[-1]] == " ")
        if labels[label] and not is_bare_space:
            tokens.append(label)
    while tokens and labels[tokens[-1]] == " ":
        tokens.pop()
    return tuple(tokens)


def acoustic_scores(log_probs: np.ndarray, labels: list[str]) -> dict[tuple[int, ...], float]:
    """ln of the sum over all alignments of every label sequence."""
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(len(labels)), repeat=len(log_probs)):
        tokens = collapse(path, labels)
        probability = math.exp(sum(float(log_probs[t, label]) for t, label in enumerate(path)))
        sums[tokens] = sums.get(tokens, 0.0) + probability
    return {tokens: math.log(total) for tokens, total in sums.items() if total > 0}


def spell(tokens: tuple[int, ...], labels: list[str]) -> str:
    return " ".join("".join(labels[token] for token in tokens).split())


def word_score(text: str, lm: NGramLM, settings: BeamSettings) -> float:
    """pyctcdecode's rules, by the LM's own scores."""
    scores = lm.full_scores(text)
    log10_prob = sum(score[0] for score in scores)
    unknown = sum(score[2] for score in scores)
    words = len(text.split())
    if unknown and math.isinf(settings.unk_score_offset):
        return -math.inf
    offset = settings.unk_score_offset * unknown if unknown else 0.0
    return settings.alpha * LN10 * (log10_prob + offset) + settings.beta * words


@pytest.mark.parametrize("labels", [CHARACTERS, PIECES], ids=["characters", "pieces"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_sums_over_all_alignments(labels: list[str], seed: int) -> None:
    log_probs = random_log_probs(5, len(labels), seed)
    expected = acoustic_scores(log_probs, labels)
    best: dict[str, float] = {}
    for tokens, score in expected.items():
        best[spell(tokens, labels)] = max(score, best.get(spell(tokens, labels), -math.inf))
    found = BeamSearchDecoder(labels, **OPEN).decode_n_best(log_probs, 10**6)
    assert {h.text for h in found} == set(best)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[tuple(hypothesis.tokens.tolist())], abs=1e-5)
        assert hypothesis.score == pytest.approx(best[hypothesis.text], abs=1e-5)
        assert hypothesis.lm_score == 0
    scores = [h.score for h in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("offset", [-10.0, -0.5, -math.inf], ids=["strict", "mild", "closed"])
@pytest.mark.parametrize("labels", [CHARACTERS, PIECES], ids=["characters", "pieces"])
@pytest.mark.parametrize("look_ahead", [False, True])
def test_scores_with_a_word_lm(labels: list[str], offset: float, look_ahead: bool) -> None:
    lm = bigram_lm(words=("a", "b", "ab", "bab"))
    settings = BeamSettings(alpha=0.7, beta=0.9, unk_score_offset=offset, look_ahead=look_ahead)
    decoder = BeamSearchDecoder(
        labels,
        lm,
        alpha=0.7,
        beta=0.9,
        unk_score_offset=offset,
        look_ahead=look_ahead,
        **(OPEN | {"beam_width": 10**5}),
    )
    log_probs = random_log_probs(5, len(labels), 11)
    acoustic = acoustic_scores(log_probs, labels)
    found = decoder.decode_n_best(log_probs, 10**6)
    texts = {spell(t, labels) for t in acoustic if word_score(spell(t, labels), lm, settings) > -math.inf}
    assert {h.text for h in found} == texts
    for h in found:
        assert h.acoustic_score == pytest.approx(acoustic[tuple(h.tokens.tolist())], abs=1e-5)
        assert h.lm_score == pytest.approx(word_score(h.text, lm, settings), abs=1e-5)
        assert h.score == h.acoustic_score + h.lm_score
    assert decoder.decode(log_probs).text == found[0].text


@pytest.mark.parametrize("unit", ["char", "bpe"])
def test_scores_with_an_lm_of_labels(unit: str) -> None:
    labels = CHARACTERS if unit == "char" else PIECES
    lm = bigram_lm(unit, ("\u2581", "a") if unit == "char" else ("\u2581a", "b", "\u2581"))
    decoder = BeamSearchDecoder(labels, lm, alpha=0.7, beta=0.9, **OPEN)
    log_probs = random_log_probs(5, len(labels), 3)
    acoustic = acoustic_scores(log_probs, labels)
    for h in decoder.decode_n_best(log_probs, 10**6):
        units = [labels[token].replace(" ", "\u2581") for token in h.tokens]
        ids = [lm.word_id(piece) for piece in units]
        log10_prob = sum(score[0] for score in lm.full_scores(h.text if unit == "char" else " ".join(units)))
        expected = 0.7 * LN10 * (log10_prob - 10.0 * ids.count(0)) + 0.9 * len(h.text.split())
        assert h.lm_score == pytest.approx(expected, abs=1e-5)
        assert h.acoustic_score == pytest.approx(acoustic[tuple(h.tokens.tolist())], abs=1e-5)


def test_a_lexicon_alone_closes_the_vocabulary() -> None:
    log_probs = random_log_probs(6, 4, 0)
    decoder = BeamSearchDecoder(CHARACTERS, lexicon=["ab", "b"], unk_score_offset=-math.inf, beta=0.0, **OPEN)
    acoustic = acoustic_scores(log_probs, CHARACTERS)
    found = decoder.decode_n_best(log_probs, 10**6)
    allowed = {t: s for t, s in acoustic.items() if set(spell(t, CHARACTERS).split()) <= {"ab", "b"}}
    assert {h.text for h in found} == {spell(t, CHARACTERS) for t in allowed}
    assert found[0].score == pytest.approx(max(allowed.values()), abs=1e-5)


def test_nothing_fits_a_closed_vocabulary() -> None:
    """All hypotheses end inside a word: the finished words are given."""
    log_probs = np.log(
        np.array([[0.001, 0.001, 0.997, 0.001]] * 2 + [[0.001, 0.997, 0.001, 0.001]] + [[0.001, 0.001, 0.001, 0.997]])
    )
    decoder = BeamSearchDecoder(CHARACTERS, lexicon=["a", "ba"], unk_score_offset=-math.inf, beam_width=1)
    hypothesis = decoder.decode(log_probs)
    assert hypothesis.text == "a"
    assert [word.text for word in hypothesis.words] == ["a"]


def test_bounds_that_are_wide_give_the_text_without_bounds() -> None:
    lm = bigram_lm()
    for seed in range(10):
        log_probs = random_log_probs(6, 4, seed, sharpness=3.0)
        exact = BeamSearchDecoder(CHARACTERS, lm, **OPEN).decode(log_probs)
        wide = BeamSearchDecoder(CHARACTERS, lm, token_min_logp=-30, beam_prune_logp=-40, beam_width=500).decode(
            log_probs
        )
        assert wide.text == exact.text


def test_alone_as_in_a_batch_with_threads_and_as_torch() -> None:
    decoder = BeamSearchDecoder(CHARACTERS, bigram_lm())
    lengths = [0, 1, 17, 30]
    batch = np.stack([random_log_probs(30, 4, seed) for seed in range(4)])
    alone = [decoder.decode(row[:length]) for row, length in zip(batch, lengths, strict=True)]
    for together in (
        decoder.decode_batch(batch, lengths, num_threads=2),
        decoder.decode_batch(torch.from_numpy(batch), torch.tensor(lengths), num_threads=1),
        decoder.decode_batch([row[:length] for row, length in zip(batch, lengths, strict=True)]),
    ):
        assert [(h.text, h.score) for h in together] == [(h.text, h.score) for h in alone]
    half = torch.from_numpy(batch[3]).to(torch.bfloat16)
    assert decoder.decode(half).text == decoder.decode(half.float().numpy()).text
    assert decoder.decode(batch[3].astype(np.float16)).text == alone[3].text
    assert decoder.decode(batch[3].astype(np.float64)).score == alone[3].score


def test_logits_are_normalised() -> None:
    log_probs = random_log_probs(20, 4, 1)
    decoder = BeamSearchDecoder(CHARACTERS)
    shifted = decoder.decode(log_probs + np.arange(20, dtype=np.float32)[:, None], logits=True)
    assert shifted.score == pytest.approx(decoder.decode(log_probs).score, abs=1e-4)
    with pytest.raises(ValueError, match="logits=True"):
        decoder.decode(log_probs + 5)


def test_marks_that_spell_nothing_are_blanks() -> None:
    labels = ["", "", " ", "a"]
    log_probs = np.log(np.array([[0.01, 0.01, 0.01, 0.97], [0.01, 0.97, 0.01, 0.01], [0.01, 0.01, 0.01, 0.97]]))
    assert BeamSearchDecoder(labels).decode(log_probs).text == "aa"


@pytest.mark.parametrize("num_frames", [0, 1, 50])
def test_no_frames_or_blanks_alone_give_the_empty_text(num_frames: int) -> None:
    log_probs = np.log(np.tile([0.9997, 1e-4, 1e-4, 1e-4], (num_frames, 1)))
    for decoder in (BeamSearchDecoder(CHARACTERS), BeamSearchDecoder(CHARACTERS, bigram_lm())):
        hypothesis = decoder.decode(log_probs)
        assert (hypothesis.text, hypothesis.words, len(hypothesis.tokens)) == ("", [], 0)
        assert decoder.decode_n_best(log_probs, 3)[0].text == ""


def test_one_label_and_a_beam_of_one() -> None:
    assert BeamSearchDecoder([""]).decode(np.zeros((5, 1))).text == ""
    log_probs = random_log_probs(30, 4, 2, sharpness=8)
    greedy = spell(collapse(tuple(log_probs.argmax(1)), CHARACTERS), CHARACTERS)
    assert BeamSearchDecoder(CHARACTERS, beam_width=1, token_min_logp=0.0).decode(log_probs).text == greedy


def test_ties_are_broken_by_label_and_order() -> None:
    log_probs = np.log(np.full((40, 4), 0.25))
    decoder = BeamSearchDecoder(CHARACTERS, beam_width=7)
    assert {decoder.decode(log_probs).text for _ in range(3)} == {decoder.decode(log_probs).text}
    tied = np.log(np.array([[0.0, 0.0, 0.5, 0.5]]) + 1e-30)
    assert [h.text for h in decoder.decode_n_best(tied, 2)] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((3, 4), np.nan), "NaN"),
        (np.full((3, 4), np.inf), "above 0"),
        (np.full((3, 4), 0.5), "above 0"),
        (np.full((3, 4), -np.inf), "no label a probability"),
        (np.zeros((3, 5)), "expected log-probabilities"),
        (np.zeros((1, 3, 4)), "decode_batch"),
    ],
)
def test_bad_input_is_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BeamSearchDecoder(CHARACTERS).decode(values)


def test_labels_without_a_probability_are_never_taken() -> None:
    log_probs = random_log_probs(20, 4, 4)
    log_probs[:, 3] = -np.inf
    assert "b" not in BeamSearchDecoder(CHARACTERS).decode(log_probs).text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam_width": 0}, "beam_width is 0"),
        ({"alpha": -1.0}, "alpha"),
        ({"token_min_logp": 3.0}, "token_min_logp"),
        ({"blank_id": 9}, "blank_id"),
        ({"lexicon": ["Z", "Y"]}, "can spell none"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BeamSearchDecoder(CHARACTERS, **arguments)
    with pytest.raises(ValueError, match="space behind a letter"):
        BeamSearchDecoder(["", "a b"])


def test_words_the_labels_cannot_spell_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    BeamSearchDecoder(CHARACTERS, lexicon=["a", "A", "B"])
    assert "2 of 3 words are left out" in caplog.text


def test_settings_change_without_building_again() -> None:
    decoder = BeamSearchDecoder(CHARACTERS, bigram_lm())
    wider = decoder.with_settings(beam_width=300, alpha=0.0, beta=0.0)
    assert wider.lm is decoder.lm and wider._lexicon is decoder._lexicon
    assert (wider.settings.beam_width, decoder.settings.beam_width) == (300, 100)
    log_probs = random_log_probs(40, 4, 8)
    again = BeamSearchDecoder.from_settings(CHARACTERS, decoder.lm, wider.settings)
    assert again.decode(log_probs).score == wider.decode(log_probs).score != decoder.decode(log_probs).score
    with pytest.raises(TypeError, match="beam_size"):
        decoder.with_settings(beam_size=3)


def test_word_times_and_confidences() -> None:
    """_ a a _ b | | a _   ->   "ab" [1, 5), "a" [7, 8)"""
    path = [0, 2, 2, 0, 3, 1, 1, 2, 0]
    log_probs = np.log(np.full((9, 4), 0.02))
    log_probs[np.arange(9), path] = np.log(0.94)
    words = BeamSearchDecoder(CHARACTERS, seconds_per_frame=0.02).decode(log_probs).words
    assert [(word.text, round(word.start, 6), round(word.end, 6)) for word in words] == [
        ("ab", 0.02, 0.1),
        ("a", 0.14, 0.16),
    ]
    assert [word.confidence for word in words] == pytest.approx([0.94, 0.94])


def test_confidences_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.full(4, 0.3), size=30)).astype(np.float32)
    decoder = BeamSearchDecoder(["", " ", "a", "b"])
    raw, calibrated = decoder.decode(log_probs), decoder.with_calibration(Calibration(3.0, -1.0)).decode(log_probs)
    assert [word.text for word in raw.words] == [word.text for word in calibrated.words] != []
    expected = Calibration(3.0, -1.0).apply([word.confidence for word in raw.words])
    assert [word.confidence for word in calibrated.words] == pytest.approx(expected)
