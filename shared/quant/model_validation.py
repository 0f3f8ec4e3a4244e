"""Out-of-sample scores of a model family, and which features it lives on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
from scipy.stats import rankdata

from shared.errors import DataError
from shared.quant.calibration import Calibration, CalibrationMethod, fit_calibration
from shared.quant.model_families import FittedModel, ModelFamily, Parameters, fit_model
from shared.quant.probability_scores import FoldScores, score_probabilities
from shared.quant.purged_cv import Split
from shared.quant.typing import Float1D, Float2D, Int1D

_EDGE = 1e-12
"""A wrong certainty costs a finite log loss."""


@dataclass(frozen=True, eq=False)
class FamilyValidation:
    """A family over the folds of a validation.

    Attributes
    ----------
    folds
        Scores in order of the splits, without the skipped ones.
    mean
        Of the folds; None where all were skipped.
    models
        The model fitted for each of these folds.
    tests
        Samples each of them was tested on.
    probability : ndarray of float64, shape (n,)
        Out of sample; the mean where a sample was tested more than once, NaN where never.
    n_skipped
        Splits whose training or test had not both labels.
    """

    folds: tuple[FoldScores, ...]
    mean: FoldScores | None
    models: tuple[FittedModel, ...]
    tests: tuple[Int1D, ...]
    probability: Float1D
    n_skipped: int


@dataclass(frozen=True, eq=False)
class ImportanceStability:
    """Importances of features over folds.

    Attributes
    ----------
    mean, deviation : ndarray of float64, shape (k,)
        Over the folds.
    rank_correlation
        Mean Spearman correlation of two folds' importances: 1 where all folds rank the
        features alike, about 0 where the model picks other features every time. None with
        fewer than two folds or where a fold tells no feature from another.
    """

    mean: Float1D
    deviation: Float1D
    rank_correlation: float | None


def validate_family(
    family: ModelFamily,
    features: Float2D,
    labels: Int1D,
    splits: Sequence[Split],
    *,
    seed: int,
    parameters: Parameters | None = None,
    weights: Float1D | None = None,
) -> FamilyValidation:
    """Fit a family on every training set and score it on the test set.

    Parameters
    ----------
    family, features, labels, seed, parameters, weights
        As for `fit_model`. Scores count every sample alike.
    splits
        Purged, of any kind of `shared.quant.purged_cv`.

    Raises
    ------
    DataError
        As `fit_model`; a split without both labels on both sides is skipped and counted
        instead.
    """
    total, n_tests = np.zeros(len(labels)), np.zeros(len(labels))
    folds, models, tests = [], [], []
    for train, test in splits:
        if min(len(np.unique(labels[train])), len(np.unique(labels[test]))) < 2:
            continue
        model = fit_model(
            family,
            features[train],
            labels[train],
            seed=seed,
            parameters=parameters,
            weights=None if weights is None else weights[train],
        )
        probability = model.predict_probability(features[test])
        total[test] += probability
        n_tests[test] += 1
        folds.append(score_probabilities(labels[test], probability))
        models.append(model)
        tests.append(test)
    mean = None
    if folds:
        mean = FoldScores(*map(fmean, zip(*(asdict(fold).values() for fold in folds), strict=True)))
    probability = np.full(len(labels), np.nan)
    np.divide(total, n_tests, out=probability, where=n_tests > 0)
    n_skipped = len(splits) - len(folds)
    return FamilyValidation(tuple(folds), mean, tuple(models), tuple(tests), probability, n_skipped)


@dataclass(frozen=True, eq=False)
class CalibratedModel:
    """A model and the correction of its probabilities."""

    model: FittedModel
    calibration: Calibration

    def predict_probability(self, features: Float2D) -> Float1D:
        """Return the calibrated probability of label 1 for every row."""
        return self.calibration.apply(self.model.predict_probability(features))


def fit_calibrated(
    family: ModelFamily,
    features: Float2D,
    labels: Int1D,
    splits: Sequence[Split],
    *,
    method: CalibrationMethod,
    seed: int,
    parameters: Parameters | None = None,
    weights: Float1D | None = None,
) -> tuple[CalibratedModel, FamilyValidation]:
    """Fit a family on all samples, calibrated on its forecasts out of sample.

    Parameters
    ----------
    family, features, labels, splits, seed, parameters, weights
        As for `validate_family`.
    method
        As for `fit_calibration`.

    Returns
    -------
    model
        Fitted on all samples.
    validation
        Of its family, before calibration; its probabilities are what the calibration is
        fitted on.

    Raises
    ------
    DataError
        As `validate_family` and `fit_calibration`; no split that could be scored leaves
        nothing to calibrate on.
    """
    validation = validate_family(
        family, features, labels, splits, seed=seed, parameters=parameters, weights=weights
    )
    is_tested = np.isfinite(validation.probability)
    calibration = fit_calibration(
        labels[is_tested],
        validation.probability[is_tested],
        method,
        None if weights is None else weights[is_tested],
    )
    model = fit_model(family, features, labels, seed=seed, parameters=parameters, weights=weights)
    return CalibratedModel(model, calibration), validation


def permutation_importances(
    model: FittedModel,
    features: Float2D,
    labels: Int1D,
    *,
    rng: np.random.Generator,
    n_repeats: int = 5,
) -> Float1D:
    """Return how much worse the forecasts are without each feature.

    Parameters
    ----------
    model
        A fitted model.
    features : ndarray of float64, shape (n, k)
        Samples it was not fitted on.
    labels : ndarray of int64, shape (n,)
        0 or 1.
    rng
        Source of the permutations.
    n_repeats
        Permutations a feature, over which the mean is taken.

    Returns
    -------
    ndarray of float64, shape (k,)
        Rise of the log loss when the feature's values are shuffled over the samples; about 0
        or below for one that helps nothing.

    Raises
    ------
    DataError
        If there are no samples or no repeats, or the lengths differ.

    Notes
    -----
    Features that say the same stand in for each other, and each looks unimportant.

    References
    ----------
    Breiman, L. (2001), "Random forests", Machine Learning 45, section 10.
    """
    if not len(labels) or len(features) != len(labels) or n_repeats < 1:
        raise DataError(
            f"{len(features)} rows, {len(labels)} labels, {n_repeats} repeats: give at least one "
            "of each, and a label for every row"
        )
    whole = _log_loss(labels, model.predict_probability(features))
    importances = np.empty(features.shape[1])
    for column in range(features.shape[1]):
        shuffled = features.copy()
        losses = []
        for _ in range(n_repeats):
            shuffled[:, column] = rng.permutation(features[:, column])
            losses.append(_log_loss(labels, model.predict_probability(shuffled)))
        importances[column] = fmean(losses) - whole
    return importances


def importance_stability(importances: Float2D) -> ImportanceStability:
    """Tell whether folds agree on which features matter.

    Parameters
    ----------
    importances : ndarray of float64, shape (n_folds, k)
        Of any one kind, a row for each fold.

    Raises
    ------
    DataError
        If there is no fold or no feature, or a value is not finite.

    Examples
    --------
    >>> importance_stability(np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])).rank_correlation
    1.0
    """
    if importances.ndim != 2 or not importances.size or not np.isfinite(importances).all():
        raise DataError(
            f"importances of shape {importances.shape}: give finite ones, a row for each fold"
        )
    ranks = rankdata(importances, axis=1)
    n_folds = len(ranks)
    correlation = None
    if n_folds > 1 and (ranks.std(axis=1) > 0).all():
        agreement = np.atleast_2d(np.corrcoef(ranks))
        correlation = float(agreement[np.triu_indices(n_folds, k=1)].mean())
    return ImportanceStability(importances.mean(axis=0), importances.std(axis=0), correlation)


def _log_loss(labels: Int1D, probability: Float1D) -> float:
    of_outcome = np.where(labels == 1, probability, 1 - probability)
    return float(-np.log(np.maximum(of_outcome, _EDGE)).mean())
