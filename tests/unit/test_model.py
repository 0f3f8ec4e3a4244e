from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shared.errors import ContractError, DataError
from shared.quant.probability_scores import score_probabilities
from shared.quant.typing import Float2D, Int1D
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.model import (
    LogisticModel,
    cross_validate,
    fit_logistic,
)

NAMES = ("a", "b", "c")
MODEL = LogisticModel(
    feature_names=("z_score", "beta"),
    mean=(1.0, 0.1),
    scale=(2.0, 1.0),
    coefficients=(0.5, -1.5),
    intercept=0.25,
    label=LabelSettings(),
    trained_from_ms=1_000,
    trained_to_ms=2_000,
    n_samples=300,
)
MODEL_BYTES = (
    b'{"coefficients":[0.5,-1.5],"feature_names":["z_score","beta"],"intercept":0.25,'
    b'"kind":"logistic_regression","label":{"cost_rate":0.0011,"horizon_bars":3,'
    b'"kind":"z_threshold","threshold":1.5},"mean":[1.0,0.1],"n_samples":300,'
    b'"scale":[2.0,1.0],"trained_from_ms":1000,"trained_to_ms":2000,"version":1}'
)


def samples(n: int = 400, seed: int = 1) -> tuple[Float2D, Int1D]:
    """Return features of unlike scales and labels that two of them tell something about."""
    rng = np.random.default_rng(seed)
    features = rng.normal([0, 50, -3], [1, 10, 0.01], (n, 3))
    score = features[:, 0] - (features[:, 1] - 50) / 20
    labels = (rng.random(n) < 1 / (1 + np.exp(-score))).astype(np.int64)
    return features, labels


def fit(features: Float2D, labels: Int1D, regularisation: float = 1.0) -> LogisticModel:
    return fit_logistic(
        features,
        labels,
        NAMES,
        regularisation=regularisation,
        label=LabelSettings(),
        trained_from_ms=0,
        trained_to_ms=1,
    )


def test_probability_by_hand() -> None:
    # 0.25 + 0.5 (2 - 1) / 2 - 1.5 (0.1 - 0.1) / 1 = 0.5
    probability = MODEL.predict_probability(np.array([[2.0, 0.1], [0.5, 0.1]]))
    assert probability[0] == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert probability[1] == pytest.approx(1 / (1 + math.exp(-0.125)))


def test_extreme_scores_are_certain_and_do_not_overflow() -> None:
    probability = MODEL.predict_probability(np.array([[1e6, 0.1], [-1e6, 0.1]]))
    assert probability.tolist() == [1.0, 0.0]


def test_one_row_has_the_bits_it_has_among_many() -> None:
    features, labels = samples()
    model = fit(features, labels)
    together = model.predict_probability(features).tolist()
    alone = [model.probability_of_row(NAMES, row) for row in features.tolist()]
    assert alone == together


def test_features_are_found_by_name() -> None:
    expected = MODEL.probability_of_row(("z_score", "beta"), (2.0, 0.3))
    assert MODEL.probability_of_row(("beta", "other", "z_score"), (0.3, 9.0, 2.0)) == expected
    with pytest.raises(ContractError, match="needs beta"):
        MODEL.probability_of_row(("z_score", "other"), (2.0, 0.3))


def test_faulty_features_are_refused() -> None:
    with pytest.raises(DataError, match="one column for each"):
        MODEL.predict_probability(np.zeros((4, 3)))
    with pytest.raises(DataError, match="NaN"):
        MODEL.predict_probability(np.array([[np.nan, 1.0]]))
    with pytest.raises(DataError, match="NaN"):
        MODEL.probability_of_row(("z_score", "beta"), (math.nan, 1.0))


def test_the_fit_agrees_with_a_scikit_learn_pipeline() -> None:
    features, labels = samples()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, tol=1e-10))
    expected = pipeline.fit(features, labels).predict_proba(features)[:, 1]
    model = fit(features, labels, regularisation=0.3)
    np.testing.assert_allclose(model.predict_probability(features), expected, rtol=1e-5)
    assert model.n_samples == 400


def test_the_same_samples_give_the_same_model() -> None:
    features, labels = samples()
    assert fit(features, labels).sha256 == fit(features.copy(), labels.copy()).sha256


def test_stronger_regularisation_shrinks_the_coefficients() -> None:
    features, labels = samples()
    weak, strong = fit(features, labels, 1.0), fit(features, labels, 0.001)
    assert abs(strong.coefficients[0]) < abs(weak.coefficients[0]) / 2


def test_a_constant_feature_has_no_say() -> None:
    features, labels = samples()
    features[:, 2] = 0.1
    model = fit(features, labels)
    assert (model.mean[2], model.scale[2], model.coefficients[2]) == (0.1, 1.0, 0.0)


def test_faulty_samples_are_refused() -> None:
    features, labels = samples(30)
    with pytest.raises(DataError, match="one label for every row"):
        fit(features, labels[1:])
    with pytest.raises(DataError, match="both outcomes"):
        fit(features, np.zeros(30, dtype=np.int64))
    with pytest.raises(DataError, match="both outcomes"):
        fit(features[:0], labels[:0])
    with pytest.raises(DataError, match="give 0 and 1"):
        fit(features, labels + 1)
    with pytest.raises(DataError, match="regularisation C 0"):
        fit(features, labels, 0.0)
    with pytest.raises(DataError, match="3 names for 2 features"):
        fit(features[:, :2], labels)
    features[7, 1] = np.inf
    with pytest.raises(DataError, match="feature 1 of sample 7 is inf"):
        fit(features, labels)


def test_the_stored_form_is_fixed() -> None:
    assert MODEL.to_json_bytes() == MODEL_BYTES
    assert MODEL.sha256 == hashlib.sha256(MODEL_BYTES).hexdigest()


def test_a_stored_model_is_the_same_model() -> None:
    features, labels = samples()
    model = fit(features, labels)
    read = LogisticModel.from_json_bytes(model.to_json_bytes())
    assert read == model
    assert read.sha256 == model.sha256


def changed(**fields: Any) -> bytes:
    document = json.loads(MODEL_BYTES) | fields
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "document"),
        (b"[]", "document"),
        (b"\x80\x04K\x01.", "document"),
        (MODEL_BYTES + b" ", "canonical"),
        (MODEL_BYTES.replace(b'"intercept":0.25', b'"intercept":0.250'), "canonical"),
        (MODEL_BYTES.replace(b'"intercept":0.25', b'"intercept":1'), "canonical"),
        (MODEL_BYTES.replace(b'"n_samples":300', b'"n_samples":3,"n_samples":300'), "canonical"),
        (changed(version=2), "version"),
        (changed(kind="forest"), "kind"),
        (changed(extra=1), "extra"),
        (changed(intercept="0.25"), "intercept"),
        (changed(intercept=math.nan), "intercept"),
        (changed(mean=[1.0, math.inf]), "mean.1"),
        (changed(mean=[1.0]), "one of each"),
        (changed(scale=[2.0, 0.0]), "scale that is not positive"),
        (changed(feature_names=["beta", "beta"]), "twice"),
        (changed(n_samples=0), "at least one sample"),
        (changed(trained_to_ms=1), "period in order"),
        (changed(label={"kind": "z_threshold", "thresh": 1.0}), "label.thresh"),
    ],
)
def test_anything_but_a_sound_document_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(ContractError, match=match):
        LogisticModel.from_json_bytes(data)


def test_a_model_of_faulty_numbers_cannot_be_made() -> None:
    with pytest.raises(DataError, match="not finite"):
        replace(MODEL, coefficients=(0.5, math.nan))


def test_scores_by_hand() -> None:
    scores = score_probabilities(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.5, 0.8]))
    # Of the four pairs of a 1 and a 0 three are in order.
    assert scores.roc_auc == pytest.approx(0.75)
    # From the top: precision 1 at the first 1, 2/3 at the second, each adding half the recall.
    assert scores.pr_auc == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert scores.brier == pytest.approx((0.01 + 0.36 + 0.25 + 0.04) / 4)
    expected_loss = -(math.log(0.9) + math.log(0.4) + math.log(0.5) + math.log(0.8)) / 4
    assert scores.log_loss == pytest.approx(expected_loss)


def test_cross_validation_finds_skill_where_there_is_some() -> None:
    features, labels = samples(1200)
    bars = np.arange(1200)
    found = cross_validate(features, labels, bars, bars + 3, regularisation=1.0)
    assert len(found.folds) == 5
    assert found.n_skipped == 0
    assert found.mean is not None
    assert 0.7 < found.mean.roc_auc < 0.9
    assert found.mean.brier == pytest.approx(np.mean([fold.brier for fold in found.folds]))


def test_cross_validation_finds_none_in_noise() -> None:
    features, labels = samples(1200)
    shuffled = np.random.default_rng(2).permutation(labels)
    bars = np.arange(1200)
    found = cross_validate(features, shuffled, bars, bars + 3, regularisation=1.0)
    assert found.mean is not None
    assert 0.4 < found.mean.roc_auc < 0.6


def test_a_fold_is_scored_on_what_it_was_not_fitted_on() -> None:
    # The features of each row alone spell out its label, for as long as the row was seen.
    labels = np.random.default_rng(4).integers(0, 2, 60)
    bars = np.arange(60)
    found = cross_validate(
        np.eye(60) * (2 * labels[:, np.newaxis] - 1.0),
        labels,
        bars,
        bars,
        regularisation=100.0,
        n_splits=2,
        gap=0,
    )
    assert found.mean is not None
    assert found.mean.roc_auc == pytest.approx(0.5)


def test_folds_without_both_labels_are_skipped_and_counted() -> None:
    features, labels = samples(600)
    bars = np.arange(600)
    labels[400:500] = 1  # the fourth of five test blocks
    found = cross_validate(features, labels, bars, bars, regularisation=1.0)
    assert (len(found.folds), found.n_skipped) == (4, 1)
    emptied = cross_validate(features, labels, bars, bars, regularisation=1.0, gap=350)
    assert (len(emptied.folds), emptied.n_skipped) == (1, 4)


def test_without_a_scored_fold_there_is_no_mean() -> None:
    features, labels = samples(60)
    bars = np.arange(60)
    found = cross_validate(features, labels, bars, bars, regularisation=1.0, gap=1000)
    assert (found.folds, found.mean, found.n_skipped) == ((), None, 5)


def test_predicting_does_not_import_scikit_learn() -> None:
    program = (
        "import sys; from shared.sleeves.pairs.model import LogisticModel;"
        f"LogisticModel.from_json_bytes({MODEL_BYTES!r}).probability_of_row(('z_score', 'beta'),"
        " (1.0, 1.0)); sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
