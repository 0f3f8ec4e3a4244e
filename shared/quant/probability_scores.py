"""How well probabilities forecast what happened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D, Int1D


@dataclass(frozen=True)
class FoldScores:
    """How well probabilities forecast labels.

    Attributes
    ----------
    roc_auc
        Area under the receiver operating characteristic; 0.5 is no skill.
    pr_auc
        Average precision; no skill is the share of positives.
    log_loss, brier
        Mean of -ln(probability given to what happened), and of its squared error; smaller is
        better.
    """

    roc_auc: float
    pr_auc: float
    log_loss: float
    brier: float


def score_probabilities(labels: Int1D, probability: Float1D) -> FoldScores:
    """Score probabilities of label 1 against what happened.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        0 or 1, both present.
    probability : ndarray of float64, shape (n,)
        In [0, 1].

    Examples
    --------
    >>> scores = score_probabilities(np.array([0, 1, 1]), np.array([0.2, 0.4, 0.9]))
    >>> scores.roc_auc, round(scores.brier, 4)
    (1.0, 0.1367)
    """
    from sklearn.metrics import (
        average_precision_score,
        brier_score_loss,
        log_loss,
        roc_auc_score,
    )

    return FoldScores(
        roc_auc=float(roc_auc_score(labels, probability)),
        pr_auc=float(average_precision_score(labels, probability)),
        log_loss=float(log_loss(labels, probability, labels=[0, 1])),
        brier=float(brier_score_loss(labels, probability)),
    )


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Forecast against outcome, by bins of the forecast.

    Attributes
    ----------
    forecast : ndarray of float64, shape (m,)
        Mean probability of each bin, ascending.
    outcome : ndarray of float64, shape (m,)
        Share of label 1 in it.
    n_samples : ndarray of int64, shape (m,)
        Samples in it.
    expected_error
        Mean distance of outcome from forecast, weighted by samples.
    """

    forecast: Float1D
    outcome: Float1D
    n_samples: Int1D
    expected_error: float


def calibration_curve(labels: Int1D, probability: Float1D, n_bins: int = 10) -> CalibrationCurve:
    """Compare probabilities with how often label 1 came.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        0 or 1.
    probability : ndarray of float64, shape (n,)
        In [0, 1].
    n_bins
        Bins of equally many samples; fewer are returned where equal probabilities cannot be
        parted.

    Raises
    ------
    DataError
        If the columns differ in length or are empty, a probability is out of bounds or there
        are no bins.

    Notes
    -----
    Bins of equal count: with bins of equal width, those at the ends would rest on a handful of
    samples.

    Examples
    --------
    >>> curve = calibration_curve(np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.8, 0.9]), 2)
    >>> curve.forecast.round(2).tolist(), curve.outcome.tolist()
    ([0.3, 0.85], [0.5, 1.0])
    """
    if labels.ndim != 1 or labels.shape != probability.shape or not len(labels) or n_bins < 1:
        raise DataError(
            f"{n_bins} bins, labels of shape {labels.shape} and probabilities of shape "
            f"{probability.shape}: give a bin, and a probability for each of at least one label"
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise DataError("a probability is not within [0, 1]: give calibrated probabilities")
    inner = np.quantile(probability, np.arange(1, n_bins) / n_bins)
    _, bin_of = np.unique(np.searchsorted(inner, probability, side="right"), return_inverse=True)
    n_samples = np.bincount(bin_of)
    forecast = np.bincount(bin_of, weights=probability) / n_samples
    outcome = np.bincount(bin_of, weights=labels) / n_samples
    error = float((np.abs(outcome - forecast) * n_samples).sum() / len(labels))
    return CalibrationCurve(forecast, outcome, n_samples, error)
