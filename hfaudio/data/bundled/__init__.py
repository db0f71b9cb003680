"""The datasets and models that the package brings along, as folders in the formats of the Hub.

The music is in the repository only, as are the recipes that train on it.
`path("speech")` opens with `datasets.load_dataset(str(path("speech")))`; its README.md is the card.
"""

from pathlib import Path


def path(name: str) -> Path:
    """The folder of a bundled dataset or model, beside this file; ValueError names those that exist."""
    here = Path(__file__).parent
    names = sorted(p.name for p in here.iterdir() if p.is_dir() and not p.name.startswith("_"))
    if name not in names:
        raise ValueError(f"no bundled dataset or model {name!r}; there are {', '.join(names)}")
    return here / name
