"""A model of any family scores, once taken apart and stored, as its library does."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from shared.errors import ContractError, DataError
from shared.quant.calibration import CalibrationMethod
from shared.quant.model_families import FAMILIES, family_named, fit_model
from shared.quant.model_validation import CalibratedModel, fit_calibrated
from shared.quant.purged_cv import walk_forward_splits
from shared.quant.scorers import STORED_FAMILIES, Scorer, TreeScorer, scorer_of
from shared.quant.typing import Float2D, Int1D
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.stored_model import StoredModel
from tests.support import linear_model

NAMES = ("alpha", "beta", "gamma", "delta")
SMALL: dict[str, dict[str, Any]] = {
    "random_forest": {"n_estimators": 40, "max_depth": 6, "min_samples_leaf": 5},
    "extra_trees": {"n_estimators": 40, "max_depth": 6, "min_samples_leaf": 5},
    "hist_gradient_boosting": {"max_iter": 40, "learning_rate": 0.1},
    "lightgbm": {"n_estimators": 40, "learning_rate": 0.1, "num_leaves": 15},
    "xgboost": {"n_estimators": 40, "learning_rate": 0.1, "max_depth": 4},
    "catboost": {"iterations": 40, "learning_rate": 0.1, "depth": 4},
}
# XGBoost adds its leaves in 32 bits, and a steep calibration magnifies that; that they are the
# right leaves, added rightly, has a test of its own.
TOLERANCE = {family: 5e-5 if family == "xgboost" else 1e-12 for family in STORED_FAMILIES}


def or_skipped(family: str) -> Any:
    is_absent = FAMILIES[family].extra and find_spec(FAMILIES[family].estimator[0]) is None
    reason = f"{family} is not installed: uv sync --extra boosting"
    return pytest.param(family, marks=pytest.mark.skipif(bool(is_absent), reason=reason))


each_family = pytest.mark.parametrize("family", [or_skipped(name) for name in STORED_FAMILIES])


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
@each_family
def test_a_stored_model_predicts_as_its_library_does(
    family: str, method: CalibrationMethod
) -> None:
    features, _ = samples()
    expected = fitted(family, method).predict_probability(features)
    assert stored(family, method).predict_probability(features) == pytest.approx(
        expected, abs=TOLERANCE[family]
    )


@each_family
def test_one_row_gives_the_bits_that_many_give_also_after_storage(family: str) -> None:
    features, _ = samples()
    model = StoredModel.from_json_bytes(stored(family).to_json_bytes())
    many = stored(family).predict_probability(features)
    backwards = NAMES[::-1]
    assert [model.probability_of_row(NAMES, row) for row in features.tolist()] == many.tolist()
    assert [
        model.probability_of_row(backwards, row[::-1]) for row in features[:20].tolist()
    ] == many[:20].tolist()
    assert model.sha256 == stored(family).sha256


def rows_on_thresholds(scorer: Scorer) -> Float2D:
    """Return a row for each node, with its threshold or, next to that, the next number up."""
    assert isinstance(scorer, TreeScorer)
    rows = np.tile(samples()[0].mean(axis=0), (2 * len(scorer.feature), 1))
    for node, (feature, threshold) in enumerate(zip(scorer.feature, scorer.threshold, strict=True)):
        # LightGBM takes what is within 1e-35 of zero for zero; no feature comes so close.
        value = 0.0 if abs(threshold) < 2e-35 else threshold
        rows[2 * node : 2 * node + 2, max(feature, 0)] = value
        if scorer.is_single_precision:
            above = np.nextafter(np.float32(value), np.float32(np.inf))
            rows[2 * node + 1, max(feature, 0)] = above
    return rows


@pytest.mark.parametrize(
    "family", [or_skipped(name) for name in STORED_FAMILIES if name != "logistic_regression"]
)
def test_a_value_on_the_threshold_goes_the_way_that_the_library_sends_it(family: str) -> None:
    model = stored(family)
    rows = rows_on_thresholds(model.scorer)
    expected = fitted(family).predict_probability(rows)
    assert model.predict_probability(rows) == pytest.approx(expected, abs=TOLERANCE[family])


@pytest.mark.parametrize("family", [or_skipped("xgboost")])
def test_the_score_is_the_sum_of_the_very_leaves_that_xgboost_sends_a_row_to(family: str) -> None:
    model = fitted(family).model
    scorer = scorer_of(model)
    rows = np.concatenate([samples()[0], rows_on_thresholds(scorer)])
    dump = [json.loads(tree) for tree in model.estimator.get_booster().get_dump("", True, "json")]
    leaves = model.estimator.apply(rows).astype(np.int64)
    assert isinstance(scorer, TreeScorer)

    def value_of(node: dict[str, Any], number: int) -> float | None:
        if node["nodeid"] == number:
            return float(np.float32(node["leaf"]))
        found = (value_of(child, number) for child in node.get("children", ()))
        return next((value for value in found if value is not None), None)

    values = [
        {n: value_of(tree, n) for n in set(leaves[:, k].tolist())} for k, tree in enumerate(dump)
    ]
    expected = [
        math.fsum([scorer.baseline, *(values[k][leaf] or 0.0 for k, leaf in enumerate(row))])
        for row in leaves.tolist()
    ]
    assert scorer.score_rows(rows) == pytest.approx(expected, abs=1e-12)


def test_a_linear_model_by_hand() -> None:
    # log-odds of 0.5 at zero are 0; 0.5 * 2 - 1.5 * 0.1 = 0.85
    model = linear_model({"z_score": 0.5, "beta": -1.5}, 0.5)
    given = model.probability_of_row(("z_score", "beta"), (2.0, 0.1))
    assert given == pytest.approx(1 / (1 + math.exp(-0.85)), abs=1e-12)
    extreme = model.predict_probability(np.array([[1e6, 0.1], [-1e6, 0.1]]))
    assert extreme.tolist() == pytest.approx([1.0, 0.0], abs=1e-5)


def test_features_are_found_by_name() -> None:
    model = linear_model({"z_score": 0.5, "beta": -1.5}, 0.5)
    expected = model.probability_of_row(("z_score", "beta"), (2.0, 0.3))
    assert model.probability_of_row(("beta", "other", "z_score"), (0.3, 9.0, 2.0)) == expected
    with pytest.raises(ContractError, match="needs beta"):
        model.probability_of_row(("z_score", "other"), (2.0, 0.3))


def test_faulty_features_are_refused() -> None:
    model = linear_model({"z_score": 0.5, "beta": -1.5}, 0.5)
    with pytest.raises(DataError, match="one column for each"):
        model.predict_probability(np.zeros((4, 3)))
    with pytest.raises(DataError, match="NaN"):
        model.predict_probability(np.array([[np.nan, 1.0]]))
    with pytest.raises(DataError, match="NaN"):
        model.probability_of_row(("z_score", "beta"), (math.nan, 1.0))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": 2}, "version"),
        ({"kind": "pickle"}, "kind"),
        ({"more": 1}, "more"),
        ({"n_samples": 0}, "at least one sample"),
        ({"trained_to_ms": -1}, "period in order"),
        ({"feature_names": ["beta", "beta"]}, "name each feature once"),
        ({"feature_names": ["beta"]}, "name each feature once"),
        ({"label": {"kind": "z_threshold", "thresh": 1.0}}, "label.thresh"),
        ({"seed": "7"}, "seed"),
    ],
)
def test_an_unsound_document_is_refused(changes: dict[str, Any], match: str) -> None:
    document = json.loads(linear_model({"z_score": 0.5, "beta": -1.5}, 0.5).to_json_bytes())
    changed = json.dumps({**document, **changes}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(ContractError, match=match):
        StoredModel.from_json_bytes(changed.encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"\x80\x04\x95 a pickle"])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError, match="model document"):
        StoredModel.from_json_bytes(data)


def test_another_spelling_of_a_document_is_refused() -> None:
    data = linear_model({"z_score": 0.5}, 0.5).to_json_bytes()
    for spelling in (data + b" ", data.replace(b"[0.5]", b"[0.50]")):
        assert spelling != data
        with pytest.raises(ContractError, match="not in canonical form"):
            StoredModel.from_json_bytes(spelling)


def test_predicting_imports_none_of_the_libraries_that_fit() -> None:
    data = linear_model({"z_score": 0.5}, 0.5).to_json_bytes()
    program = (
        "import sys; from shared.sleeves.pairs.stored_model import StoredModel;"
        f"StoredModel.from_json_bytes({data!r}).probability_of_row(('z_score',), (1.0,));"
        " sys.exit(bool({'sklearn', 'lightgbm', 'scipy.stats'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


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


def test_every_family_can_be_stored_and_one_that_cannot_is_named() -> None:
    assert set(STORED_FAMILIES) == set(FAMILIES)
    features, labels = samples()
    model = fit_model(family_named("logistic_regression"), features, labels, seed=0)
    stranger = replace(FAMILIES["lightgbm"], name="stranger")
    with pytest.raises(DataError, match="'stranger' has no stored form"):
        scorer_of(replace(model, family=stranger))
