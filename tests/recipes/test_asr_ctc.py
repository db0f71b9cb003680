"""The recipe run for real on songs of tones: in this process, under two processes, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperModel,
    pipeline,
)

from hfaudio.audio.io import load_audio
from hfaudio.data.datasets import DataArguments, load_splits
from hfaudio.metrics.error_rate import word_error_rate
from hfaudio.models import LstmForCTC, WhisperForCTC

RECIPE = Path(__file__).parents[2] / "recipes" / "asr_ctc.py"
HERE = ["--use_cpu", "--dataloader_num_workers", "0", "--disable_tqdm", "True"]
SMALL = ["--hidden_size", "32", "--num_hidden_layers", "1", *HERE]
# Steps that can be compared between runs: what is random in them depends on the seed and the example alone.
EXACT = ["--dropout", "0", "--optim", "sgd", "--lr_scheduler_type", "constant", "--learning_rate", "0.1"]
NO_CHECKPOINTS = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "False"]
CLEAN = [
    f"--{name}_probability=0"
    for name in ("silence", "speed", "room", "noise", "band_limit", "telephone", "gain", "mask")
]


def environment(**variables: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | variables


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_it_learns_and_the_folder_opens_in_pipeline(songs: Path, tmp_path: Path, run_recipe: Callable) -> None:
    results = run_recipe(
        *("--dataset", songs, "--output_dir", tmp_path, *SMALL, *CLEAN, "--learning_rate", "0.01"),
        *("--per_device_train_batch_size", "8", "--num_train_epochs", "30", "--eval_strategy", "steps"),
        *("--eval_steps", "180", "--save_strategy", "steps", "--save_steps", "180", "--seed", "0"),
    )
    metrics = results["metrics"]
    assert metrics["test/wer/greedy"]["value"] < 0.2 and metrics["test/wer/greedy"]["n"] == 13
    assert {"validation/cer/greedy", "test/mer/greedy", "test/wer/greedy/speaker 1"} <= set(metrics)
    assert {f"test/wer/{variant}" for variant in ("beam", "lm", "oracle")} <= set(metrics)
    assert metrics["test/wer/oracle"]["value"] <= metrics["test/wer/lm"]["value"]
    comparison = results["comparisons"]["test/wer/lm - test/wer/greedy"]
    difference = metrics["test/wer/lm"]["value"] - metrics["test/wer/greedy"]["value"]
    assert comparison["value"] == pytest.approx(difference) and 0 < comparison["p_value"] <= 1
    assert results["processes"] == 1 and results["skipped"] == {"train": {}, "validation": {}, "test": {}}
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    for picture in ("curves.png", "lm_tuning.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
    assert (tmp_path / "worst_utterances.md").read_text().startswith("| errors |")

    pipe = pipeline("automatic-speech-recognition", model=str(tmp_path))
    assert isinstance(pipe.model, LstmForCTC) and pipe.model.config.text_normalizer == "basic"
    rows = load_splits(DataArguments(dataset=str(songs)))["test"]
    texts = [pipe(load_audio(row["audio"]))["text"] for row in rows]
    references = [row["text"] for row in rows]
    # the LM and its tuned weights are in the folder: the pipeline repeats what the recipe measured
    assert word_error_rate(references, texts).value == pytest.approx(metrics["test/wer/lm"]["value"])
    pipe.lm_decoder = None
    texts = [pipe(load_audio(row["audio"]))["text"] for row in rows]
    assert word_error_rate(references, texts).value == pytest.approx(metrics["test/wer/greedy"]["value"])


def test_two_real_processes_take_the_steps_of_one_with_the_joined_batch(
    songs: Path, tmp_path: Path, run_recipe: Callable
) -> None:
    common = [
        "--dataset",
        songs,
        *SMALL,
        *EXACT,
        *NO_CHECKPOINTS,
        "--max_train_examples",
        "36",
        "--max_eval_examples",
        "7",
    ]
    common += ["--num_train_epochs", "2"]  # 36 examples: a last step of 4 that two processes share equally
    launch = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "29517"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    recipe = [RECIPE, *common, "--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "2"]
    launched = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *launch, *recipe, "--output_dir", tmp_path / "two"],
        env=environment(ACCELERATE_USE_CPU="true"),
        capture_output=True,
        text=True,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    one = run_recipe(*common, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", "8")
    assert (two["processes"], one["processes"]) == (2, 1)
    assert two["metrics"].keys() == one["metrics"].keys() and two["metrics"]["test/wer/lm"]["n"] == 7
    for name, rate in one["metrics"].items():
        # weights that differ by 1e-6 can order an n-best list of an untrained model in another way
        assert two["metrics"][name] == rate or "/greedy" not in name, name
    for name, expected in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], expected, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_killed_in_mid_epoch_ends_as_one_never_killed(
    streaming: bool, songs: Path, tmp_path: Path, run_recipe: Callable
) -> None:
    common = ["--streaming", "--shuffle_buffer", "40", "--batch_seconds", "6"] if streaming else []
    common += ["--dataset", songs, *SMALL, "--per_device_train_batch_size", "8", "--max_steps", "30", "--seed", "1"]
    common += ["--lm", "none"]
    common += ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "5", "--save_steps", "5"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, RECIPE, *common, "--output_dir", killed], env=environment())
    while not (killed / "checkpoint-5" / "trainer_state.json").exists():  # 12 steps are an epoch
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "metrics.json").exists()
    resumed = run_recipe(*common, "--output_dir", killed, "--resume_from_checkpoint", "last")
    uninterrupted = run_recipe(*common, "--output_dir", whole)
    assert resumed["metrics"] == uninterrupted["metrics"]
    for name, expected in weights(whole).items():
        torch.testing.assert_close(weights(killed)[name], expected, msg=name)


def test_a_stream_trains_and_logs_to_a_tracker(
    songs: Path, tmp_path: Path, run_recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "logs"
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(logs))
    results = run_recipe(
        *("--dataset", songs, "--streaming", "--output_dir", tmp_path, *SMALL, *NO_CHECKPOINTS),
        *("--max_steps", "4", "--per_device_train_batch_size", "4", "--max_seconds", "0.9"),
        *("--report_to", "tensorboard", "--logging_steps", "1"),
    )
    assert list(logs.glob("events.*"))
    assert results["skipped"]["train"]["too long"] > 0 and results["skipped"]["validation"]["too long"] > 0


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def test_a_whisper_folder_gets_a_ctc_head(songs: Path, tmp_path: Path, run_recipe: Callable) -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    WhisperModel(WhisperConfig(vocab_size=20, pad_token_id=0, **sizes, **decoder)).save_pretrained(tmp_path / "base")
    run_recipe(
        *(
            "--model",
            tmp_path / "base",
            "--dataset",
            songs,
            "--output_dir",
            tmp_path / "tuned",
            *HERE,
            *NO_CHECKPOINTS,
        ),
        *("--max_steps", "2", "--per_device_train_batch_size", "4", "--bf16", "--gradient_checkpointing"),
    )
    pipe = pipeline("automatic-speech-recognition", model=str(tmp_path / "tuned"))
    assert isinstance(pipe.model, WhisperForCTC) and "text" in pipe(torch.randn(16_000).numpy())


def test_a_stock_model_gets_a_new_head_and_opens_as_itself(songs: Path, tmp_path: Path, run_recipe: Callable) -> None:
    config = Wav2Vec2Config(**SIZES, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2, vocab_size=32)
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "base")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "base")
    run_recipe(
        *(
            "--model",
            tmp_path / "base",
            "--dataset",
            songs,
            "--output_dir",
            tmp_path / "tuned",
            *HERE,
            *NO_CHECKPOINTS,
        ),
        *("--max_steps", "2", "--per_device_train_batch_size", "4", "--freeze_feature_encoder", "--lm", "none"),
    )
    pipe = pipeline("automatic-speech-recognition", model=str(tmp_path / "tuned"))
    assert type(pipe.model) is Wav2Vec2ForCTC and pipe.model.config.vocab_size == 3 + 5
    assert not list((tmp_path / "tuned").glob("hfaudio_*.py"))


def test_mfcc_and_bpe_are_options(songs: Path, tmp_path: Path, run_recipe: Callable) -> None:
    options = ["--features", "mfcc", "--bpe_vocab_size", "20", "--max_steps", "2"]
    run_recipe("--dataset", songs, "--output_dir", tmp_path, *SMALL, *NO_CHECKPOINTS, *options)
    pipe = pipeline("automatic-speech-recognition", model=str(tmp_path))
    assert pipe.model.config.feature_size == 40 and pipe.model.config.vocab_size == 20
    assert pipe.model.config.inputs_to_logits_ratio == 512
    assert isinstance(pipe(torch.randn(16_000).numpy())["text"], str)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_seconds", "0.2"], "too long 13; raise --max_seconds"),
        (["--text_column", "sentence"], "no column 'sentence', it has: audio, text"),
        (["--hiden_size", "3"], "--hiden_size"),
        (["--model", "lstm", "--features", "spectrogram"], "log_mel, mfcc, whisper; got 'spectrogram'"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, songs: Path, tmp_path: Path, run_recipe: Callable
) -> None:
    with pytest.raises(ValueError, match=message):
        run_recipe("--dataset", songs, "--output_dir", tmp_path, *SMALL, *arguments)
