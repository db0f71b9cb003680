import json
import logging
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import pytest

from hfaudio.metrics.error_rate import ErrorTally
from hfaudio.metrics.results import Mean, command_line, error_table, share
from hfaudio.training.report import plot_history, write_report


def test_report_has_rates_counts_versions_a_picture_and_the_worst_utterances(tmp_path: Path) -> None:
    tally = ErrorTally()
    tally.add("a b c", "a x c", "ann")
    tally.add("a b", "a b", "bob")
    history = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "eval_loss": 2.5, "eval_wer": 0.5}]
    results = write_report(
        tmp_path,
        {"test/wer/greedy": tally.rate("wer")},
        worst=tally.worst(5),
        log_history=history,
        seed=3,
        seconds=1.23,
        skipped={"train": {"corrupt": 2}},
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    entry = results["metrics"]["test/wer/greedy"]
    assert entry["value"] == pytest.approx(0.2) and entry["n"] == 2 and entry["low"] <= 0.2 <= entry["high"]
    assert (entry["substitutions"], entry["deletions"], entry["insertions"], entry["reference_length"]) == (1, 0, 0, 5)
    assert results["seed"] == 3 and results["skipped"] == {"train": {"corrupt": 2}} and results["seconds"] == 1.2
    assert {"torch", "transformers", "hfaudio", "python"} <= set(results["versions"])
    assert "| 1 (1 S, 0 D, 0 I) | ann | a b c<br>a x c |" in (tmp_path / "worst_utterances.md").read_text()
    assert matplotlib.image.imread(tmp_path / "curves.png").std() > 0.01


def test_rates_shares_and_scores_are_logged_each_on_its_scale(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tally = ErrorTally()
    tally.add("a b", "a c")
    metrics = {"wer": tally.rate("wer"), "loops": share(0, 4), "chrf": Mean(41.5, 40.0, 43.0, 8)}
    with caplog.at_level(logging.INFO, logger="hfaudio.training.report"):
        results = write_report(tmp_path, metrics, worst=[], log_history=[], seed=0, seconds=1)
    assert caplog.messages == [
        "wer 50.00 % (95 % interval 50.00 to 50.00, n = 1)",
        "loops 0.00 % (95 % interval 0.00 to 48.99, n = 4)",
        "chrf 41.50 (95 % interval 40.00 to 43.00, n = 8)",
    ]
    assert results["metrics"]["chrf"] == {"value": 41.5, "low": 40.0, "high": 43.0, "n": 8}


def test_curves_of_a_run_whose_texts_are_generated_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = [{"step": step, "eval_loss": 3.0 - step} for step in (1, 2)] + [{"step": 2, "eval_wer": 0.4}]
    monkeypatch.setattr(plt, "close", lambda figure: None)
    plot_history(history, tmp_path / "curves.png")
    left, right = plt.gcf().axes
    monkeypatch.undo()
    plt.close("all")
    assert left.lines[0].get_xydata().tolist() == [[1, 2], [2, 1]]
    assert right.lines[0].get_xydata().tolist() == [[2, 0.4]]
    assert right.lines[0].get_marker() == "."  # a single evaluation shows as a point
    assert left.get_title() == "loss per label or token, nats"


def test_table_shows_empty_texts_and_escapes_bars() -> None:
    tally = ErrorTally()
    tally.add("a|b", "")
    assert "a\\|b<br>(empty)" in error_table(tally.worst(1))


def test_command_has_no_path_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "recipes" / "asr_ctc.py"), "--seed", "1", "--text", "a b"])
    assert command_line() == "recipes/asr_ctc.py --seed 1 --text 'a b'"
