"""Metrics for the `evaluate` library, one folder each: `evaluate.load(module_path("wer"))` needs no network.

Each returns one float. wer, cer and mer are on the scale of the Hub's metrics of the same names, 1 being 100 %; chrf
and bleu are the corpus scores of sacrebleu, 0 to 100.
"""

from pathlib import Path

MODULES = ("wer", "cer", "mer", "chrf", "bleu")


def module_path(name: str) -> str:
    """Folder that `evaluate.load` takes in place of the name of a metric on the Hub."""
    if name not in MODULES:
        raise ValueError(f"unknown metric {name!r}; choose one of {', '.join(MODULES)}")
    return str(Path(__file__).parent / name)
