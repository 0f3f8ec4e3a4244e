"""The families of models that can be trained, in one table.

A family is named by its estimator's import path, so a library is imported only when a model of
its family is fitted, and adding a family is adding an entry.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D, Float2D, Int1D

Parameter = int | float | str
Parameters = Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Between:
    """Numbers from `low` to `high`, both included; whole ones where both are whole.

    Attributes
    ----------
    low, high
        Bounds.
    is_log
        Whether orders of magnitude, rather than values, are equally likely.
    """

    low: int | float
    high: int | float
    is_log: bool = False


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few values."""

    values: tuple[Parameter, ...]


Space = Mapping[str, Between | OneOf]


@dataclass(frozen=True)
class ModelFamily:
    """A kind of model.

    Attributes
    ----------
    name
        Name in settings, ledger and registry.
    estimator
        Module and class of an estimator with scikit-learn's `fit` and `predict_proba`.
    defaults
        Parameters that a search starts from: one for each name of the space.
    space
        What a search may choose instead.
    fixed
        Parameters that are no choice: one thread, no sampling of its own that would ignore
        time, nothing written or printed.
    is_scaled
        Whether features are standardised first.
    extra
        Optional dependencies of the project that hold its library, where not all have it.
    """

    name: str
    estimator: tuple[str, str]
    defaults: Parameters
    space: Space
    fixed: Mapping[str, Any]
    is_scaled: bool = False
    extra: str | None = None


_FOREST_DEFAULTS: Parameters = {
    "n_estimators": 300,
    "max_depth": 6,
    "min_samples_leaf": 50,
    "max_features": "sqrt",
}
_FOREST_SPACE: Space = {
    "n_estimators": Between(100, 500),
    "max_depth": Between(2, 12),
    "min_samples_leaf": Between(5, 200, is_log=True),
    "max_features": OneOf(("sqrt", "log2")),
}
_BOOSTING_RATE = Between(0.01, 0.3, is_log=True)

FAMILIES: Mapping[str, ModelFamily] = MappingProxyType(
    {
        family.name: family
        for family in (
            ModelFamily(
                "logistic_regression",
                ("sklearn.linear_model", "LogisticRegression"),
                defaults={"C": 1.0},
                space={"C": Between(1e-4, 1e2, is_log=True)},
                fixed={"solver": "newton-cholesky", "max_iter": 200},
                is_scaled=True,
            ),
            ModelFamily(
                "random_forest",
                ("sklearn.ensemble", "RandomForestClassifier"),
                defaults=_FOREST_DEFAULTS,
                space=_FOREST_SPACE,
                fixed={"n_jobs": 1},
            ),
            ModelFamily(
                "extra_trees",
                ("sklearn.ensemble", "ExtraTreesClassifier"),
                defaults=_FOREST_DEFAULTS,
                space=_FOREST_SPACE,
                fixed={"n_jobs": 1},
            ),
            ModelFamily(
                "hist_gradient_boosting",
                ("sklearn.ensemble", "HistGradientBoostingClassifier"),
                defaults={
                    "max_iter": 100,
                    "learning_rate": 0.05,
                    "max_leaf_nodes": 15,
                    "min_samples_leaf": 20,
                    "l2_regularization": 1.0,
                },
                space={
                    "max_iter": Between(50, 400),
                    "learning_rate": _BOOSTING_RATE,
                    "max_leaf_nodes": Between(3, 31),
                    "min_samples_leaf": Between(5, 200, is_log=True),
                    "l2_regularization": Between(1e-3, 10.0, is_log=True),
                },
                # Its early stopping would hold out samples at random, overlapping in time.
                fixed={"early_stopping": False},
            ),
            ModelFamily(
                "lightgbm",
                ("lightgbm", "LGBMClassifier"),
                defaults={
                    "n_estimators": 100,
                    "learning_rate": 0.05,
                    "num_leaves": 15,
                    "min_child_samples": 20,
                    "reg_lambda": 1.0,
                },
                space={
                    "n_estimators": Between(50, 400),
                    "learning_rate": _BOOSTING_RATE,
                    "num_leaves": Between(3, 31),
                    "min_child_samples": Between(5, 200, is_log=True),
                    "reg_lambda": Between(1e-3, 10.0, is_log=True),
                },
                fixed={
                    "n_jobs": 1,
                    "deterministic": True,
                    "force_col_wise": True,
                    "importance_type": "gain",
                    "verbosity": -1,
                },
            ),
            ModelFamily(
                "xgboost",
                ("xgboost", "XGBClassifier"),
                defaults={
                    "n_estimators": 100,
                    "learning_rate": 0.05,
                    "max_depth": 4,
                    "min_child_weight": 5.0,
                    "reg_lambda": 1.0,
                },
                space={
                    "n_estimators": Between(50, 400),
                    "learning_rate": _BOOSTING_RATE,
                    "max_depth": Between(2, 8),
                    "min_child_weight": Between(1.0, 100.0, is_log=True),
                    "reg_lambda": Between(1e-3, 10.0, is_log=True),
                },
                fixed={"n_jobs": 1, "tree_method": "hist", "verbosity": 0},
                extra="boosting",
            ),
            ModelFamily(
                "catboost",
                ("catboost", "CatBoostClassifier"),
                defaults={
                    "iterations": 100,
                    "learning_rate": 0.05,
                    "depth": 4,
                    "l2_leaf_reg": 3.0,
                },
                space={
                    "iterations": Between(50, 400),
                    "learning_rate": _BOOSTING_RATE,
                    "depth": Between(2, 8),
                    "l2_leaf_reg": Between(1e-2, 30.0, is_log=True),
                },
                fixed={"thread_count": 1, "verbose": False, "allow_writing_files": False},
                extra="boosting",
            ),
        )
    }
)


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A fitted model of a family.

    Attributes
    ----------
    family, parameters, seed
        What it is and how it was made.
    estimator
        The library's own fitted estimator.
    mean, scale : ndarray of float64, shape (k,)
        Features are standardised with them; 0 and 1 where the family takes them as they are.
    """

    family: ModelFamily
    parameters: Parameters
    seed: int
    estimator: Any
    mean: Float1D
    scale: Float1D

    def predict_probability(self, features: Float2D) -> Float1D:
        """Return the probability of label 1 for every row.

        Parameters
        ----------
        features : ndarray of float64, shape (n, k)
        """
        with _one_thread():
            probability = self.estimator.predict_proba((features - self.mean) / self.scale)
        return np.asarray(probability[:, 1], dtype=np.float64)

    def own_importances(self) -> Float1D | None:
        """Return what the model itself says about its features, as shares of 1.

        Returns
        -------
        ndarray of float64, shape (k,), or None
            Impurity or gain that splits on a feature took away; of a linear model, the size of
            its coefficients. None where the library tells nothing.

        Notes
        -----
        Measured on the training samples, these favour features of many values: read them
        beside permutation importances.
        """
        if hasattr(self.estimator, "coef_"):
            size = np.abs(self.estimator.coef_[0])
        elif hasattr(self.estimator, "feature_importances_"):
            size = np.asarray(self.estimator.feature_importances_, dtype=np.float64)
        else:
            return None
        total = size.sum()
        return np.asarray(size / total if total > 0 else np.zeros(len(size)), dtype=np.float64)


def family_named(name: str) -> ModelFamily:
    """Return a family by its name.

    Raises
    ------
    DataError
        If there is none of this name.
    """
    try:
        return FAMILIES[name]
    except KeyError:
        raise DataError(
            f"unknown model family {name!r}: use one of {', '.join(FAMILIES)}"
        ) from None


def fit_model(
    family: ModelFamily,
    features: Float2D,
    labels: Int1D,
    *,
    seed: int,
    parameters: Parameters | None = None,
    weights: Float1D | None = None,
) -> FittedModel:
    """Fit a model of a family.

    Parameters
    ----------
    family
        Which kind.
    features : ndarray of float64, shape (n, k)
        Finite.
    labels : ndarray of int64, shape (n,)
        0 or 1, both present.
    seed
        Of the family's own randomness: the same seed and samples give the same model.
    parameters
        In place of the family's defaults; what is left out is the library's choice.
    weights : ndarray of float64, shape (n,)
        How much each sample counts; equally by default.

    Raises
    ------
    DataError
        If shapes differ, a feature or weight is unsound, not both labels are present, a
        parameter is not the family's, or its library is not installed.
    """
    _require_samples(features, labels, weights)
    chosen = dict(family.defaults if parameters is None else parameters)
    unknown = set(chosen) - set(family.space)
    if unknown:
        raise DataError(
            f"{family.name} has no parameter {', '.join(sorted(unknown))}: choose from "
            f"{', '.join(family.space)}"
        )
    estimator = _estimator_class(family)(**family.fixed, **chosen, random_state=seed)
    mean, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    if family.is_scaled:
        mean, scale = features.mean(axis=0), features.std(axis=0)
        scale[features.min(axis=0) == features.max(axis=0)] = 1.0
    with _one_thread():
        estimator.fit((features - mean) / scale, labels, sample_weight=weights)
    return FittedModel(family, chosen, seed, estimator, mean, scale)


def _one_thread() -> Any:
    # Some libraries take all cores, have no parameter against it and spin where others work.
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _estimator_class(family: ModelFamily) -> Any:
    module, name = family.estimator
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if family.extra is None:
            raise
        raise DataError(
            f"model family {family.name!r} needs the library {module}, which is not installed: "
            f"run `uv sync --extra {family.extra}` or choose another family"
        ) from error
    except OSError as error:  # a wheel that takes a library from the system
        raise DataError(
            f"model family {family.name!r} cannot be loaded: {error}; install what is missing "
            "(LightGBM needs libgomp1) or choose another family"
        ) from error


def _require_samples(features: Float2D, labels: Int1D, weights: Float1D | None) -> None:
    if features.ndim != 2 or labels.shape != (len(features),):
        raise DataError(
            f"features of shape {features.shape} and labels of shape {labels.shape}: give one "
            "label for every row"
        )
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise DataError(
            f"feature {column} of sample {row} is {features[row, column]}: drop rows of bars "
            "in warm-up"
        )
    if np.unique(labels).tolist() != [0, 1]:
        raise DataError(
            f"{len(labels)} labels take the values {np.unique(labels).tolist()}: train on a "
            "period in which both outcomes, 0 and 1, occur"
        )
    if weights is not None and not (
        weights.shape == labels.shape and np.isfinite(weights).all() and (weights > 0).all()
    ):
        raise DataError(
            f"weights of shape {weights.shape} for {len(labels)} samples: give a positive finite "
            "weight for each"
        )
