"""Nothing is pushed that others open otherwise; what is pushed opens, and what failed goes on."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    EncodecFeatureExtractor,
    EncodecModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from hfaudio.data.bundled import path
from hfaudio.hub.kind import kind_of
from hfaudio.hub.publish import PublishError, check, complete, name_base, public_base, publish, pushed_files
from hfaudio.models import LstmLMConfig, LstmLMForCausalLM
from hfaudio.processing import build_char_tokenizer

CLIPS = [
    {"array": np.random.default_rng(seed).normal(0, 0.1, 8_000).astype(np.float32), "sampling_rate": 16_000}
    for seed in range(3)
]


@pytest.fixture(scope="module")
def recogniser() -> Wav2Vec2ForCTC:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Wav2Vec2Config(**sizes, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2, vocab_size=6, pad_token_id=0)
    return Wav2Vec2ForCTC(config).eval()


@pytest.fixture
def folder(recogniser: Wav2Vec2ForCTC, tmp_path: Path) -> Path:
    """What a run leaves: a model, its results, and what is nobody else's."""
    place = tmp_path / "run"
    recogniser.save_pretrained(place)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), build_char_tokenizer(["abc"])).save_pretrained(place)
    rate = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 8}
    facts = {"seed": 1, "versions": {"torch": "2"}, "command": "recipes/x.py", "dataset": "bundled"}
    results = {"metrics": {"test/wer/greedy": rate}, **facts}
    (place / "metrics.json").write_text(json.dumps(results))
    for name in ("checkpoint-5/model.safetensors", "runs/events", "training_args.bin", "adapter/adapter_config.json"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"not for others")
    return place


def test_what_a_run_keeps_for_itself_is_not_pushed(folder: Path) -> None:
    complete(folder)
    (folder / "samples").mkdir()
    for name in ("step-5-1.wav", "step-10-1.wav"):
        (folder / "samples" / name).write_bytes(b"sound")
    (folder / "language_model").mkdir()
    (folder / "language_model" / "5gram.bin").write_bytes(b"of another project")
    files = {file.as_posix() for file in pushed_files(folder)}
    assert "language_model/5gram.bin" in files
    assert {name for name in files if name.startswith("samples/")} == {"samples/step-10-1.wav"}  # of the last step
    assert {"config.json", "model.safetensors", "metrics.json", "vocab.json", "preprocessor_config.json"} <= files
    assert not any(name.startswith(("checkpoint", "runs", "training_args", "adapter")) for name in files)


def test_another_model_than_the_trained_one_is_not_pushed(recogniser: Wav2Vec2ForCTC, folder: Path) -> None:
    """Such as after saving went wrong: the folder opens, but holds other weights."""
    complete(folder)
    kind = kind_of(folder)
    assert "\n" in check(folder, kind, recogniser, CLIPS)  # it prints the text, here of noise
    changed = Wav2Vec2ForCTC(recogniser.config)
    with pytest.raises(PublishError, match="holds another model, so it was not pushed"):
        check(folder, kind, changed, CLIPS)


def test_a_folder_that_others_cannot_open_is_not_pushed(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(PublishError, match="without hfaudio, so it was not pushed"):
        publish(folder, "ann/model", inputs=CLIPS, dry_run=True)
    assert not (folder / "README.md").exists()


def test_an_adapter_needs_a_base_that_others_have(tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path), "r": 4}))
    with pytest.raises(PublishError, match="push that first and give its id by base_model"):
        public_base(tmp_path, None)
    name_base(tmp_path, public_base(tmp_path, "ann/base"))
    assert json.loads(config.read_text()) == {"base_model_name_or_path": "ann/base", "r": 4}


def test_a_codec_gives_back_the_same_audio(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copy(path("codec") / name, tmp_path)
    published = publish(tmp_path, "ann/codec", dry_run=True, inputs=CLIPS)
    assert published.commit is None and Path("README.md") in published.files
    card = (tmp_path / "README.md").read_text()
    assert "EncodecModel.from_pretrained" in card and "ann/codec" in card and str(tmp_path) not in card
    assert isinstance(EncodecFeatureExtractor.from_pretrained(tmp_path), EncodecFeatureExtractor)
    assert EncodecModel.from_pretrained(tmp_path).config.sampling_rate == 16_000


def test_a_recipe_pushes_what_it_trained_and_a_broken_push_goes_on(
    hub: Any, songs: Path, run_child: Callable[..., Any], tmp_path: Path
) -> None:
    environment = hub.environment(xet=False)
    recipe, folder = Path(__file__).parents[2] / "recipes" / "asr_ctc.py", tmp_path / "run"
    options = ["--dataset", songs, "--output_dir", folder, "--max_steps", "2", "--lm", "none", "--hidden_size", "16"]
    options += ["--push_to_hub", "True", "--hub_model_id", "ann/model", "--hub_private_repo", "True"]
    nobody = hub.environment(token=False)
    refused = subprocess.run([sys.executable, recipe, *options], env=nobody, capture_output=True, text=True)
    assert (
        refused.returncode != 0 and "run `hf auth login`" in refused.stderr and not (folder / "config.json").exists()
    )
    hub.fail_next("POST .*/commit/")
    broken = subprocess.run([sys.executable, recipe, *options], env=environment, capture_output=True, text=True)
    assert broken.returncode != 0 and f"push it again by `hfaudio publish {folder} ann/model`" in broken.stderr
    assert "the same result without hfaudio" in broken.stderr and (folder / "metrics.json").exists()
    sent = hub.count("PUT ")
    assert sent > 0
    command = [sys.executable, "-m", "hfaudio.cli", "publish", folder, "ann/model"]
    whole = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    assert hub.count("PUT ") == sent  # the weights were there already
    files = hub.files("ann/model")
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert not any(name.startswith("checkpoint") for name in files)
    program = """
import json, sys
import numpy as np
from huggingface_hub import HfApi
from transformers import pipeline
sys.modules["hfaudio"] = None
info = HfApi().model_info("ann/model")
pipe = pipeline(model="ann/model", trust_remote_code=True)
text = pipe(np.random.default_rng(0).normal(0, 0.1, 8000).astype("float32"))["text"]
[result] = [r for r in info.card_data.eval_results if r.metric_type == "wer" and r.dataset_split == "test"]
json.dump([info.private, info.pipeline_tag, result.metric_value, isinstance(text, str)], open(sys.argv[1], "w"))
"""
    told = json.loads(files["metrics.json"])["metrics"]["test/wer/greedy"]["value"]
    found = run_child(program, environment)
    assert found == [True, "automatic-speech-recognition", pytest.approx(100 * told, abs=0.01), True]


def test_a_language_model_that_does_not_generate_is_checked_by_its_logits(tmp_path: Path) -> None:
    """An LSTM for rescoring: a stranger loads it with the code in its folder."""
    tokenizer = build_char_tokenizer(["abc"])
    torch.manual_seed(0)
    model = LstmLMForCausalLM(LstmLMConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    published = publish(tmp_path, "ann/lm", model=model, inputs=["ab c", "cab"], dry_run=True)
    assert Path("hfaudio_models_lstm_lm.py") in published.files
    assert "nats a token" in (tmp_path / "README.md").read_text()
