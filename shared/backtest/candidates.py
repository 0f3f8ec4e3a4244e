"""Models made from a prepared period, as research trades them.

A candidate is a calibrated model of any family together with how it was made. The same bars,
settings and seed make the same candidate, so what it was made from is its identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from shared.backtest.preparation import Prepared
from shared.clock import timeframe_ms
from shared.errors import ContractError
from shared.quant.calibration import CalibrationMethod
from shared.quant.model_families import Parameters, family_named
from shared.quant.model_validation import (
    CalibratedModel,
    FamilyValidation,
    fit_calibrated,
    validate_family,
)
from shared.quant.purged_cv import Split, walk_forward_splits
from shared.quant.trials import Outcome, Trial, TrialLedger, search_parameters
from shared.quant.typing import Float1D, Float2D
from shared.sleeves.pairs.dataset import Dataset, PairRows, make_dataset
from shared.sleeves.pairs.labels import LabelSettings


@dataclass(frozen=True, slots=True)
class FitTerms:
    """How candidates are validated and calibrated.

    Attributes
    ----------
    n_splits, gap_bars
        Folds of the walk-forward cross-validation over time, and the bars kept free between
        training and test.
    train_bars
        Bars before a test that its training looks back on; `None` takes all.
    calibration
        How probabilities are corrected.
    seed
        Of the families' own randomness and of the search.
    """

    n_splits: int = 5
    gap_bars: int = 24
    train_bars: int | None = None
    calibration: CalibrationMethod = "platt"
    seed: int = 0

    def splits(self, dataset: Dataset) -> tuple[Split, ...]:
        """Return the folds of a dataset."""
        return walk_forward_splits(
            dataset.starts,
            dataset.ends,
            n_splits=self.n_splits,
            gap=self.gap_bars,
            train_bars=self.train_bars,
        )


@dataclass(frozen=True, eq=False)
class Candidate:
    """A calibrated model and how it was made.

    Attributes
    ----------
    family, parameters
        Kind of model and choice of its parameters.
    label
        What its probability is of.
    dataset_id, n_samples
        What it was fitted on.
    terms
        How.
    feature_names
        What it reads, in order.
    model
        Fitted on all samples.
    validation
        Of its family over the folds, before calibration.
    """

    family: str
    parameters: Parameters
    label: LabelSettings
    dataset_id: str
    n_samples: int
    terms: FitTerms
    feature_names: tuple[str, ...]
    model: CalibratedModel
    validation: FamilyValidation

    @property
    def name(self) -> str:
        """Family and label, as trials and reports call it."""
        return f"{self.family}/{self.label.kind}"

    def recipe(self) -> dict[str, object]:
        """Return how it was made: enough to make it anew."""
        return {
            "family": self.family,
            "parameters": dict(self.parameters),
            "label": self.label.model_dump(),
            "dataset_id": self.dataset_id,
            "n_samples": self.n_samples,
            "terms": asdict(self.terms),
            "feature_names": list(self.feature_names),
        }

    @cached_property
    def sha256(self) -> str:
        """The hash of its recipe: fits are deterministic."""
        return hashlib.sha256(recipe_bytes(self.recipe())).hexdigest()

    def places_in(self, names: Sequence[str]) -> list[int]:
        """Return where its features stand among others.

        Raises
        ------
        ContractError
            If one is missing.
        """
        missing = [name for name in self.feature_names if name not in names]
        if missing:
            raise ContractError(
                f"{self.name} needs {', '.join(missing)}, which the features lack: restore the "
                "feature settings it was trained with or train anew"
            )
        return [names.index(name) for name in self.feature_names]

    def predict_probability(self, features: Float2D) -> Float1D:
        """Return the calibrated probability of label 1 for every row."""
        if not len(features):
            return np.empty(0)
        return self.model.predict_probability(features)


def recipe_bytes(recipe: Mapping[str, object]) -> bytes:
    """Return the one form of a recipe that its hash is of."""
    return json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def training_set(prepared: Prepared, label: LabelSettings) -> Dataset:
    """Label the feature rows of a prepared period.

    Parameters
    ----------
    prepared
        The period. No label is made from a bar after its end.
    label
        Which rows, and how.
    """
    table = prepared.table
    closes_at_ms = table.closes_at_ms[table.row_close()]
    pairs = []
    for code, (y, x) in enumerate(table.pairs):
        rows = np.flatnonzero(table.pair == code)
        pairs.append(
            PairRows(
                y,
                x,
                table.values[rows],
                table.close_y[rows],
                table.close_x[rows],
                closes_at_ms[rows],
            )
        )
    return make_dataset(
        pairs,
        table.feature_names,
        bar_ms=timeframe_ms(prepared.settings.trade_timeframe),
        spread_space=prepared.settings.features.spread_space,
        settings=label,
    )


def search_candidate(
    family: str,
    label: LabelSettings,
    dataset: Dataset,
    terms: FitTerms,
    *,
    n_trials: int,
    ledger: TrialLedger,
) -> Candidate:
    """Choose the parameters of a family by log loss over the folds, and fit it.

    Parameters
    ----------
    family, label, dataset, terms
        What is fitted, on what and how.
    n_trials
        Choices to try, the family's defaults first.
    ledger
        Every one of them is added to it.

    Raises
    ------
    DataError
        If a fold cannot be made or no trial could be scored.
    """
    chosen = family_named(family)
    splits = terms.splits(dataset)

    def evaluate(parameters: Parameters) -> Outcome:
        found = validate_family(
            chosen,
            dataset.features,
            dataset.labels,
            splits,
            seed=terms.seed,
            parameters=parameters,
            weights=dataset.weights,
        )
        return Outcome(None if found.mean is None else found.mean.log_loss)

    best: Trial = search_parameters(
        f"{family}/{label.kind}",
        chosen.space,
        chosen.defaults,
        evaluate,
        dataset_id=dataset.dataset_id,
        n_trials=n_trials,
        seed=terms.seed,
        ledger=ledger,
    )
    return fit_candidate(family, label, dataset, terms, best.parameters)


def fit_candidate(
    family: str,
    label: LabelSettings,
    dataset: Dataset,
    terms: FitTerms,
    parameters: Parameters,
) -> Candidate:
    """Fit a family with chosen parameters on all samples of a dataset.

    Raises
    ------
    DataError
        As `fit_calibrated`.
    """
    model, validation = fit_calibrated(
        family_named(family),
        dataset.features,
        dataset.labels,
        terms.splits(dataset),
        method=terms.calibration,
        seed=terms.seed,
        parameters=parameters,
        weights=dataset.weights,
    )
    return Candidate(
        family=family,
        parameters=dict(parameters),
        label=label,
        dataset_id=dataset.dataset_id,
        n_samples=len(dataset.labels),
        terms=terms,
        feature_names=dataset.feature_names,
        model=model,
        validation=validation,
    )
