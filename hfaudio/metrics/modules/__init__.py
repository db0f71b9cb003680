"""Metrics for the `evaluate` library, one folder each: `evaluate.load(module_path("wer"))` needs no network.

They return what the Hub's metrics of the same names return: one float.
"""

from pathlib import Path

MODULES = ("wer", "cer", "mer")


def module_path(name: str) -> str:
    """Folder that `evaluate.load` takes in place of the name of a metric on the Hub."""
    if name not in MODULES:
        raise ValueError(f"unknown metric {name!r}; choose one of {', '.join(MODULES)}")
    return str(Path(__file__).parent / name)
