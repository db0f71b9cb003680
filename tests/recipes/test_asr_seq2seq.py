"""recipes/asr_seq2seq.py run for real on songs of tones."""

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
from transformers import AutoModelForSpeechSeq2Seq, pipeline

from hfaudio.audio.io import load_audio
from hfaudio.data.datasets import DataArguments, load_splits
from hfaudio.training.adapters import open_adapter

RECIPE = Path(__file__).parents[2] / "recipes" / "asr_seq2seq.py"
HERE = ["--use_cpu", "--dataloader_num_workers", "0", "--disable_tqdm", "True", "--eval_window_seconds", "0"]
CLEAN = [
    f"--{name}_probability=0"
    for name in ("silence", "speed", "room", "noise", "band_limit", "telephone", "gain", "mask")
]
SMALL = ["--d_model", "32", "--encoder_layers", "1", "--decoder_layers", "1", "--dropout", "0", "--vocab_size", "256"]
EXACT = ["--optim", "sgd", "--lr_scheduler_type", "constant", "--learning_rate", "0.1"]
SHORT = ["--max_eval_examples", "4", "--watch_examples", "3", "--max_train_examples", "24"]
PROBED = ["--forgetting_examples", "2", "--forgetting_long_seconds", "2"]
UNPROBED = ["--forgetting_examples", "0"]


def steps(count: int, every: int) -> list[str]:
    return ["--max_steps", str(count), "--eval_steps", str(every), "--save_steps", str(every)]


def test_a_new_model_learns_what_its_songs_are_made_of(songs: Path, tmp_path: Path, run_seq2seq: Callable) -> None:
    results = run_seq2seq(
        *("--dataset", songs, "--output_dir", tmp_path, *SMALL, *HERE, *CLEAN, *steps(80, 40)),
        *("--learning_rate", "5e-3", "--per_device_train_batch_size", "16", "--watch_examples", "4"),
        *("--max_eval_examples", "6", "--seed", "0"),
    )
    losses = [entry["eval_loss"] for entry in json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
              if "eval_loss" in entry] if (tmp_path / "trainer_state.json").exists() else []  # fmt: skip
    metrics = results["metrics"]
    assert metrics["test/wer/generate"]["n"] == metrics["validation/wer/generate"]["n"] == 6
    assert {"test/loops", "validation/empty", "test/wer/generate/speaker 1"} <= set(metrics)
    assert not any(name.startswith("forgetting") for name in metrics)  # a new model has nothing to forget
    assert results["trained_weights"] == results["weights"] > 10_000 or results["trained_weights"] > 10_000
    assert losses == [] or losses[-1] < losses[0]
    row = load_splits(DataArguments(dataset=str(songs)))["test"][0]
    text = pipeline("automatic-speech-recognition", model=str(tmp_path))(load_audio(row["audio"], 16_000))["text"]
    assert isinstance(text, str)
    assert {"metrics.json", "curves.png", "worst_utterances.md", "forgetting.md"} <= {
        f.name for f in tmp_path.iterdir()
    }


def test_lora_leaves_adapter_merged_model_and_a_report_of_what_is_lost(
    songs: Path, small_whisper: Path, tmp_path: Path, run_seq2seq: Callable
) -> None:
    results = run_seq2seq(
        *("--model", small_whisper, "--dataset", songs, "--output_dir", tmp_path, "--adapter", "lora"),
        *("--forgetting_sets", f"songs={songs}:test", *HERE, *CLEAN, *SHORT, *PROBED, *steps(2, 2)),
    )
    metrics = results["metrics"]
    for when in ("before", "after"):
        assert metrics[f"forgetting/songs/wer/{when}"]["n"] == 2
        assert metrics[f"forgetting/silence/text/{when}"]["n"] == 12
        assert {f"forgetting/own data, with times/well_timed/{when}", f"forgetting/long form (2 s)/wer/{when}"} <= set(
            metrics
        )
    table = (tmp_path / "forgetting.md").read_text()
    assert (
        table.startswith("| probe | figure | n | before, % | after, % | difference |")
        and "| songs | wer | 2 |" in table
    )
    merged = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path)
    alone = open_adapter(tmp_path / "adapter", AutoModelForSpeechSeq2Seq)
    inputs = {"input_features": torch.randn(1, 80, 3000), "decoder_input_ids": torch.tensor([[271, 3, 4]])}
    torch.testing.assert_close(merged.eval()(**inputs).logits, alone(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert merged.config.text_normalizer == "basic"
    assert 0 < results["trained_weights"] < 0.2 * results["weights"]
    assert results["peak_memory_mb"] > 100


def test_replay_languages_and_l2(songs: Path, small_whisper: Path, tmp_path: Path, run_seq2seq: Callable) -> None:
    results = run_seq2seq(
        *("--model", small_whisper, "--dataset", songs, "--output_dir", tmp_path, "--replay_dataset", songs),
        *("--replay_split", "test", "--replay_rate", "0.5", "--l2_to_start", "1", "--freeze", "encoder"),
        *(*HERE, *CLEAN, *SHORT, *UNPROBED, *steps(2, 2)),
    )
    assert results["skipped"]["replay"] == {}
    start, end = (load_file(folder / "model.safetensors") for folder in (small_whisper, tmp_path))
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved and not any(".encoder." in name and "encoder_attn" not in name for name in moved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--language", "hindi"], "this Whisper knows English only, it has no language 'hindi'"),
        (["--task", "translate"], "no task 'translate'"),
        (["--adapter", "lora", "--adapter_rank", "0"], "--adapter_rank must be at least 1"),
        (["--adapter", "lora", "--adapter_targets", "query"], "match no linear layer"),
        (["--adapter", "lora", "--l2_to_start", "1"], "use --weight_decay"),
        (["--d_model", "64"], "--d_model is an option of --model new"),
        (["--freeze", "head"], "--freeze takes encoder, decoder"),
        (["--language_temperature", "2"], "needs a --language_column"),
        (["--streaming", "--max_steps", "1", "--replay_dataset", "bundled"], "leave out --streaming"),
        (["--train_window_seconds", "31"], "must be between 0 and 30"),
        (["--forgetting_sets", "bundled"], "takes NAME=FOLDER_OR_ID"),
        (["--watch_examples", "0"], "--watch_examples must be at least 1"),
        (["--model", "/no/such/model"], "there is no folder '/no/such/model'"),
    ],
)
def test_mistakes_show_before_the_training(
    songs: Path, small_whisper: Path, tmp_path: Path, run_seq2seq: Callable, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_seq2seq(
            *("--model", small_whisper, "--dataset", songs, "--output_dir", tmp_path, *HERE, *SHORT, *UNPROBED),
            *(*steps(1, 1), *options),
        )


def test_a_transcript_longer_than_the_decoder_is_skipped_and_counted(
    small_whisper: Path, tmp_path: Path, run_seq2seq: Callable
) -> None:
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    for name, samples in (("noise", 0.1 * rng.normal(size=16_000)), ("silence", np.zeros(16_000))):
        soundfile.write(data / f"{name}.wav", samples.astype("f4"), 16_000)
    rows = [("noise", "abc"), ("silence", "a b"), ("noise", "a " * 50), ("noise", "cab")]
    for split in ("train", "validation"):
        lines = [json.dumps({"audio": f"{name}.wav", "text": text}) for name, text in rows]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    results = run_seq2seq(
        *("--model", small_whisper, "--dataset", data, "--output_dir", tmp_path / "out", *HERE, *UNPROBED),
        *steps(1, 1),
    )
    assert results["skipped"] == {key: {"transcript longer than the decoder": 1} for key in ("train", "validation")}
    assert results["metrics"]["validation/wer/generate"]["n"] == 3


def run(arguments: list[str], **variables: str) -> subprocess.Popen:
    settings = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | variables
    return subprocess.Popen([sys.executable, str(RECIPE), *arguments], env=settings, start_new_session=True)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_run_killed_in_mid_epoch_ends_as_one_never_killed(
    songs: Path, small_whisper: Path, tmp_path: Path, run_seq2seq: Callable, adapter: str
) -> None:
    options = ["--model", str(small_whisper), "--dataset", str(songs), *HERE, *SHORT, *UNPROBED, *EXACT]
    options += [*steps(6, 2), "--adapter", adapter, "--per_device_train_batch_size", "4", "--save_total_limit", "5"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_seq2seq(*options, "--output_dir", whole)
    process = run([*options, "--output_dir", str(broken)])
    checkpoint = broken / "checkpoint-2" / "trainer_state.json"
    deadline = time.time() + 120
    while not checkpoint.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for later in ("checkpoint-4", "checkpoint-6"):  # it may have been faster than the signal
        subprocess.run(["rm", "-rf", str(broken / later)], check=True)
    run_seq2seq(*options, "--output_dir", broken, "--resume_from_checkpoint", "last")
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5, msg=name)
