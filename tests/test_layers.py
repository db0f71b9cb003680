"""Imports point downwards only (README, "How it is built"); packages of one level do not import each other."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hfaudio"
LAYERS = [
    {"audio", "text"},
    {"ngram"},
    {"decoding", "metrics", "models"},
    {"processing", "data"},
    {"training", "hub", "inference"},
    {"demo"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported_packages(source: str) -> set[str]:
    """First component below hfaudio of every import, nested ones too; relative imports are refused."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("hfaudio.")}
    return found


def upward_imports(package: str, source: str) -> set[str]:
    others = imported_packages(source) - {package, "auto", "__version__"}
    return {other for other in others if LEVEL[other] >= LEVEL[package]}


FILES = [
    f for f in sorted(PACKAGE.rglob("*.py")) if f.relative_to(PACKAGE).as_posix() not in ("__init__.py", "auto.py")
]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(file: Path) -> None:
    package = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert not upward_imports(package, file.read_text(encoding="utf-8"))


def test_every_package_has_a_level() -> None:
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    assert folders <= set(LEVEL)


def test_upward_and_sideways_imports_are_seen() -> None:
    assert upward_imports("audio", "def f():\n    from hfaudio.data.collate import CTCCollator") == {"data"}
    assert upward_imports("training", "import hfaudio.inference.transcribe") == {"inference"}
    assert upward_imports("training", "from hfaudio import hub") == {"hub"}
    assert not upward_imports("training", "from hfaudio.data.collate import CTCCollator")
