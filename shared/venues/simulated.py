"""A market made from a seed: cointegrated pairs, look-alikes and strangers.

For whoever has neither recordings nor a line to an exchange. Half of the point is what must
be found (pairs whose spread comes home), half is what must not: symbols that move together
without a common level, and symbols that have nothing to do with each other. It is a test
bench, not a forecast: what earns money here says nothing about a real market.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.book.instrument import Instrument, derive_instrument
from shared.clock import TIMEFRAME_MS
from shared.quant.bars import Bars, RawBars
from shared.quant.typing import Float1D, Float2D, Int1D

SIMULATED = "simulated"
"""What the prices of these instruments are prices of."""

BAR_MS = TIMEFRAME_MS["5m"]
DAY_MS = TIMEFRAME_MS["1d"]

COINTEGRATED = (
    ("ASH", "ASP"),
    ("BAY", "BOX"),
    ("CED", "CYP"),
    ("ELM", "ELD"),
    ("FIR", "FIG"),
    ("OAK", "OLV"),
    ("PIN", "PLM"),
    ("YEW", "YAR"),
)
"""Pairs (y, x) of base currencies with a spread that comes home."""

CORRELATED = ("FLN", "GNS", "MCA", "QTZ")
"""They share most of their moves and no level."""

UNRELATED = ("COB", "NIK", "TIN", "ZNC")

_BARS_PER_DAY = DAY_MS // BAR_MS
_BARS_PER_HOUR = TIMEFRAME_MS["1h"] // BAR_MS
_LAYOUT, _DAY = 0, 1  # first words of the generators' seeds, so that none is another's
# Trends are pulled home so slowly that no screen of weeks sees it, and prices stay within a
# small factor of where they began however long the market runs.
_TREND_HALF_LIFE_BARS = 180 * _BARS_PER_DAY
_DEGREES_OF_FREEDOM = 5
_LARGEST_SHOCK = 12.0
_OPENING_GAP = 5e-5
_TURNOVER_SPREAD = 0.6


@dataclass(frozen=True, eq=False, slots=True)
class SimulatedDay:
    """The bars of one day, UTC: N symbols, 288 closes.

    Attributes
    ----------
    closes_at_ms : ndarray of int64, shape (288,)
        The first is five minutes after midnight, the last the next midnight.
    open, high, low, close, volume : ndarray of float64, shape (288, N)
        Prices on the instrument's tick, volume in whole lots.
    """

    symbols: tuple[str, ...]
    closes_at_ms: Int1D
    open: Float2D
    high: Float2D
    low: Float2D
    close: Float2D
    volume: Float2D


@dataclass(frozen=True, eq=False, slots=True)
class _Layout:
    """What the seed decides once: latent series and how the log prices load on them.

    Each latent series is x_t = persistence x_(t-1) + step u_t with Student-t shocks u of unit
    variance; log prices are `base + x loadings'`.
    """

    instruments: tuple[Instrument, ...]
    base: Float1D
    persistence: Float1D
    step: Float1D
    loadings: Float2D
    turnover: Float1D


class SimulatedMarket:
    """A seeded market of perpetuals, made day by day.

    Parameters
    ----------
    seed
        The same seed and first day give the same bars, whatever was asked for in between.
    first_day
        Days since 1970 of the first day; every series begins there.

    Notes
    -----
    A day is made from its own generator and the state at the end of the day before. Days are
    cheap in order; one before the last that was made is reached by beginning again.
    """

    def __init__(self, seed: int, first_day: int) -> None:
        self._seed = seed
        self._first_day = first_day
        self._layout = _lay_out(seed)
        self._begin()

    @property
    def instruments(self) -> dict[str, Instrument]:
        """Units by symbol, in ascending order of symbols."""
        return {instrument.symbol: instrument for instrument in self._layout.instruments}

    def day(self, day: int) -> SimulatedDay:
        """Return the bars of a day, counted in days since 1970; at the earliest the first."""
        if day < self._next_day:
            self._begin()
        while self._next_day < day:
            self._make_next()
        return self._make_next()

    def _begin(self) -> None:
        self._next_day = self._first_day
        self._levels = np.zeros(len(self._layout.persistence))
        self._last_close = _on_tick(np.exp(self._layout.base), self._decimals())

    def _decimals(self) -> list[int]:
        return [instrument.price_decimals for instrument in self._layout.instruments]

    def _make_next(self) -> SimulatedDay:
        layout, decimals = self._layout, self._decimals()
        rng = np.random.default_rng((_DAY, self._seed, self._next_day))
        n_symbols = len(layout.instruments)
        levels = _path(
            self._levels, layout.persistence, layout.step * _shocks(rng, len(layout.step))
        )
        close = _on_tick(np.exp(layout.base + levels @ layout.loadings.T), decimals)
        previous = np.vstack([self._last_close, close[:-1]])
        gap = _OPENING_GAP * rng.standard_normal((_BARS_PER_DAY, n_symbols))
        opening = _on_tick(previous * np.exp(gap), decimals)
        # Wicks as long as half a typical move of the symbol.
        typical = np.sqrt((layout.loadings**2) @ (layout.step**2))
        wicks = 0.5 * typical * np.abs(rng.standard_normal((2, _BARS_PER_DAY, n_symbols)))
        high = _on_tick(np.maximum(opening, close) * np.exp(wicks[0]), decimals)
        low = _on_tick(np.minimum(opening, close) * np.exp(-wicks[1]), decimals)
        spread = _TURNOVER_SPREAD * rng.standard_normal((_BARS_PER_DAY, n_symbols))
        volume = _in_lots(layout.turnover * np.exp(spread) / close, layout.instruments)
        closes = self._next_day * DAY_MS + BAR_MS * np.arange(1, _BARS_PER_DAY + 1, dtype=np.int64)
        self._levels, self._last_close = levels[-1], close[-1]
        self._next_day += 1
        return SimulatedDay(tuple(self.instruments), closes, opening, high, low, close, volume)


def bars_of_days(days: Sequence[SimulatedDay]) -> Bars:
    """Return consecutive days as bars of the venue `simulated`, timeframe 5m."""
    symbols = days[0].symbols
    closes = np.concatenate([day.closes_at_ms for day in days])
    columns = (
        np.concatenate([getattr(day, name) for day in days]).ravel()
        for name in ("open", "high", "low", "close", "volume")
    )
    codes = np.tile(np.arange(len(symbols), dtype=np.int32), len(closes))
    repeated = np.repeat(closes, len(symbols))
    return Bars.from_raw(RawBars(SIMULATED, "5m", symbols, codes, repeated, *columns))


def _lay_out(seed: int) -> _Layout:
    rng = np.random.default_rng((_LAYOUT, seed))
    trend = 0.5 ** (1.0 / _TREND_HALF_LIFE_BARS)
    persistence: list[float] = []
    step: list[float] = []
    loads: dict[str, dict[int, float]] = {}

    def add_series(series_persistence: float, series_step: float) -> int:
        persistence.append(series_persistence)
        step.append(series_step)
        return len(step) - 1

    def add_trend(hourly_low: float, hourly_high: float) -> int:
        return add_series(trend, rng.uniform(hourly_low, hourly_high) / _BARS_PER_HOUR**0.5)

    for y, x in COINTEGRATED:
        common = add_trend(0.005, 0.008)
        back = 0.5 ** (1.0 / (rng.uniform(2.0, 7.0) * _BARS_PER_HOUR))
        deviation = rng.uniform(0.008, 0.012)
        spread = add_series(back, deviation * (1.0 - back**2) ** 0.5)
        loads[x] = {common: 1.0}
        loads[y] = {common: rng.uniform(0.7, 1.4), spread: 1.0}
    factor = add_trend(0.006, 0.006)
    for name in CORRELATED:
        loads[name] = {factor: 1.0, add_trend(0.0035, 0.0045): 1.0}
    for name in UNRELATED:
        loads[name] = {add_trend(0.005, 0.008): 1.0}
    names = sorted(loads)
    loadings = np.zeros((len(names), len(step)))
    for row, name in enumerate(names):
        for column, load in loads[name].items():
            loadings[row, column] = load
    base = rng.uniform(np.log(0.5), np.log(5_000.0), len(names))
    return _Layout(
        tuple(
            replace(derive_instrument(f"{name}/USDT:USDT", price), price_source=SIMULATED)
            for name, price in zip(names, np.exp(base).tolist(), strict=True)
        ),
        base,
        np.array(persistence),
        np.array(step),
        loadings,
        np.exp(rng.uniform(np.log(3e5), np.log(3e6), len(names))),
    )


def _shocks(rng: np.random.Generator, n_series: int) -> Float2D:
    """Return a day of Student-t shocks of unit variance, shape (288, n_series)."""
    nu = _DEGREES_OF_FREEDOM
    raw = rng.standard_t(nu, (_BARS_PER_DAY, n_series)) * ((nu - 2) / nu) ** 0.5
    shocks: Float2D = np.clip(raw, -_LARGEST_SHOCK, _LARGEST_SHOCK)
    return shocks


def _path(start: Float1D, persistence: Float1D, moves: Float2D) -> Float2D:
    """Return x_t = persistence x_(t-1) + moves_t of every column, from `start` on."""
    powers = persistence ** np.arange(1, len(moves) + 1)[:, np.newaxis]
    path: Float2D = powers * (start + np.cumsum(moves / powers, axis=0))
    return path


def _on_tick(prices: Float2D, decimals: Sequence[int]) -> Float2D:
    """Return prices on the nearest tick, at least one; symbols along the last axis."""
    scale = 10.0 ** np.array(decimals)
    ticks: Float2D = np.maximum(np.rint(prices * scale), 1.0) / scale
    return ticks


def _in_lots(quantities: Float2D, instruments: Sequence[Instrument]) -> Float2D:
    scale = 10.0 ** np.array([instrument.lot_decimals for instrument in instruments])
    lots: Float2D = np.floor(quantities * scale) / scale
    return lots
