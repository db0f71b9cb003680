"""A saved folder opens where hfaudio is not installed, with its own copy of the code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor, pipeline

import hfaudio.auto  # noqa: F401
from hfaudio.audio.features import ARTICLE_MFCC, WHISPER
from hfaudio.models import LstmCTCConfig, LstmForCTC, WhisperCTCConfig, WhisperForCTC
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer
from hfaudio.processing.remote_code import carry_code, with_imports

STRANGER = """
import sys
sys.modules["hfaudio"] = None  # importing it fails
import numpy as np
from transformers import pipeline
pipe = pipeline("automatic-speech-recognition", model=sys.argv[1], trust_remote_code=True)
assert pipe.type == "ctc" and type(pipe.model).__module__.startswith("transformers_modules")
print("TEXT", pipe(np.random.default_rng(0).normal(0, 0.1, 16_000).astype("float32"))["text"])
"""


@pytest.mark.parametrize("name", ["lstm", "whisper"])
def test_a_stranger_reads_the_same_text(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = build_char_tokenizer(["abcdefgh"])
    if name == "lstm":
        extractor = SpectralFeatureExtractor(ARTICLE_MFCC)
        config = LstmCTCConfig(vocab_size=len(tokenizer), feature_size=40, hidden_size=16, conv_channels=16)
        model = LstmForCTC(config)
    else:
        extractor = SpectralFeatureExtractor(WHISPER, normalize=False)
        sizes = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
        model = WhisperForCTC(WhisperCTCConfig(vocab_size=len(tokenizer), **sizes))
    model.save_pretrained(tmp_path)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path)
    carry_code(tmp_path)
    clip = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    here = pipeline("automatic-speech-recognition", model=str(tmp_path))
    assert type(here.model) is type(model)  # where hfaudio is, its own class wins over the copy
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, tmp_path], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert stranger.returncode == 0, stranger.stderr
    assert f"TEXT {here(clip)['text']}" in stranger.stdout


def test_only_what_is_needed_is_carried(tmp_path: Path) -> None:
    modules = with_imports({"hfaudio.models.lstm_ctc", "hfaudio.processing.feature_extractor"})
    assert modules == {
        "hfaudio.models.lstm_ctc",
        "hfaudio.models.ctc",
        "hfaudio.processing.feature_extractor",
        "hfaudio.audio.features",
    }


def test_a_stock_architecture_carries_nothing(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Wav2Vec2Config(**sizes, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2, vocab_size=4)
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), build_char_tokenizer(["a"])).save_pretrained(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert carry_code(tmp_path) == []
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
