"""A stream of encoded clips into training: ours beside plain `datasets` and a padding collator, in one run.

    python benchmarks/streaming.py --dataset ../shared/data/speechocean762 -o streaming.json

The peer is what `datasets` documents: `shuffle(seed, buffer_size)`, decoding in a `map`, a `DataLoader` with batches
of as many clips as ours hold on average, padded to the longest. Decoding, features, model and clips are the same.
Measured, each for both sides in turn and `--repetitions` times (medians are reported, ratios within a repetition):

- padding: share of the batches that is padding; rank correlation of the clips' order between two epochs (0: mixed);
- loader: seconds of audio that a second gives, with 0, 1 and 2 workers;
- training: seconds of audio that a second trains on, with a small LSTM, and steps a second;
- memory: growth of the resident memory of a process that streams `--hours` of synthetic parquet, after warm-up;
- resume: seconds from opening the dataset to the first batch, at the beginning, after 1 % and after 90 % of it.
"""

import gc
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from datasets import IterableDataset, load_dataset
from scipy.stats import spearmanr
from torch.utils.data import DataLoader
from transformers import Wav2Vec2Processor, set_seed

from hfaudio.data.collate import CTCCollator
from hfaudio.data.datasets import DataArguments, RowCheck, load_split
from hfaudio.data.examples import ExampleEncoder, SpeechStream
from hfaudio.data.loader import BatchLoader
from hfaudio.data.stream import AudioStream
from hfaudio.metrics.results import command_line
from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer
from hfaudio.training.arguments import parse_arguments

MEGABYTE = 2**20


@dataclass
class BenchmarkArguments:
    batch_seconds: float = field(default=60.0, metadata={"help": "Budget of our batches, padding included."})
    repetitions: int = field(default=3, metadata={"help": "How often speeds are measured."})
    batches: int = field(default=60, metadata={"help": "First batches of an epoch that speeds are taken of."})
    hours: float = field(default=20.0, metadata={"help": "Synthetic audio for the figures of memory and resume."})
    hidden_size: int = field(default=128, metadata={"help": "Of the two-layer LSTM that is trained."})
    output: str = field(default="streaming.json", metadata={"aliases": ["-o"], "help": "Where figures go."})


@dataclass(frozen=True)
class Sides:
    """The same clips for both sides."""

    rows: IterableDataset
    examples: SpeechStream
    collate: CTCCollator
    batch_seconds: float
    batch_size: int  # of the peer: the mean of ours

    def ours(self, workers: int, epoch: int = 0) -> BatchLoader:
        """Our loader."""
        stream = AudioStream(self.rows, self.batch_seconds, measure=self.examples.row_check.measure)
        stream.begin_epoch(epoch)
        return BatchLoader(stream, self.examples, self.collate, num_workers=workers)

    def peer(self, workers: int, epoch: int = 0) -> DataLoader:
        """The documented way: decode in a map, shuffle before it, pad in the collator."""
        shuffled = self.rows.shuffle(seed=0, buffer_size=1000)
        shuffled.set_epoch(epoch)
        return DataLoader(
            Decoded(shuffled, self.examples), self.batch_size, num_workers=workers, collate_fn=self.collate
        )


class Decoded(torch.utils.data.IterableDataset):
    """Rows decoded by the same code as ours, shared out to workers by `datasets`."""

    def __init__(self, rows: IterableDataset, examples: SpeechStream) -> None:
        self.rows = rows
        self.examples = examples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.examples[row] for row in self.rows)


def prepare(arguments: BenchmarkArguments, data: DataArguments) -> Sides:
    """Both sides over the training split, with limits that keep every clip on both."""
    data.streaming = True
    rows = load_split(data, data.train_split)
    texts = [row["text"] for row in rows.select_columns("text")]
    processor = Wav2Vec2Processor(SpectralFeatureExtractor(), build_char_tokenizer([text.lower() for text in texts]))
    check = RowCheck(min_seconds=0.1, max_seconds=min(30.0, arguments.batch_seconds))
    usable = [row for row in rows if check(row).reason is None]
    assert len(usable) == len(texts), "the peer would stop at a row that cannot be used"
    examples = SpeechStream(rows, check, ExampleEncoder(processor), num_rows=len(texts))
    counts = whole_epoch(AudioStream(rows, arguments.batch_seconds)).counts
    return Sides(rows, examples, CTCCollator(processor), arguments.batch_seconds, round(counts.rows / counts.steps))


def whole_epoch(stream: AudioStream) -> AudioStream:
    """The stream after one epoch."""
    for _ in stream:
        pass
    return stream


def measure_padding(sides: Sides) -> dict[str, float]:
    """Padding of both sides, and how much the order of one epoch tells of the next one."""
    figures: dict[str, float] = {"batch_size": sides.batch_size}
    orders: dict[str, list[list[str]]] = {"ours": [], "peer": []}
    for epoch in (0, 1):
        stream = AudioStream(sides.rows, sides.batch_seconds)
        stream.begin_epoch(epoch)
        orders["ours"].append([row["id"] for batch in stream for row in batch])
        figures["ours"] = stream.counts.padding_share
        shuffled = sides.rows.shuffle(seed=0, buffer_size=1000)
        shuffled.set_epoch(epoch)
        rows = list(shuffled)
        orders["peer"].append([row["id"] for row in rows])
        seconds = np.array([sides.examples.row_check.measure(row) for row in rows])
        batches = np.split(seconds, range(sides.batch_size, len(seconds), sides.batch_size))
        figures["peer"] = 1 - seconds.sum() / sum(len(batch) * batch.max() for batch in batches)
    for side, (first, second) in orders.items():
        place = {row: number for number, row in enumerate(second)}
        figures[f"{side}_order_correlation"] = float(spearmanr(range(len(first)), [place[row] for row in first])[0])
    return figures


def audio_seconds(batch: dict[str, torch.Tensor], frames_per_second: float = 100.0) -> float:
    """Seconds of audio in a batch of features, without padding."""
    return float(batch["attention_mask"].sum()) / frames_per_second


def measure_loader(sides: Sides, workers: int, arguments: BenchmarkArguments) -> dict[str, Any]:
    """Seconds of audio a second that each side's loader gives."""
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    for repetition in range(arguments.repetitions):
        for side in ("ours", "peer") if repetition % 2 == 0 else ("peer", "ours"):
            loader: Iterable[Any] = getattr(sides, side)(workers, repetition)
            start, audio = perf_counter(), 0.0
            for batch in islice(loader, arguments.batches):
                audio += audio_seconds(batch)
            speeds[side].append(audio / (perf_counter() - start))
    return summary(speeds)


def measure_training(sides: Sides, arguments: BenchmarkArguments) -> dict[str, Any]:
    """Seconds of audio trained a second with the same model."""
    tokenizer = sides.examples.encoder.processor.tokenizer
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    steps: dict[str, list[float]] = {"ours": [], "peer": []}
    for repetition in range(arguments.repetitions):
        for side in ("ours", "peer") if repetition % 2 == 0 else ("peer", "ours"):
            set_seed(0)
            config = LstmCTCConfig(
                vocab_size=len(tokenizer),
                hidden_size=arguments.hidden_size,
                num_hidden_layers=2,
                pad_token_id=tokenizer.pad_token_id,
            )
            model = LstmForCTC(config).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            loader: Iterable[Any] = getattr(sides, side)(1, repetition)
            start, audio, count = perf_counter(), 0.0, 0
            for batch in islice(loader, arguments.batches):
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                audio += audio_seconds(batch)
                count += 1
            elapsed = perf_counter() - start
            speeds[side].append(audio / elapsed)
            steps[side].append(count / elapsed)
    return summary(speeds) | {f"{side}_steps_a_second": round(median(values), 2) for side, values in steps.items()}


def summary(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and ratios within repetitions."""
    ratios = [ours / peer for ours, peer in zip(speeds["ours"], speeds["peer"], strict=True)]
    return {
        **{f"{side}_audio_seconds_a_second": round(median(values), 1) for side, values in speeds.items()},
        "ratio": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def write_hours(folder: Path, hours: float, shard_rows: int = 500) -> IterableDataset:
    """Parquet shards of Opus clips of 2 to 18 s, hours of them, made from sixty different clips."""
    rng = np.random.default_rng(0)
    clips = []
    for seconds in np.linspace(2, 18, 60):
        encoded = io.BytesIO()
        samples = 0.1 * rng.standard_normal(int(16_000 * seconds))
        soundfile.write(encoded, samples, 16_000, format="OGG", subtype="OPUS")
        clips.append(encoded.getvalue())
    rows = round(hours * 3600 / 10)
    for shard, start in enumerate(range(0, rows, shard_rows)):
        numbers = range(start, min(start + shard_rows, rows))
        audio = [{"bytes": clips[rng.integers(len(clips))], "path": None} for _ in numbers]
        table = pa.table({"id": [str(number) for number in numbers], "text": ["x"] * len(numbers), "audio": audio})
        pq.write_table(table, folder / f"train-{shard:05d}.parquet", row_group_size=100)
    return open_hours(folder)


def open_hours(folder: Path) -> IterableDataset:
    """The shards as a stream."""
    return load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", streaming=True)


def resident_memory() -> float:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_memory(rows: IterableDataset, batch_seconds: float) -> dict[str, float]:
    """Growth of resident memory from a tenth of an epoch to its end, encoded batches as in a training."""
    stream = AudioStream(rows, batch_seconds)
    levels = []
    for number, _ in enumerate(stream):
        if number % 20 == 0:
            levels.append(resident_memory() / MEGABYTE)
    warm = levels[len(levels) // 10 :]
    return {
        "hours": round(stream.counts.seconds / 3600, 2),
        "megabytes_after_warm_up": round(warm[0], 1),
        "growth_megabytes": round(max(warm) - warm[0], 1),
    }


def measure_resume(folder: Path, batch_seconds: float, repetitions: int) -> dict[str, Any]:
    """Seconds to the first batch of a fresh start and of two places in the epoch."""
    stream = AudioStream(open_hours(folder), batch_seconds)
    places: dict[str, dict[str, Any] | None] = {"start": None}
    states = []
    for _ in stream:
        states.append(json.dumps(stream.state_dict()) if len(states) % 10 == 0 else "")
    for name, share in (("1 %", 0.01), ("50 %", 0.5), ("90 %", 0.9)):
        places[name] = json.loads(states[round(len(states) * share) // 10 * 10])
    figures: dict[str, Any] = {}
    for name, place in places.items():
        seconds = []
        for _ in range(repetitions):
            gc.collect()
            start = perf_counter()
            resumed = AudioStream(open_hours(folder), batch_seconds)
            if place is not None:
                resumed.load_state_dict(place)
            batches = iter(resumed)
            next(batches)
            seconds.append(perf_counter() - start)
            del batches
        figures[name] = round(median(seconds), 3)
    return figures


def main(argv: list[str] | None = None) -> dict[str, Any]:
    arguments, data = parse_arguments(BenchmarkArguments, DataArguments, argv=argv)
    torch.set_num_threads(1)  # the other core is the worker's
    sides = prepare(arguments, data)
    results: dict[str, Any] = {"padding": measure_padding(sides)}
    print(json.dumps(results["padding"]), flush=True)
    for workers in (0, 1, 2):
        results[f"loader_{workers}_workers"] = measure_loader(sides, workers, arguments)
        print(workers, json.dumps(results[f"loader_{workers}_workers"]), flush=True)
    results["training"] = measure_training(sides, arguments)
    print(json.dumps(results["training"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = write_hours(Path(folder), arguments.hours)
        results["memory"] = measure_memory(rows, arguments.batch_seconds)
        print(json.dumps(results["memory"]), flush=True)
        results["resume_seconds"] = measure_resume(Path(folder), arguments.batch_seconds, arguments.repetitions)
        print(json.dumps(results["resume_seconds"]), flush=True)
    Path(arguments.output).write_text(json.dumps(results | {"command": command_line()}, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
