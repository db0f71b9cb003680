"""Speech made of tones: every letter is a pitch, so a small model learns to read it in seconds."""

import importlib.util
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

# The models here are tiny, and pytest-xdist runs as many tests at once as there are processors.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
torch.set_num_threads(1)

LETTERS = "abcde"
RATE = 16_000
LETTER_SECONDS = 0.1


def sing(text: str, rng: np.random.Generator) -> np.ndarray:
    """A tone for each letter, silence for a space, a little noise: (N,) float32 at 16 kHz."""
    time = np.arange(int(LETTER_SECONDS * RATE)) / RATE
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)
    pitches = [0 if letter == " " else 300 * 1.5 ** LETTERS.index(letter) for letter in text]
    tones = [0.3 * fade * np.sin(2 * np.pi * pitch * time) for pitch in pitches]
    song = np.concatenate([np.zeros(800), *tones, np.zeros(800)])
    return (song + rng.normal(0, 1e-3, len(song))).astype(np.float32)


def flac(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC")
    return file.getvalue()


def song_rows(count: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        words = ["".join(rng.choice(list(LETTERS), rng.integers(1, 4))) for _ in range(rng.integers(1, 4))]
        text = " ".join(words)
        audio = {"bytes": flac(sing(text, rng)), "path": f"{number}.flac"}
        rows.append({"audio": audio, "text": text, "speaker": f"speaker {number % 3}", "id": f"{seed}-{number}"})
    return rows


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of parquet files: 96 songs to train on in three shards, 13 to validate, 13 to test."""
    folder = tmp_path_factory.mktemp("songs")
    for name, count, seed in (
        ("train-0", 32, 0),
        ("train-1", 32, 1),
        ("train-2", 32, 2),
        ("validation", 13, 3),
        ("test", 13, 4),
    ):
        split, _, shard = name.partition("-")
        file = folder / (f"{split}-0000{shard}-of-00003.parquet" if shard else f"{split}.parquet")
        pq.write_table(pa.Table.from_pylist(song_rows(count, seed)), file)
    return folder


@pytest.fixture(scope="session")
def open_page() -> Callable[[str], ModuleType]:
    """Opens a file of this repository that is run and not imported, such as "recipes/codec.py"."""

    def open_file(place: str) -> ModuleType:
        file = Path(__file__).parents[1] / place
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module  # dataclasses look there, checkpoints name it, scripts import each other
        spec.loader.exec_module(module)
        return module

    return open_file


@pytest.fixture(scope="session")
def run_recipe(open_page: Callable[[str], ModuleType]) -> Callable[..., dict]:
    """Runs recipes/asr_ctc.py in this process with command-line arguments; returns its results."""
    recipe = open_page("recipes/asr_ctc.py")
    return lambda *argv: recipe.main([str(argument) for argument in argv])


@pytest.fixture(scope="session")
def run_seq2seq(open_page: Callable[[str], ModuleType]) -> Callable[..., dict]:
    """Runs recipes/asr_seq2seq.py in this process with command-line arguments; returns its results."""
    recipe = open_page("recipes/asr_seq2seq.py")
    return lambda *argv: recipe.main([str(argument) for argument in argv])


@pytest.fixture(scope="session")
def small_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained, English-only Whisper of one layer, whose tokenizer has the letters of the songs."""
    from hfaudio.training.seq2seq_models import Seq2SeqModelArguments, new_whisper

    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "vocab_size": 270}
    model, processor = new_whisper(Seq2SeqModelArguments(**sizes), ["abc de", "cab bed"])
    model.config.text_normalizer = "basic"
    # 40 positions in place of 448: what is untrained goes on until there is no more room.
    positions = model.model.decoder.embed_positions
    positions.weight = torch.nn.Parameter(positions.weight[:40].clone())
    model.config.max_target_positions = model.generation_config.max_length = 40
    folder = tmp_path_factory.mktemp("small_whisper")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
