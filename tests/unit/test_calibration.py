from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import _SigmoidCalibration

from shared.errors import DataError
from shared.quant.calibration import CalibrationMethod, PlattCalibration, fit_calibration
from shared.quant.probability_scores import calibration_curve
from shared.quant.typing import Float1D, Int1D


def overconfident(seed: int, n: int = 4000) -> tuple[Int1D, Float1D]:
    """Return outcomes and forecasts whose log-odds are three times too large."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.1, 0.9, n)
    odds = (truth / (1 - truth)) ** 3
    return (rng.random(n) < truth).astype(np.int64), odds / (1 + odds)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_mends_overconfidence_on_new_samples(method: CalibrationMethod) -> None:
    calibration = fit_calibration(*overconfident(1), method)
    labels, probability = overconfident(2)
    before = calibration_curve(labels, probability).expected_error
    after = calibration_curve(labels, calibration.apply(probability)).expected_error
    assert before > 0.1
    assert after < 0.03


def test_platt_agrees_with_scikit_learn() -> None:
    labels, probability = overconfident(3, n=500)
    own = fit_calibration(labels, probability, "platt")
    log_odds = np.log(probability / (1 - probability))
    reference = _SigmoidCalibration().fit(log_odds, labels)
    assert isinstance(own, PlattCalibration)
    assert own.slope == pytest.approx(-reference.a_, rel=1e-4)
    assert own.intercept == pytest.approx(-reference.b_, abs=1e-4)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_keeps_order_and_bounds(method: CalibrationMethod) -> None:
    calibration = fit_calibration(*overconfident(4, n=300), method)
    calibrated = calibration.apply(np.linspace(0, 1, 101))
    assert (np.diff(calibrated) >= 0).all()
    assert calibrated.min() >= 0
    assert calibrated.max() <= 1


def test_perfectly_parted_samples_give_finite_numbers() -> None:
    labels = np.repeat([0, 1], 50)
    found = fit_calibration(labels, labels.astype(np.float64), "platt")
    calibrated = found.apply(np.array([0.0, 1.0]))
    assert calibrated == pytest.approx([1 / 52, 51 / 52], abs=1e-3)


def test_weights_are_repeated_samples() -> None:
    labels, probability = overconfident(5, n=200)
    weights = np.where(labels == 1, 3.0, 1.0)
    found = fit_calibration(labels, probability, "isotonic", weights)
    copies = np.repeat(np.arange(200), weights.astype(np.int64))
    repeated = fit_calibration(labels[copies], probability[copies], "isotonic")
    grid = np.linspace(0, 1, 21)
    np.testing.assert_allclose(found.apply(grid), repeated.apply(grid), atol=1e-9)


def test_unsound_samples_are_refused() -> None:
    labels, probability = overconfident(6, n=50)
    with pytest.raises(DataError, match="one of each"):
        fit_calibration(labels, probability[1:], "platt")
    with pytest.raises(DataError, match="both outcomes"):
        fit_calibration(0 * labels, probability, "platt")
    with pytest.raises(DataError, match=r"within \[0, 1\]"):
        fit_calibration(labels, probability + 1, "platt")
