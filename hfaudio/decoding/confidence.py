"""Word confidences that mean what they say: of the words with confidence 0.8, four in five are right.

Probabilities of neural networks are too sure of themselves (Guo et al. 2017, arXiv 1706.04599). Two numbers fitted on
development data mend that, as in Platt (1999): p' = sigmoid(logit(p) / temperature + bias).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CLOSEST = 1e-6  # confidences are kept this far from 0 and 1, where the logit is infinite
COOLEST_SLOPE = 0.01  # confidences that say nothing would give a slope of 0, or below
NEWTON_STEPS = 50


@dataclass(frozen=True)
class Calibration:
    """Turns raw confidences into probabilities of being right; the default changes nothing."""

    temperature: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def apply(self, confidences: np.ndarray | Sequence[float]) -> np.ndarray:
        """Calibrated confidences, in the shape of the given ones."""
        given = np.asarray(confidences, dtype=np.float64)
        if self.temperature == 1.0 and self.bias == 0.0:
            return given
        return _sigmoid(_logit(given) / self.temperature + self.bias)


@dataclass(frozen=True, eq=False)
class Reliability:
    """Bins of words of similar confidence, each array (bins,): mean confidence, share that is right, words."""

    confidences: np.ndarray
    accuracies: np.ndarray
    counts: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over the words."""
        return float(np.average(np.abs(self.confidences - self.accuracies), weights=self.counts))


def calibrate(confidences: np.ndarray | Sequence[float], correct: np.ndarray | Sequence[bool]) -> Calibration:
    """The calibration with the least negative log-likelihood of which words of the development data are right.

    The targets are Platt's (n + 1) / (n + 2) instead of 1, and 1 / (m + 2) instead of 0, for n right and m wrong
    words: without them a few words that the confidence happens to separate would give a temperature of 0.

    Raises:
        ValueError: different lengths, a confidence outside [0, 1], or no right or no wrong word.
    """
    given, right = _checked(confidences, correct)
    num_right = int(right.sum())
    num_wrong = len(right) - num_right
    if not num_right or not num_wrong:
        raise ValueError(
            f"calibration needs right and wrong words, got {num_right} right and {num_wrong} wrong; use more data"
        )
    targets = np.where(right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))
    logits = _logit(given)
    inputs = np.stack([logits, np.ones_like(logits)], axis=1)
    slope, bias = _fit(inputs, targets, np.array([1.0, 0.0]))
    if slope < COOLEST_SLOPE:
        slope = COOLEST_SLOPE
        (bias,) = _fit(inputs[:, 1:], targets, np.zeros(1), offset=slope * logits)
    return Calibration(float(1 / slope), float(bias))


def reliability(
    confidences: np.ndarray | Sequence[float], correct: np.ndarray | Sequence[bool], *, num_bins: int = 10
) -> Reliability:
    """Confidence against accuracy in bins of equally many words; `.expected_calibration_error` is their distance.

    Bins of equal width would leave most of them nearly empty: recognisers are sure of most words.
    """
    given, right = _checked(confidences, correct)
    order = np.argsort(given, kind="stable")
    bins = np.array_split(order, min(num_bins, len(order)))
    return Reliability(
        np.array([given[chosen].mean() for chosen in bins]),
        np.array([right[chosen].mean() for chosen in bins]),
        np.array([len(chosen) for chosen in bins]),
    )


def negative_log_likelihood(confidences: np.ndarray | Sequence[float], correct: np.ndarray | Sequence[bool]) -> float:
    """Mean over the words, in nats: what `calibrate` minimises."""
    given, right = _checked(confidences, correct)
    given = np.clip(given, CLOSEST, 1 - CLOSEST)
    return float(-np.where(right, np.log(given), np.log(1 - given)).mean())


def _checked(
    confidences: np.ndarray | Sequence[float], correct: np.ndarray | Sequence[bool]
) -> tuple[np.ndarray, np.ndarray]:
    given, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    if given.shape != right.shape or given.ndim != 1 or not len(given):
        raise ValueError(
            f"expected a confidence and a mark for each of some words, got shapes {given.shape} and {right.shape}"
        )
    if not ((given >= 0) & (given <= 1)).all():
        wrong = given[~((given >= 0) & (given <= 1))][0]
        raise ValueError(f"a confidence must be in [0, 1], got {wrong}; these are probabilities, not their logarithms")
    return given, right


def _fit(inputs: np.ndarray, targets: np.ndarray, start: np.ndarray, offset: np.ndarray | float = 0.0) -> np.ndarray:
    """Weights (D,) of a logistic regression on inputs (N, D): Newton's method with halved steps, which is convex."""

    def loss(weights: np.ndarray) -> float:
        logits = inputs @ weights + offset
        return float((np.logaddexp(0, logits) - targets * logits).sum())

    weights, value = start, loss(start)
    for _ in range(NEWTON_STEPS):
        predicted = _sigmoid(inputs @ weights + offset)
        gradient = inputs.T @ (predicted - targets)
        curvature = inputs.T @ (inputs * (predicted * (1 - predicted))[:, None]) + 1e-9 * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        while (new := loss(weights - step)) > value and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
        if value - new <= 1e-12 * abs(value):
            break
        value = new
    return weights


def _logit(probabilities: np.ndarray) -> np.ndarray:
    clipped = np.clip(probabilities, CLOSEST, 1 - CLOSEST)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
