"""What a run leaves beside its model: `metrics.json`, `curves.png`, `worst_utterances.md`."""

import logging
from collections.abc import Mapping, Sequence
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


def plot_history(log_history: Sequence[dict[str, float]], path: Path) -> None:
    """Picture of training loss, evaluation loss and error rates over the steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    curves = ((left, "loss", "training loss"), (left, "eval_loss", "validation loss"), (right, "eval_wer", "WER"))
    for axis, name, label in (*curves, (right, "eval_cer", "CER"), (right, "blank_share", "share of blank frames")):
        points = [(entry["step"], entry[name]) for entry in log_history if name in entry]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
    left.set(xlabel="step", ylabel="loss per label or token, nats", yscale="log")
    right.set(xlabel="step", ylabel="rate", ylim=(0, None))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    figure.savefig(path, dpi=120)
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
