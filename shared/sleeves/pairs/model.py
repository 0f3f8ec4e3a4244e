"""The model of the pairs sleeve: a logistic regression that is nothing but numbers.

A model is stored as canonical JSON and known by the SHA-256 of those bytes. Fitting needs
scikit-learn, which is imported there; predicting takes a few additions in a fixed order and
gives the same bits for one row as for many.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from statistics import fmean
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from shared.errors import ContractError, DataError
from shared.quant.probability_scores import FoldScores, score_probabilities
from shared.quant.purged_cv import purged_time_series_splits
from shared.quant.typing import Float1D, Float2D, Int1D
from shared.sleeves.pairs.labels import LabelSettings

_MAX_ITERATIONS = 100

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Weights(NamedTuple):
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float


class _Document(BaseModel, frozen=True, extra="forbid", strict=True):
    """A stored model, field by field."""

    kind: Literal["logistic_regression"] = "logistic_regression"
    version: Literal[1] = 1
    feature_names: tuple[str, ...]
    mean: tuple[_Finite, ...]
    scale: tuple[_Finite, ...]
    coefficients: tuple[_Finite, ...]
    intercept: _Finite
    label: LabelSettings
    trained_from_ms: int
    trained_to_ms: int
    n_samples: int

    def to_bytes(self) -> bytes:
        document = self.model_dump(mode="json")
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True)
class LogisticModel:
    """A fitted logistic regression on standardised features.

    Attributes
    ----------
    feature_names
        The features it reads, in the order of the numbers below.
    mean, scale
        Each feature is standardised as (value - mean) / scale.
    coefficients, intercept
        Of the standardised features.
    label
        The question it answers.
    trained_from_ms, trained_to_ms
        Closes of the first and last bar it was trained on, in milliseconds since 1970.
    n_samples
        Rows it was trained on.

    Raises
    ------
    DataError
        If the lengths differ, a name repeats, a number is not finite, a scale or the number
        of samples not positive, or the training period ends before it starts.
    """

    feature_names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    label: LabelSettings
    trained_from_ms: int
    trained_to_ms: int
    n_samples: int

    def __post_init__(self) -> None:
        n_features = len(self.feature_names)
        lengths = [len(self.mean), len(self.scale), len(self.coefficients)]
        if not n_features or lengths != [n_features] * 3:
            raise DataError(
                f"model of {n_features} features has {lengths} means, scales and coefficients: "
                "give one of each for every feature"
            )
        if len(set(self.feature_names)) != n_features:
            raise DataError(f"model names a feature twice: {', '.join(self.feature_names)}")
        numbers = (*self.mean, *self.scale, *self.coefficients, self.intercept)
        if not all(map(math.isfinite, numbers)) or min(self.scale) <= 0:
            raise DataError(
                "model has a number that is not finite or a scale that is not positive: fit it "
                "on finite features"
            )
        if self.n_samples <= 0 or self.trained_to_ms < self.trained_from_ms:
            raise DataError(
                f"model of {self.n_samples} samples from {self.trained_from_ms} to "
                f"{self.trained_to_ms} ms: give at least one sample and a period in order"
            )

    @classmethod
    def from_json_bytes(cls, data: bytes) -> LogisticModel:
        """Read a stored model.

        Raises
        ------
        ContractError
            If the bytes are not the canonical form of a sound model of a known version.
        """
        try:
            document = _Document.model_validate_json(data)
            if document.to_bytes() != data:
                raise ContractError(
                    "model document is not in canonical form, so its hash would not be its "
                    "identity: store the bytes of to_json_bytes unchanged"
                )
            return cls(**{field.name: getattr(document, field.name) for field in fields(cls)})
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"])) or "document"
            raise ContractError(
                f"model document: {where}: {fault['msg']}; store the bytes of to_json_bytes"
            ) from error
        except DataError as error:
            raise ContractError(f"model document: {error}") from error

    def to_json_bytes(self) -> bytes:
        """Return the canonical form: sorted keys, no spaces, shortest exact decimals."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return _Document(**own).to_bytes()

    @cached_property
    def sha256(self) -> str:
        """The model's identity: the SHA-256 of its canonical form, in hex."""
        return hashlib.sha256(self.to_json_bytes()).hexdigest()

    def predict_probability(self, features: Float2D) -> Float1D:
        """Return the probability of label 1 for every row.

        Parameters
        ----------
        features : ndarray of float64, shape (n, k)
            In the order of `feature_names`.

        Returns
        -------
        ndarray of float64, shape (n,)

        Raises
        ------
        DataError
            If the shape is not (n, k) or a score is NaN.

        Notes
        -----
        p = 1 / (1 + exp(-s)), s = intercept + sum_j coefficient_j (value_j - mean_j) / scale_j,
        summed from the first feature to the last.
        """
        if features.ndim != 2 or features.shape[1] != len(self.feature_names):
            raise DataError(
                f"features of shape {features.shape}: give one column for each of the model's "
                f"{len(self.feature_names)} features"
            )
        return _probabilities(features, self._weights())

    def probability_of_row(self, names: Sequence[str], values: Sequence[float]) -> float:
        """Return the probability of label 1 of one row, as `predict_probability` gives it.

        Parameters
        ----------
        names, values
            A feature row; it may carry more features than the model reads, in any order.

        Raises
        ------
        ContractError
            If the row lacks a feature.
        DataError
            If the score is NaN.
        """
        if tuple(names) != self.feature_names:
            values = [values[place] for place in self.places_in(names)]
        score = self.intercept
        numbers = zip(values, self.mean, self.scale, self.coefficients, strict=True)
        for value, mean, scale, coefficient in numbers:
            score += coefficient * ((value - mean) / scale)
        return probability_of_log_odds(score)

    def places_in(self, names: Sequence[str]) -> list[int]:
        """Return where the model's features stand among others.

        Raises
        ------
        ContractError
            If one is missing.
        """
        return places_of(self.feature_names, names, self.sha256)

    def _weights(self) -> _Weights:
        return _Weights(self.mean, self.scale, self.coefficients, self.intercept)


def places_of(wanted: Sequence[str], names: Sequence[str], sha256: str) -> list[int]:
    """Return where a model's features stand among others.

    Parameters
    ----------
    wanted, sha256
        The model's features and its identity, which a refusal names.
    names
        The features there are.

    Raises
    ------
    ContractError
        If one is missing.
    """
    place_of = {name: place for place, name in enumerate(names)}
    missing = [name for name in wanted if name not in place_of]
    if missing:
        raise ContractError(
            f"model {sha256[:12]} needs {', '.join(missing)}, which the features lack: restore "
            "the feature settings it was trained with or train anew"
        )
    return [place_of[name] for name in wanted]


def _probabilities(features: Float2D, weights: _Weights) -> Float1D:
    score = np.full(len(features), weights.intercept)
    numbers = zip(weights.mean, weights.scale, weights.coefficients, strict=True)
    for column, (mean, scale, coefficient) in enumerate(numbers):
        score += coefficient * ((features[:, column] - mean) / scale)
    return np.array([probability_of_log_odds(one) for one in score.tolist()], dtype=np.float64)


def probability_of_log_odds(score: float) -> float:
    """Return 1 / (1 + exp(-score)), without overflow.

    Raises
    ------
    DataError
        If the score is NaN.
    """
    # One scalar function for one row and for many: vectorised exponentials may differ from it
    # in the last bit.
    if math.isnan(score):
        raise DataError("score of the model is NaN: give finite features")
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    odds = math.exp(score)
    return odds / (1 + odds)


def fit_logistic(
    features: Float2D,
    labels: Int1D,
    names: Sequence[str],
    *,
    regularisation: float,
    label: LabelSettings,
    trained_from_ms: int,
    trained_to_ms: int,
) -> LogisticModel:
    """Fit a logistic regression on standardised features.

    Parameters
    ----------
    features : ndarray of float64, shape (n, k)
        Finite.
    labels : ndarray of int64, shape (n,)
        0 or 1, both present.
    names
        Names of the k features.
    regularisation
        Inverse strength (C) of the L2 penalty; smaller shrinks more.
    label
        What the labels mean.
    trained_from_ms, trained_to_ms
        Closes of the first and last bar behind the samples, in milliseconds since 1970.

    Raises
    ------
    DataError
        If shapes differ, a feature is not finite, a label other than 0 and 1 or a class
        absent, or the fit does not converge.

    Notes
    -----
    A feature that is constant over the samples has scale 1 and coefficient 0. Newton's method
    on the strictly convex loss is deterministic.
    """
    _require_samples(features, labels, regularisation)
    if len(names) != features.shape[1]:
        raise DataError(f"{len(names)} names for {features.shape[1]} features: name each once")
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"{len(labels)} labels take the values {np.unique(labels).tolist()}: train on a "
            "period in which both outcomes occur"
        )
    return LogisticModel(
        feature_names=tuple(names),
        **_fit(features, labels, regularisation)._asdict(),
        label=label,
        trained_from_ms=trained_from_ms,
        trained_to_ms=trained_to_ms,
        n_samples=len(labels),
    )


def _fit(features: Float2D, labels: Int1D, regularisation: float) -> _Weights:
    from sklearn.linear_model import LogisticRegression

    is_constant = features.min(axis=0) == features.max(axis=0)
    mean = np.where(is_constant, features[0], features.mean(axis=0))
    scale = np.where(is_constant, 1.0, features.std(axis=0))
    fitted = LogisticRegression(
        C=regularisation, solver="newton-cholesky", tol=1e-8, max_iter=_MAX_ITERATIONS
    ).fit((features - mean) / scale, labels)
    if fitted.n_iter_[0] >= _MAX_ITERATIONS:
        raise DataError(
            f"logistic regression has not converged in {_MAX_ITERATIONS} steps on "
            f"{len(labels)} samples: lower C, now {regularisation}, or give more samples"
        )
    return _Weights(
        tuple(mean.tolist()),
        tuple(scale.tolist()),
        tuple(fitted.coef_[0].tolist()),
        float(fitted.intercept_[0]),
    )


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-sample scores.

    Attributes
    ----------
    folds
        In order of time, without the skipped ones.
    mean
        Of the folds; `None` where all were skipped.
    n_skipped
        Folds whose training or test had not both labels.
    """

    folds: tuple[FoldScores, ...]
    mean: FoldScores | None
    n_skipped: int


def cross_validate(
    features: Float2D,
    labels: Int1D,
    starts: Int1D,
    ends: Int1D,
    *,
    regularisation: float,
    n_splits: int = 5,
    gap: int = 24,
    max_train_size: int | None = None,
) -> CrossValidation:
    """Score the logistic regression on samples it was not fitted on, forward in time.

    Parameters
    ----------
    features : ndarray of float64, shape (n, k)
        Finite; samples in ascending order of `starts`.
    labels : ndarray of int64, shape (n,)
        0 or 1.
    starts, ends : ndarray of int64, shape (n,)
        First and last bar number behind each label, as for `purged_time_series_splits`.
    regularisation
        As for `fit_logistic`.
    n_splits, gap, max_train_size
        As for `purged_time_series_splits`.

    Raises
    ------
    DataError
        As for `fit_logistic` and `purged_time_series_splits`; a fold without both labels is
        skipped and counted instead.
    """
    _require_samples(features, labels, regularisation)
    folds = []
    n_skipped = 0
    splits = purged_time_series_splits(
        starts, ends, n_splits=n_splits, gap=gap, max_train_size=max_train_size
    )
    for train, test in splits:
        if min(len(np.unique(labels[train])), len(np.unique(labels[test]))) < 2:
            n_skipped += 1
            continue
        weights = _fit(features[train], labels[train], regularisation)
        probability = _probabilities(features[test], weights)
        folds.append(score_probabilities(labels[test], probability))
    mean = None
    if folds:
        columns = zip(*(asdict(fold).values() for fold in folds), strict=True)
        mean = FoldScores(*map(fmean, columns))
    return CrossValidation(tuple(folds), mean, n_skipped)


def _require_samples(features: Float2D, labels: Int1D, regularisation: float) -> None:
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
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"labels take the values {np.unique(labels).tolist()}: give 0 and 1")
    if not 0 < regularisation < math.inf:
        raise DataError(f"regularisation C {regularisation}: give a positive finite number")
