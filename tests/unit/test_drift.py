from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr
from scipy.stats import ks_2samp

from shared.errors import DataError
from shared.quant.drift import FeatureDrift, feature_drift
from shared.quant.typing import Float1D


def drift_of(training: Float1D, present: Float1D, n_bins: int = 10) -> FeatureDrift:
    (found,) = feature_drift(
        training[:, np.newaxis], present[:, np.newaxis], ["feature"], n_bins=n_bins
    )
    return found


def test_figures_by_hand() -> None:
    # Two bins, cut at the median 2.5: 2 and 2 of training, 1 and 3 of late, half added to each.
    found = drift_of(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 3.0, 3.5, 9.0]), n_bins=2)
    expected, present = np.array([2.5, 2.5]) / 5, np.array([1.5, 3.5]) / 5
    assert found.divergence == pytest.approx(rel_entr(present, expected).sum())
    assert found.stability_index == pytest.approx(
        rel_entr(present, expected).sum() + rel_entr(expected, present).sum()
    )
    assert found.ks_statistic == pytest.approx(0.25)


def test_features_of_the_same_market_have_not_drifted() -> None:
    rng = np.random.default_rng(1)
    found = feature_drift(rng.normal(size=(4000, 20)), rng.normal(size=(2000, 20)), list("a" * 20))
    mean = np.mean([drift.stability_index for drift in found])
    assert mean == pytest.approx(9 * (1 / 4000 + 1 / 2000), rel=0.4)
    assert max(drift.stability_index for drift in found) < 0.02
    assert np.mean([drift.ks_p_value < 0.05 for drift in found]) <= 0.15


@pytest.mark.parametrize(("shift", "scale"), [(1.0, 1.0), (0.0, 2.5)])
def test_a_moved_or_widened_feature_is_seen_by_every_measure(shift: float, scale: float) -> None:
    rng = np.random.default_rng(2)
    training, present = rng.normal(size=3000), rng.normal(shift, scale, 1500)
    found = drift_of(training, present)
    assert found.stability_index > 0.25
    assert found.divergence > 0.1
    reference = ks_2samp(training, present, method="asymp")
    assert (found.ks_statistic, found.ks_p_value) == (reference.statistic, reference.pvalue)
    assert found.ks_p_value < 1e-6


def test_a_feature_that_has_become_constant_has_drifted() -> None:
    rng = np.random.default_rng(3)
    found = drift_of(rng.normal(size=1000), np.zeros(500))
    assert found.stability_index > 2
    assert np.isfinite(found.divergence)


def test_a_flag_that_is_set_more_often_has_drifted() -> None:
    rng = np.random.default_rng(4)
    for before, after in ((0.2, 0.6), (0.03, 0.3), (0.97, 0.7)):
        flags, later = ((rng.random(4000) < p).astype(np.float64) for p in (before, after))
        expected = (after - before) * np.log(after / before * (1 - before) / (1 - after))
        assert drift_of(flags, later).stability_index == pytest.approx(expected, rel=0.15)
    constant = np.ones(100)
    assert drift_of(constant, constant).stability_index == 0


def test_every_feature_is_measured_on_its_own() -> None:
    rng = np.random.default_rng(5)
    training = rng.normal(size=(1000, 3))
    present = rng.normal([0, 2, 0], 1, (1000, 3))
    found = feature_drift(training, present, ["a", "b", "c"])
    assert [drift.name for drift in found if drift.stability_index > 0.25] == ["b"]


def test_unsound_features_are_refused() -> None:
    ones = np.ones((20, 2))
    with pytest.raises(DataError, match="the same named columns"):
        feature_drift(ones, ones, ["a"])
    with pytest.raises(DataError, match="20 and 5 samples in 10 bins"):
        feature_drift(ones, ones[:5], ["a", "b"])
    broken = ones.copy()
    broken[3, 1] = np.nan
    with pytest.raises(DataError, match="present feature b of row 3 is nan"):
        feature_drift(ones, broken, ["a", "b"])
