"""Streams under `accelerate launch`, killed and resumed for real."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hfaudio.data.stream import AudioStream


@pytest.fixture(scope="module")
def benchmark(open_page: Callable[[str], ModuleType]) -> ModuleType:
    return open_page("benchmarks/stream_resume.py")


@pytest.fixture(scope="module")
def data(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    benchmark.write_shards(folder, rows=240, shards=3)
    return folder


@pytest.mark.parametrize(("processes", "workers", "kills"), [(2, 2, (5, 10)), (3, 1, (5,))])
def test_killed_and_resumed_every_rank_takes_the_batches_of_an_epoch_never_interrupted(
    processes: int, workers: int, kills: tuple[int, ...], benchmark: ModuleType, data: Path, tmp_path: Path
) -> None:
    run = benchmark.Run(processes, workers)
    for step in kills:
        run.kill_after(step, data, tmp_path)
    run.finish(data, tmp_path)
    buffer = benchmark.SHUFFLE_BUFFER
    streams = [AudioStream(benchmark.open_stream(data), 20, processes, rank, 0, buffer) for rank in range(processes)]
    expected = [[[row["id"] for row in batch] for batch in stream] for stream in streams]
    assert benchmark.seen_by(tmp_path) == expected
    assert sorted(row for rank in expected for batch in rank for row in batch) == list(range(240))


def test_more_processes_go_on_with_what_is_left(benchmark: ModuleType, data: Path, tmp_path: Path) -> None:
    run = benchmark.Run(2, 0)
    run.kill_after(10, data, tmp_path)
    run.finish(data, tmp_path, processes=3)
    ranks = benchmark.seen_by(tmp_path)
    rows = [row for batches in ranks for batch in batches for row in batch]
    assert len(ranks) == 3 and len(rows) == len(set(rows)) == 240
    assert len(ranks[0]) == len(ranks[1]) == 10 + len(ranks[2])
