"""`mnt backtest`: the fleet's stages over recorded bars in one process, results as files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from shared.backtest.engine import account_summary, run_backtest
from shared.backtest.preparation import Prepared, prepare
from shared.backtest.result import BacktestResult
from shared.clock import instant_of_ms, ms_of_instant, utc_now
from shared.errors import DataError, SettingsError
from shared.settings import strategy_of
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME, StrategySettings
from shared.venues.market import load_market

_INSTANT = pa.timestamp("ms", tz="UTC")


def backtest(
    bars: Sequence[Path],
    start_ms: int | None,
    end_ms: int | None,
    overrides: Sequence[str],
    account: str = "paper",
) -> tuple[BacktestResult, dict[str, object]]:
    """Run a backtest and return its result and its report.

    Raises
    ------
    DataError
        If the files are unusable or no close lies between start and end.
    """
    strategy = strategy_of(overrides)
    prepared = _prepare(bars, strategy, start_ms, end_ms)
    result = run_backtest(prepared, strategy, account=account)
    report = {
        "counts": result.tally.counts(),
        **account_summary(result, strategy.portfolio.capital_e8),
        "digests": result.tally.digests(prepared.bars_digest),
        "price_sources": sorted({i.price_source for i in prepared.market.instruments.values()}),
        "last_screen": _last_screen(prepared),
    }
    return result, report


def sweep(
    bars: Sequence[Path],
    start_ms: int | None,
    end_ms: int | None,
    overrides: Sequence[str],
    grid: Sequence[str],
) -> list[dict[str, object]]:
    """Run a backtest for every combination of some values of settings.

    Screens and features are computed once for all combinations that share them.

    Parameters
    ----------
    grid
        Settings with the values to try, such as `signals.entry_z=1.5,2,2.5`.

    Returns
    -------
    list of dict
        Settings and outcome of each run, amounts in 1e-8 of the quote.

    Raises
    ------
    SettingsError
        If a setting or a value is unknown.
    DataError
        As `backtest`.
    """
    choices = []
    for each in grid:
        name, sign, values = each.partition("=")
        if not sign or not values:
            raise SettingsError(f"--sweep {each}: write it like signals.entry_z=1.5,2,2.5")
        choices.append([f"{name}={value}" for value in values.split(",")])
    variants = [(chosen, strategy_of((*overrides, *chosen))) for chosen in product(*choices)]
    prepared: Prepared | None = None
    runs: list[dict[str, object]] = []
    for chosen, strategy in variants:
        if prepared is None or not prepared.fits(strategy):
            prepared = _prepare(bars, strategy, start_ms, end_ms)
        result = run_backtest(prepared, strategy, account="paper")
        runs.append({**dict(each.split("=", 1) for each in chosen), **_outcome(result, strategy)})
    return runs


def _outcome(result: BacktestResult, strategy: StrategySettings) -> dict[str, object]:
    equity = result.trading.equity.equity_e8
    positions = result.trading.positions
    capital_e8 = strategy.portfolio.capital_e8
    path = np.concatenate([[capital_e8], equity])
    return {
        "profit_e8": int(path[-1]) - capital_e8,
        "fees_e8": int(positions.fees_e8.sum()),
        "funding_e8": int(positions.funding_e8.sum()),
        "positions": len(positions.pair),
        "fills": len(result.trading.fills.order),
        "max_drawdown_e8": int((np.maximum.accumulate(path) - path).max()),
    }


def _prepare(
    bars: Sequence[Path], strategy: StrategySettings, start_ms: int | None, end_ms: int | None
) -> Prepared:
    market = load_market(
        bars,
        (SCREEN_TIMEFRAME,),
        strategy.trade_timeframe,
        strategy.ingest,
        ms_of_instant(utc_now()),
    )
    if not market.closes(start_ms, end_ms):
        raise DataError("no bar closes between start and end: widen the period")
    return prepare(market, strategy, start_ms=start_ms, end_ms=end_ms)


def _last_screen(prepared: Prepared) -> str:
    return prepared.screens[-1].summary if prepared.screens else "no close was screened"


def write_results(result: BacktestResult, report: dict[str, object], folder: Path) -> None:
    """Write signals, orders, fills and equity as Parquet and the report as `summary.json`.

    Raises
    ------
    DataError
        If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in _tables(result).items():
            pq.write_table(table, folder / f"{name}.parquet")
        (folder / "summary.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; choose another --out") from error


def _tables(result: BacktestResult) -> dict[str, pa.Table]:
    signals = [
        {"closes_at": instant_of_ms(at_ms), **signal.model_dump()}
        for at_ms, signal in result.signals
    ]
    return {
        "signals": pa.Table.from_pylist(signals, _SIGNALS),
        "orders": pa.table(
            {
                "created_at": _instants([o.created_at_ms for o in result.orders.values()]),
                **_columns(
                    list(result.orders.values()),
                    ("client_order_id", "intent_id", "pair", "leg", "attempt", "symbol"),
                    ("quantity_lots", "filled_lots", "reduce_only"),
                ),
                "side": [order.side.value for order in result.orders.values()],
                "state": [order.state.value for order in result.orders.values()],
            }
        ),
        "fills": pa.table(
            {
                "filled_at": _instants([fill.filled_at_ms for fill in result.fills]),
                **_columns(
                    result.fills,
                    ("client_order_id", "fill_number", "pair", "leg", "symbol"),
                    ("lots", "price_ticks", "fee_e8"),
                ),
                "side": [fill.side.value for fill in result.fills],
            }
        ),
        "equity": pa.table(
            {
                "closes_at": _instants([point.closes_at_ms for point in result.equity]),
                **_columns(result.equity, (), ("cash_e8", "equity_e8", "gross_e8", "n_positions")),
            }
        ),
    }


def _instants(values: Sequence[int]) -> pa.Array:
    return pa.array(values, type=pa.int64()).cast(_INSTANT)


def _columns(
    rows: Sequence[object], names: Sequence[str], numbers: Sequence[str]
) -> dict[str, list[object]]:
    return {name: [getattr(row, name) for row in rows] for name in (*names, *numbers)}


_FLOATS = (
    "strength",
    "confidence",
    "z_score",
    "hedge_ratio",
    "intercept",
    "spread_mean",
    "spread_std",
    "close_y",
    "close_x",
)
_SIGNALS = pa.schema(
    [
        ("closes_at", _INSTANT),
        ("sleeve", pa.string()),
        ("y", pa.string()),
        ("x", pa.string()),
        ("action", pa.string()),
        ("side", pa.int8()),
        ("reason", pa.string()),
        *((name, pa.float64()) for name in _FLOATS),
        ("entered_at", _INSTANT),
        ("roster_closes_at", _INSTANT),
        ("model_sha256", pa.string()),
    ]
)
