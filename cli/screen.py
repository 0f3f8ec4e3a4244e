"""`mnt screen`: the roster of one instant, with every test that was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cli.research.step import make_once, manifest_beside
from shared.clock import ms_of_instant, utc_now
from shared.errors import DataError
from shared.events.screener import PairsScreened
from shared.settings import strategy_of
from shared.sleeves.pairs.screener import PairScreener, ScreenedClose
from shared.sleeves.pairs.screening import Screen
from shared.venues.market import bars_closed, load_market


def screen(
    bars: Sequence[Path], timeframe: str, end_ms: int | None, overrides: Sequence[str]
) -> ScreenedClose:
    """Screen as the fleet does, over as many closes as stability asks for.

    Raises
    ------
    DataError
        If the files are unusable or hold no bar up to the end.
    """
    strategy = strategy_of(overrides)
    market = load_market(bars, (timeframe,), timeframe, strategy.ingest, ms_of_instant(utc_now()))
    accepted = market.checked[timeframe].accepted.between(None, end_ms)
    closes = accepted.closes().tolist()
    if not closes:
        raise DataError("the files hold no bar up to --end: choose a later instant")
    # Tradable are the symbols with bars of the trade timeframe, where such a file is given.
    trade = market.checked.get(strategy.trade_timeframe)
    tradable = frozenset(trade.accepted.symbols if trade else accepted.symbols)
    n_screens = strategy.screener.enter_after_screens
    screener = PairScreener(strategy.screener, timeframe)
    for closes_at_ms in closes[-(screener.window.history_bars + n_screens) : -n_screens]:
        screener.push(bars_closed(accepted.at(closes_at_ms)))
    screened = None
    for closes_at_ms in closes[-n_screens:]:
        screened = screener.screen(bars_closed(accepted.at(closes_at_ms)), tradable)
    if screened is None or screened.screen is None:
        raise DataError("no close was screened: the files hold too few closes")
    return screened


def screen_to_files(
    bars: Sequence[Path],
    timeframe: str,
    end_ms: int | None,
    overrides: Sequence[str],
    out: Path | None,
    tests_out: Path | None,
) -> ScreenedClose | None:
    """Screen and write the files asked for; None where they were made from the same content.

    Parameters
    ----------
    bars, timeframe, end_ms, overrides
        As `screen`.
    out, tests_out
        JSON file of the roster, Parquet file of every test.

    Raises
    ------
    DataError
        As `screen`, or if a file cannot be written.
    """
    if out is None:
        screened = screen(bars, timeframe, end_ms, overrides)
        if tests_out is not None and screened.screen is not None:
            write_tests(screened.screen, tests_out)
        return screened
    found: list[ScreenedClose] = []

    def make() -> dict[str, Any]:
        screened = screen(bars, timeframe, end_ms, overrides)
        write_roster(screened.event, out)
        found.append(screened)
        return {
            "closes_at": screened.event.closes_at.isoformat(),
            "summary": screened.event.summary,
        }

    request = {
        "timeframe": timeframe,
        "end_ms": end_ms,
        "settings": strategy_of(overrides).model_dump(mode="json"),
        "tests": tests_out is not None,
    }
    make_once("screen", manifest_beside(out), bars, request, make, lambda: [out])
    if found and tests_out is not None and found[0].screen is not None:
        write_tests(found[0].screen, tests_out)
    return found[0] if found else None


def write_roster(event: PairsScreened, path: Path) -> None:
    """Write the roster as JSON.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    _write(path, event.model_dump_json(indent=2).encode())


def write_tests(screen: Screen, path: Path) -> None:
    """Write one row for every test as Parquet.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    tests = screen.tests
    names = np.array(screen.symbols, dtype=object)
    table = pa.table(
        {
            "y": names[tests.y_index].tolist() if len(names) else [],
            "x": names[tests.x_index].tolist() if len(names) else [],
            "statistic": tests.statistic,
            "p_value": tests.p_value,
            "lag": np.asarray(tests.lag, dtype=np.int64),
            "hedge_ratio": tests.hedge_ratio,
            "intercept": tests.intercept,
            "n_bars": tests.n_bars,
            "q_value": tests.q_value,
            "accepted": tests.accepted,
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    _write(path, sink.getvalue().to_pybytes())


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; choose another file") from error


def summary(screened: ScreenedClose) -> dict[str, object]:
    """Return what a program wants to know of a screen."""
    event = screened.event
    return {
        "closes_at": event.closes_at.isoformat(),
        "method": event.method,
        "level": event.level,
        "symbols": event.n_symbols,
        "tests": event.n_tests,
        "accepted": event.n_accepted,
        "summary": event.summary,
        "pairs": orjson.loads(event.model_dump_json())["pairs"],
        "excluded": screened.excluded,
        "symbols_by_bars": {str(n): count for n, count in screened.symbols_by_bars.items()},
    }
