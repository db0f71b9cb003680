"""From MIDI to dataset rows: a soundfont by fluidsynth, levels, parquet shards in the Hub's format."""

import argparse
import io
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
from datasets import Audio, Features, Value
from music_score import Sound, write_midi

# FluidR3 GM, MIT licence, Debian's package fluid-soundfont-gm.
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
LEVEL_DB = (-24.0, -18.0)  # RMS
FADE_SECONDS = 0.03
FORMATS = {  # of the encoded clips: container, codec, libsndfile's compression level
    "flac": ("FLAC", "PCM_16", 0.5),
    "opus": ("OGG", "OPUS", 0.95),  # 0 to 1 stands for 256 to 6 kbit/s: about 18
}


@dataclass(frozen=True)
class Recording:
    """How clips are rendered and stored."""

    sample_rate: int
    channels: int
    seconds: float
    file_format: str
    soundfont: Path = SOUNDFONT


def add_recording_options(parser: argparse.ArgumentParser) -> None:
    """The options that `recording_of` reads."""
    parser.add_argument("--seconds", type=float, default=5.12, help="length of a clip (default: 5.12)")
    parser.add_argument("--sample_rate", type=int, default=16_000, help="in Hz (default: 16000)")
    parser.add_argument("--channels", type=int, choices=(1, 2), default=1, help="1 mono, 2 stereo (default: 1)")
    parser.add_argument("--format", choices=tuple(FORMATS), default="flac", help="of the clips (default: flac)")
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT, help=f"General MIDI soundfont ({SOUNDFONT})")


def recording_of(args: argparse.Namespace) -> Recording:
    """How to record, by the options; ends the program if what is needed is missing."""
    check_synthesiser(args.soundfont)
    return Recording(args.sample_rate, args.channels, args.seconds, args.format, args.soundfont)


def check_synthesiser(soundfont: Path) -> None:
    """Ends the program if fluidsynth or the soundfont is missing."""
    if shutil.which("fluidsynth") is None or not soundfont.is_file():
        raise SystemExit(
            f"fluidsynth and {soundfont} are needed; on Debian: apt install fluidsynth fluid-soundfont-gm"
        )


def synthesise(midi: Path, recording: Recording) -> np.ndarray:
    """Samples (channels, N) of a MIDI file, from its first tick to the end of its last note's reverberation."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "music.wav")
        command = ["fluidsynth", "-ni", "-q", "-r", str(recording.sample_rate), "-F", str(wav)]
        command += ["-o", "synth.dynamic-sample-loading=1"]  # of the 148 MB only the samples of one instrument
        subprocess.run([*command, str(recording.soundfont), str(midi)], check=True, stdout=subprocess.DEVNULL)
        samples, _ = sf.read(wav, dtype="float32", always_2d=True)
    return samples.T if recording.channels == 2 else samples.mean(axis=1)[None]


def clip(samples: np.ndarray, recording: Recording, rng: np.random.Generator) -> np.ndarray:
    """The first `seconds` of (channels, N) samples at a random level, faded out."""
    n = round(recording.seconds * recording.sample_rate)
    samples = np.pad(samples[:, :n], ((0, 0), (0, max(0, n - samples.shape[1]))))
    fade = round(FADE_SECONDS * recording.sample_rate)
    samples[:, n - fade :] *= np.linspace(1, 0, fade)
    loudness = np.sqrt(np.mean(samples**2))
    gain = 10 ** (rng.uniform(*LEVEL_DB) / 20) / max(loudness, 1e-6)
    return samples * min(gain, 0.9 / max(np.abs(samples).max(), 1e-6))  # no clipping


def encoded(samples: np.ndarray, recording: Recording) -> bytes:
    """The bytes of an audio file of (channels, N) samples."""
    container, codec, level = FORMATS[recording.file_format]
    file = io.BytesIO()
    sf.write(file, samples.T, recording.sample_rate, format=container, subtype=codec, compression_level=level)
    return file.getvalue()


def recorded(sounds: Sequence[Sound], program: int, name: str, seed: int, recording: Recording) -> dict[str, Any]:
    """The columns `id`, `audio` and `seconds` of a clip; its level depends on seed and name."""
    with tempfile.TemporaryDirectory() as folder:
        midi = Path(folder, "tune.mid")
        write_midi(sounds, program, midi)
        samples = synthesise(midi, recording)
    audio = encoded(clip(samples, recording, np.random.default_rng([seed, *name.encode()])), recording)
    path = f"{name}.{recording.file_format}"
    return {"id": name, "audio": {"bytes": audio, "path": path}, "seconds": recording.seconds}


def features(facts: Mapping[str, str], sample_rate: int) -> Features:
    """Columns of the dataset: id, audio, text, then the facts with their types, then seconds."""
    columns = {"id": Value("string"), "audio": Audio(sampling_rate=sample_rate, decode=False), "text": Value("string")}
    return Features(columns | {name: Value(kind) for name, kind in facts.items()} | {"seconds": Value("float32")})


def write_splits(
    rows: Sequence[Mapping[str, Any]], columns: Features, folder: Path
) -> dict[str, list[Mapping[str, Any]]]:
    """Parquet shards of about 25 MB in `folder`/data, which is replaced; the rows by the split their ids begin with.

    pyarrow writes them: datasets would encode the audio column.
    """
    shutil.rmtree(folder / "data", ignore_errors=True)  # shards of another count would be read as well
    (folder / "data").mkdir(parents=True)
    by_split = {s: [row for row in rows if row["id"].startswith(s)] for s in ("train", "validation", "test")}
    for split, own in by_split.items():
        shards = 1 + sum(len(row["audio"]["bytes"]) for row in own) // 25_000_000
        for k in range(shards):
            table = pa.Table.from_pylist(own[k::shards], schema=columns.arrow_schema)
            pq.write_table(table, folder / "data" / f"{split}-{k:05d}-of-{shards:05d}.parquet", row_group_size=100)
    return by_split
