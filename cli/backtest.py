"""`mnt backtest`: the fleet's stages over recorded bars in one process, results as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cli.cycle.artefacts import read_json
from cli.research.production import read_candidates, remake_model
from cli.research.roster import read_rosters, rosters_for
from cli.research.step import FOLDER_MANIFEST, make_once
from shared.backtest.candidates import Candidate
from shared.backtest.engine import account_summary, run_backtest
from shared.backtest.preparation import Prepared, prepare, prepare_with
from shared.backtest.result import BacktestResult
from shared.backtest.track import (
    DAYS_PER_YEAR,
    E8,
    DailyTrack,
    PairProfit,
    SymbolProfit,
    closed_trades,
    daily_track,
    pair_profits,
    spread_increments,
    symbol_profits,
)
from shared.clock import instant_of_ms, ms_of_instant, utc_now
from shared.errors import DataError, SettingsError
from shared.quant.performance import performance
from shared.settings import strategy_of
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME, StrategySettings
from shared.venues.market import load_market

_INSTANT = pa.timestamp("ms", tz="UTC")
_FILES = ("signals", "orders", "fills", "equity", "daily", "pairs", "symbols")
_FEWEST_DAYS = 3
"""With fewer there is no Sharpe ratio."""


@dataclass(frozen=True, slots=True)
class BacktestRequest:
    """What to trade.

    Attributes
    ----------
    bars
        Files.
    start_ms, end_ms
        The period; bars up to the start are history.
    overrides
        Settings as `key=value`.
    roster
        File of the pairs to trade; without one, every close is screened.
    in_sample
        Whether the roster may have been screened on bars past the start; the report says so.
    model, dataset
        Candidates of `mnt train`, the first of which decides, and what it was trained on.
    """

    bars: tuple[Path, ...]
    start_ms: int | None = None
    end_ms: int | None = None
    overrides: tuple[str, ...] = ()
    roster: Path | None = None
    in_sample: bool = False
    model: Path | None = None
    dataset: Path | None = None

    @property
    def inputs(self) -> list[Path]:
        """Every file that is read."""
        return [*self.bars, *(p for p in (self.roster, self.model, self.dataset) if p is not None)]


def backtest_to_folder(request: BacktestRequest, out: Path | None) -> tuple[dict[str, Any], bool]:
    """Run a backtest and write its results, or find them made from the same content.

    Parameters
    ----------
    request
        What to trade.
    out
        Folder; without one nothing is written.

    Returns
    -------
    tuple of dict, bool
        The report, and whether it had to be made.

    Raises
    ------
    DataError, SettingsError
        As `trade`, or if the folder cannot be written.
    """
    if out is None:
        return trade(request)[1], True

    def make() -> dict[str, Any]:
        result, report = trade(request)
        write_results(result, report, out, strategy_of(request.overrides))
        return {"in_sample": report["in_sample"]}

    settings = strategy_of(request.overrides).model_dump(mode="json")
    document = {
        "settings": settings,
        "start_ms": request.start_ms,
        "end_ms": request.end_ms,
        "in_sample": request.in_sample,
        "roles": [request.roster is not None, request.model is not None],
    }
    _, is_new = make_once(
        "backtest",
        out / FOLDER_MANIFEST,
        request.inputs,
        document,
        make,
        lambda: [out / name for name in (*(f"{name}.parquet" for name in _FILES), "summary.json")],
    )
    return read_json(out / "summary.json"), is_new


def backtest(
    bars: Sequence[Path], start_ms: int | None, end_ms: int | None, overrides: Sequence[str]
) -> tuple[BacktestResult, dict[str, object]]:
    """Run a backtest that screens every close, and return its result and its report.

    Raises
    ------
    DataError
        If the files are unusable or no close lies between start and end.
    """
    return trade(BacktestRequest(tuple(bars), start_ms, end_ms, tuple(overrides)))


def trade(request: BacktestRequest) -> tuple[BacktestResult, dict[str, object]]:
    """Run a backtest and return its result and its report.

    Raises
    ------
    DataError
        If the files are unusable or no close lies between start and end.
    SettingsError
        If the roster was screened on bars past the start and may not be, or a model is to
        decide and none is given.
    """
    strategy = strategy_of(request.overrides)
    champion = _champion(request, strategy)
    is_late = False
    if request.roster is None:
        prepared = _prepare(request.bars, strategy, request.start_ms, request.end_ms)
    else:
        rosters, start_ms, is_late = rosters_for(
            read_rosters(request.roster), request.start_ms, in_sample=request.in_sample
        )
        market = load_market(
            request.bars, (), strategy.trade_timeframe, strategy.ingest, ms_of_instant(utc_now())
        )
        if not market.closes(start_ms, request.end_ms):
            raise DataError("no bar closes after the roster and up to the end: give newer bars")
        prepared = prepare_with(market, strategy, rosters, start_ms=start_ms, end_ms=request.end_ms)
    result = run_backtest(prepared, strategy, account="paper", champion=champion)
    capital_e8 = strategy.portfolio.capital_e8
    track = daily_track(result, capital_e8)
    report = {
        "in_sample": is_late,
        "model_sha256": None if champion is None else champion.sha256,
        "counts": result.tally.counts(),
        **account_summary(result, capital_e8),
        "performance": asdict(performance(track.equity, periods_per_year=DAYS_PER_YEAR))
        if len(track.day_ms) >= _FEWEST_DAYS
        else None,
        "trades": asdict(closed_trades(result)),
        "exposure": asdict(track.exposure()),
        "spread_increments": spread_increments(result),
        "digests": result.tally.digests(prepared.bars_digest),
        "price_sources": sorted({i.price_source for i in prepared.market.instruments.values()}),
        "last_screen": _last_screen(prepared),
    }
    return result, report


def _champion(request: BacktestRequest, strategy: StrategySettings) -> Candidate | None:
    """Return the model that decides, if one does."""
    source = strategy.signals.signals_from
    if request.model is None:
        if source == "model":
            raise SettingsError(
                "signals are to come from a model: give --model and --dataset, or take "
                "--signals-from z"
            )
        return None
    if request.dataset is None:
        raise SettingsError("--dataset is missing: a model is fitted anew from its dataset")
    return (
        None if source == "z" else remake_model(read_candidates(request.model)[0], request.dataset)
    )


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


def write_results(
    result: BacktestResult,
    report: Mapping[str, object],
    folder: Path,
    settings: StrategySettings,
) -> None:
    """Write what a backtest did as Parquet and the report as `summary.json`.

    Parameters
    ----------
    result, report
        What it did.
    folder
        Gets one file for signals, orders, fills, equity, days, pairs and symbols each.
    settings
        It was made with.

    Raises
    ------
    DataError
        If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in _tables(result, settings).items():
            pq.write_table(table, folder / f"{name}.parquet")
        (folder / "summary.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; choose another --out") from error


def _tables(result: BacktestResult, settings: StrategySettings) -> dict[str, pa.Table]:
    signals = [
        {
            "closes_at": instant_of_ms(at_ms),
            "roster_closes_at": result.rosters[at_ms],
            **signal._asdict(),
        }
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
        "daily": daily_table({"backtest": daily_track(result, settings.portfolio.capital_e8)}),
        "pairs": pair_table(pair_profits(result)),
        "symbols": symbol_table(symbol_profits(result, settings.execution)),
        "equity": pa.table(
            {
                "closes_at": _instants([point.closes_at_ms for point in result.equity]),
                **_columns(result.equity, (), ("cash_e8", "equity_e8", "gross_e8", "n_positions")),
            }
        ),
    }


def daily_table(tracks: Mapping[str, DailyTrack]) -> pa.Table:
    """Return days as a table, one row a day and column of the comparison."""
    parts = [
        pa.table(
            {
                "day": _instants(track.day_ms.tolist()),
                "column": pa.array([name] * len(track.day_ms), pa.string()),
                "equity": track.equity[1:],
                "return": np.asarray(track.returns),
                "gross": track.gross,
                "net": track.net,
                "traded": track.traded,
            }
        )
        for name, track in tracks.items()
    ]
    return pa.concat_tables(parts)


def pair_table(pairs: Sequence[PairProfit]) -> pa.Table:
    """Return what every pair earned as a table, amounts in units of the quote."""
    return pa.table(
        {
            "pair": pa.array([pair.pair for pair in pairs], pa.string()),
            **{
                name: pa.array([getattr(pair, name) for pair in pairs], pa.int64())
                for name in ("n_positions", "n_open")
            },
            **{
                name: pa.array([getattr(pair, f"{name}_e8") / E8 for pair in pairs], pa.float64())
                for name in ("profit", "fees", "funding")
            },
            **{
                name: pa.array([getattr(pair.trades, name) for pair in pairs], pa.float64())
                for name in ("win_rate", "profit_factor", "mean_hold_bars")
            },
        }
    )


def symbol_table(symbols: Sequence[SymbolProfit]) -> pa.Table:
    """Return what every symbol earned as a table, amounts in units of the quote."""
    return pa.table(
        {
            "symbol": pa.array([each.symbol for each in symbols], pa.string()),
            "n_fills": pa.array([each.n_fills for each in symbols], pa.int64()),
            **{
                name: pa.array([getattr(each, f"{name}_e8") / E8 for each in symbols], pa.float64())
                for name in ("profit", "held", "execution", "fees", "funding")
            },
        }
    )


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
        ("size_ppm", pa.int32()),
    ]
)
