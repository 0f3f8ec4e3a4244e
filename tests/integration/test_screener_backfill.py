"""What the screener makes of bars that were recorded without a word, and of late ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from shared.database.tables import bars
from shared.events.ingest import Bar, BarsClosed
from tests.serving import Record, serving

WINDOW = 200
START = datetime.fromisoformat("2024-01-01T00:00:00+00:00")
CLOSES = {
    symbol: np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, WINDOW + 10)) + 4.0)
    for seed, symbol in enumerate(("AAA/USDT", "BBB/USDT", "CCC/USDT"))
}


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return [("MNT_SCREENER__WINDOW_BARS", str(WINDOW)), ("MNT_SCREENER__METHOD", "p_value")]


def bar_of(symbol: str, hour: int) -> dict[str, Any]:
    price = float(CLOSES[symbol][hour])
    prices = dict.fromkeys(("open", "high", "low", "close"), price)
    return {"symbol": symbol, **prices, "volume": 1e6}


async def put(record: Record, symbol: str, hours: range) -> None:
    place = {"venue": "binance", "timeframe": "1h"}
    await record.put(
        bars,
        *({**place, "closes_at": at(hour), **bar_of(symbol, hour)} for hour in hours),
    )


def at(hour: int) -> datetime:
    return START + timedelta(hours=hour)


async def close(record: Record, hour: int, symbols: Sequence[str]) -> None:
    """Publish a close the way ingest does: recorded first."""
    for symbol in symbols:
        await put(record, symbol, range(hour, hour + 1))
    event = BarsClosed(
        closes_at=at(hour),
        venue="binance",
        timeframe="1h",
        bars=tuple(Bar(**bar_of(symbol, hour)) for symbol in symbols),
    )
    await record.publish("bars.1h", event)
    await record.is_handled("screener")


async def screened(record: Record) -> list[tuple[int, int]]:
    """Return the hour of each screen and how many symbols it had."""
    rows = await record.rows("SELECT closes_at, n_symbols FROM screens ORDER BY closes_at")
    return [(round((closes_at - START) / timedelta(hours=1)), n) for closes_at, n in rows]


TWO, THREE = list(CLOSES)[:2], list(CLOSES)


async def test_a_late_bar_makes_a_backfill_known(record: Record) -> None:
    for symbol in TWO:
        await put(record, symbol, range(WINDOW))
    async with serving("screener"):
        await close(record, WINDOW, TWO)
        await put(record, "CCC/USDT", range(WINDOW - 1))
        await put(record, "CCC/USDT", range(WINDOW, WINDOW + 1))
        await close(record, WINDOW - 1, ["CCC/USDT"])
        await close(record, WINDOW + 1, THREE)
    assert await screened(record) == [(WINDOW, 2), (WINDOW + 1, 3)]


async def test_a_late_bar_after_a_restart_costs_no_close(record: Record) -> None:
    for symbol in TWO:
        await put(record, symbol, range(WINDOW))
    await put(record, "CCC/USDT", range(WINDOW - 1))
    async with serving("screener"):
        await close(record, WINDOW, THREE)
    async with serving("screener"):
        await close(record, WINDOW - 1, ["CCC/USDT"])
        await close(record, WINDOW + 1, THREE)
    assert await screened(record) == [(WINDOW, 2), (WINDOW + 1, 3)]


async def test_a_symbol_listed_later_is_tested_on_its_own_bars_and_a_gap_is_told(
    record: Record,
) -> None:
    await put(record, "AAA/USDT", range(WINDOW))
    await put(record, "BBB/USDT", range(60, WINDOW))
    await put(record, "CCC/USDT", range(100))
    await put(record, "CCC/USDT", range(103, WINDOW))
    for hour in (WINDOW, WINDOW + 1):
        async with serving("screener") as screener:
            await close(record, hour, THREE)
            told = await screener.get("/pairs")
        # The record is too young for an anchor: bars are counted at every close.
        n_gap = hour + 1 - 3 - (hour + 1 - WINDOW)
        assert told["symbols_by_bars"] == {"200": 1, "125": 1}
        assert told["excluded"] == {
            "CCC/USDT": f"{n_gap} of 200 bars: a gap of its own in the window"
        }
        assert told["n_tests"] == 2
    assert await screened(record) == [(WINDOW, 2), (WINDOW + 1, 2)]
