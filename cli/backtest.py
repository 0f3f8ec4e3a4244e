"""`mnt backtest`: the fleet's stages over recorded bars in one process, results as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from shared.backtest.engine import account_summary, run_backtest
from shared.backtest.preparation import Prepared, prepare
from shared.backtest.result import BacktestResult
from shared.clock import instant_of_ms, ms_of_instant, utc_now
from shared.errors import DataError
from shared.settings import strategy_of
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME
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
    market = load_market(
        bars,
        (SCREEN_TIMEFRAME,),
        strategy.trade_timeframe,
        strategy.ingest,
        ms_of_instant(utc_now()),
    )
    if not market.closes(start_ms, end_ms):
        raise DataError("no bar closes between start and end: widen the period")
    prepared = prepare(market, strategy, start_ms=start_ms, end_ms=end_ms)
    result = run_backtest(prepared, strategy, account=account)
    report = {
        "counts": result.tally.counts(),
        **account_summary(result, strategy.portfolio.capital_e8),
        "digests": result.tally.digests(prepared.bars_digest),
        "price_sources": sorted({i.price_source for i in market.instruments.values()}),
        "last_screen": prepared.screens[-1].summary
        if prepared.screens
        else "no close was screened",
    }
    return result, report


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
