"""Benchmark of the memory of a screen: a thousand symbols over a year of hourly bars."""

from __future__ import annotations

import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from cli.bench.figure import Figure
from shared.quant.empirical_null import smallest_null_p_values
from shared.sleeves.pairs.carried import CarriedTests
from shared.sleeves.pairs.screen_window import ScreenWindow
from shared.sleeves.pairs.screening import ScreenSettings, screen_pairs

LIMIT_MB = 2_000
_N_SYMBOLS = 1_000
_WINDOW_BARS = 8_760
_HOUR_MS = 3_600_000


def screen_memory() -> Figure:
    """Measure the largest memory a process needs for screens of a thousand symbols."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        peak_mb = pool.submit(_peak_mb).result()
    data = (
        f"two screens and a copy of the null, {_N_SYMBOLS:,} symbols, {_WINDOW_BARS:,} bars, "
        "every tenth symbol listed later"
    )
    return Figure("screen_memory", peak_mb, "MB", LIMIT_MB, LIMIT_MB / peak_mb, data)


def _peak_mb() -> float:
    """Screen two closes in this process and return the most memory it ever had."""
    settings = ScreenSettings(window_bars=_WINDOW_BARS, method="benjamini_hochberg")
    window = ScreenWindow(settings.window_bars, settings.fewest_bars, _HOUR_MS)
    carried = CarriedTests(settings)
    rng = np.random.default_rng(7)
    names = [f"{n:04d}" for n in range(_N_SYMBOLS)]
    is_young = np.arange(_N_SYMBOLS) % 10 == 9
    listed_at = np.where(is_young, rng.integers(0, _WINDOW_BARS, _N_SYMBOLS), 0)
    log_close, volume = np.full(_N_SYMBOLS, 3.0), np.ones(_N_SYMBOLS)
    for bar in range(window.history_bars + 1):
        log_close += 0.01 * rng.normal(size=_N_SYMBOLS)
        listed = np.flatnonzero(listed_at <= bar)
        symbols = [names[n] for n in listed]
        window.push(bar * _HOUR_MS, symbols, np.exp(log_close[listed]), volume[listed])
        if bar < window.history_bars - 1:
            continue
        present = window.ragged()
        screen_pairs(
            present.symbols,
            present.log_prices,
            present.quote_volume,
            names,
            settings,
            longest=carried.longest(window, present),
        )
    del present
    smallest_null_p_values(window.ragged_at_anchor().log_prices, 1, seed=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
