"""A hundred thousand corrupted bars among as many good ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.quant.bar_checks import (
    BarCheckSettings,
    BarKey,
    BarValues,
    PriorBar,
    QuarantinedBar,
    Reason,
    check_bars,
    keys_to_look_up,
)
from shared.quant.bars import MISSING_CODE, MISSING_MS, Bars, RawBars

N_SYMBOLS = 200
N_CLOSES = 1_000
BAR_MS = 300_000
NOW_MS = (N_CLOSES + 1) * BAR_MS
SYMBOLS = (*(f"S{number:03}/USDT" for number in range(N_SYMBOLS)), "UNKNOWN/USDT")
KNOWN = frozenset(SYMBOLS[:-1])
PRICES = ("open", "high", "low", "close")
NAMES = ("symbol_code", "closes_at_ms", *PRICES, "volume")

Columns = dict[str, NDArray[Any]]
Rows = NDArray[np.intp]


def good_bars(rng: np.random.Generator) -> Columns:
    """Return good bars of every symbol at every close, close by close."""
    steps = rng.normal(0, 0.002, (N_CLOSES, N_SYMBOLS))
    close = np.exp(np.cumsum(steps, axis=0) + rng.uniform(-5, 5, N_SYMBOLS))
    opening = close * np.exp(rng.normal(0, 0.001, close.shape))
    return {
        "symbol_code": np.tile(np.arange(N_SYMBOLS, dtype=np.int32), N_CLOSES),
        "closes_at_ms": np.repeat(np.arange(1, N_CLOSES + 1, dtype=np.int64) * BAR_MS, N_SYMBOLS),
        "open": opening.ravel(),
        "high": (np.maximum(opening, close) * 1.001).ravel(),
        "low": (np.minimum(opening, close) * 0.999).ravel(),
        "close": close.ravel(),
        "volume": rng.uniform(0, 1e6, close.size),
    }


def spoil(rng: np.random.Generator, bars: Columns, reason: Reason, rows: Rows) -> None:
    """Make every row break one rule in one of the ways in which it can be broken."""
    some = rng.integers(0, 4, len(rows))
    for number, name in enumerate(PRICES):
        chosen = rows[some == number]
        column = bars[name]
        if reason is Reason.NOT_FINITE:
            column[chosen] = rng.choice([np.nan, np.inf, -np.inf], len(chosen))
        elif reason is Reason.PRICE_NOT_POSITIVE:
            column[chosen] = rng.choice([0.0, -0.0, -1.0, -1e300, -5e-324], len(chosen))
    high, low, close = bars["high"], bars["low"], bars["close"]
    if reason is Reason.INVERTED:
        ways = ((high, 0.9), (low, 1.1), (close, 1.2), (close, 0.8))
        for number, (column, factor) in enumerate(ways):
            column[rows[some == number]] *= factor
    elif reason is Reason.VOLUME_NEGATIVE:
        bars["volume"][rows] = -rng.uniform(5e-324, 1e12, len(rows))
    elif reason is Reason.MISALIGNED:
        bars["closes_at_ms"][rows] -= rng.integers(1, BAR_MS, len(rows))
    elif reason is Reason.FUTURE:
        bars["closes_at_ms"][rows] += BAR_MS * rng.integers(N_CLOSES + 1, 10**9, len(rows))
    elif reason is Reason.UNKNOWN_SYMBOL:
        bars["symbol_code"][rows] = N_SYMBOLS
    elif reason is Reason.MISSING_KEY:
        bars["symbol_code"][rows[some < 2]] = MISSING_CODE
        bars["closes_at_ms"][rows[some >= 2]] = MISSING_MS
    elif reason is Reason.REVISION:
        bars["volume"][rows] += 1.0
    elif reason is Reason.SPIKE:
        factor = np.exp(rng.uniform(0.6, 300, len(rows)) * rng.choice([-1, 1], len(rows)))
        for name in PRICES:
            bars[name][rows] *= factor


def taken(bars: Columns, rows: Rows) -> RawBars:
    return RawBars("binance", "5m", SYMBOLS, *(bars[name][rows] for name in NAMES))


def columns_of(bars: RawBars) -> Columns:
    return dict(zip(NAMES, bars.columns(), strict=True))


def test_a_hundred_thousand_corrupted_bars_are_quarantined_and_no_good_one_is_dropped() -> None:
    rng = np.random.default_rng(100_000)
    good = good_bars(rng)
    n_bars = N_CLOSES * N_SYMBOLS
    # Beside every other good bar a bad one of the same key. Nothing tells a spike of a first bar.
    bad_rows = rng.choice(np.arange(N_SYMBOLS, n_bars), 100_000, replace=False)
    bad = {name: column[bad_rows].copy() for name, column in good.items()}
    reasons = np.array(list(Reason), dtype=object)[rng.integers(0, len(Reason), len(bad_rows))]
    for reason in Reason:
        spoil(rng, bad, reason, np.flatnonzero(reasons == reason))
    expected = dict(zip(*np.unique(reasons.astype(str), return_counts=True), strict=True))

    # A spike comes before the good bar of its key and a revision after it, the rest anywhere.
    turn = np.where(reasons == Reason.SPIKE, 0, np.where(reasons == Reason.REVISION, 2, 1))
    found: list[QuarantinedBar] = []
    prior: Mapping[str, PriorBar] = {}
    record: dict[BarKey, BarValues] = {}
    for first in range(0, n_bars, 50 * N_SYMBOLS):
        is_now = (bad_rows >= first) & (bad_rows < first + 50 * N_SYMBOLS)
        spikes, others, revisions = (
            taken(bad, rng.permutation(np.flatnonzero(is_now & (turn == number))))
            for number in range(3)
        )
        beside = _joined(others, taken(good, np.arange(first, first + 50 * N_SYMBOLS)))
        mixed = taken(columns_of(beside), rng.permutation(len(beside)))
        bars = _joined(spikes, mixed, revisions)
        existing = {key: record[key] for key in keys_to_look_up(bars, prior) if key in record}
        checked = check_bars(
            bars,
            now_ms=NOW_MS,
            known=KNOWN,
            settings=BarCheckSettings(),
            prior=prior,
            existing=existing,
        )
        assert checked.duplicates == 0
        assert len(checked.accepted) + len(checked.quarantined) == len(bars)
        record |= _values_by_key(checked.accepted)
        found.extend(checked.quarantined)
        prior = checked.prior

    assert len(found) == len(bad_rows)
    assert all(bar.message for bar in found)
    names, counts = np.unique([bar.reason.value for bar in found], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == expected
    everything = taken(good, np.arange(n_bars))
    assert record == _values_by_key(everything)


def _joined(*parts: RawBars) -> RawBars:
    every = zip(*(part.columns() for part in parts), strict=True)
    return RawBars("binance", "5m", SYMBOLS, *(np.concatenate(column) for column in every))


def _values_by_key(bars: Bars | RawBars) -> dict[BarKey, BarValues]:
    code, at, *values = (column.tolist() for column in bars.columns())
    keys = zip((bars.symbols[each] for each in code), at, strict=True)
    return dict(zip(keys, zip(*values, strict=True), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_bars_of_random_bits_crash_nothing_and_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_bars = 5_000
    bits = rng.integers(0, 2**64, (5, n_bars), dtype=np.uint64).view(np.float64)
    bars = RawBars(
        "binance",
        "5m",
        SYMBOLS,
        rng.integers(-1, len(SYMBOLS), n_bars).astype(np.int32),
        rng.choice([MISSING_MS, -1, 0, BAR_MS, 2 * BAR_MS, 2**62, -(2**62)], n_bars),
        *bits,
    )
    checked = check_bars(bars, now_ms=NOW_MS, known=KNOWN, settings=BarCheckSettings(), prior={})
    n_told = len(checked.accepted) + len(checked.quarantined) + checked.duplicates
    assert n_told == n_bars
    assert np.isfinite([checked.accepted.close, checked.accepted.volume]).all()
