"""The benchmark of the code cache run for real, on a few clips."""

import re
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def script(open_page: Callable[[str], ModuleType]) -> ModuleType:
    return open_page("benchmarks/code_cache.py")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """The benchmark sets the threads of torch for its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_both_ways_give_the_same_codes(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--clips", "3", "--threads", "1", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert printed.startswith("3 clips, 1 threads of torch")
    assert re.findall(r"^(clip by clip|code cache) +[\d.]+ clips/s$", printed, re.MULTILINE) == [
        "clip by clip",
        "code cache",
    ]
    (differing,) = re.findall(r"codes that differ: ([\d.]+)%", printed)
    assert float(differing) < 0.5
