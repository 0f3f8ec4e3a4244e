from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.model_families import (
    FAMILIES,
    Between,
    ModelFamily,
    OneOf,
    family_named,
    fit_model,
)
from shared.quant.probability_scores import score_probabilities
from shared.quant.typing import Float2D, Int1D


def samples(seed: int = 1, n: int = 600) -> tuple[Float2D, Int1D]:
    """Return five features of unlike scales, of which the second tells most."""
    rng = np.random.default_rng(seed)
    features = rng.normal([0, 50, -3, 0, 1], [1, 10, 0.01, 1, 1], (n, 5))
    score = 0.5 * features[:, 0] + (features[:, 1] - 50) / 5
    return features, (rng.random(n) < 1 / (1 + np.exp(-score))).astype(np.int64)


def small(family: ModelFamily) -> dict[str, int | float | str]:
    """Return the family's defaults with fewer trees."""
    counts = {"n_estimators", "max_iter", "iterations"}
    return {name: 30 if name in counts else value for name, value in family.defaults.items()}


@pytest.fixture(params=list(FAMILIES.values()), ids=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> ModelFamily:
    found: ModelFamily = request.param
    if found.extra and importlib.util.find_spec(found.estimator[0]) is None:
        pytest.skip(f"{found.estimator[0]} is not installed: uv sync --extra {found.extra}")
    return found


def test_a_family_finds_what_there_is_and_is_the_same_every_time(family: ModelFamily) -> None:
    features, labels = samples()
    others, their_labels = samples(seed=2)
    first, again = (
        fit_model(family, features, labels, seed=3, parameters=small(family)) for _ in range(2)
    )
    probability = first.predict_probability(others)
    np.testing.assert_array_equal(probability, again.predict_probability(others))
    assert ((probability >= 0) & (probability <= 1)).all()
    assert score_probabilities(their_labels, probability).roc_auc > 0.75


def test_a_family_heeds_weights(family: ModelFamily) -> None:
    features, labels = samples()
    weights = np.where(labels == 1, 5.0, 1.0)
    plain = fit_model(family, features, labels, seed=3, parameters=small(family))
    weighted = fit_model(
        family, features, labels, seed=3, parameters=small(family), weights=weights
    )
    rise = weighted.predict_probability(features) - plain.predict_probability(features)
    assert rise.mean() > 0.05


def test_a_family_tells_its_importances_or_nothing(family: ModelFamily) -> None:
    features, labels = samples()
    importances = fit_model(
        family, features, labels, seed=3, parameters=small(family)
    ).own_importances()
    if family.name == "hist_gradient_boosting":
        assert importances is None
        return
    assert importances is not None
    assert importances.sum() == pytest.approx(1)
    assert importances.argmax() == 1


def test_the_defaults_of_every_family_lie_in_its_space() -> None:
    for family in FAMILIES.values():
        assert set(family.defaults) == set(family.space)
        assert not set(family.fixed) & set(family.space)
        for name, choice in family.space.items():
            value = family.defaults[name]
            if isinstance(choice, OneOf):
                assert value in choice.values
            else:
                assert isinstance(choice, Between)
                assert not isinstance(value, str)
                assert choice.low <= value <= choice.high


def test_adding_a_family_is_one_entry() -> None:
    family = ModelFamily(
        "naive_bayes",
        ("sklearn.tree", "DecisionTreeClassifier"),
        defaults={"max_depth": 3},
        space={"max_depth": Between(1, 8)},
        fixed={},
    )
    features, labels = samples()
    model = fit_model(family, features, labels, seed=0)
    assert (model.predict_probability(features) > 0.5).mean() == pytest.approx(0.5, abs=0.2)


def test_a_feature_that_never_changes_does_no_harm() -> None:
    features, labels = samples()
    features[:, 3] = 7.0
    model = fit_model(FAMILIES["logistic_regression"], features, labels, seed=0)
    assert np.isfinite(model.predict_probability(features)).all()


def test_a_library_that_the_system_lacks_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacking(_: str) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr("shared.quant.model_families.importlib.import_module", lacking)
    with pytest.raises(DataError, match=r"'lightgbm' cannot be loaded: libgomp.*libgomp1"):
        fit_model(FAMILIES["lightgbm"], *samples(), seed=0)


def test_a_library_that_is_not_installed_is_named_with_its_remedy() -> None:
    absent = ModelFamily(
        "absent", ("no_such_library", "Model"), defaults={}, space={}, fixed={}, extra="boosting"
    )
    with pytest.raises(DataError, match="uv sync --extra boosting"):
        fit_model(absent, *samples(), seed=0)


def test_unsound_samples_are_refused() -> None:
    features, labels = samples(n=50)
    family = FAMILIES["logistic_regression"]
    with pytest.raises(DataError, match="one label for every row"):
        fit_model(family, features, labels[1:], seed=0)
    with pytest.raises(DataError, match="both outcomes"):
        fit_model(family, features, np.ones(50, dtype=np.int64), seed=0)
    with pytest.raises(DataError, match="positive finite weight"):
        fit_model(family, features, labels, seed=0, weights=np.zeros(50))
    with pytest.raises(DataError, match="has no parameter depth"):
        fit_model(family, features, labels, seed=0, parameters={"depth": 3})
    with pytest.raises(DataError, match="unknown model family 'svm'"):
        family_named("svm")
    features[3, 2] = np.nan
    with pytest.raises(DataError, match="feature 2 of sample 3 is nan"):
        fit_model(family, features, labels, seed=0)
