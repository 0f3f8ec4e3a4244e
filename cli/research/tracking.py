"""Candidates of research in MLflow: each with its recipe, its scores and a run to link to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.backtest.candidates import recipe_bytes
from shared.errors import DataError
from shared.registry import ModelRegistry

NAME = "pairs-research"
"""Of the experiment and of the registered model: the fleet's own models are another one's."""
_RECIPE = ("family", "parameters", "label", "dataset_id", "n_samples", "terms", "feature_names")


def log_candidates(
    registry: ModelRegistry, candidates: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Log candidates and return their runs by their hashes; what is known is not logged again.

    Parameters
    ----------
    registry
        Where to.
    candidates
        As `mnt train --out` or a cycle writes them.

    Raises
    ------
    DataError
        If one lacks a part of its recipe.
    StoreError
        If MLflow does not answer.
    """
    runs = {}
    for candidate in candidates:
        missing = [name for name in _RECIPE if name not in candidate]
        if missing:
            raise DataError(
                f"candidate {candidate['sha256']} lacks {', '.join(missing)}: train it anew"
            )
        folds: Mapping[str, float | None] = candidate.get("folds") or {}
        version = registry.log_training(
            experiment=NAME,
            params={
                "family": candidate["family"],
                "label": candidate["label"]["kind"],
                "dataset_id": candidate["dataset_id"],
                "n_samples": candidate["n_samples"],
                **candidate["parameters"],
            },
            metrics={name: value for name, value in folds.items() if value is not None},
            model_bytes=recipe_bytes({name: candidate[name] for name in _RECIPE}),
            sha256=candidate["sha256"],
            name=NAME,
        )
        runs[candidate["sha256"]] = version.run_id
    return runs
