"""Streams under `accelerate launch`, killed and resumed for real."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "stream_resume.py"
    spec = importlib.util.spec_from_file_location("stream_resume", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["stream_resume"] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    benchmark.write_shards(folder, rows=240, shards=3)
    return folder


@pytest.mark.parametrize(("processes", "workers"), [(2, 2), (3, 1)])
def test_killed_twice_nothing_is_lost_repeated_or_out_of_order(
    processes: int, workers: int, benchmark: ModuleType, data: Path, tmp_path: Path
) -> None:
    result = benchmark.compare(benchmark.Run(processes, workers), data, tmp_path, 240, kills=(5, 10))
    assert (result["lost"], result["repeated"], result["same order"]) == (0, 0, True)
    assert result["steps"] > 10 and len(list((tmp_path / "killed").glob("all-*.json"))) == processes


def test_more_processes_go_on_with_what_is_left(benchmark: ModuleType, data: Path, tmp_path: Path) -> None:
    run = benchmark.Run(2, 0)
    run.kill_after(10, data, tmp_path)
    run.finish(data, tmp_path, processes=3)
    ranks = benchmark.seen_by(tmp_path)
    rows = [row for batches in ranks for batch in batches for row in batch]
    assert len(ranks) == 3 and len(rows) == len(set(rows)) == 240
    assert len(ranks[0]) == len(ranks[1]) == 10 + len(ranks[2])
