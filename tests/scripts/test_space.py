"""The Space is a folder that runs by itself: package, bundled models, requirements, front matter."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement


@pytest.fixture(scope="module")
def script(open_page: Callable[[str], ModuleType]) -> ModuleType:
    return open_page("scripts/build_space.py")


def test_the_space_holds_what_it_needs(script: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "space"
    script.write_space(folder)
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio" and (folder / front["app_file"]).is_file()
    names = {Requirement(line).name for line in (folder / "requirements.txt").read_text().splitlines()}
    assert {"torch", "transformers", "av", "numba"} <= names and not {"hfaudio", "gradio"} & names
    assert (folder / "packages.txt").read_text().split() == ["ffmpeg"]
    models = {p.name for p in (folder / "hfaudio" / "data" / "bundled").iterdir() if p.is_dir()}
    assert models == {"asr", "musicgen"}
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 25e6
    # It runs with its own copy of the package, not with one that is installed.
    environment = os.environ | {"PYTHONPATH": str(folder)}
    absent = ("librosa", "sklearn", "silero_vad", "evaluate", "mido", "playwright")  # of other extras
    program = (
        f"import sys; sys.modules |= dict.fromkeys({absent})\n"
        "import hfaudio, hfaudio.demo.app as app; print(hfaudio.__file__, app.EXAMPLE.is_file())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(folder / "hfaudio" / "__init__.py"), "True"]
    with pytest.raises(ValueError, match="is there already"):
        script.write_space(folder)
