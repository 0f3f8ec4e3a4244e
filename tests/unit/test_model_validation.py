from __future__ import annotations

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.model_families import FAMILIES, Parameters, fit_model
from shared.quant.model_validation import (
    fit_calibrated,
    importance_stability,
    permutation_importances,
    validate_family,
)
from shared.quant.probability_scores import calibration_curve
from shared.quant.purged_cv import (
    combinatorial_purged_splits,
    purged_k_fold_splits,
    walk_forward_splits,
)
from shared.quant.typing import Float2D, Int1D

LOGISTIC = FAMILIES["logistic_regression"]
N = 800
STARTS = np.arange(N)
SPLITS = purged_k_fold_splits(STARTS, STARTS + 3, n_splits=4, embargo_bars=5)


def samples(seed: int = 1) -> tuple[Float2D, Int1D]:
    """Return four features, of which the first two tell something about the labels."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(N, 4))
    score = 1.5 * features[:, 0] - 0.7 * features[:, 1]
    return features, (rng.random(N) < 1 / (1 + np.exp(-score))).astype(np.int64)


def test_every_sample_is_forecast_by_the_model_that_did_not_see_it() -> None:
    features, labels = samples()
    found = validate_family(LOGISTIC, features, labels, SPLITS, seed=0)
    train, test = SPLITS[2]
    model = fit_model(LOGISTIC, features[train], labels[train], seed=0)
    expected = model.predict_probability(features[test])
    np.testing.assert_array_equal(found.probability[test], expected)
    assert found.mean is not None
    assert found.mean.roc_auc == pytest.approx(np.mean([fold.roc_auc for fold in found.folds]))
    assert 0.75 < found.mean.roc_auc < 0.9
    assert (len(found.folds), found.n_skipped) == (4, 0)


def test_labels_of_chance_score_as_chance_in_every_family() -> None:
    rng = np.random.default_rng(2)
    features, labels = rng.normal(size=(N, 4)), rng.integers(0, 2, N)
    for name in ("logistic_regression", "extra_trees", "lightgbm"):
        found = validate_family(FAMILIES[name], features, labels, SPLITS, seed=0)
        assert found.mean is not None
        assert found.mean.roc_auc == pytest.approx(0.5, abs=0.06)


def test_a_sample_tested_by_several_models_gets_their_mean() -> None:
    features, labels = samples()
    combinations = combinatorial_purged_splits(STARTS, STARTS + 3, n_folds=4, embargo_bars=5)
    found = validate_family(LOGISTIC, features, labels, combinations.splits, seed=0)
    sample = 10  # in fold 0, which the first three splits test
    forecasts = [model.predict_probability(features[[sample]])[0] for model in found.models[:3]]
    assert found.probability[sample] == pytest.approx(np.mean(forecasts))


def test_a_fold_without_both_labels_is_skipped_and_counted() -> None:
    features, labels = samples()
    labels[: N // 4] = 1
    found = validate_family(LOGISTIC, features, labels, SPLITS, seed=0)
    assert (len(found.folds), found.n_skipped) == (3, 1)
    assert np.isnan(found.probability[: N // 4]).all()
    nothing = validate_family(LOGISTIC, features, 0 * labels, SPLITS, seed=0)
    assert (nothing.mean, nothing.n_skipped) == (None, 4)


def test_weights_reach_the_fit() -> None:
    features, labels = samples()
    weights = np.where(labels == 1, 4.0, 1.0)
    plain = validate_family(LOGISTIC, features, labels, SPLITS, seed=0)
    weighted = validate_family(LOGISTIC, features, labels, SPLITS, seed=0, weights=weights)
    assert weighted.probability.mean() > plain.probability.mean() + 0.1


def test_a_calibrated_model_is_calibrated_on_forecasts_out_of_sample() -> None:
    features, labels = samples()
    forest = FAMILIES["random_forest"]
    parameters: Parameters = {"n_estimators": 40, "max_depth": 1, "max_features": "sqrt"}
    model, validation = fit_calibrated(
        forest, features, labels, SPLITS, method="platt", seed=0, parameters=parameters
    )
    others, their_labels = samples(seed=5)
    before = calibration_curve(their_labels, model.model.predict_probability(others))
    after = calibration_curve(their_labels, model.predict_probability(others))
    assert before.expected_error > 0.1  # shallow trees are too unsure of themselves
    assert after.expected_error < before.expected_error / 2
    assert validation.mean is not None


def test_a_model_without_a_tested_fold_cannot_be_calibrated() -> None:
    features, labels = samples()
    splits = walk_forward_splits(STARTS, STARTS + 3, n_splits=1, gap=N)
    with pytest.raises(DataError, match="both outcomes"):
        fit_calibrated(LOGISTIC, features, labels, splits, method="platt", seed=0)


def test_permutation_finds_the_features_that_tell_something() -> None:
    features, labels = samples()
    model = fit_model(LOGISTIC, features[:400], labels[:400], seed=0)
    rest, their_labels = features[400:], labels[400:]
    found = permutation_importances(model, rest, their_labels, rng=np.random.default_rng(0))
    again = permutation_importances(model, rest, their_labels, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(found, again)
    assert found[0] > found[1] > 0.02
    assert np.abs(found[2:]).max() < 0.01


def test_stable_importances_rank_alike_and_those_of_chance_do_not() -> None:
    rng = np.random.default_rng(3)
    stable = importance_stability(np.array([3.0, 2.0, 1.0, 0.0]) + rng.normal(0, 0.1, (6, 4)))
    chance = importance_stability(rng.normal(size=(30, 20)))
    assert stable.rank_correlation == 1
    assert chance.rank_correlation == pytest.approx(0, abs=0.1)
    assert stable.mean == pytest.approx([3, 2, 1, 0], abs=0.15)
    assert importance_stability(np.array([[1.0, 2.0]])).rank_correlation is None
    assert importance_stability(np.zeros((3, 2))).rank_correlation is None
    with pytest.raises(DataError, match="a row for each fold"):
        importance_stability(np.zeros(3))
