"""`mnt promote --registry`: a choice, frozen as the production map, and its model made anew."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ValidationError

from cli.cycle.artefacts import read_json, sha256_of
from cli.cycle.steps import read_dataset, write_json
from cli.research.roster import read_rosters
from cli.research.step import make_once, manifest_beside
from shared.backtest.candidates import Candidate, FitTerms, fit_candidate
from shared.errors import DataError, SettingsError
from shared.events.base import describe_faults
from shared.events.screener import PairsScreened
from shared.sleeves.pairs.settings import StrategySettings


class ModelReference(BaseModel, frozen=True, extra="forbid"):
    """A model by its recipe: fitted anew from its dataset it is the same, to the hash.

    Attributes
    ----------
    dataset, dataset_sha256
        File, seen from the folder of the map, and its hash.
    """

    sha256: str
    recipe: dict[str, Any]
    dataset: str
    dataset_sha256: str


class ProductionMap(BaseModel, frozen=True, extra="forbid"):
    """What is in production: pairs, settings and the model that decides, if one does.

    Attributes
    ----------
    override
        Why a model is in force that passed no gates; None where it passed them, or no model is.
    """

    version: Literal[1] = 1
    roster: PairsScreened
    strategy: StrategySettings
    model: ModelReference | None
    override: str | None


@dataclass(frozen=True, slots=True)
class PromotionChoice:
    """Which candidate to freeze.

    Attributes
    ----------
    sha256
        The registry's champion, where none is named.
    override
        Why a model without passed gates is taken.
    is_z_rule
        Whether the z rule decides, without a model.
    """

    sha256: str | None = None
    override: str | None = None
    is_z_rule: bool = False


def freeze_map(
    registry: Path, cycle: Path, choice: PromotionChoice, out: Path
) -> tuple[dict[str, Any], bool]:
    """Freeze the choice of a registry as the production map.

    Parameters
    ----------
    registry
        File of `mnt select`.
    cycle
        Folder of the cycle that made the candidate.
    choice
        Which one.
    out
        JSON file to write.

    Returns
    -------
    tuple of dict, bool
        As `make_once`.

    Raises
    ------
    SettingsError
        If nothing passed the gates and no override says why it is taken all the same.
    DataError
        If a file is missing or of another form.
    """
    registered = read_json(registry)
    champion = registered.get("champion")
    sha256 = choice.sha256 or champion
    if not choice.is_z_rule:
        if sha256 is None:
            raise SettingsError(
                f"{registry} names no champion: nothing passed gates and rules. Freeze the z rule "
                "with --z-rule, or a model by --sha256 with an --override that says why"
            )
        if sha256 != champion and not choice.override:
            raise SettingsError(
                f"{sha256} is not the champion of {registry}: say why with --override"
            )
    files = {name: cycle / name for name in ("summary.json", "candidates.json")}
    rosters = cycle / "pairs_screened.json"

    def make() -> dict[str, Any]:
        model = None if choice.is_z_rule else _reference(cycle, str(sha256), out)
        frozen = ProductionMap(
            roster=read_rosters(rosters)[-1],
            strategy=StrategySettings.model_validate(read_json(files["summary.json"])["settings"]),
            model=model,
            override=None if choice.is_z_rule or sha256 == champion else choice.override,
        )
        write_json(out, frozen.model_dump(mode="json"))
        return {"sha256": None if model is None else model.sha256, "override": frozen.override}

    request = {"sha256": sha256, "override": choice.override, "is_z_rule": choice.is_z_rule}
    inputs = (registry, rosters, *files.values())
    return make_once("promote", manifest_beside(out), inputs, request, make, lambda: [out])


def _reference(cycle: Path, sha256: str, out: Path) -> ModelReference:
    path = cycle / "candidates.json"
    recipes = read_candidates(path)
    recipe = next((recipe for recipe in recipes if recipe["sha256"] == sha256), None)
    if recipe is None:
        raise DataError(
            f"{path} holds no candidate {sha256}: name the folder of its cycle with --cycle"
        )
    dataset = cycle / "datasets" / f"{recipe['label']['kind']}.parquet"
    return ModelReference(
        sha256=sha256,
        recipe=recipe,
        dataset=os.path.relpath(dataset, out.parent),
        dataset_sha256=sha256_of(dataset),
    )


def read_candidates(path: Path) -> list[dict[str, Any]]:
    """Read the candidates that `mnt train` or a cycle wrote.

    Raises
    ------
    DataError
        If the file cannot be read or holds none.
    """
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"{path} holds no candidates ({error}): train anew") from error
    if not isinstance(found, list) or not all(
        isinstance(each, dict) and {"sha256", "family", "parameters", "terms"} <= each.keys()
        for each in found
    ):
        raise DataError(f"{path} holds no candidates: name a file of `mnt train` or of a cycle")
    return found


def remake_model(recipe: Mapping[str, Any], dataset: Path) -> Candidate:
    """Fit a model anew by its recipe.

    Parameters
    ----------
    recipe
        As `read_candidates` gives it.
    dataset
        What it was fitted on.

    Raises
    ------
    DataError
        If the outcome is another model: the dataset or a library has changed.
    """
    rows, label = read_dataset(dataset)
    model = fit_candidate(
        recipe["family"], label, rows, FitTerms(**recipe["terms"]), recipe["parameters"]
    )
    if model.sha256 != recipe["sha256"]:
        raise DataError(
            f"{dataset} gives model {model.sha256[:12]}, not {recipe['sha256'][:12]}: name the "
            "dataset it was trained on"
        )
    return model


def read_map(path: Path) -> tuple[ProductionMap, Candidate | None]:
    """Read a production map and make its model.

    Raises
    ------
    DataError
        If the file is no map, or the dataset of its model is missing or has changed.
    """
    try:
        found = ProductionMap.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(
            f"{path} is no production map ({describe_faults(error)}): freeze one with "
            "`mnt promote --registry`"
        ) from error
    if found.model is None:
        return found, None
    dataset = path.parent / found.model.dataset
    if sha256_of(dataset) != found.model.dataset_sha256:
        raise DataError(
            f"{dataset} has changed since {path} was frozen: restore it, or freeze anew"
        )
    return found, remake_model({**found.model.recipe, "sha256": found.model.sha256}, dataset)
