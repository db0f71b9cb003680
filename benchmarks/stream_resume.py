"""Kill a stream twice in mid-epoch with SIGKILL, resume it twice, and count what was lost, repeated or out of order.

    python benchmarks/stream_resume.py --processes 1 2 3 --workers 0 2

Every run is started by `accelerate launch` on gloo, reads parquet shards of synthetic clips as a stream, decodes them
and saves its place every few steps, as a training does. Beside it the same test on plain `datasets`:
`shuffle(seed, buffer_size)` and `split_dataset_by_node`, whose `state_dict` goes into the checkpoint (in the main
process, as it cannot be had from workers).
"""

import argparse
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
import torch.distributed as dist
from datasets import IterableDataset, load_dataset
from datasets.distributed import split_dataset_by_node

from hfaudio.audio.io import load_audio
from hfaudio.data.loader import BatchLoader
from hfaudio.data.stream import AudioStream

SHUFFLE_BUFFER = 100
SAVE_EVERY = 5  # steps
PEER_BATCH = 8  # rows


def write_shards(folder: Path, rows: int, shards: int, seed: int = 0) -> None:
    """Parquet shards of different sizes with clips of 0.3 to 4 s, four row groups each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    sizes = rng.dirichlet(np.full(shards, 5.0))
    ends = np.round(np.cumsum(sizes) * rows).astype(int)
    for shard, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        table: dict[str, list[Any]] = {"id": [], "text": [], "audio": []}
        for number in range(start, end):
            clip = 0.1 * rng.standard_normal(int(16_000 * rng.uniform(0.3, 4.0)))
            encoded = io.BytesIO()
            soundfile.write(encoded, clip, 16_000, format="FLAC", subtype="PCM_16")
            table["id"].append(number)
            table["text"].append("x")
            table["audio"].append({"bytes": encoded.getvalue(), "path": None})
        name = folder / f"train-{shard:05d}-of-{shards:05d}.parquet"
        pq.write_table(pa.table(table), name, row_group_size=max(1, (end - start + 3) // 4))


def open_stream(folder: Path) -> IterableDataset:
    """The shards as a user's script opens them."""
    return load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", streaming=True)


class Ids(torch.utils.data.Dataset):
    """Examples that say which row they were, after it has been decoded."""

    def set_epoch(self, epoch: int) -> None:
        pass

    def __getitem__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "peak": float(np.abs(load_audio(row["audio"])).max())}


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The ids of a batch."""
    return {"ids": torch.tensor([example["id"] for example in examples])}


def run_worker(options: argparse.Namespace) -> None:
    """One process of a run: takes batches, saves its place and what it has seen, goes on from the last save."""
    from accelerate import PartialState

    state = PartialState(cpu=True)
    rank, world = state.process_index, state.num_processes
    assert world == options.world, f"{world} processes instead of {options.world}"
    (options.out / f"process-{rank}").write_text(str(os.getpid()))
    rows = open_stream(options.data)
    if options.peer:
        shuffled = rows.shuffle(seed=0, buffer_size=SHUFFLE_BUFFER)
        source: Any = split_dataset_by_node(shuffled, rank=rank, world_size=world).batch(PEER_BATCH)
    else:
        group = dist.group.WORLD if world > 1 else None
        stream = AudioStream(rows, 20, world, rank, 0, SHUFFLE_BUFFER, process_group=group)
        source = BatchLoader(stream, Ids(), collate, num_workers=options.num_workers)
    seen: list[list[int]] = []
    if last := last_save(options.out):
        before = last / f"seen-{rank}.json"
        seen = json.loads(before.read_text()) if before.exists() else []  # an added process has seen nothing
        source.load_state_dict(json.loads((last / f"place-{rank if options.peer else 0}.json").read_text()))
    if not options.peer and source.batches.epoch > 0:  # it was killed behind its last step
        source = []
    for batch in source:
        ids = batch["id"] if options.peer else batch["ids"].tolist()
        seen.append([int(number) for number in ids])
        if len(seen) % SAVE_EVERY == 0:
            save(options.out, len(seen), rank, seen, source.state_dict(), state)
        time.sleep(options.pause)  # where a model would train
    state.wait_for_everyone()
    (options.out / f"all-{rank}.json").write_text(json.dumps(seen))


def save(out: Path, step: int, rank: int, seen: list[list[int]], place: dict[str, Any], state: Any) -> None:
    """Write a checkpoint that is there as a whole or not at all."""
    unfinished, finished = out / f"unfinished-{step}", out / f"save-{step}"
    unfinished.mkdir(exist_ok=True)
    (unfinished / f"seen-{rank}.json").write_text(json.dumps(seen))
    (unfinished / f"place-{rank}.json").write_text(json.dumps(place))
    state.wait_for_everyone()
    if rank == 0:
        unfinished.rename(finished)
    state.wait_for_everyone()


def last_save(out: Path) -> Path | None:
    """The newest checkpoint."""
    return max(out.glob("save-*"), key=lambda place: int(place.name.split("-")[1]), default=None)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass(frozen=True)
class Run:
    """One way to read the shards."""

    processes: int
    workers: int
    peer: bool = False

    def start(self, data: Path, out: Path, *, processes: int | None = None, pause: float = 0.0) -> subprocess.Popen:
        """Start it by `accelerate launch`."""
        world = processes or self.processes
        launch = ["--num_processes", str(world), "--num_machines", "1", "--mixed_precision", "no"]
        launch += ["--dynamo_backend", "no", "--main_process_port", str(free_port())]
        launch += ["--multi_gpu"] if world > 1 else []
        out.mkdir(parents=True, exist_ok=True)
        worker = [__file__, "--worker", "--data", str(data), "--out", str(out), "--world", str(world)]
        worker += ["--num_workers", str(self.workers), "--pause", str(pause), *(["--peer"] if self.peer else [])]
        with open(out / "log.txt", "a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "accelerate.commands.launch", *launch, *worker],
                env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def finish(self, data: Path, out: Path, processes: int | None = None) -> None:
        """Run it to its end."""
        run = self.start(data, out, processes=processes)
        if run.wait() != 0:
            raise RuntimeError(f"the run failed; the end of its log:\n{(out / 'log.txt').read_text()[-3000:]}")

    def kill_after(self, step: int, data: Path, out: Path) -> None:
        """Start it and kill all of its processes once it has saved this step."""
        run = self.start(data, out, pause=0.5)
        while not (out / f"save-{step}").exists():
            if run.poll() is not None:
                raise RuntimeError(f"it ended before it was killed; its log:\n{(out / 'log.txt').read_text()[-3000:]}")
            time.sleep(0.01)
        run.kill()
        run.wait()
        for process in out.glob("process-*"):  # the launcher gives each its own session: they outlive it
            os.kill(int(process.read_text()), signal.SIGKILL)
            process.unlink()


def seen_by(out: Path) -> list[list[list[int]]]:
    """Batches of every rank."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("all-*.json"))]


def compare(run: Run, data: Path, folder: Path, rows: int, kills: tuple[int, ...] = (10, 20)) -> dict[str, Any]:
    """Lost and repeated rows of a run killed after these steps, and whether its order is that of one never killed."""
    whole, killed = folder / "whole", folder / "killed"
    run.finish(data, whole)
    for step in kills:
        run.kill_after(step, data, killed)
    run.finish(data, killed)
    counts = Counter(row for rank in seen_by(killed) for batch in rank for row in batch)
    return {
        **asdict(run),
        "rows": rows,
        "lost": rows - len(counts),
        "repeated": sum(counts.values()) - len(counts),
        "same order": seen_by(whole) == seen_by(killed),
        "steps": len(seen_by(killed)[0]),
    }


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes (1 2)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="numbers of decoding workers (0 2)")
    parser.add_argument("--rows", type=int, default=600, help="synthetic clips (600)")
    parser.add_argument("--shards", type=int, default=5, help="parquet files of different sizes (5)")
    parser.add_argument("--no_peer", action="store_true", help="leave out plain datasets")
    options = parser.parse_args(argv)
    results = []
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        write_shards(data, options.rows, options.shards)
        runs = [Run(processes, workers) for processes in options.processes for workers in options.workers]
        runs += [] if options.no_peer else [Run(processes, 0, peer=True) for processes in options.processes]
        for run in runs:
            folder = Path(place) / "run"
            results.append(compare(run, data, folder, options.rows))
            shutil.rmtree(folder)
            print(json.dumps(results[-1]), flush=True)
    return results


def worker_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--peer", action="store_true")
    for name in ("--data", "--out"):
        parser.add_argument(name, type=Path)
    for name in ("--world", "--num_workers"):
        parser.add_argument(name, type=int)
    parser.add_argument("--pause", type=float)
    return parser.parse_args()


if __name__ == "__main__":
    if "--worker" in sys.argv:
        run_worker(worker_options())
    else:
        main()
