"""The last bars of every symbol, as the screener sees them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.clock import instant_of_ms
from shared.quant.typing import Float1D, Float2D, Int1D

ANCHOR_EVERY_BARS = 24
"""Bars of the period whose first close is an anchor: of hourly bars, a day of UTC."""

LENGTH_STEPS = 4
"""Steps from the fewest bars of a test to the whole window."""


def lengths_tested(window_bars: int, min_bars: int) -> tuple[int, ...]:
    """Return the numbers of bars on which pairs are tested, ascending.

    A symbol's bars are rounded down to one of these, so that however many listing dates a
    universe has, its tests have few lengths.

    Examples
    --------
    >>> lengths_tested(1000, 500)
    (500, 625, 750, 875, 1000)
    """
    steps = range(LENGTH_STEPS + 1)
    grid = {min_bars + (window_bars - min_bars) * step // LENGTH_STEPS for step in steps}
    return tuple(sorted(grid))


@dataclass(frozen=True, slots=True)
class RaggedWindow:
    """Symbols that have every bar from their first to the last, and may be tested.

    Attributes
    ----------
    symbols
        In order of their names.
    log_prices, quote_volume
        Shape (T, N): logarithm of the close; close times volume. NaN before the last
        `n_bars` of a symbol.
    n_bars : ndarray of int64, shape (N,)
        Bars that each symbol is tested on, one of `lengths_tested`.
    excluded
        The other symbols that have a bar in the window, each with the reason.
    """

    symbols: tuple[str, ...]
    log_prices: Float2D
    quote_volume: Float2D
    n_bars: Int1D
    excluded: dict[str, str]

    @property
    def symbols_by_bars(self) -> dict[int, int]:
        """How many symbols are tested on how many bars, the longest first."""
        lengths, counts = np.unique(self.n_bars, return_counts=True)
        return dict(zip(lengths[::-1].tolist(), counts[::-1].tolist(), strict=True))


class ScreenWindow:
    """The last instants at which any symbol of the venue had a bar.

    An instant without any bar, such as a halt of the venue, does not exist here. A symbol
    with a gap of its own is excluded and nothing is filled.

    How many bars a symbol is tested on is counted at the anchor and holds until the next one:
    the newest instant that is the first of its `ANCHOR_EVERY_BARS` and has a whole window up
    to it, or the present instant while the record is too young for that. All of this is a
    function of the last `history_bars` instants, wherever a process was restarted.

    Parameters
    ----------
    window_bars, min_bars
        Bars of the longest and of the shortest test.
    bar_ms
        Length of a bar in milliseconds.
    """

    def __init__(self, window_bars: int, min_bars: int, bar_ms: int) -> None:
        self._window_bars = window_bars
        self._min_bars = min_bars
        self._period_ms = ANCHOR_EVERY_BARS * bar_ms
        self._lengths = np.array(lengths_tested(window_bars, min_bars))
        self._closes_at_ms: list[int] = []
        self._column: dict[str, int] = {}
        # Rows beyond those needed, so that they move back only now and then.
        n_rows = self.history_bars + self.history_bars // 4
        self._log_close = np.empty((n_rows, 0))
        self._quote_volume = np.empty((n_rows, 0))
        self._first = 0

    @property
    def history_bars(self) -> int:
        """How many of the last instants decide a screen."""
        return self._window_bars + ANCHOR_EVERY_BARS - 1

    @property
    def last_closes_at_ms(self) -> int | None:
        """The newest instant."""
        return self._closes_at_ms[-1] if self._closes_at_ms else None

    @property
    def anchor_closes_at_ms(self) -> int | None:
        """The instant at which bars were last counted."""
        return self._closes_at_ms[self._anchor()] if self._closes_at_ms else None

    def push(
        self, closes_at_ms: int, symbols: Sequence[str], close: Float1D, volume: Float1D
    ) -> bool:
        """Add the bars of an instant, or complete it; tell whether that changed anything."""
        self._make_columns(symbols)
        place = bisect_left(self._closes_at_ms, closes_at_ms)
        if place == len(self._closes_at_ms) or self._closes_at_ms[place] != closes_at_ms:
            if place == 0 and len(self._closes_at_ms) >= self.history_bars:
                return False
            place = self._make_row(closes_at_ms, place)
        columns = [self._column[symbol] for symbol in symbols]
        row = self._first + place
        is_known = True
        for kept, values in (
            (self._log_close, np.log(close)),
            (self._quote_volume, close * volume),
        ):
            is_known &= bool((kept[row, columns] == values).all())
            kept[row, columns] = values
        return not is_known

    def _make_columns(self, symbols: Sequence[str]) -> None:
        new = [symbol for symbol in symbols if symbol not in self._column]
        if not new:
            return
        for symbol in new:
            self._column[symbol] = len(self._column)
        blank = np.full((len(self._log_close), len(new)), np.nan)
        self._log_close = np.hstack([self._log_close, blank])
        self._quote_volume = np.hstack([self._quote_volume, blank])

    def _make_row(self, closes_at_ms: int, place: int) -> int:
        """Insert an instant at a place, drop the oldest beyond the history."""
        if len(self._closes_at_ms) >= self.history_bars:
            self._first, place = self._first + 1, place - 1
            del self._closes_at_ms[0]
        first, end = self._first, self._first + len(self._closes_at_ms)
        if end == len(self._log_close):
            for kept in (self._log_close, self._quote_volume):
                kept[: end - first] = kept[first:end]
            self._first, first, end = 0, 0, end - first
        for kept in (self._log_close, self._quote_volume):
            kept[first + place + 1 : end + 1] = kept[first + place : end]
            kept[first + place] = np.nan
        self._closes_at_ms.insert(place, closes_at_ms)
        return place

    def _anchor(self) -> int:
        """Return the place of the anchor."""
        last = len(self._closes_at_ms) - 1
        period = self._closes_at_ms[last] // self._period_ms
        place = bisect_left(self._closes_at_ms, period * self._period_ms)
        return place if place + 1 >= self._window_bars else last

    def ragged(self) -> RaggedWindow:
        """Return what can be tested at the newest instant."""
        return self._cut(len(self._closes_at_ms) - 1)

    def ragged_at_anchor(self) -> RaggedWindow:
        """Return what could be tested at the anchor."""
        return self._cut(self._anchor() if self._closes_at_ms else -1)

    def log_prices_up_to(self, closes_at_ms: int, symbols: Sequence[str]) -> Float2D:
        """Return the window of some symbols that ends at an instant, oldest first."""
        end = self._first + bisect_left(self._closes_at_ms, closes_at_ms + 1)
        first = max(self._first, end - self._window_bars)
        return self._log_close[first:end, [self._column[symbol] for symbol in symbols]]

    def log_prices_since(self, closes_at_ms: int, symbols: Sequence[str]) -> Float2D:
        """Return the log prices of some symbols after an instant, oldest first."""
        after = self._first + bisect_left(self._closes_at_ms, closes_at_ms + 1)
        end = self._first + len(self._closes_at_ms)
        return self._log_close[after:end, [self._column[symbol] for symbol in symbols]]

    def _cut(self, last: int) -> RaggedWindow:
        """Return what can be tested at the instant of a place, none where it is negative."""
        if last < 0:
            none = np.empty((self._window_bars, 0))
            return RaggedWindow((), none, none.copy(), np.empty(0, dtype=np.int64), {})
        n_since_anchor = last - min(self._anchor(), last)
        begin = max(0, last - n_since_anchor - self._window_bars + 1)
        rows = slice(self._first + begin, self._first + last + 1)
        is_there = ~np.isnan(self._log_close[rows])
        n_there = is_there.sum(axis=0)
        n_expected = len(is_there) - is_there.argmax(axis=0)
        newest = len(is_there) - 1 - is_there[::-1].argmax(axis=0)
        symbols, lengths, excluded = [], [], {}
        for symbol in sorted(self._column):
            column = self._column[symbol]
            n_bars = int(n_there[column])
            n_at_anchor = n_bars - n_since_anchor
            if n_bars == 0:
                # Long gone: a process that starts now has never heard of it.
                continue
            if newest[column] < len(is_there) - 1:
                seen = instant_of_ms(self._closes_at_ms[begin + int(newest[column])])
                excluded[symbol] = f"no bar at this close, the last one at {seen.isoformat()}"
            elif n_bars < n_expected[column]:
                excluded[symbol] = (
                    f"{n_bars} of {n_expected[column]} bars: a gap of its own in the window"
                )
            elif n_at_anchor < self._min_bars:
                excluded[symbol] = f"{max(0, n_at_anchor)} of at least {self._min_bars} bars"
            else:
                symbols.append(symbol)
                lengths.append(n_at_anchor)
        place = np.searchsorted(self._lengths, lengths, side="right") - 1
        n_tested = self._lengths[place] if lengths else np.empty(0, dtype=np.int64)
        columns = [self._column[symbol] for symbol in symbols]
        return RaggedWindow(
            tuple(symbols),
            self._last_bars(self._log_close, columns, n_tested, self._first + last + 1),
            self._last_bars(self._quote_volume, columns, n_tested, self._first + last + 1),
            n_tested,
            excluded,
        )

    def _last_bars(self, kept: Float2D, columns: Sequence[int], n_bars: Int1D, end: int) -> Float2D:
        """Return a window of some columns, NaN before the last so many bars of each."""
        window = np.full((self._window_bars, len(columns)), np.nan)
        first = max(0, end - self._window_bars)
        window[self._window_bars - (end - first) :] = kept[first:end, columns]
        for n, length in enumerate(n_bars.tolist()):
            window[: self._window_bars - length, n] = np.nan
        return window
