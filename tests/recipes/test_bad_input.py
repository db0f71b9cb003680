"""A folder with every kind of bad recording and transcript: each is skipped with its reason, the rest is used."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16_000
FAST = ["--hidden_size", "8", "--num_hidden_layers", "1", "--use_cpu", "--dataloader_num_workers", "0"]
FAST += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "False", "--max_steps", "2"]


@pytest.fixture
def bad_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)

    def clip(seconds: float) -> np.ndarray:
        return rng.normal(0, 0.1, round(RATE * seconds)).astype(np.float32)

    folder = tmp_path / "data"
    folder.mkdir()
    soundfile.write(folder / "good.wav", clip(1.0), RATE)
    soundfile.write(folder / "stereo.mp3", rng.normal(0, 0.1, (44_100, 2)), 44_100)
    soundfile.write(folder / "silence.wav", np.zeros(RATE, np.float32), RATE)
    soundfile.write(folder / "empty.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(folder / "one.wav", np.zeros(1, np.float32), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(folder / "whole.flac", clip(2.0), RATE)
    (folder / "truncated.flac").write_bytes((folder / "whole.flac").read_bytes()[:20_000])
    (folder / "text.wav").write_text("this is not a recording")
    soundfile.write(folder / "long.wav", clip(21.0), RATE)
    rows = [
        *[(name, "abc") for name in ("good.wav", "stereo.mp3", "silence.wav", "empty.wav", "one.wav", "nan.wav")],
        *[(name, "abc") for name in ("truncated.flac", "text.wav", "long.wav", "nowhere.wav")],
        ("good.wav", "  ... "),
        ("good.wav", "a" * 40),  # 26 frames, and 79 needed
    ]
    for split, content in (("train", rows), ("validation", [*rows[:2], ("good.wav", "xyz abc")])):
        lines = [json.dumps({"audio": name, "text": text}) for name, text in content]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_what_cannot_be_used_is_counted_by_reason(
    streaming: bool, bad_folder: Path, tmp_path: Path, run_recipe: Callable
) -> None:
    options = ["--streaming", "--max_steps", "4"] if streaming else []
    results = run_recipe("--dataset", bad_folder, "--output_dir", tmp_path / "model", *FAST, *options)
    counts = results["skipped"]["train"]
    expected = {
        "empty": 1,
        "too short": 1,
        "not finite": 1,
        "corrupt": 2,
        "too long": 1,
        "missing": 1,
        "empty transcript": 1,
        "label longer than its frames": 1,
    }
    assert set(counts) == set(expected)
    assert all(counts[reason] % count == 0 and counts[reason] >= count for reason, count in expected.items())
    assert streaming or counts == expected  # a stream of three usable rows is read again and again
    assert results["skipped"]["validation"] == {}


def test_characters_that_were_never_trained_on_count_as_errors(
    bad_folder: Path, tmp_path: Path, run_recipe: Callable
) -> None:
    metrics = run_recipe("--dataset", bad_folder, "--output_dir", tmp_path / "model", *FAST)["metrics"]
    assert metrics["validation/wer/greedy"]["reference_length"] == 4  # "abc" three times and "xyz"
    assert "\ufffd\ufffd\ufffd" in (tmp_path / "model" / "worst_utterances.md").read_text(encoding="utf-8")


def test_one_row_is_enough(bad_folder: Path, tmp_path: Path, run_recipe: Callable) -> None:
    for split in ("train", "validation"):
        (bad_folder / f"{split}.jsonl").write_text('{"audio": "good.wav", "text": "abc"}\n')
    results = run_recipe("--dataset", bad_folder, "--output_dir", tmp_path / "model", *FAST)
    assert results["metrics"]["validation/wer/greedy"]["n"] == 1
