"""Tables and pictures of what is left of music after codecs, and of what a generator makes of prompts."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window is opened, here or on a cluster
import matplotlib.pyplot as plt
import numpy as np

from hfaudio.metrics.frechet import FrechetResult
from hfaudio.metrics.memorisation import MemorisationReport
from hfaudio.metrics.obedience import ATTRIBUTES, Obedience

CODEC_COLUMNS = ("si_sdr", "mel", "stft", "frechet", "frechet_floor", *ATTRIBUTES, "wer")


def codec_table(table: list[dict[str, Any]], chances: dict[str, float]) -> str:
    """The results as a table; shares and rates in percent."""
    columns = [column for column in CODEC_COLUMNS if any(column in row for row in table)]
    lines = [f"| codec | bit/s | {' | '.join(columns)} |", "|---|---:|" + "---:|" * len(columns)]
    for row in [*table, {"name": "chance", **chances}] if chances else table:
        cells = [_shown(column, row.get(column)) for column in columns]
        bits = f"{row['bits']:,.0f}" if "bits" in row else ""
        lines.append(f"| {row['name']} | {bits} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if column in (*ATTRIBUTES, "wer") else f"{value:.2f}"


def plot_codecs(table: list[dict[str, Any]], chances: dict[str, float], path: Path) -> None:
    """Each measure over the measured bit rate: the codec as a line, each kind of peer as another."""
    columns = [column for column in CODEC_COLUMNS if column != "frechet_floor" and any(column in row for row in table)]
    rows = -(-len(columns) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(13, 3.4 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(columns) :]:
        axis.set_visible(False)
    for axis, column in zip(axes.flat, columns, strict=False):
        for kind in dict.fromkeys(row["name"].split()[0] for row in table):
            points = sorted((r["bits"], r[column]) for r in table if r["name"].split()[0] == kind and column in r)
            if points and kind == "original":
                axis.axhline(points[0][1], color="grey", linestyle="--", label="original")
            elif points:
                axis.plot(*zip(*points, strict=True), marker="o", label=kind)
        if column in chances:
            axis.axhline(chances[column], color="black", linestyle=":", label="chance")
        if column == "frechet":
            axis.axhline(table[1]["frechet_floor"], color="grey", linestyle="--", label="real against real")
        axis.set(title=column, xlabel="bit/s", xscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def obedience_table(scores: Mapping[str, Mapping[str, Obedience]]) -> str:
    """Shares of what was heard as asked, in percent with their intervals, of each group of clips by name.

    Below them chance, and for each number of clips the share that guessing reaches in 1 % of cases.
    """
    lines = [f"| clips | n | {' | '.join(ATTRIBUTES)} |", "|---|---:|" + "---:|" * len(ATTRIBUTES)]
    for name, score in scores.items():
        cells = [
            f"{100 * hits.value:.1f} ({100 * hits.low:.0f} to {100 * hits.high:.0f})"
            for hits in (score[attribute].hits for attribute in ATTRIBUTES)
        ]
        lines.append(f"| {name} | {score[ATTRIBUTES[0]].hits.n} | {' | '.join(cells)} |")
    first = next(iter(scores.values()))
    lines.append(f"| chance | | {' | '.join(f'{100 * first[a].chance:.1f}' for a in ATTRIBUTES)} |")
    for n, score in {score[ATTRIBUTES[0]].hits.n: score for score in scores.values()}.items():
        bars = [f"{100 * score[attribute].bar / n:.1f}" for attribute in ATTRIBUTES]
        lines.append(f"| 1 % bar | {n} | {' | '.join(bars)} |")
    return "\n".join(lines) + "\n"


def generation_table(
    scores: Mapping[str, Mapping[str, Obedience]], distance: FrechetResult | None, copies: MemorisationReport | None
) -> str:
    """All that is measured of a generator, in Markdown."""
    parts = ["Heard as asked, in percent with 95 % intervals:\n", obedience_table(scores)]
    if distance is not None:
        parts.append(
            f"Fréchet distance between sets of {distance.n} clips: {distance.distance:.2f} to real ones, "
            f"{distance.floor:.2f} of real to other real ones (95 % of draws below {distance.floor_high:.2f}); "
            f"{distance.infinity:.2f} to real ones when extrapolated to sets without end\n"
        )
    if copies is not None:
        parts.append(copies.table())
    return "\n".join(parts)


def plot_obedience(scores: Mapping[str, Mapping[str, Obedience]], path: Path) -> None:
    """Bars of each group of clips side by side for each attribute, with intervals, chance and the 1 % bar."""
    figure, axis = plt.subplots(figsize=(11, 4.5), layout="constrained")
    width = 0.8 / len(scores)
    places = np.arange(len(ATTRIBUTES))
    for number, (name, score) in enumerate(scores.items()):
        hits = [score[attribute].hits for attribute in ATTRIBUTES]
        values = np.array([h.value for h in hits])
        ends = [values - [h.low for h in hits], np.array([h.high for h in hits]) - values]
        axis.bar(places - 0.4 + width * (number + 0.5), values, width, yerr=ends, label=name, capsize=2)
    first = next(iter(scores.values()))
    for place, attribute in enumerate(ATTRIBUTES):
        found = first[attribute]
        for level, style in ((found.chance, ":"), (found.bar / found.hits.n, "--")):
            axis.hlines(level, place - 0.45, place + 0.45, color="black", linestyle=style)
    axis.set(xticks=places, xticklabels=ATTRIBUTES, ylabel="heard as asked", ylim=(0, 1))
    axis.set_title("dotted: chance, dashed: what guessing reaches in 1 % of cases")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_guidance(scores: Mapping[float, Mapping[str, Obedience]], path: Path) -> None:
    """Shares of what was heard as asked over the guidance scale, with their intervals."""
    figure, axis = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    for attribute in ATTRIBUTES:
        hits = [score[attribute].hits for score in scores.values()]
        (line,) = axis.plot(list(scores), [h.value for h in hits], marker="o", label=attribute)
        axis.fill_between(list(scores), [h.low for h in hits], [h.high for h in hits], alpha=0.12)
        axis.axhline(next(iter(scores.values()))[attribute].chance, color=line.get_color(), linestyle=":")
    axis.set(xlabel="guidance scale", ylabel="heard as asked", ylim=(0, 1), title="dotted: chance")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def confusion(asked: Sequence[str], heard: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often each thing that was asked for was heard as which."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for a, h in zip(asked, heard, strict=True):
        counts[a][h] += 1
    return {name: dict(counts[name]) for name in sorted(counts)}


def plot_confusion(confused: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """Heat map of a confusion: which share of the clips asked for one thing was heard as which."""
    names = sorted({*confused, *(name for heard in confused.values() for name in heard)})
    counts = np.array([[confused.get(asked, {}).get(heard, 0) for heard in names] for asked in names])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axis = plt.subplots(figsize=(6, 5.2), layout="constrained")
    picture = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for row, column in np.ndindex(*shares.shape):
        if counts[row, column]:
            dark = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=dark)
    places = range(len(names))
    axis.set(xticks=places, yticks=places, yticklabels=names, xlabel="heard", ylabel="asked")
    axis.set_xticks(places, names, rotation=45)
    figure.colorbar(picture, label="share of the clips asked for")
    figure.savefig(path, dpi=100)
    plt.close(figure)
