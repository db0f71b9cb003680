"""Write the demo as a Space of the Hub: a folder that needs nothing but what its requirements.txt names.

    python scripts/build_space.py -o space
    hf upload USER/NAME space --repo-type space

It holds the files of demo/, the hfaudio package with the bundled models, and the requirements of pyproject.toml.
"""

import argparse
import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODELS = ("asr", "musicgen")  # what the demo opens; the other bundled folders are data to train on


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo as a Space of the Hub.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write; it must not exist")
    write_space(parser.parse_args().output)


def write_space(folder: Path) -> None:
    """Write the Space; ValueError for a folder that is there already."""
    if folder.exists():
        raise ValueError(f"{folder} is there already; choose another folder, or delete it")
    package, bundled = ROOT / "hfaudio", ROOT / "hfaudio" / "data" / "bundled"

    def left_out(place: str, names: list[str]) -> set[str]:
        others = {name for name in names if (bundled / name).is_dir() and name not in MODELS}
        return {"__pycache__"} | (others if Path(place) == bundled else set())

    shutil.copytree(ROOT / "demo", folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(package, folder / "hfaudio", ignore=left_out)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name in ("demo", "video") for line in project["optional-dependencies"][name]]
    lines = [*project["dependencies"], *(line for line in extras if not line.startswith(("hfaudio", "gradio")))]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")  # the Space brings gradio


if __name__ == "__main__":
    main()
