from __future__ import annotations

import math

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.probability_scores import calibration_curve, score_probabilities


def test_the_curve_by_hand() -> None:
    labels = np.array([0, 0, 1, 0, 1, 1])
    probability = np.array([0.1, 0.2, 0.3, 0.6, 0.8, 0.7])
    curve = calibration_curve(labels, probability, n_bins=2)
    assert curve.forecast == pytest.approx([0.2, 0.7])
    assert curve.outcome == pytest.approx([1 / 3, 2 / 3])
    assert curve.n_samples.tolist() == [3, 3]
    assert curve.expected_error == pytest.approx((0.4 / 3 + 0.1 / 3) / 2)


def test_the_error_counts_samples_and_not_bins() -> None:
    # Three samples are off by 0.2 in the mean, four by 0.15.
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    probability = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9, 1.0])
    curve = calibration_curve(labels, probability, n_bins=2)
    assert curve.n_samples.tolist() == [3, 4]
    assert curve.expected_error == pytest.approx((3 * 0.2 + 4 * 0.15) / 7)


def test_honest_probabilities_lie_on_the_diagonal() -> None:
    rng = np.random.default_rng(1)
    probability = rng.uniform(size=20_000)
    labels = (rng.random(20_000) < probability).astype(np.int64)
    assert calibration_curve(labels, probability).expected_error < 0.015


def test_equal_probabilities_stay_in_one_bin() -> None:
    curve = calibration_curve(np.array([0, 1, 1, 1]), np.full(4, 0.4))
    assert (curve.forecast.tolist(), curve.n_samples.tolist()) == ([0.4], [4])
    assert curve.expected_error == pytest.approx(0.35)


def test_unsound_columns_are_refused() -> None:
    with pytest.raises(DataError, match="0 bins"):
        calibration_curve(np.array([0, 1]), np.array([0.1, 0.2]), n_bins=0)
    with pytest.raises(DataError, match=r"not within \[0, 1\]"):
        calibration_curve(np.array([0, 1]), np.array([0.1, np.nan]))


def test_scores_by_hand() -> None:
    scores = score_probabilities(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.5, 0.8]))
    # Of the four pairs of a 1 and a 0 three are in order.
    assert scores.roc_auc == pytest.approx(0.75)
    # From the top: precision 1 at the first 1, 2/3 at the second, each adding half the recall.
    assert scores.pr_auc == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert scores.brier == pytest.approx((0.01 + 0.36 + 0.25 + 0.04) / 4)
    expected_loss = -(math.log(0.9) + math.log(0.4) + math.log(0.5) + math.log(0.8)) / 4
    assert scores.log_loss == pytest.approx(expected_loss)
