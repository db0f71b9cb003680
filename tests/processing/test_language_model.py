"""`language_model/` beside a model: saved, found, opened, and refused where it does not belong."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from transformers import PreTrainedTokenizerBase, Wav2Vec2CTCTokenizer

import hfaudio.auto  # noqa: F401
from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.decoding.compat import build_ctcdecoder
from hfaudio.decoding.confidence import Calibration
from hfaudio.ngram.model import NGramLM
from hfaudio.processing import SpectralFeatureExtractor, build_bpe_tokenizer, build_char_tokenizer, ctc_labels
from hfaudio.processing.language_model import (
    CTCProcessorWithLM,
    find_language_model,
    open_decoder,
    open_lm,
    remove_language_model,
    save_language_model,
)

TOKENIZER = build_char_tokenizer(["a cab bad dad"])
LABELS = ctc_labels(TOKENIZER)


@pytest.fixture(scope="module")
def decoder() -> BeamSearchDecoder:
    lm = NGramLM.from_text(["a bad cab", "a bad dad", "dad a cab"], order=2)
    settings = {"alpha": 0.8, "beta": 0.5, "beam_width": 30, "unk_score_offset": -4.0}
    return BeamSearchDecoder(LABELS, lm, blank_id=0, calibration=Calibration(2.0, -0.5), **settings)


def some_log_probs(count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.log(rng.dirichlet(np.full(len(LABELS), 0.3), size=25)) for _ in range(count)]


def test_what_was_saved_opens_and_decodes_the_same(decoder: BeamSearchDecoder, tmp_path: Path) -> None:
    assert save_language_model(tmp_path, decoder) == tmp_path / "language_model"
    assert find_language_model(tmp_path) == tmp_path
    opened = open_decoder(tmp_path, TOKENIZER)
    assert opened.settings == decoder.settings and opened.calibration == Calibration(2.0, -0.5)
    for log_probs in some_log_probs():
        assert opened.decode(log_probs).text == decoder.decode(log_probs).text != ""
        assert opened.decode(log_probs).words == decoder.decode(log_probs).words
        assert opened.decode(log_probs).score == pytest.approx(decoder.decode(log_probs).score)


def test_a_folder_without_one_has_none(tmp_path: Path, decoder: BeamSearchDecoder) -> None:
    assert find_language_model(tmp_path) is None
    (tmp_path / "language_model").mkdir()
    assert find_language_model(tmp_path) is None and find_language_model("") is None
    with pytest.raises(ValueError, match="no language model to save"):
        save_language_model(tmp_path, BeamSearchDecoder(LABELS))


def test_the_lm_of_another_tokenizer_is_refused(decoder: BeamSearchDecoder, tmp_path: Path) -> None:
    save_language_model(tmp_path, decoder)
    with pytest.raises(ValueError, match="3 labels that this one lacks"):
        open_decoder(tmp_path, build_char_tokenizer(["a xyz"]))


def test_a_tokenizer_with_more_labels_is_warned_about(
    decoder: BeamSearchDecoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_language_model(tmp_path, decoder)
    open_decoder(tmp_path, build_char_tokenizer(["a cab bad dad x"]))
    assert "fewer labels" in caplog.text


@pytest.mark.parametrize("kind", ["characters", "pieces", "wav2vec2 pieces"])
def test_the_folders_of_transformers_4_and_5_open(kind: str, tmp_path: Path) -> None:
    """alphabet.json and language_model/ as pyctcdecode writes them for every token of the vocabulary."""
    texts = ["a bad cab", "a bad dad", "dad a cab"]
    tokenizer: PreTrainedTokenizerBase = TOKENIZER
    if kind != "characters":
        tokenizer = build_bpe_tokenizer(texts, 14)
    ids = tokenizer("a bad cab").input_ids
    if kind == "wav2vec2 pieces":
        (tmp_path / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
        tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), pad_token="<pad>", unk_token="<unk>")
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    arpa = NGramLM.from_text(texts, order=2).save(tmp_path / "lm.arpa")
    (folder := tmp_path / "model").mkdir()
    build_ctcdecoder(tokens, arpa, ["a", "bad", "cab", "dad"]).save_to_dir(folder)
    decoder = open_decoder(folder, tokenizer)
    log_probs = np.full((2 * len(ids), len(tokens)), -9.0)  # each label, then a blank
    log_probs[np.arange(0, 2 * len(ids), 2), ids] = 0
    log_probs[1::2, tokenizer.pad_token_id] = 0
    assert decoder.decode(log_probs).text == "a bad cab"


def test_a_newer_format_is_refused(decoder: BeamSearchDecoder, tmp_path: Path) -> None:
    file = save_language_model(tmp_path, decoder) / "decoder.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        open_decoder(tmp_path, TOKENIZER)


def test_the_processor_saves_opens_and_decodes(decoder: BeamSearchDecoder, tmp_path: Path) -> None:
    processor = CTCProcessorWithLM(SpectralFeatureExtractor(), TOKENIZER, decoder)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == "Wav2Vec2Processor"  # which every project can open
    logits = torch.from_numpy(np.stack(some_log_probs())).float() + 3.0
    texts = [hypothesis.text for hypothesis in CTCProcessorWithLM.from_pretrained(tmp_path).batch_decode(logits)]
    assert texts == [decoder.decode(log_probs).text for log_probs in some_log_probs()]
    shorter = processor.batch_decode(logits, lengths=[25, 10, 0])
    assert shorter[0].text == texts[0] and shorter[2].text == ""
    assert shorter[1].text == decoder.decode(some_log_probs()[1][:10]).text
    assert processor.decode(logits[1]).text == texts[1] and processor.decode(logits[1], 10).text == shorter[1].text
    with pytest.raises(ValueError, match=r"of one utterance, got shape \(7,\)"):
        processor.decode(torch.zeros(7, dtype=torch.long))  # ids


def test_a_processor_without_a_decoder_says_so(tmp_path: Path) -> None:
    processor = CTCProcessorWithLM(SpectralFeatureExtractor(), TOKENIZER)
    with pytest.raises(ValueError, match="no decoder"):
        processor.batch_decode(torch.zeros(1, 5, len(LABELS)))
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no language_model/"):
        CTCProcessorWithLM.from_pretrained(tmp_path)


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_language_model(tmp_path / "gone" / "model") is None
    assert "could not look for a language_model/" in caplog.text


class Hub:
    """Answers `snapshot_download` with a folder, and notes which of its files would have been fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: set[str] = set()

    def __call__(self, name: str, *, allow_patterns: Any, ignore_patterns: Any = None) -> str:
        files = [file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if file.is_file()]
        self.fetched |= set(filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A repository with what a training leaves, but no LM."""
    for name in ("model.safetensors", "pytorch_model.bin", "training_args.bin", "checkpoint-9/optimizer.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    hub = Hub(tmp_path)
    monkeypatch.setattr("hfaudio.processing.language_model.snapshot_download", hub)
    return hub


def test_of_a_model_on_the_hub_only_the_lm_is_fetched(hub: Hub, decoder: BeamSearchDecoder) -> None:
    save_language_model(hub.folder, decoder)
    assert open_lm("user/model").score("a bad cab") == pytest.approx(decoder.lm.score("a bad cab"))
    assert hub.fetched == {"language_model/lm.ngram", "language_model/decoder.json"}


def test_an_lm_alone_on_the_hub(hub: Hub, decoder: BeamSearchDecoder) -> None:
    decoder.lm.save(hub.folder / "lm.ngram")
    decoder.lm.save(hub.folder / "checkpoint-9" / "lm.arpa")
    assert open_lm("user/lm").score("a bad cab") == pytest.approx(decoder.lm.score("a bad cab"))
    assert hub.fetched == {"lm.ngram"}


def test_an_lm_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connection(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("hfaudio.processing.language_model.snapshot_download", no_connection)
    with pytest.raises(ValueError, match=r"no file or folder user/lm, and it is no Hub .* \(no connection\)"):
        open_lm("user/lm")


def test_an_lm_that_is_no_longer_wanted_goes(
    decoder: BeamSearchDecoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_language_model(tmp_path, decoder)
    (tmp_path / "config.json").touch()
    remove_language_model(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"] and "is deleted" in caplog.text
    remove_language_model(tmp_path)


def test_a_kenlm_binary_travels_as_it_is(tmp_path: Path) -> None:
    fixture = Path(__file__).parents[1] / "ngram" / "fixtures" / "kenlm_2.bin.gz"
    (tmp_path / "theirs.bin").write_bytes(gzip.decompress(fixture.read_bytes()))
    tokenizer = build_char_tokenizer(["abcdefghijklmnopqrstuvwxyz "])
    lm = NGramLM.load(tmp_path / "theirs.bin")
    save_language_model(tmp_path / "model", BeamSearchDecoder(ctc_labels(tokenizer), lm, blank_id=0))
    opened = open_decoder(tmp_path / "model", tokenizer)
    assert opened.lm is not None and opened.lm.score("the cat") == pytest.approx(lm.score("the cat"))
    save_language_model(tmp_path / "model", opened)  # where it is already


def test_an_lm_of_another_format_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    fixture = Path(__file__).parents[1] / "ngram" / "fixtures" / "kenlm_2.bin.gz"
    (tmp_path / "theirs.bin").write_bytes(gzip.decompress(fixture.read_bytes()))
    tokenizer = build_char_tokenizer(["abcdefghijklmnopqrstuvwxyz "])
    theirs, own = NGramLM.load(tmp_path / "theirs.bin"), NGramLM.from_text(["the cat"], order=3)
    for lm in (own, theirs, own):
        save_language_model(tmp_path, BeamSearchDecoder(ctc_labels(tokenizer), lm, blank_id=0))
        opened = open_decoder(tmp_path, tokenizer).lm
        assert opened is not None and opened.order == lm.order
