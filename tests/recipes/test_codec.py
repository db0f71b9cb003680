"""The recipe run for real on songs of tones: here, resumed, streamed, stereo, and under two processes."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoProcessor, EncodecModel

from hfaudio.models.codec import EncodecVAE

RECIPE = Path(__file__).parents[2] / "recipes" / "codec.py"
SMALL = [
    "--num_filters",
    "4",
    "--learning_rate",
    "5e-3",
    "--hidden_size",
    "8",
    "--codebook_size",
    "16",
    "--num_codebooks",
    "3",
    "--cpu",
    "True",
]
SMALL += ["--crop_seconds", "0.4", "--discriminator_filters", "2", "--discriminator_n_ffts", "256", "128"]
SMALL += [
    "--discriminator_seconds",
    "0.2",
    "--dataloader_num_workers",
    "0",
    "--eval_clips",
    "4",
    "--warmup_steps",
    "5",
]
SMALL += ["--per_device_train_batch_size", "8", "--logging_steps", "5"]


@pytest.fixture(scope="module")
def recipe(open_page: Callable[[str], ModuleType]) -> Iterator[Callable[..., dict]]:
    module = open_page("recipes/codec.py")

    def run(*argv: object) -> dict:
        AcceleratorState._reset_state(reset_partial_state=True)  # device and precision are chosen once in a process
        return module.main([str(argument) for argument in argv])

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def history(folder: Path, step: int) -> list[dict]:
    return json.loads((folder / f"checkpoint-{step}" / "loop.json").read_text())["history"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_it_learns_and_the_folder_is_a_stock_model(songs: Path, tmp_path: Path, recipe: Callable) -> None:
    results = recipe(
        *("--dataset", songs, "--output_dir", tmp_path, *SMALL, "--max_steps", "60", "--guide_steps", "30"),
        *("--adversarial_start", "45", "--eval_steps", "30", "--save_steps", "30"),
    )
    log = history(tmp_path, 60)
    logged = {name: [entry[name] for entry in log if name in entry] for name in ("stft", "guide", "discriminator")}
    assert logged["guide"][-1] < 0.9 * logged["guide"][0]  # the encoder has begun to find the guide
    assert logged["stft"][5] < 0.9 * logged["stft"][0]  # and the decoder to play it
    assert logged["discriminator"]
    assert {"eval_used/0", "eval_used/2", "eval_perplexity/2", "eval_mel", "eval_si_sdr"} <= log[-1].keys()

    codec = EncodecModel.from_pretrained(tmp_path).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(np.zeros(4000, np.float32), sampling_rate=16000, return_tensors="pt")
    assert codec.encode(inputs["input_values"], bandwidth=0.3).audio_codes.shape == (1, 1, 3, 7)
    names = {name for name in results["metrics"] if name.startswith("test/")}
    assert names == {f"test/{m}/{b}kbps" for m in ("si_sdr", "mel", "stft") for b in ("0.1", "0.2", "0.3")}
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    assert len(results["codebooks"]["test"]["perplexity"]) == 3
    pictures = [tmp_path / "curves.png", tmp_path / "samples" / "step-000060.png"]
    assert all(picture.stat().st_size > 10_000 for picture in pictures)
    samples, rate = soundfile.read(tmp_path / "samples" / "0-step-000060.flac")
    assert rate == 16000 and len(samples) == len(soundfile.read(tmp_path / "samples" / "0-original.flac")[0])


@pytest.fixture(scope="module")
def whole_run(songs: Path, tmp_path_factory: pytest.TempPathFactory, recipe: Callable) -> Path:
    """A run of 16 steps through all three phases, with checkpoints at 6 and 12."""
    folder = tmp_path_factory.mktemp("whole")
    recipe("--dataset", songs, "--output_dir", folder, *SMALL, *PHASES, "--save_total_limit", "9")
    return folder


PHASES = ["--max_steps", "16", "--guide_steps", "4", "--adversarial_start", "8", "--save_steps", "6"]
PHASES += ["--logging_steps", "3"]  # the first log after a resume has the mean since then


@pytest.mark.parametrize("step", [6, 12])  # before the discriminators begin, and after
def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    step: int, songs: Path, whole_run: Path, tmp_path: Path, recipe: Callable
) -> None:
    checkpoint = whole_run / f"checkpoint-{step}"
    recipe("--dataset", songs, "--output_dir", tmp_path, *SMALL, *PHASES, "--resume_from_checkpoint", checkpoint)
    resumed, whole = weights(tmp_path), weights(whole_run)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    for file in ("model.safetensors", "model_1.safetensors"):  # codec with codebooks and moving averages, adversaries
        first, second = (load_file(folder / "checkpoint-16" / file) for folder in (tmp_path, whole_run))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert history(tmp_path, 16) == history(whole_run, 16)


def test_a_stream_a_pretrained_codec_and_half_precision(
    songs: Path, whole_run: Path, tmp_path: Path, recipe: Callable
) -> None:
    before = weights(whole_run)
    recipe(
        *("--dataset", songs, "--streaming", "True", "--model", whole_run, "--output_dir", tmp_path, *SMALL),
        *("--max_steps", "4", "--adversarial_start", "2", "--max_eval_examples", "3", "--bf16"),
    )
    after = weights(tmp_path)
    moved = (after["encoder.layers.0.conv.bias"] - before["encoder.layers.0.conv.bias"]).abs().max()
    assert 0 < moved < 0.02  # from where it was


def test_stereo_with_a_variational_bottleneck(tmp_path: Path, recipe: Callable) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        rows = []
        for number in range(8):
            file = io.BytesIO()
            soundfile.write(file, 0.1 * rng.standard_normal((9000, 2)), 16000, format="FLAC")
            rows.append({"audio": {"bytes": file.getvalue(), "path": f"{number}.flac"}, "id": str(number)})
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / f"{split}.parquet")
    results = recipe(
        *("--dataset", tmp_path / "data", "--output_dir", tmp_path / "out", *SMALL, "--channels", "2"),
        *("--bottleneck", "kl", "--max_steps", "4", "--guide_steps", "2", "--adversarial_start", "3"),
    )
    assert set(results["metrics"]) == {f"validation/{name}/kl" for name in ("si_sdr", "mel", "stft")}
    model = EncodecVAE.from_pretrained(tmp_path / "out")
    assert model.config.audio_channels == 2
    assert model(torch.zeros(1, 2, 1280)).audio.shape == (1, 2, 1280)


def test_two_processes_train_as_one_with_the_joined_batch(songs: Path, tmp_path: Path) -> None:
    """Encoder, decoder, guide and discriminators; codebooks on two ranks are tested in tests/models/test_quantize.py.

    The losses of each step are compared: Adam's first steps have the size of the learning rate where a gradient is
    only rounding.
    """
    common = [str(RECIPE), "--dataset", str(songs), *SMALL, "--max_steps", "4", "--guide_steps", "4"]
    common += ["--adversarial_start", "1", "--max_eval_examples", "3", "--logging_steps", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()}
    launch = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "29523"]
    runs = {"two": [*launch, *common, "--per_device_train_batch_size", "4"], "one": ["--num_processes", "1", *common]}
    for name, words in runs.items():
        command = [sys.executable, "-m", "accelerate.commands.launch", *words, "--output_dir", str(tmp_path / name)]
        subprocess.run(command, env=environment, check=True, timeout=280)
    assert len(list((tmp_path / "two" / "checkpoint-4").glob("random_states_*.pkl"))) == 2  # there were two
    one, two = history(tmp_path / "one", 4), history(tmp_path / "two", 4)
    assert len(one) == 4
    for alone, joined in zip(one, two, strict=True):
        assert alone.keys() == joined.keys() and {"mel", "guide"} <= alone.keys()
        for name in alone.keys() - {"padding_share", "audio_hours"}:
            assert joined[name] == pytest.approx(alone[name], rel=5e-3), (name, alone["step"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume_from_checkpoint", "last"], "no checkpoint"),
        (["--max_steps", "0"], "at least 1"),
        (["--report_to", "paper"], "must be none"),
        (["--hidden_size", "500"], "bands of the guide"),
        (["--min_seconds", "60"], "lower --min_seconds"),
    ],
)
def test_mistakes_are_named(words, message, songs: Path, tmp_path: Path, recipe: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        recipe("--dataset", songs, "--output_dir", tmp_path, *SMALL, *words)
