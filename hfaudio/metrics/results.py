"""`metrics.json` and the table of worst utterances, which model cards and readers start from."""

import json
import math
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hfaudio.metrics.error_rate import ErrorRate, ErrorTally, Measure, Utterance

MEASURES: tuple[Measure, ...] = ("wer", "cer", "mer")
VERSIONED = ("hfaudio", "torch", "transformers", "datasets", "accelerate", "peft", "numpy")


@dataclass(frozen=True)
class Share:
    """`count` of `n` cases, and the ends of the 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    count: int


@dataclass(frozen=True)
class Mean:
    """A score of `n` cases on its own scale (chrF and BLEU: 0 to 100), and the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


Result = ErrorRate | Share | Mean


def share(count: int, n: int) -> Share:
    """The share of `count` in `n` with the interval of Wilson 1927 (doi:10.1080/01621459.1927.10502953).

    Unlike the normal approximation it has a width at 0 of n. ValueError for n = 0.
    """
    if not 0 <= count <= n or n == 0:
        raise ValueError(f"a share needs at least one case and at most as many hits, got {count} of {n}")
    z, p = 1.959963984540054, count / n  # of the normal distribution, 97.5 %
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return Share(p, max(0.0, low) if count else 0.0, min(1.0, high) if count < n else 1.0, n, count)


def mean(values: Sequence[float]) -> Mean:
    """The mean of independent cases with its normal 95 % interval; ValueError for none."""
    if not values:
        raise ValueError("a mean needs at least one case, got none")
    middle = math.fsum(values) / len(values)
    variance = math.fsum((value - middle) ** 2 for value in values) / max(1, len(values) - 1)
    half = 1.959963984540054 * math.sqrt(variance / len(values))
    return Mean(middle, middle - half, middle + half, len(values))


def command_line() -> str:
    """The command that started this process, with paths below the working folder written relative to it."""
    folder = f"{Path.cwd()}/"
    return shlex.join(argument.removeprefix(folder) for argument in sys.argv)


def split_rates(tally: ErrorTally, split: str, variant: str, *, seed: int) -> dict[str, ErrorRate]:
    """Rates named `{split}/wer/{variant}`, cer and mer, and `{split}/wer/{variant}/{group}` where there are groups.

    The variant is the way of decoding: "greedy", "beam", "lm", "generate".
    """
    rates = {f"{split}/{measure}/{variant}": tally.rate(measure, seed=seed) for measure in MEASURES}
    if tally.has_groups:
        groups = tally.by_group("wer", seed=seed)
        rates |= {f"{split}/wer/{variant}/{group}": rate for group, rate in groups.items()}
    return rates


def result_entry(result: Result) -> dict[str, float | int]:
    """One metric as `metrics.json` holds it: value, 95 % interval, cases, and what they were counted from."""
    if not isinstance(result, ErrorRate):
        return asdict(result)
    counts = result.counts
    return {
        "value": result.value,
        "low": result.low,
        "high": result.high,
        "n": result.n,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "reference_length": counts.reference_length,
    }


def result_line(result: Result) -> str:
    """Value, interval and cases for a log: rates and shares in percent, scores on their own scale."""
    factor, unit = (1, "") if isinstance(result, Mean) else (100, " %")
    value, low, high = (factor * part for part in (result.value, result.low, result.high))
    return f"{value:.2f}{unit} (95 % interval {low:.2f} to {high:.2f}, n = {result.n})"


def write_results(
    path: Path, metrics: Mapping[str, Result], *, seed: int, seconds: float, command: str, **facts: Any
) -> dict[str, Any]:
    """Write `{"metrics", "seed", "versions", "command", "seconds", ...facts}` as JSON and return it."""
    results = {
        "metrics": {name: result_entry(result) for name, result in metrics.items()},
        "seed": seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}},
        "command": command,
        "seconds": round(seconds, 1),
        **facts,
    }
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def error_table(utterances: Sequence[Utterance]) -> str:
    """Markdown: the utterances with their word errors, reference above hypothesis."""
    lines = ["| errors | speaker | reference / hypothesis |", "|---:|---|---|"]
    for utterance in utterances:
        counts = utterance.counts
        edits = f"{counts.errors} ({counts.substitutions} S, {counts.deletions} D, {counts.insertions} I)"
        texts = [text.replace("|", "\\|") or "(empty)" for text in (utterance.reference, utterance.hypothesis)]
        lines.append(f"| {edits} | {utterance.group or ''} | {texts[0]}<br>{texts[1]} |")
    return "\n".join(lines) + "\n"
