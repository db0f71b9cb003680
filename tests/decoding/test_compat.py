"""pyctcdecode's interface, against pyctcdecode's own results and against its alphabet code.

fixtures/compat_beams.json holds the ten best beams (text, acoustic score, combined score) of pyctcdecode 0.5.0 with
kenlm and nothing pruned, on `noise(seed)` for six seeds: with the LM below, without, and with the hotwords "bad cab".
Its end of an utterance was mended: the empty word after a last space is not scored as an unknown one.
"""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutomaticSpeechRecognitionPipeline,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from hfaudio.decoding.compat import (
    Alphabet,
    BeamSearchDecoderCTC,
    LMState,
    build_ctcdecoder,
    load_language_model_folder,
)

BEAMS = json.loads((Path(__file__).parent / "fixtures" / "compat_beams.json").read_text(encoding="utf-8"))
TOKENS = ["<pad>", "|", "a", "b", "c", "d"]
WORDS = ["a", "bad", "cab", "dad"]
EVERYTHING = {"beam_width": 20_000, "beam_prune_logp": -200.0, "token_min_logp": -200.0}
ARPA = """\\data\\
ngram 1=7
ngram 2=10

\\1-grams:
-0.8379195\t<unk>\t0
0\t<s>\t-0.30103
-0.7971745\t</s>\t0
-0.63647753\ta\t-0.30103
-0.7971745\tcab\t-0.30103
-0.7971745\tbad\t-0.30103
-0.8379195\tdad\t-0.30103

\\2-grams:
-0.23675033\tcab </s>
-0.23675033\tdad </s>
-0.38145384\t<s> a
-0.6083089\ta cab
-0.48179954\tbad cab
-0.7453023\t<s> bad
-0.6083089\ta bad
-0.7629113\t<s> dad
-0.62108326\ta dad
-0.49131\tbad dad

\\end\\
"""

CHARACTERS = [
    ["<pad>", "<s>", "</s>", "<unk>", "|", "a", "b"],
    ["[PAD]", "[UNK]", " ", "a", "|"],
    ["_", " ", "a"],
    [" ", "a", "b"],
    ["", "a", " ", "_"],
]
PIECES = [
    ["<pad>", "<unk>", "▁the", "ing", "▁"],
    ["[PAD]", "[UNK]", "[CLS]", "the", "##ing", "a", "##a"],
    ["▁⁇▁", "▁the", "s"],
]


def noise(seed: int, frames: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (frames, len(TOKENS)))


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    file = tmp_path / "lm.arpa"
    file.write_text(ARPA, encoding="utf-8")
    return file


@pytest.fixture
def decoder(arpa: Path) -> BeamSearchDecoderCTC:
    return build_ctcdecoder(TOKENS, arpa, WORDS)


@pytest.mark.parametrize("case", BEAMS)
def test_beams_have_the_texts_and_scores_of_pyctcdecode(case: str, arpa: Path) -> None:
    decoder = build_ctcdecoder(TOKENS, None if case == "none" else str(arpa))
    hotwords = {"hotwords": ["bad cab"], "hotword_weight": 3.0} if case == "hot" else {}
    for seed, expected in enumerate(BEAMS[case]):
        found = decoder.decode_beams(noise(seed), **EVERYTHING, **hotwords)[: len(expected)]
        assert [beam[0] for beam in found] == [text for text, _, _ in expected]
        np.testing.assert_allclose([beam[3:] for beam in found], [beam[1:] for beam in expected], atol=1e-4)
        assert decoder.decode(noise(seed), **EVERYTHING, **hotwords) == expected[0][0]


@pytest.mark.parametrize("labels", CHARACTERS + PIECES)
def test_alphabets_are_those_of_pyctcdecode(labels: list[str]) -> None:
    theirs = pytest.importorskip("pyctcdecode.alphabet").Alphabet.build_alphabet(labels)
    ours = Alphabet.build_alphabet(labels)
    assert (ours.labels, ours.is_bpe) == (theirs.labels, theirs.is_bpe)
    assert json.loads(ours.dumps()) == json.loads(theirs.dumps())


def test_characters_and_what_they_spell() -> None:
    alphabet = Alphabet.build_alphabet(CHARACTERS[0])
    assert alphabet.labels == ["", "<s>", "</s>", "⁇", " ", "a", "b"]
    assert alphabet.spellings == ["", "", "", "\ufffd", " ", "a", "b"]
    assert not alphabet.is_bpe
    assert Alphabet.build_alphabet([" ", "a"]).blank_id == 2  # added


def test_word_pieces_of_both_styles_and_what_they_spell() -> None:
    alphabet = Alphabet.build_alphabet(PIECES[1])
    assert alphabet.labels == ["", "▁⁇▁", "[CLS]", "▁the", "ing", "▁a", "a"]
    assert alphabet.spellings == ["", "\ufffd", "", " the", "ing", " a", "a"]
    assert Alphabet.build_alphabet(PIECES[0]).labels == ["", "▁⁇▁", "▁the", "ing", "▁"]
    assert Alphabet.loads(alphabet.dumps()) == alphabet
    assert Alphabet.build_alphabet(["▁a", "|"]).spellings == [" a", " ", ""]


def test_an_unknown_word_piece_starts_a_word() -> None:
    logits = 30 * np.eye(4)[[0, 3, 1]]
    assert build_ctcdecoder(["▁the", "<unk>", "s"]).decode(logits) == "the ⁇"


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["a", "b", "a"], "'a' is there twice"), (["▁a", " "], "hold a space")],
)
def test_alphabets_that_cannot_be(labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Alphabet.build_alphabet(labels)


def test_a_missing_word_delimiter_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Alphabet.build_alphabet(["<pad>", "a"])
    assert "no word delimiter" in caplog.text


def test_words_of_the_lm_that_are_no_unigrams_are_counted(arpa: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_ctcdecoder(TOKENS, arpa, WORDS)
    assert "unigrams" not in caplog.text
    build_ctcdecoder(TOKENS, arpa, ["a", "bad", "foreign"])
    assert "2 of the LM's 4 words are not among the unigrams" in caplog.text


def test_probabilities_logits_and_log_probabilities_are_told_apart(decoder: BeamSearchDecoderCTC) -> None:
    log_probs = torch.log_softmax(torch.from_numpy(noise(1)), -1).numpy()
    probabilities = np.exp(log_probs)
    for same in (
        log_probs,
        log_probs + 7,
        log_probs.astype(np.float32),
        probabilities,
        probabilities.astype(np.float32),
    ):
        [text, *_], [expected, *_] = decoder.decode_beams(same), decoder.decode_beams(noise(1))
        assert text[0] == expected[0]
        assert text[4] == pytest.approx(expected[4], abs=1e-4)


def test_words_have_the_frames_where_they_are_heard(decoder: BeamSearchDecoderCTC) -> None:
    ids = [0, TOKENS.index("a"), 0, 1, *(TOKENS.index(letter) for letter in "bad"), 0]
    logits = np.full((len(ids), len(TOKENS)), -10.0)
    logits[np.arange(len(ids)), ids] = 10
    [beam, *_] = decoder.decode_beams(logits)
    assert beam[0] == "a bad"
    assert beam[2] == [("a", (1, 2)), ("bad", (4, 7))]


def test_no_frames_have_no_text(decoder: BeamSearchDecoderCTC) -> None:
    assert decoder.decode(np.zeros((0, len(TOKENS)))) == ""


@pytest.mark.parametrize("shape", [(8, 5), (1, 8, 6), (6,)])
def test_logits_of_another_shape_are_refused(decoder: BeamSearchDecoderCTC, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected logits \(T, 6\)"):
        decoder.decode(np.zeros(shape))


def test_batches_are_the_utterances_one_by_one(decoder: BeamSearchDecoderCTC) -> None:
    logits = [noise(seed, 5 + seed) for seed in range(4)]
    assert decoder.decode_batch(None, logits) == [decoder.decode(one) for one in logits]
    beams = decoder.decode_beams_batch(None, logits, beam_width=5)
    alone = [decoder.decode_beams(one, beam_width=5) for one in logits]
    assert beams == [[(text, frames, logit, score) for text, _, frames, logit, score in one] for one in alone]


def test_the_lm_goes_on_from_the_state_of_a_beam(decoder: BeamSearchDecoderCTC) -> None:
    """log10 p(cab | bad) = -0.4818, p(cab | <s>) backs off to -0.30103 - 0.7971745; scores hold alpha ln 10 of it."""
    spelled = np.full((3, len(TOKENS)), -30.0)
    spelled[np.arange(3), [TOKENS.index(letter) for letter in "bad"]] = 0
    [(_, state, *_), *_] = decoder.decode_beams(spelled)
    assert isinstance(state, LMState)
    spelled[np.arange(3), [TOKENS.index(letter) for letter in "cab"]] = 10
    spelled[0, TOKENS.index("b")] = spelled[2, TOKENS.index("d")] = -30
    [first, *_] = decoder.decode_beams(spelled)
    [after_bad, *_] = decoder.decode_beams(spelled, lm_start_state=state)
    assert first[0] == after_bad[0] == "cab"
    gain = 0.5 * np.log(10) * (-0.48179954 + 0.30103 + 0.7971745)
    assert after_bad[4] - first[4] == pytest.approx(gain, abs=1e-4)
    assert decoder.decode(spelled, lm_start_state=state) == "cab"
    assert first[1] == after_bad[1]  # a bigram remembers one word


def test_a_state_of_another_library_is_refused(decoder: BeamSearchDecoderCTC) -> None:
    with pytest.raises(TypeError, match="lm_start_state"):
        decoder.decode(noise(0), lm_start_state=object())


def test_reset_params_changes_what_is_given(decoder: BeamSearchDecoderCTC, arpa: Path) -> None:
    decoder.reset_params(alpha=1.5, lm_score_boundary=False)
    fresh = build_ctcdecoder(TOKENS, arpa, WORDS, alpha=1.5, lm_score_boundary=False)
    assert decoder.decode_beams(noise(2)) == fresh.decode_beams(noise(2))
    decoder.reset_params(beta=-4.0, unk_score_offset=-3.0)
    fresh = build_ctcdecoder(TOKENS, arpa, WORDS, 1.5, -4.0, -3.0, False)
    assert decoder.decode_beams(noise(2)) == fresh.decode_beams(noise(2))
    build_ctcdecoder(TOKENS).reset_params(alpha=2.0)  # nothing to change


def test_a_saved_folder_opens_with_the_same_beams(decoder: BeamSearchDecoderCTC, tmp_path: Path) -> None:
    decoder.reset_params(alpha=0.7)
    decoder.save_to_dir(tmp_path)
    assert {file.name for file in (tmp_path / "language_model").iterdir()} == {"attrs.json", "unigrams.txt", "lm.arpa"}
    opened = BeamSearchDecoderCTC.load_from_dir(tmp_path)
    assert opened.decode_beams(noise(3)) == decoder.decode_beams(noise(3))
    attributes = json.loads((tmp_path / "language_model" / "attrs.json").read_text())
    assert attributes == {"alpha": 0.7, "beta": 1.5, "unk_score_offset": -10.0, "score_boundary": True}


def test_pyctcdecode_opens_a_saved_folder(decoder: BeamSearchDecoderCTC, tmp_path: Path) -> None:
    theirs = pytest.importorskip("pyctcdecode")
    pytest.importorskip("kenlm")
    (folder := tmp_path / "saved").mkdir()
    decoder.save_to_dir(folder)
    assert theirs.BeamSearchDecoderCTC.load_from_dir(str(folder)).decode(noise(0)) == decoder.decode(noise(0))


def test_an_lm_of_our_own_format_is_saved_as_arpa(arpa: Path, tmp_path: Path) -> None:
    from hfaudio.ngram.model import NGramLM

    NGramLM.load(arpa).save(own := tmp_path / "lm.ngram")
    decoder = build_ctcdecoder(TOKENS, own)
    (folder := tmp_path / "saved").mkdir()
    decoder.save_to_dir(folder)
    assert (folder / "language_model" / "unigrams.txt").read_text().split() == WORDS
    assert BeamSearchDecoderCTC.load_from_dir(folder).decode_beams(noise(3))[0][0] == decoder.decode(noise(3))


def test_a_decoder_without_lm_is_saved_as_its_alphabet(tmp_path: Path) -> None:
    decoder = build_ctcdecoder(TOKENS)
    decoder.save_to_dir(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["alphabet.json"]
    assert BeamSearchDecoderCTC.load_from_dir(tmp_path).decode(noise(4)) == decoder.decode(noise(4))


@pytest.mark.parametrize("processor_file", ["preprocessor_config.json", "processor_config.json"])
def test_folders_of_transformers_are_read(processor_file: str, decoder: BeamSearchDecoderCTC, tmp_path: Path) -> None:
    """transformers 4 names the processor in preprocessor_config.json, 5 in processor_config.json."""
    decoder.save_to_dir(tmp_path)
    (tmp_path / processor_file).write_text('{"processor_class": "Wav2Vec2ProcessorWithLM"}')
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    labels, lm, unigrams, settings = load_language_model_folder(tmp_path)
    assert labels == ["", " ", "a", "b", "c", "d"]
    assert (lm.order, unigrams) == (2, WORDS)
    assert settings == {"alpha": 0.5, "beta": 1.5, "unk_score_offset": -10.0, "score_boundary": True}


def test_folders_that_lack_something_say_what(decoder: BeamSearchDecoderCTC, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no alphabet.json"):
        BeamSearchDecoderCTC.load_from_dir(tmp_path)
    decoder.save_to_dir(tmp_path)
    attributes = tmp_path / "language_model" / "attrs.json"
    attributes.write_text('{"alpha": 1.0}')
    with pytest.raises(ValueError, match=r"attrs.json has \['alpha'\], expected"):
        load_language_model_folder(tmp_path)
    (tmp_path / "language_model" / "second.bin").touch()
    with pytest.raises(ValueError, match="one file that ends in"):
        load_language_model_folder(tmp_path)


def test_the_pipeline_of_transformers_takes_it_as_decoder(decoder: BeamSearchDecoderCTC, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(TOKENS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(8, 8),
        conv_stride=(8, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(50)  # varied labels from an untrained model
        model.lm_head.bias[TOKENS.index("|")] += 3
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    tokenizer = Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"), pad_token="<pad>", unk_token=None, bos_token=None, eos_token=None
    )
    extractor = Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=16_000, do_normalize=True)
    pipe = AutomaticSpeechRecognitionPipeline(
        model=model, feature_extractor=extractor, tokenizer=tokenizer, decoder=decoder, device="cpu"
    )
    audio = np.random.default_rng(0).normal(size=64 * 30).astype(np.float32)
    with torch.no_grad():
        logits = model(**extractor(audio, sampling_rate=16_000, return_tensors="pt")).logits[0].numpy()
    [expected, *_] = decoder.decode_beams(logits, beam_width=50)
    result = pipe(audio.copy(), return_timestamps="word", decoder_kwargs={"beam_width": 50})
    assert result["text"] == expected[0] != ""
    assert [chunk["text"] for chunk in result["chunks"]] == [word for word, _ in expected[2]]
    seconds = 64 / 16_000
    for chunk, (_, frames) in zip(result["chunks"], expected[2], strict=True):
        assert chunk["timestamp"] == pytest.approx([frame * seconds for frame in frames])
