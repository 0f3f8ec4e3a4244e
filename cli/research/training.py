"""`mnt train --offline`: candidates from a dataset file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress

from cli.cycle.steps import train_offline, write_json
from cli.research.features import is_in_sample
from cli.research.step import make_once, manifest_beside
from shared.backtest.candidates import FitTerms
from shared.errors import SettingsError


def train_file(
    dataset: Path,
    families: Sequence[str],
    terms: FitTerms,
    out: Path,
    progress: Progress,
    *,
    n_trials: int,
    ledger_path: Path,
    in_sample: bool,
) -> tuple[dict[str, Any], bool]:
    """Train families on a dataset and write how each was made and what its folds scored.

    Parameters
    ----------
    dataset, families, terms
        What to fit, on what and how.
    out
        JSON file of the candidates.
    progress
        Where the families are counted.
    n_trials
        Choices of parameters tried for each family.
    ledger_path
        The ledger of trials.
    in_sample
        Whether the dataset may rest on a roster from past its start; every candidate says so.

    Returns
    -------
    tuple of dict, bool
        As `make_once`.

    Raises
    ------
    SettingsError
        If the dataset is in sample and may not be.
    DataError
        As `train_offline`.
    """
    is_late = is_in_sample(dataset)
    if is_late and not in_sample:
        raise SettingsError(
            f"{dataset} rests on a roster that was screened on bars past its start: make the "
            "features from the roster's close on, or accept with --in-sample that nothing is proven"
        )

    def make() -> dict[str, Any]:
        found = []
        for family in progress.track(families, description="train"):
            found += train_offline(
                dataset, [family], terms, n_trials=n_trials, ledger_path=ledger_path
            )
        for candidate in found:
            candidate["in_sample"] = is_late
        write_json(out, found)
        return {
            "in_sample": is_late,
            "candidates": {each["name"]: each["sha256"] for each in found},
            "folds": {each["name"]: each["folds"] for each in found},
        }

    request = {"families": list(families), "terms": asdict(terms), "n_trials": n_trials}
    return make_once("train", manifest_beside(out), [dataset], request, make, lambda: [out])
