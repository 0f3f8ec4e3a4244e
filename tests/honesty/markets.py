"""Markets whose truth is known, because it was planted: what a pipeline should find in them.

Prices are made as columns of log prices, one an hour, and handed to the pipeline as bars that
passed the checks, like recorded ones.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from shared.book.instrument import instruments_from_bars
from shared.clock import TIMEFRAME_MS
from shared.quant.bar_checks import BarCheckSettings, check_bars
from shared.quant.bars import RawBars
from shared.quant.typing import Float1D, Float2D, Int1D
from shared.venues.market import RecordedMarket
from shared.venues.recorded import read_bars

HOUR_MS = TIMEFRAME_MS["1h"]
FIRST_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z."""
DAY = 24
"""Bars of a day."""

_WALK_STD = 0.006
"""Of an hour's log return: about 56 % a year, a calm coin."""
_WANDER = 0.3
"""Steps of a spread that wanders, as a share of its deviation where it comes home: within days it
goes as far."""
_TAIL = 4.0
"""Degrees of freedom of returns: fat tails, as coins have."""


def independent_walks(n_bars: int, n_symbols: int, rng: np.random.Generator) -> Float2D:
    """Return log prices, shape (n_bars + 1, n_symbols), that have nothing to do with each other."""
    return _walks(n_bars, n_symbols, _WALK_STD, rng)


def correlated_walks(n_bars: int, n_symbols: int, rng: np.random.Generator) -> Float2D:
    """Return walks that share a trend, correlated at 0.5 to 0.9, no two of them cointegrated."""
    trend = _walks(n_bars, 1, _WALK_STD, rng)
    share = rng.uniform(0.5, 0.9, n_symbols)
    own = _walks(n_bars, n_symbols, _WALK_STD, rng)
    return trend * np.sqrt(share) + own * np.sqrt(1 - share)


def shuffled(
    log_prices: Float2D, n_bars: int, n_symbols: int, rng: np.random.Generator, block: int = DAY
) -> Float2D:
    """Return real prices whose returns are drawn anew in blocks, for each symbol by itself.

    Blocks keep what a symbol does within a day, tails and clusters of volatility; what symbols
    do together is gone, and with it all cointegration.

    Parameters
    ----------
    log_prices
        Shape (m, k): of k symbols that have every bar.
    n_bars, n_symbols
        Of the result, shape (n_bars + 1, n_symbols).
    rng
        Chooses symbols and blocks.
    block
        Bars of a block.
    """
    returns: Float2D = np.diff(log_prices, axis=0)
    columns = rng.choice(returns.shape[1], n_symbols, replace=False)
    n_blocks = -(-n_bars // block)
    starts = rng.integers(0, len(returns) - block + 1, (n_blocks, n_symbols))
    rows = (starts[:, np.newaxis, :] + np.arange(block)[:, np.newaxis]).reshape(-1, n_symbols)
    drawn: Float2D = returns[rows[:n_bars], columns].cumsum(axis=0)
    start: Float1D = log_prices[0, columns]
    return start + _from_zero(drawn)


def cointegrated_pairs(
    n_bars: int,
    n_pairs: int,
    rng: np.random.Generator,
    *,
    half_life_bars: float,
    spread_std: float,
    dies_at: int | None = None,
) -> Float2D:
    """Return legs y and x of pairs, side by side, whose spread comes home.

    Parameters
    ----------
    n_bars, n_pairs
        The result has shape (n_bars + 1, 2 n_pairs).
    rng
        Of everything.
    half_life_bars, spread_std
        Of the spread y - x, an autoregression: its speed and its deviation at rest.
    dies_at
        Bar from which on the spread is a walk of as large steps.
    """
    persistence = np.full((n_bars + 1, n_pairs), 0.5 ** (1 / half_life_bars))
    shock = spread_std * np.sqrt(1 - persistence[0, 0] ** 2)
    if dies_at is not None:
        persistence[dies_at:] = 1.0
    return _legs(persistence, shock, rng)


def told_pairs(
    n_bars: int,
    n_pairs: int,
    rng: np.random.Generator,
    *,
    half_life_bars: float,
    spread_std: float,
    days_of_a_state: float = 4.0,
    dies_at: int | None = None,
) -> tuple[Float2D, Float2D]:
    """Return pairs that come home while their legs are traded much, and wander otherwise.

    The rule on z alone earns in one state what it loses in the other; a model can tell them
    apart by the volume. This is what a model has to find to be worth more than the rule.

    Parameters
    ----------
    n_bars, n_pairs, rng, half_life_bars, spread_std, dies_at
        As for `cointegrated_pairs`; the deviation is that of a pair that always comes home.
    days_of_a_state
        Mean length of either state.

    Returns
    -------
    tuple of ndarray, ndarray
        Log prices, shape (n_bars + 1, 2 n_pairs), and volumes, shape (n_bars, 2 n_pairs).
    """
    switches = rng.random((n_bars + 1, n_pairs)) < 1 / (days_of_a_state * DAY)
    switches[0] = rng.random(n_pairs) < 0.5
    comes_home = switches.cumsum(axis=0) % 2 == 1
    alive = comes_home.copy()
    if dies_at is not None:
        alive[dies_at:] = False
    persistence = 0.5 ** (1 / half_life_bars)
    shock = np.where(alive, np.sqrt(1 - persistence**2), _WANDER) * spread_std
    legs = _legs(np.where(alive, persistence, 1.0), shock, rng)
    traded = np.repeat(comes_home[1:], 2, axis=1)
    return legs, _volumes(n_bars, 2 * n_pairs, rng) * np.where(traded, np.e**2, 1.0)


def _legs(persistence: Float2D, shock_std: float | Float2D, rng: np.random.Generator) -> Float2D:
    """Return legs of pairs whose spreads keep a share of themselves from bar to bar."""
    n_rows, n_pairs = persistence.shape
    trend = _walks(n_rows - 1, n_pairs, _WALK_STD, rng)
    spread = rng.normal(0, shock_std, (n_rows, n_pairs))
    for bar in range(1, n_rows):
        spread[bar] += persistence[bar] * spread[bar - 1]
    legs = np.empty((n_rows, 2 * n_pairs))
    legs[:, ::2], legs[:, 1::2] = trend + spread, trend
    return legs


def market_of(
    log_prices: Float2D, rng: np.random.Generator, volumes: Float2D | None = None
) -> RecordedMarket:
    """Return the market of hourly bars of some log prices, the pairs' legs named Y0, X0, Y1 ...

    Parameters
    ----------
    log_prices
        Shape (n + 1, k): the first row is the open of the first bars.
    rng
        Of the volumes, where they are not given.
    volumes
        Shape (n, k).
    """
    price = np.round(50 * np.exp(log_prices - log_prices[0]), 5)
    opens, closes = price[:-1], price[1:]
    n_bars, n_symbols = closes.shape
    names = [f"{'YX'[n % 2]}{n // 2}/USDT" for n in range(n_symbols)]
    symbols = tuple(sorted(names))
    code = np.array([symbols.index(name) for name in names], dtype=np.int32)
    closes_at_ms: Int1D = FIRST_MS + (1 + np.arange(n_bars)) * HOUR_MS
    raw = RawBars(
        "binance",
        "1h",
        symbols,
        np.tile(code, n_bars),
        np.repeat(closes_at_ms, n_symbols),
        opens.ravel(),
        np.maximum(opens, closes).ravel(),
        np.minimum(opens, closes).ravel(),
        closes.ravel(),
        (_volumes(n_bars, n_symbols, rng) if volumes is None else volumes).ravel(),
    )
    checked = check_bars(
        raw, now_ms=int(closes_at_ms[-1]), known=None, settings=BarCheckSettings(), prior={}
    )
    return RecordedMarket("binance", {"1h": checked}, instruments_from_bars(checked.accepted))


@cache
def real_log_prices(path: Path) -> Float2D:
    """Return the log closes of the symbols of a file that have every bar of it."""
    checked = check_bars(
        read_bars(path), now_ms=2**62, known=None, settings=BarCheckSettings(), prior={}
    ).accepted
    closes = checked.wide(checked.symbols, "close", checked.closes())
    return np.log(closes[:, np.isfinite(closes).all(axis=0)])


def _walks(n_bars: int, n_symbols: int, std: float, rng: np.random.Generator) -> Float2D:
    steps = rng.standard_t(_TAIL, (n_bars, n_symbols)) * std * np.sqrt((_TAIL - 2) / _TAIL)
    return _from_zero(steps.cumsum(axis=0))


def _from_zero(path: Float2D) -> Float2D:
    return np.concatenate([np.zeros((1, path.shape[1])), path])


def _volumes(n_bars: int, n_symbols: int, rng: np.random.Generator) -> Float2D:
    return rng.lognormal(14, 0.5, (n_bars, n_symbols))
