"""A Hub of our own, and child processes that talk to it as they would to the real one."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def hub_double(open_page: Callable[[str], ModuleType]) -> ModuleType:
    """The module tests/hub/double.py; tests are no package, so it is not imported by name."""
    return open_page("tests/hub/double.py")


@pytest.fixture
def hub(hub_double: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An empty Hub (`HubDouble`)."""
    with hub_double.HubDouble(tmp_path_factory.mktemp("hub")) as opened:
        yield opened


@pytest.fixture(scope="session")
def run_child(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Runs a program in a process and a folder of its own; what it writes as JSON into the file `sys.argv[1]`."""

    def run(program: str, environment: dict[str, str], *arguments: Any, python: str = sys.executable) -> Any:
        folder = tmp_path_factory.mktemp("child")
        command = [python, "-c", program, "written.json", *map(str, arguments)]
        child = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        assert child.returncode == 0, child.stderr[-8000:]
        return json.loads((folder / "written.json").read_text(encoding="utf-8"))

    return run
