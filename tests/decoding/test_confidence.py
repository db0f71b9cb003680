import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from hfaudio.decoding.confidence import Calibration, calibrate, negative_log_likelihood, reliability


def overconfident(count: int, temperature: float, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and words that are right with probability sigmoid(logit(c) / temperature + bias)."""
    rng = np.random.default_rng(0)
    confidences = expit(rng.normal(2, 2, count))
    return confidences, rng.random(count) < expit(logit(confidences) / temperature + bias)


def test_temperature_and_bias_are_found_again() -> None:
    found = calibrate(*overconfident(100_000, 2.5, -0.4))
    assert found.temperature == pytest.approx(2.5, rel=0.03)
    assert found.bias == pytest.approx(-0.4, abs=0.03)


def test_it_is_the_optimum_that_scipy_finds() -> None:
    confidences, correct = overconfident(500, 2.0, 0.3)
    targets = np.where(correct, (correct.sum() + 1) / (correct.sum() + 2), 1 / ((~correct).sum() + 2))

    def loss(x: np.ndarray) -> float:
        logits = x[0] * logit(confidences) + x[1]
        return float((np.logaddexp(0, logits) - targets * logits).sum())

    expected = minimize(loss, [1.0, 0.0], tol=1e-10).x
    found = calibrate(confidences, correct)
    np.testing.assert_allclose([1 / found.temperature, found.bias], expected, atol=1e-4)


def test_calibration_lowers_error_and_likelihood_on_other_words() -> None:
    confidences, correct = overconfident(20_000, 3.0, -0.5)
    calibration = calibrate(confidences[:10_000], correct[:10_000])
    before, after = confidences[10_000:], calibration.apply(confidences[10_000:])
    right = correct[10_000:]
    assert reliability(before, right).expected_calibration_error > 0.15
    assert reliability(after, right).expected_calibration_error < 0.02
    assert negative_log_likelihood(after, right) < 0.8 * negative_log_likelihood(before, right)
    assert (np.argsort(after, kind="stable") == np.argsort(before, kind="stable")).all()


def test_error_by_hand() -> None:
    found = reliability([0.9, 0.1, 0.8, 0.3], [True, False, False, True], num_bins=2)
    np.testing.assert_allclose(found.confidences, [0.2, 0.85])
    np.testing.assert_allclose(found.accuracies, [0.5, 0.5])
    assert found.counts.tolist() == [2, 2]
    assert found.expected_calibration_error == pytest.approx((0.3 + 0.35) / 2)


def test_bins_count_by_their_words() -> None:
    found = reliability([0.2, 0.4, 0.6, 0.9, 0.9], [False, False, True, True, True], num_bins=2)
    assert found.counts.tolist() == [3, 2]
    assert found.expected_calibration_error == pytest.approx((3 * (0.4 - 1 / 3) + 2 * 0.1) / 5)


def test_words_that_confidence_separates_keep_a_temperature_above_zero() -> None:
    found = calibrate([0.9, 0.8, 0.2, 0.1], [True, True, False, False])
    assert 0.05 < found.temperature < 5


def test_confidences_that_mislead_become_nearly_equal() -> None:
    applied = calibrate([0.9, 0.9, 0.1, 0.1] * 50, [False, False, True, True] * 50).apply([0.9, 0.1])
    np.testing.assert_allclose(applied, 0.5, atol=0.02)
    assert applied[0] > applied[1]


def test_the_default_changes_nothing() -> None:
    np.testing.assert_allclose(Calibration().apply([0.0, 0.25, 1.0]), [0, 0.25, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("confidences", "correct", "message"),
    [
        ([0.5, 0.5], [True, True], "2 right and 0 wrong"),
        ([0.5], [True, False], "shapes"),
        ([], [], "shapes"),
        ([-0.3, 0.5], [True, False], "got -0.3"),
        ([np.nan, 0.5], [True, False], "got nan"),
    ],
)
def test_bad_input(confidences: list[float], correct: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(confidences, correct)


def test_a_temperature_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Calibration(temperature=-1.0)
