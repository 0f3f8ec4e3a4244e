"""Bars of one symbol as columns: how a chart sees them, and the longer bars made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from shared.quant.typing import Float1D, Int1D

VOLUME_DECIMALS = 8
"""To which sums of volumes are rounded, so that they have one value however they are summed."""


class Candle(NamedTuple):
    """One bar: from its open to, but not including, its close."""

    opens_at_ms: int
    closes_at_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, eq=False, slots=True)
class Candles:
    """Bars of one symbol and timeframe, ascending, one per close.

    Attributes
    ----------
    closes_at_ms : ndarray of int64, shape (n,)
        In milliseconds since 1970.
    open, high, low, close, volume : ndarray of float64, shape (n,)
        Of the same bars.
    """

    closes_at_ms: Int1D
    open: Float1D
    high: Float1D
    low: Float1D
    close: Float1D
    volume: Float1D

    def __len__(self) -> int:
        return len(self.closes_at_ms)

    @classmethod
    def none(cls) -> Self:
        """Return no bar at all."""
        blank = np.empty(0)
        return cls(np.empty(0, dtype=np.int64), blank, blank, blank, blank, blank)

    @classmethod
    def of(cls, candles: Sequence[Candle]) -> Self:
        """Return candles as columns."""
        rows = np.array([candle[2:] for candle in candles]).reshape(len(candles), 5)
        closes = np.array([candle.closes_at_ms for candle in candles], dtype=np.int64)
        return cls(closes, *rows.T)

    def between(self, after_ms: int, up_to_ms: int) -> Self:
        """Return the bars that close in (after, up to] as a view."""
        first = int(self.closes_at_ms.searchsorted(after_ms, "right"))
        last = int(self.closes_at_ms.searchsorted(up_to_ms, "right"))
        return self.rows(slice(first, last))

    def rows(self, rows: slice | Int1D) -> Self:
        """Return some rows, those of a slice as a view."""
        return type(self)(
            self.closes_at_ms[rows],
            self.open[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.volume[rows],
        )

    def followed_by(self, later: Candles) -> Self:
        """Return these bars and later ones after them."""
        return type(self)(
            np.concatenate([self.closes_at_ms, later.closes_at_ms]),
            np.concatenate([self.open, later.open]),
            np.concatenate([self.high, later.high]),
            np.concatenate([self.low, later.low]),
            np.concatenate([self.close, later.close]),
            np.concatenate([self.volume, later.volume]),
        )

    def longer(self, bar_ms: int) -> Self:
        """Return bars of a longer timeframe, each made of the bars there are within it.

        Parameters
        ----------
        bar_ms
            A multiple of the length of these bars.
        """
        if not len(self):
            return self
        closes = -(-self.closes_at_ms // bar_ms) * bar_ms
        first = np.flatnonzero(np.concatenate([[True], closes[1:] != closes[:-1]]))
        last = np.append(first[1:], len(closes)) - 1
        volume = np.add.reduceat(self.volume, first).round(VOLUME_DECIMALS)
        return type(self)(
            closes[first],
            self.open[first],
            np.maximum.reduceat(self.high, first),
            np.minimum.reduceat(self.low, first),
            self.close[last],
            volume,
        )

    def candles(self, bar_ms: int) -> list[Candle]:
        """Return the bars one by one."""
        columns = (self.closes_at_ms, self.open, self.high, self.low, self.close, self.volume)
        values = zip(*(column.tolist() for column in columns), strict=True)
        return [Candle(closes - bar_ms, closes, *rest) for closes, *rest in values]
