"""A cycle as files: artefacts, report and manifest in one folder, made once for one content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
from rich.progress import Progress

from cli.backtest import daily_table, pair_table, symbol_table, write_results
from cli.cycle.artefacts import is_made, lineage, read_json, write_manifest
from cli.cycle.document import describe
from cli.cycle.ledger_file import LedgerFile
from cli.cycle.pipeline import Cycle, run_cycle
from cli.cycle.report import write_report
from cli.cycle.request import CycleRequest
from cli.cycle.steps import dataset_table, write_json
from cli.research.inference import last_marks, latest_orders
from shared.backtest.evidence import Z_RULE
from shared.backtest.result import BacktestResult
from shared.backtest.track import pair_profits, symbol_profits
from shared.errors import DataError
from shared.sleeves.pairs.settings import StrategySettings

SUMMARY = "summary.json"


def cycle_to_folder(
    request: CycleRequest,
    strategy: StrategySettings,
    *,
    out: Path,
    ledger_path: Path,
    progress: Progress,
) -> tuple[dict[str, Any], bool]:
    """Run a cycle and write everything it found, or find it written already.

    Parameters
    ----------
    request, strategy
        What is asked for.
    out
        Folder of the artefacts.
    ledger_path
        The ledger of trials.
    progress
        Where the steps are shown.

    Returns
    -------
    tuple of dict, bool
        The summary, and whether anything had to be computed. A folder is up to date when it
        was made from the same files, settings and code, nothing in it has changed, and no
        trial has been made since: more trials ask more of the same backtest.

    Raises
    ------
    DataError
        As `run_cycle`, or if the folder cannot be written.
    """
    ledger = LedgerFile(ledger_path)
    files = (*request.bars, *([request.roster] if request.roster else []))
    made_from = lineage(files, request.document(strategy))
    if is_made(out, made_from["run_id"], ledger.sha256):
        return read_json(out / SUMMARY), False
    cycle = run_cycle(request, strategy, ledger, progress)
    document = {**describe(cycle, ledger), "lineage": made_from}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_artefacts(cycle, out)
        (out / SUMMARY).write_bytes(
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
        )
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error}; choose another --out") from error
    # From the file, so that `mnt report` on the folder gives the same bytes.
    summary = read_json(out / SUMMARY)
    write_report(summary, out)
    write_manifest(out, made_from, ledger.sha256)
    return summary, True


def _write_artefacts(cycle: Cycle, out: Path) -> None:
    rosters = [screen.model_dump(mode="json") for screen in cycle.screens]
    write_json(out / "pairs_screened.json", rosters)
    recipes = [
        {"sha256": column.candidate.sha256, **column.candidate.recipe()} for column in cycle.columns
    ]
    write_json(out / "candidates.json", recipes)
    datasets = out / "datasets"
    datasets.mkdir(exist_ok=True)
    for column in cycle.columns:
        table = dataset_table(column.dataset, column.candidate.label)
        pq.write_table(table, datasets / f"{column.candidate.label.kind}.parquet")
    results: dict[str, BacktestResult] = {Z_RULE: cycle.z_rule}
    if cycle.selected is not None:
        results["candidate"] = cycle.selected.result
    for name, result in results.items():
        digests = result.tally.digests(result.prepared.bars_digest)
        report = {"counts": result.tally.counts(), "digests": digests}
        folder = out / "backtest" / name.replace(" ", "_")
        write_results(result, report, folder, cycle.strategy)
    tracks = {column.candidate.name: column.track for column in cycle.columns}
    pq.write_table(daily_table({**tracks, Z_RULE: cycle.z_track}), out / "daily.parquet")
    shown = cycle.z_rule if cycle.selected is None else cycle.selected.result
    pq.write_table(pair_table(pair_profits(shown)), out / "pairs.parquet")
    symbols = symbol_profits(shown, cycle.strategy.execution)
    pq.write_table(symbol_table(symbols), out / "symbols.parquet")
    _write_orders(cycle, shown, out)


def _write_orders(cycle: Cycle, shown: BacktestResult, out: Path) -> None:
    """Write what the book would hold after the test, and the orders of its last close."""
    strategy = cycle.strategy
    timeframe = strategy.trade_timeframe
    bars = cycle.market.checked[timeframe].accepted.between(None, cycle.periods.end_ms)
    document = latest_orders(
        shown.signals, cycle.market.instruments, last_marks(bars), int(bars.closes_at_ms[-1]),
        strategy.portfolio, strategy.features.spread_space, timeframe,
    )  # fmt: skip
    write_json(out / "latest_orders.json", document)
