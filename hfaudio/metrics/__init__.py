"""Scores: word, character and match error rates with intervals, and the same as `evaluate` modules."""

from hfaudio.metrics.error_rate import (
    ErrorCounts,
    ErrorRate,
    ErrorTally,
    char_error_rate,
    match_error_rate,
    paired_bootstrap,
    word_error_rate,
)
from hfaudio.metrics.modules import module_path

__all__ = [
    "ErrorCounts",
    "ErrorRate",
    "ErrorTally",
    "char_error_rate",
    "match_error_rate",
    "module_path",
    "paired_bootstrap",
    "word_error_rate",
]
