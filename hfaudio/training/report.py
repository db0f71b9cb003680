"""What a run leaves beside its model: `metrics.json`, `curves.png`, `worst_utterances.md`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window is opened, here or on a cluster
import matplotlib.pyplot as plt

from hfaudio.decoding.tune import Tuning
from hfaudio.metrics.error_rate import Utterance
from hfaudio.metrics.results import Result, command_line, error_table, result_line, write_results

logger = logging.getLogger(__name__)


def write_report(
    folder: Path,
    metrics: Mapping[str, Result],
    *,
    worst: Sequence[Utterance],
    log_history: Sequence[dict[str, float]],
    seed: int,
    seconds: float,
    **facts: Any,
) -> dict[str, Any]:
    """Write the three files and log the results; returns what stands in `metrics.json`."""
    (folder / "worst_utterances.md").write_text(error_table(worst), encoding="utf-8")
    plot_history(log_history, folder / "curves.png")
    for name, result in metrics.items():
        logger.info("%s %s", name, result_line(result))
    path = folder / "metrics.json"
    return write_results(path, metrics, seed=seed, seconds=seconds, command=command_line(), **facts)


@dataclass(frozen=True)
class Panel:
    """A picture of some of the figures in a log; those of codebooks and the like stand behind a stroke (`name/3`)."""

    title: str
    names: tuple[str, ...]
    log: bool = False  # whether the axis is logarithmic


SPEECH_PANELS = (
    Panel("loss per label or token, nats", ("loss", "eval_loss"), log=True),
    Panel("rates", ("eval_wer", "eval_cer", "blank_share")),
)


def plot_history(history: Sequence[Mapping[str, Any]], path: Path, panels: Sequence[Panel] = SPEECH_PANELS) -> None:
    """Picture of what was logged over the steps, up to four panels in a row."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 3.6 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for name in dict.fromkeys(key for entry in history for key in entry if key.split("/")[0] in panel.names):
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            axis.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 40 else None)
        axis.set(title=panel.title, xlabel="step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
            if panel.log:
                axis.set_yscale("log")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_tuning(tuning: Tuning, path: Path) -> None:
    """Picture of the error rate over LM weight and word bonus, and over the time that decoding took."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    alphas, betas = ([getattr(trial.settings, name) for trial in tuning.grid] for name in ("alpha", "beta"))
    surface = left.tricontourf(alphas, betas, [100 * trial.error_rate for trial in tuning.grid], levels=20)
    figure.colorbar(surface, label="WER on the first development utterances, %")
    steps = [(trial.settings.alpha, trial.settings.beta) for trial in tuning.trials]
    left.plot(*zip(*steps, strict=True), ".", color="white", label="steps from there, on all")
    left.plot(tuning.best.alpha, tuning.best.beta, "*", color="red", markersize=14, label="chosen")
    left.set(xlabel="alpha, weight of the language model", ylabel="beta, bonus of a word")
    left.legend()
    right.plot([trial.seconds for trial in tuning.trials], [100 * trial.error_rate for trial in tuning.trials], ".")
    chosen = next(trial for trial in tuning.trials if trial.settings == tuning.best)
    right.plot(chosen.seconds, 100 * chosen.error_rate, "*", color="red", markersize=14)
    right.set(xlabel="seconds to decode the development data", ylabel="WER on the development data, %", xlim=(0, None))
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
