"""The market of a fleet: four symbols, two of them tied to two others, in bars of 1h and 15m."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from services.paper_exchange.market import Market, list_market
from shared.quant.bar_checks import BarCheckSettings, check_bars
from shared.quant.bars import BarRow, RawBars
from shared.venues.market import RecordedMarket
from tests.simulation.world import FIRST_OPEN_MS, INSTRUMENTS

VENUE = "binance"
BAR_MS = 900_000
HOUR_MS = 3_600_000
N_CLOSES = 20
N_FAULTY = 11
"""Closes until everything works."""
N_MARKETS = 8
"""Seeds share so many markets, and with them what an undisturbed fleet made of each."""
LAST_CLOSE_MS = FIRST_OPEN_MS + N_CLOSES * BAR_MS
_HOURS_BEFORE = 230
_TRADE_BARS_BEFORE = 60


@dataclass(frozen=True, slots=True)
class FleetMarket:
    """The bars as recorded, and the same as listed by the venue."""

    recorded: RecordedMarket
    listed: Market


@functools.cache
def fleet_market(number: int) -> FleetMarket:
    """Return a market of which all bars after the first open are released one by one."""
    rng = np.random.default_rng([17, number])
    n_bars = _HOURS_BEFORE * 4 + N_CLOSES
    first_close_ms = FIRST_OPEN_MS - (n_bars - N_CLOSES - 1) * BAR_MS
    closes_at_ms = [first_close_ms + row * BAR_MS for row in range(n_bars)]
    trade_rows: list[BarRow] = []
    hour_rows: list[BarRow] = []
    for symbol, prices in _prices(rng, n_bars).items():
        opened = np.concatenate([prices[:1], prices[:-1]])
        volumes = np.round(rng.uniform(5e5, 2e6, n_bars) / prices, 3)
        candles = [
            (float(o), float(max(o, c)), float(min(o, c)), float(c), float(volume))
            for o, c, volume in zip(opened, prices, volumes, strict=True)
        ]
        first_shown = n_bars - N_CLOSES - _TRADE_BARS_BEFORE
        trade_rows += [
            (symbol, closes_at_ms[row], *candles[row]) for row in range(first_shown, n_bars)
        ]
        for row in range(3, n_bars):
            if closes_at_ms[row] % HOUR_MS == 0:
                four = candles[row - 3 : row + 1]
                high, low = max(each[1] for each in four), min(each[2] for each in four)
                volume = sum(each[4] for each in four)
                hour_rows.append(
                    (symbol, closes_at_ms[row], four[0][0], high, low, four[3][3], volume)
                )
    # What the files have wrong is refused when they are read.
    spoilt = ("AAA/USDT", FIRST_OPEN_MS + 3 * BAR_MS, 1.0, 0.5, 2.0, 1.0, 1.0)
    checked = {
        timeframe: check_bars(
            RawBars.from_rows(VENUE, timeframe, rows),
            now_ms=LAST_CLOSE_MS,
            known=None,
            settings=BarCheckSettings(),
            prior={},
        )
        for timeframe, rows in (("1h", hour_rows), ("15m", [spoilt, *trade_rows]))
    }
    instruments = {each.symbol: each for each in INSTRUMENTS}
    released = checked["15m"].accepted.between(FIRST_OPEN_MS, LAST_CLOSE_MS)
    return FleetMarket(
        RecordedMarket(VENUE, checked, instruments), list_market(released, instruments)
    )


def _prices(rng: np.random.Generator, n_bars: int) -> dict[str, np.ndarray]:
    """Return closes in whole ticks: AAA follows BBB, and CCC follows DDD."""
    prices = {}
    for y, x, start_y, start_x in (("AAA", "BBB", 100.0, 40.0), ("CCC", "DDD", 250.0, 15.0)):
        walk = np.cumsum(rng.normal(0.0, 0.004, n_bars))
        spread = np.zeros(n_bars)
        shocks = rng.normal(0.0, 0.004, n_bars)
        for row in range(1, n_bars):
            spread[row] = 0.75 * spread[row - 1] + shocks[row]
        prices[f"{y}/USDT"] = np.round(start_y * np.exp(0.8 * walk + spread), 2)
        prices[f"{x}/USDT"] = np.round(start_x * np.exp(walk), 2)
    return prices
