"""Single steps of a cycle on files: a dataset, its models, and the choice among cycles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError

from cli.cycle.artefacts import read_json
from cli.cycle.ledger_file import LedgerFile
from cli.research.step import make_once, manifest_beside
from shared.backtest.candidates import FitTerms, search_candidate
from shared.errors import DataError
from shared.quant.gates import BACKTEST_GATES
from shared.sleeves.pairs.dataset import Dataset
from shared.sleeves.pairs.labels import LabelSettings

_LABEL_KEY = b"mnt_label"
_OWN_COLUMNS = ("start_bar", "end_bar", "label", "weight")


def dataset_table(dataset: Dataset, label: LabelSettings) -> pa.Table:
    """Return a dataset as a table that knows how its labels were made."""
    columns: dict[str, Any] = {
        "start_bar": dataset.starts,
        "end_bar": dataset.ends,
        **{name: dataset.features[:, n] for n, name in enumerate(dataset.feature_names)},
        "label": dataset.labels,
        "weight": dataset.weights,
    }
    return pa.table(columns).replace_schema_metadata({_LABEL_KEY: label.model_dump_json()})


def read_dataset(path: Path) -> tuple[Dataset, LabelSettings]:
    """Read a dataset that a cycle wrote.

    Raises
    ------
    DataError
        If the file is no such dataset.
    """
    try:
        table = pq.read_table(path)
        label = LabelSettings.model_validate_json((table.schema.metadata or {})[_LABEL_KEY])
        start, end, labels, weight = (table[name].to_numpy() for name in _OWN_COLUMNS)
    except (OSError, pa.ArrowException, KeyError, ValidationError) as error:
        raise DataError(
            f"{path} is no dataset ({error}): give a file from the datasets folder of a cycle"
        ) from error
    names = tuple(name for name in table.column_names if name not in _OWN_COLUMNS)
    features = table.select(names).to_pandas().to_numpy(dtype="float64", copy=True)
    return Dataset(names, features, labels, start, end, weight), label


def train_offline(
    path: Path,
    families: Sequence[str],
    terms: FitTerms,
    *,
    n_trials: int,
    ledger_path: Path,
) -> list[dict[str, Any]]:
    """Train families on a dataset, and return how each was made and what its folds scored.

    Parameters
    ----------
    path
        The dataset.
    families, terms
        What to fit and how.
    n_trials
        Choices of parameters tried for each family.
    ledger_path
        The ledger of trials.

    Raises
    ------
    DataError
        If the file is no dataset, or as `search_candidate`.
    """
    dataset, label = read_dataset(path)
    ledger = LedgerFile(ledger_path)
    candidates = [
        search_candidate(family, label, dataset, terms, n_trials=n_trials, ledger=ledger)
        for family in families
    ]
    found = []
    for candidate in candidates:
        scores, own = candidate.validation.mean, candidate.model.model.own_importances()
        found.append(
            {
                "name": candidate.name,
                "sha256": candidate.sha256,
                "folds": None
                if scores is None
                else {name: getattr(scores, name) for name in scores.__dataclass_fields__},
                "n_skipped": candidate.validation.n_skipped,
                "importances": None
                if own is None
                else dict(zip(candidate.feature_names, own.tolist(), strict=True)),
                **candidate.recipe(),
            }
        )
    return found


class SelectionRules(BaseModel, frozen=True, extra="forbid"):
    """What a candidate must show beside the gates.

    Attributes
    ----------
    min_sharpe, max_drawdown
        Of the test, net of costs.
    min_stability
        Share of the test's months that must not have lost.
    """

    min_sharpe: float = 1.0
    max_drawdown: float = Field(0.2, gt=0, le=1)
    min_stability: float = Field(0.5, ge=0, le=1)


def select(folders: Sequence[Path], rules: SelectionRules) -> dict[str, Any]:
    """Choose among the candidates of several cycles.

    Parameters
    ----------
    folders
        Of `mnt cycle`.
    rules
        What is asked for.

    Returns
    -------
    dict
        The registry: every candidate with why it was refused, and as `champion` the one with
        the best Sharpe ratio among those refused by nothing. A choice is not a promotion: the
        shadow still comes before it.

    Raises
    ------
    DataError
        If a folder holds no summary of a cycle.
    """
    entries = [_entry(folder, rules) for folder in folders]
    fit = [entry for entry in entries if not entry["refused"]]
    champion = max(fit, key=lambda entry: entry["sharpe_ratio"], default=None)
    return {
        "rules": rules.model_dump(),
        "champion": None if champion is None else champion["sha256"],
        "candidates": entries,
    }


def select_to_file(
    folders: Sequence[Path], rules: SelectionRules, out: Path
) -> tuple[dict[str, Any], bool]:
    """Choose among the candidates of several cycles, write the registry and return it.

    Parameters
    ----------
    folders, rules
        As `select`.
    out
        JSON file to write.

    Returns
    -------
    tuple of dict, bool
        The registry, and whether it had to be made: not from the same summaries and rules.

    Raises
    ------
    DataError
        As `select`, or if the file cannot be written.
    """

    def make() -> dict[str, Any]:
        registry = select(folders, rules)
        write_json(out, registry)
        return {"champion": registry["champion"]}

    summaries = [folder / "summary.json" for folder in folders]
    _, is_new = make_once(
        "select", manifest_beside(out), summaries, rules.model_dump(), make, lambda: [out]
    )
    return read_json(out), is_new


def _entry(folder: Path, rules: SelectionRules) -> dict[str, Any]:
    path = folder / "summary.json"
    summary = read_json(path)
    try:
        column = next((c for c in summary["columns"] if c["name"] == summary["candidate"]), None)
        run_id = summary["lineage"]["run_id"]
        if column is None:
            return {"run_id": run_id, "candidate": None, "refused": summary["verdict"]["reasons"]}
        returns = [month["return"] for month in summary["months"]]
        stability = sum(value >= 0 for value in returns) / len(returns)
        sharpe, drawdown = column["test"]["sharpe_ratio"], column["test"]["max_drawdown"]
        verdicts = {gate["gate"]: gate["verdict"] for gate in summary["gates"]}
    except KeyError as error:
        raise DataError(
            f"{path} is no summary of a cycle: it lacks {error}; run it anew"
        ) from error
    refused = [
        f"gate {gate.replace('_', ' ')} {verdicts.get(gate, 'missing')}"
        for gate in BACKTEST_GATES
        if verdicts.get(gate) != "passed"
    ]
    if sharpe < rules.min_sharpe:
        refused.append(f"Sharpe ratio {sharpe:.3g} below {rules.min_sharpe:g}")
    if drawdown > rules.max_drawdown:
        refused.append(f"drawdown {drawdown:.2%} above {rules.max_drawdown:.2%}")
    if stability < rules.min_stability:
        refused.append(f"{stability:.0%} of months did not lose, {rules.min_stability:.0%} asked")
    return {
        "run_id": run_id,
        "candidate": column["name"],
        "sha256": column["sha256"],
        "sharpe_ratio": sharpe,
        "max_drawdown": drawdown,
        "stability": stability,
        "refused": refused,
    }


def write_json(path: Path, document: object) -> None:
    """Write a JSON document.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; choose another file") from error
