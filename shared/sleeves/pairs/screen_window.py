"""The last bars of every symbol, as the screener sees them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.quant.typing import Float1D, Float2D


@dataclass(frozen=True, slots=True)
class CompleteWindow:
    """Symbols that have every bar of the window.

    Attributes
    ----------
    log_prices, quote_volume
        Shape (T, N): logarithm of the close; close times volume.
    excluded
        The other symbols, each with the reason.
    """

    symbols: tuple[str, ...]
    log_prices: Float2D
    quote_volume: Float2D
    excluded: dict[str, str]


class ScreenWindow:
    """The last `window_bars` instants at which any symbol of the venue had a bar.

    An instant without any bar, such as a halt of the venue, does not exist here. A symbol
    with a gap of its own is excluded and nothing is filled.
    """

    def __init__(self, window_bars: int) -> None:
        self._window_bars = window_bars
        self._closes_at_ms: list[int] = []
        self._column: dict[str, int] = {}
        self._close = np.empty((0, 0))
        self._volume = np.empty((0, 0))

    @property
    def last_closes_at_ms(self) -> int | None:
        """The newest instant."""
        return self._closes_at_ms[-1] if self._closes_at_ms else None

    def push(
        self, closes_at_ms: int, symbols: Sequence[str], close: Float1D, volume: Float1D
    ) -> None:
        """Add the bars of an instant; of one that is there already, complete it."""
        self._make_columns(symbols)
        row = bisect_left(self._closes_at_ms, closes_at_ms)
        if row == len(self._closes_at_ms) or self._closes_at_ms[row] != closes_at_ms:
            if row == 0 and len(self._closes_at_ms) >= self._window_bars:
                return
            row = self._make_row(closes_at_ms, row)
        columns = [self._column[symbol] for symbol in symbols]
        self._close[row, columns] = close
        self._volume[row, columns] = volume

    def _make_columns(self, symbols: Sequence[str]) -> None:
        new = [symbol for symbol in symbols if symbol not in self._column]
        if not new:
            return
        for symbol in new:
            self._column[symbol] = len(self._column)
        blank = np.full((len(self._closes_at_ms), len(new)), np.nan)
        self._close = np.hstack([self._close, blank])
        self._volume = np.hstack([self._volume, blank])

    def _make_row(self, closes_at_ms: int, place: int) -> int:
        """Insert an instant before row `place`, drop the oldest beyond the window."""
        first = 1 if len(self._closes_at_ms) >= self._window_bars else 0
        blank = np.full((1, len(self._column)), np.nan)
        self._close = np.vstack([self._close[first:place], blank, self._close[place:]])
        self._volume = np.vstack([self._volume[first:place], blank, self._volume[place:]])
        self._closes_at_ms.insert(place, closes_at_ms)
        del self._closes_at_ms[:first]
        return place - first

    def complete(self) -> CompleteWindow:
        """Return the symbols that have all bars of a full window, in order of their names."""
        n_rows = len(self._closes_at_ms)
        n_present = np.count_nonzero(~np.isnan(self._close), axis=0) if n_rows else np.array([])
        symbols, excluded = [], {}
        for symbol in sorted(self._column):
            present = int(n_present[self._column[symbol]])
            if present == self._window_bars:
                symbols.append(symbol)
            else:
                excluded[symbol] = f"{present} of {self._window_bars} bars"
        columns = [self._column[symbol] for symbol in symbols]
        close = np.ascontiguousarray(self._close[:, columns]) if columns else np.empty((n_rows, 0))
        volume = self._volume[:, columns] if columns else np.empty((n_rows, 0))
        return CompleteWindow(tuple(symbols), np.log(close), close * volume, excluded)
