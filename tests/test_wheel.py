"""The wheel brings what it needs: the bundled data open from an installed copy, far from the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hfaudio.data.bundled import NOT_PACKAGED

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that the checkout keeps no build folder."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "hfaudio", folder / "hfaudio", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "dist", folder]
    subprocess.run(build, check=True, capture_output=True)
    return next((folder / "dist").glob("hfaudio-*.whl"))


def test_wheel_holds_every_source_and_data_file_and_is_below_20_mb(wheel: Path) -> None:
    files = {
        f.relative_to(ROOT).as_posix() for f in (ROOT / "hfaudio").rglob("*") if f.suffix in (".py", ".parquet", ".md")
    }
    left_out = tuple(f"hfaudio/data/bundled/{name}/" for name in NOT_PACKAGED)
    files = {file for file in files if not file.startswith(left_out)}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert not any(file.startswith(left_out) for file in held)
    assert "hfaudio/data/bundled/codec/model.safetensors" in held
    assert files <= held and "hfaudio/py.typed" in held
    assert wheel.stat().st_size < 20e6


def test_bundled_speech_opens_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(install, check=True, capture_output=True)
    program = (
        "from hfaudio.data.bundled import path\n"
        "from hfaudio.data.datasets import DataArguments, load_split\n"
        "print(path('speech'))\n"
        "print(len(load_split(DataArguments(), 'test')[0]['audio']['bytes']) > 1000)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(target), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    place, opened = result.stdout.splitlines()
    assert Path(place).is_relative_to(target) and opened == "True"
