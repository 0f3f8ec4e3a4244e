"""A model of any family scores, once taken apart and stored, as its library does."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from shared.errors import ContractError, DataError
from shared.quant.calibration import CalibrationMethod
from shared.quant.model_families import FAMILIES, family_named, fit_model
from shared.quant.model_validation import CalibratedModel, fit_calibrated
from shared.quant.purged_cv import walk_forward_splits
from shared.quant.scorers import STORED_FAMILIES, TreeScorer, scorer_of
from shared.quant.typing import Float2D, Int1D
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.model import fit_logistic
from shared.sleeves.pairs.stored_model import StoredModel, model_from_bytes

NAMES = ("alpha", "beta", "gamma", "delta")
SMALL: dict[str, dict[str, Any]] = {
    "random_forest": {"n_estimators": 40, "max_depth": 6, "min_samples_leaf": 5},
    "extra_trees": {"n_estimators": 40, "max_depth": 6, "min_samples_leaf": 5},
    "hist_gradient_boosting": {"max_iter": 40, "learning_rate": 0.1},
    "lightgbm": {"n_estimators": 40, "learning_rate": 0.1, "num_leaves": 15},
}


@cache
def samples() -> tuple[Float2D, Int1D]:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(800, 4))
    # Values that repeat, as flags and counts do, so that rows stand on thresholds.
    features[:, 3] = np.round(features[:, 3])
    score = features[:, 0] - 0.5 * features[:, 1] ** 2 + 0.3 * features[:, 3]
    labels = (score + rng.normal(size=800) > -0.3).astype(np.int64)
    return features, labels


@cache
def fitted(family: str, method: CalibrationMethod = "platt") -> CalibratedModel:
    features, labels = samples()
    starts = np.arange(len(labels), dtype=np.int64)
    splits = walk_forward_splits(starts, starts + 3, n_splits=3, gap=5)
    model, _ = fit_calibrated(
        family_named(family), features, labels, splits,
        method=method, seed=7, parameters=SMALL.get(family),
    )  # fmt: skip
    return model


def stored(family: str, method: CalibrationMethod = "platt") -> StoredModel:
    return StoredModel.of(
        fitted(family, method), NAMES, label=LabelSettings(),
        trained_from_ms=0, trained_to_ms=1, n_samples=800,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("family", STORED_FAMILIES)
def test_a_stored_model_predicts_as_its_library_does(
    family: str, method: CalibrationMethod
) -> None:
    features, _ = samples()
    expected = fitted(family, method).predict_probability(features)
    assert stored(family, method).predict_probability(features) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("family", STORED_FAMILIES)
def test_one_row_gives_the_bits_that_many_give_also_after_storage(family: str) -> None:
    features, _ = samples()
    model = model_from_bytes(stored(family).to_json_bytes())
    many = stored(family).predict_probability(features)
    backwards = NAMES[::-1]
    assert [model.probability_of_row(NAMES, row) for row in features.tolist()] == many.tolist()
    assert [
        model.probability_of_row(backwards, row[::-1]) for row in features[:20].tolist()
    ] == many[:20].tolist()
    assert model.sha256 == stored(family).sha256


def test_a_value_on_the_threshold_goes_the_way_that_the_library_sends_it() -> None:
    features, _ = samples()
    for family in ("random_forest", "hist_gradient_boosting", "lightgbm"):
        model = stored(family)
        assert isinstance(model.scorer, TreeScorer)
        rows = np.tile(features.mean(axis=0), (len(model.scorer.feature), 1))
        for node, (feature, threshold) in enumerate(
            zip(model.scorer.feature, model.scorer.threshold, strict=True)
        ):
            # LightGBM takes what is within 1e-35 of zero for zero; no feature comes so close.
            rows[node, max(feature, 0)] = 0.0 if abs(threshold) < 2e-35 else threshold
        expected = fitted(family).predict_probability(rows)
        assert model.predict_probability(rows) == pytest.approx(expected, abs=1e-12)


def test_both_forms_of_document_are_read_and_no_other() -> None:
    features, labels = samples()
    first = fit_logistic(
        features, labels, NAMES, regularisation=1.0, label=LabelSettings(),
        trained_from_ms=0, trained_to_ms=1,
    )  # fmt: skip
    assert model_from_bytes(first.to_json_bytes()) == first
    document = json.loads(stored("lightgbm").to_json_bytes())
    for changes in ({"version": 2}, {"kind": "pickle"}, {"n_samples": 0}, {"more": 1}):
        changed = json.dumps({**document, **changes}, sort_keys=True, separators=(",", ":"))
        with pytest.raises(ContractError, match="model document"):
            model_from_bytes(changed.encode())
    with pytest.raises(ContractError, match="not in canonical form"):
        model_from_bytes(stored("lightgbm").to_json_bytes() + b" ")
    with pytest.raises(ContractError, match="model document"):
        model_from_bytes(b"\x80\x04\x95 a pickle")


def test_trees_in_which_a_row_might_never_arrive_are_refused() -> None:
    scorer = stored("lightgbm").scorer
    assert isinstance(scorer, TreeScorer)
    backwards = (0, *scorer.left[1:])
    with pytest.raises(DataError, match="leads backwards"):
        replace(scorer, left=backwards)
    with pytest.raises(DataError, match="a feature does not exist"):
        replace(scorer, n_features=1)
    with pytest.raises(DataError, match="one of each for every node"):
        replace(scorer, value=scorer.value[1:])


def test_every_family_is_stored_or_named_as_one_that_is_not() -> None:
    features, labels = samples()
    model = fit_model(family_named("logistic_regression"), features, labels, seed=0)
    optional = [name for name, family in FAMILIES.items() if family.extra is not None]
    assert {*STORED_FAMILIES, *optional} == set(FAMILIES)
    for name in optional:
        with pytest.raises(DataError, match="has no stored form"):
            scorer_of(replace(model, family=FAMILIES[name]))
