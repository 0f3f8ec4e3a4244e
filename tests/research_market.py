"""A small recorded market with known truth, as the files that research commands read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shared.clock import TIMEFRAME_MS
from shared.quant.typing import Float2D, Int1D

FIRST_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z."""
BAR_MS = TIMEFRAME_MS["5m"]
HOUR = TIMEFRAME_MS["1h"] // BAR_MS
DAY = TIMEFRAME_MS["1d"] // BAR_MS

# Windows so short that a day of bars fills them, and a screen that tests without copies.
QUICK = (
    "screener.window_bars=200",
    "screener.method=p_value",
    "screener.level=0.01",
    "screener.enter_after_screens=1",
    "screener.leave_after_screens=2",
    "screener.quote_volume_min_usdt=0",
    "screener.correlation_min=0",
    "features.beta_window=200",
    "features.z_window=100",
    "trainer.min_samples=50",
)


def write_market(
    folder: Path, *, n_days: int, n_pairs: int, half_life_bars: float, seed: int
) -> tuple[Path, Path]:
    """Write 1h and 5m bars of pairs whose spread comes home, and return the files.

    Parameters
    ----------
    folder
        Where to.
    n_days
        Length.
    n_pairs
        Pairs; the legs of one have nothing to do with those of another. Without a finite half
        life their legs are independent walks.
    half_life_bars
        Of the spread; infinite for a walk.
    seed
        Of the prices.
    """
    rng = np.random.default_rng(seed)
    n_bars = n_days * DAY
    log_price = np.empty((n_bars + 1, 2 * n_pairs))
    persistence = 0.5 ** (1 / half_life_bars)
    for pair in range(n_pairs):
        trend = rng.normal(0, 2e-3, n_bars + 1).cumsum()
        shocks = rng.normal(0, 2e-3, n_bars + 1)
        spread = np.empty(n_bars + 1)
        spread[0] = 0.0
        for bar in range(n_bars):
            spread[bar + 1] = persistence * spread[bar] + shocks[bar]
        log_price[:, 2 * pair] = trend + spread
        log_price[:, 2 * pair + 1] = trend
    price = np.round(50 * np.exp(log_price), 4)
    return (
        _write(folder / "1h.parquet", price[::HOUR], HOUR),
        _write(folder / "5m.parquet", price, 1),
    )


def _write(path: Path, price: Float2D, n_bars: int) -> Path:
    opens, closes = price[:-1], price[1:]
    n, n_symbols = closes.shape
    opens_at_ms: Int1D = FIRST_MS + np.arange(n) * n_bars * BAR_MS
    names = [f"{'YX'[symbol % 2]}{symbol // 2}/USDT" for symbol in range(n_symbols)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "ts": pa.array(np.repeat(opens_at_ms, n_symbols), pa.timestamp("ms", tz="UTC")),
                "symbol": names * n,
                "exchange": ["binance"] * (n * n_symbols),
                "open": opens.ravel(),
                "high": np.maximum(opens, closes).ravel(),
                "low": np.minimum(opens, closes).ravel(),
                "close": closes.ravel(),
                "volume": np.full(n * n_symbols, 1e6),
            }
        ),
        path,
    )
    return path
