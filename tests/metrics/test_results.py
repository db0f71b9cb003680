import json
from pathlib import Path

import pytest

from hfaudio.metrics.error_rate import ErrorTally
from hfaudio.metrics.results import Mean, Share, result_line, write_results


def test_every_kind_of_result_keeps_value_interval_and_cases(tmp_path: Path) -> None:
    tally = ErrorTally()
    tally.add("a b c d", "a b c x")
    metrics = {"wer": tally.rate("wer"), "loops": Share(0.25, 0.1, 0.5, 8, 2), "chrf": Mean(41.5, 40.0, 43.0, 8)}
    write_results(tmp_path / "metrics.json", metrics, seed=0, seconds=1, command="test")
    found = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert found["loops"] == {"value": 0.25, "low": 0.1, "high": 0.5, "n": 8, "count": 2}
    assert found["chrf"] == {"value": 41.5, "low": 40.0, "high": 43.0, "n": 8}
    assert {"value": 0.25, "low": 0.25, "high": 0.25, "n": 1, "substitutions": 1}.items() <= found["wer"].items()


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (Share(0.25, 0.1, 0.5, 8, 2), "25.00 % (95 % interval 10.00 to 50.00, n = 8)"),
        (Mean(41.5, 40.0, 43.0, 8), "41.50 (95 % interval 40.00 to 43.00, n = 8)"),
    ],
)
def test_shares_are_logged_in_percent_and_scores_on_their_scale(result: Share | Mean, line: str) -> None:
    assert result_line(result) == line
