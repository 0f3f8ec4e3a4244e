"""Corrections that make a model's probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D, Int1D

CalibrationMethod = Literal["platt", "isotonic"]

_EDGE = 1e-6
"""Certainty is taken for this short of certain: its log-odds would be infinite."""


@dataclass(frozen=True, slots=True)
class PlattCalibration:
    """A straight line through the log-odds.

    Attributes
    ----------
    slope, intercept
        Calibrated log-odds are `slope` times the model's, plus `intercept`.
    """

    slope: float
    intercept: float

    def apply(self, probability: Float1D) -> Float1D:
        """Return calibrated probabilities."""
        from scipy.special import expit

        calibrated: Float1D = expit(self.slope * _log_odds(probability) + self.intercept)
        return calibrated


@dataclass(frozen=True, slots=True)
class IsotonicCalibration:
    """A rising curve of straight pieces.

    Attributes
    ----------
    thresholds, values
        Corners of the curve: model's probabilities, ascending, and calibrated ones. Beyond
        the ends it is flat.
    """

    thresholds: tuple[float, ...]
    values: tuple[float, ...]

    def apply(self, probability: Float1D) -> Float1D:
        """Return calibrated probabilities."""
        return np.interp(probability, self.thresholds, self.values)


Calibration = PlattCalibration | IsotonicCalibration


def fit_calibration(
    labels: Int1D,
    probability: Float1D,
    method: CalibrationMethod,
    weights: Float1D | None = None,
) -> Calibration:
    """Fit a calibration on probabilities of samples that the model was not fitted on.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        0 or 1, both present.
    probability : ndarray of float64, shape (n,)
        The model's, out of sample: those of training samples are too sure of themselves.
    method
        `platt` has two numbers to learn and needs few samples; `isotonic` follows any rising
        curve and wants a thousand or more.
    weights : ndarray of float64, shape (n,)
        How much each sample counts; equally by default.

    Raises
    ------
    DataError
        If the columns differ in length, a probability is out of bounds or not both labels are
        present.

    Notes
    -----
    Platt's targets are (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) rather than 1 and 0, so that
    perfectly parted samples do not give infinite slopes.

    References
    ----------
    Platt, J. (1999), "Probabilistic outputs for support vector machines", section 2.2.
    Zadrozny, B. and Elkan, C. (2002), "Transforming classifier scores into accurate multiclass
    probability estimates", KDD, section 3.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.uniform(0.2, 0.8, 4000)
    >>> labels = (rng.random(4000) < truth).astype(np.int64)
    >>> overconfident = truth**3 / (truth**3 + (1 - truth) ** 3)  # three times the log-odds
    >>> round(fit_calibration(labels, overconfident, "platt").slope, 1)
    0.3
    """
    if weights is None:
        weights = np.ones(len(labels))
    if labels.ndim != 1 or not labels.shape == probability.shape == weights.shape:
        raise DataError(
            f"labels, probabilities and weights of shapes {labels.shape}, {probability.shape} "
            f"and {weights.shape}: give one of each for every sample"
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise DataError("a probability is not within [0, 1]: give the model's probabilities")
    if np.unique(labels).tolist() != [0, 1]:
        raise DataError(
            f"labels take the values {np.unique(labels).tolist()}: calibrate on a period in which "
            "both outcomes, 0 and 1, occur"
        )
    if method == "platt":
        return _platt(labels, probability, weights)
    return _isotonic(labels, probability, weights)


def _platt(labels: Int1D, probability: Float1D, weights: Float1D) -> PlattCalibration:
    from sklearn.linear_model import LogisticRegression

    n_one = int(labels.sum())
    n_zero = len(labels) - n_one
    target = np.where(labels == 1, (n_one + 1) / (n_one + 2), 1 / (n_zero + 2))
    # A target between 0 and 1 is a sample of either label, weighted.
    log_odds = np.tile(_log_odds(probability), 2)[:, np.newaxis]
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(
        log_odds,
        np.repeat([1, 0], len(labels)),
        sample_weight=np.concatenate([weights * target, weights * (1 - target)]),
    )
    return PlattCalibration(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))


def _isotonic(labels: Int1D, probability: Float1D, weights: Float1D) -> IsotonicCalibration:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
        probability, labels, sample_weight=weights
    )
    return IsotonicCalibration(
        tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())
    )


def _log_odds(probability: Float1D) -> Float1D:
    from scipy.special import logit  # a service that calibrates nothing need not pay for it

    log_odds: Float1D = logit(np.clip(probability, _EDGE, 1 - _EDGE))
    return log_odds
