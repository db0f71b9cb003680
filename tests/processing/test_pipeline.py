"""`pipeline()` uses the LM in a folder, with hfaudio imported and, by trust_remote_code, where it is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    pipeline,
)

import hfaudio.auto  # noqa: F401
from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.decoding.compat import build_ctcdecoder
from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.ngram.model import NGramLM
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer, ctc_labels
from hfaudio.processing.language_model import save_language_model
from hfaudio.processing.pipeline import SpeechRecognitionPipeline
from hfaudio.processing.remote_code import carry_code

TASK = "automatic-speech-recognition"
WORDS = ["ab", "cad", "dabba", "ace", "bed"]


def clip(seed: int, seconds: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)


def save_model(folder: Path, name: str) -> Path:
    """An untrained model whose letters change from frame to frame, and an LM of five words, the only ones."""
    torch.manual_seed(0)
    tokenizer = build_char_tokenizer(["abcde x"])
    if name == "lstm":
        model = LstmForCTC(LstmCTCConfig(vocab_size=len(tokenizer), hidden_size=16, conv_channels=16))
        extractor = SpectralFeatureExtractor()
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        conv = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**sizes, **conv, vocab_size=len(tokenizer), pad_token_id=0))
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    with torch.no_grad():
        model.lm_head.weight *= 20
        model.lm_head.bias[2] += 1
    model.save_pretrained(folder)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    lm = NGramLM.from_text([" ".join(WORDS), " ".join(reversed(WORDS))], order=2)
    save_language_model(folder, BeamSearchDecoder(ctc_labels(tokenizer), lm, blank_id=0, unk_score_offset=-np.inf))
    carry_code(folder)
    return folder


@pytest.fixture(scope="module", params=["lstm", "wav2vec2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp(request.param), request.param)


def test_the_lm_is_used(folder: Path) -> None:
    pipe = pipeline(TASK, model=str(folder))
    assert isinstance(pipe, SpeechRecognitionPipeline) and pipe.lm_decoder is not None
    with_lm = [pipe(clip(seed))["text"] for seed in range(3)]
    assert set(" ".join(with_lm).split()) <= set(WORDS) and any(with_lm)
    inputs = pipe.feature_extractor(clip(0), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        logits = pipe.model(**inputs).logits[0]
    assert pipe.lm_decoder.decode(logits, logits=True).text == with_lm[0]
    pipe.lm_decoder = None
    greedy = [pipe(clip(seed))["text"] for seed in range(3)]
    assert greedy != with_lm


def test_a_clip_in_a_batch_gets_the_text_it_gets_alone(tmp_path: Path) -> None:
    pipe = pipeline(TASK, model=str(save_model(tmp_path, "lstm")))
    clips = [clip(0, 0.7), clip(1, 2.0), clip(2, 1.1)]
    alone = [pipe(samples)["text"] for samples in clips]
    assert [output["text"] for output in pipe(list(clips), batch_size=3)] == alone


def test_word_times_lie_in_the_clip(folder: Path) -> None:
    pipe = pipeline(TASK, model=str(folder))
    output = pipe(clip(0, 2.0), return_timestamps="word")
    assert " ".join(chunk["text"] for chunk in output["chunks"]) == output["text"] != ""
    times = [time for chunk in output["chunks"] for time in chunk["timestamp"]]
    assert times == sorted(times) and 0 <= times[0] and times[-1] <= 2.0 + 0.04  # the last frame may reach beyond
    assert max(times) > 0.5  # seconds, neither frames nor zeros
    with pytest.raises(ValueError, match="can be 'word', got 'char'"):
        pipe(clip(0), return_timestamps="char")


def test_long_recordings_in_chunks(folder: Path) -> None:
    pipe = pipeline(TASK, model=str(folder))
    output = pipe(clip(3, 9.0), chunk_length_s=4, stride_length_s=1, return_timestamps="word")
    assert set(output["text"].split()) <= set(WORDS)
    assert 7.0 < output["chunks"][-1]["timestamp"][1] <= 9.0 + 0.04


def test_settings_and_hotwords_of_a_call(folder: Path) -> None:
    pipe = pipeline(TASK, model=str(folder))
    plain = pipe(clip(0, 2.0))["text"]
    changed = pipe(clip(0, 2.0), decoder_kwargs={"beta": 30.0})["text"]
    assert len(changed.split()) > len(plain.split())
    wide = {"beam_prune_logp": -100.0, "token_min_logp": -100.0}
    hot = pipe(clip(0, 2.0), decoder_kwargs={"hotwords": {"bed": 100.0}} | wide)["text"]
    assert hot.split().count("bed") > plain.split().count("bed")
    assert pipe(clip(0, 2.0))["text"] == plain
    with pytest.raises((TypeError, ValueError), match="gamma"):
        pipe(clip(0), decoder_kwargs={"gamma": 1.0})


def test_what_the_caller_gives_beside_the_audio_comes_back(folder: Path) -> None:
    output = pipeline(TASK, model=str(folder))({"raw": clip(0), "sampling_rate": 16_000, "id": "x7"})
    assert output["id"] == ["x7"]


def test_a_saved_pipeline_keeps_its_lm(folder: Path, tmp_path: Path) -> None:
    pipe = pipeline(TASK, model=str(folder))
    pipe.save_pretrained(tmp_path)
    again = pipeline(TASK, model=str(tmp_path))
    assert again.lm_decoder is not None and again(clip(1))["text"] == pipe(clip(1))["text"]
    carried = {file.name: file.read_text() for file in tmp_path.glob("*.py")}  # a stranger's test is below
    assert carried == {file.name: file.read_text() for file in folder.glob("*.py")} != {}
    if (tmp_path / "config.json").read_text().count("lstm_ctc"):
        extractor = json.loads((tmp_path / "preprocessor_config.json").read_text())
        assert extractor["auto_map"]["AutoFeatureExtractor"].split(".")[0] + ".py" in carried


def test_a_model_that_is_not_ctc_warns_of_an_lm(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = pipeline(TASK, model=str(folder))
    pipe.model.config.model_type = "whisper"
    parts = {"tokenizer": pipe.tokenizer, "feature_extractor": pipe.feature_extractor}
    made = SpeechRecognitionPipeline(model=pipe.model, **parts)
    assert made.lm_decoder is None and "is not used: this is no CTC model" in caplog.text


def test_a_decoder_that_is_given_is_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ours takes the place of the folder's; one of pyctcdecode's kind goes transformers' way, and the log says so."""
    parts = pipeline(TASK, model=str(folder))
    labels = ctc_labels(parts.tokenizer)
    given = BeamSearchDecoder(labels, blank_id=0)
    pipe = pipeline(TASK, model=str(folder), decoder=given)
    assert pipe.lm_decoder is given and "not used" not in caplog.text
    inputs = pipe.feature_extractor(clip(0), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        logits = pipe.model(**inputs).logits[0]
    assert pipe(clip(0))["text"] == given.decode(logits, logits=True).text != parts(clip(0))["text"]
    tokens = parts.tokenizer.convert_ids_to_tokens(range(len(labels)))
    pipe = pipeline(TASK, model=str(folder), decoder=build_ctcdecoder(tokens))
    assert pipe.lm_decoder is None and pipe.type == "ctc_with_lm"
    assert "is not used: a decoder was given" in caplog.text
    assert pipe(clip(0))["text"] == build_ctcdecoder(tokens).decode(logits.numpy())


STRANGER = """
import sys
sys.modules["hfaudio"] = sys.modules["pyarrow"] = None  # importing them fails
import numpy as np
from transformers import pipeline

def opened(folder):
    try:
        pipeline("automatic-speech-recognition", model=folder)
    except ValueError as error:
        assert "trust_remote_code" in str(error)
    else:
        raise AssertionError("an LM was lost in silence")
    pipe = pipeline("automatic-speech-recognition", model=folder, trust_remote_code=True)
    assert type(pipe).__module__.startswith("transformers_modules")
    return pipe

pipe = opened(sys.argv[1])
print("TEXT", pipe(np.random.default_rng(0).normal(0, 0.1, 16_000).astype("float32"))["text"])
pipe.save_pretrained("again")
assert opened("again").lm_decoder is not None
"""


def test_a_stranger_hears_the_lm_or_an_error(folder: Path, tmp_path: Path) -> None:
    """What a stranger saves opens in the same way."""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, folder], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert stranger.returncode == 0, stranger.stderr
    assert f"TEXT {pipeline(TASK, model=str(folder))(clip(0))['text']}" in stranger.stdout


def test_custom_pipelines_of_others_still_ask_for_trust(folder: Path, tmp_path: Path) -> None:
    pipe = pipeline(TASK, model=str(folder))
    assert json.loads((folder / "config.json").read_text())["custom_pipelines"]
    assert pipe.model.config.custom_pipelines == {}  # ours is installed, nothing is asked
    pipe.model.config.custom_pipelines = {TASK: {"impl": "other.Pipeline", "pt": ["AutoModelForCTC"]}}
    assert TASK in pipe.model.config.custom_pipelines


def test_a_model_saved_without_its_lm_names_no_pipeline(folder: Path, tmp_path: Path) -> None:
    pipe = pipeline(TASK, model=str(folder))
    pipe.model.save_pretrained(tmp_path)
    Wav2Vec2Processor(pipe.feature_extractor, pipe.tokenizer).save_pretrained(tmp_path)
    carry_code(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
