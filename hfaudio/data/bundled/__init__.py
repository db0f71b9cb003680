"""The datasets and models that the package brings along, as folders in the formats of the Hub.

The music and the text-to-music model are in the repository only, as are the recipes that make use of them.
`path("speech")` opens with `datasets.load_dataset(str(path("speech")))`; its README.md is the card.
"""

from pathlib import Path

NOT_PACKAGED = ("music", "musicgen")  # with them a wheel would be above 20 MB


def path(name: str) -> Path:
    """The folder of a bundled dataset or model, beside this file; ValueError names those that exist."""
    here = Path(__file__).parent
    names = sorted(p.name for p in here.iterdir() if p.is_dir() and not p.name.startswith("_"))
    if name not in names:
        where = "; it comes with the repository of hfaudio, not with the package" if name in NOT_PACKAGED else ""
        raise ValueError(f"no bundled dataset or model {name!r}; there are {', '.join(names)}{where}")
    return here / name


def place_of(model: str | Path, name: str) -> str:
    """What `from_pretrained` opens: the bundled model `name` for "bundled", else the folder or id that is given."""
    return str(path(name)) if model == "bundled" else str(model)
