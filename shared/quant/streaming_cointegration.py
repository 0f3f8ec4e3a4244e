"""The Engle-Granger test of every ordered pair, carried on from bar to bar."""

from __future__ import annotations

import numpy as np

from shared.errors import DataError
from shared.quant.cointegration import (
    EngleGrangerResult,
    Window,
    checked_max_lag,
    pair_tests,
    require_movement,
    require_offered,
)
from shared.quant.cross_moments import advance_products, pack
from shared.quant.typing import Float1D, Float2D


class StreamingEngleGranger:
    """`engle_granger_all_pairs` of the last `window_bars` bars, without summing them again.

    A new bar is added to the cross-moments and the oldest leaves them. At fixed bar numbers,
    every multiple of `anchor_every`, they are made anew from the window: rounding errors
    cannot pile up, and a result is, to the bit, a function of the bars since the window of
    the last anchor, whenever the stream was begun. A stream begun again with the last
    `history_bars` bars goes on as if it had never stopped.

    Parameters
    ----------
    n_series, window_bars
        Shape of the window.
    trend, max_lag, autolag
        As of `engle_granger_all_pairs`; a trend of "n" is not carried on.
    anchor_every
        Bars between anchors.
    first_bar
        Number of the first bar that `update` will be given; any clock that counts bars.

    Raises
    ------
    DataError
        If the window cannot carry the lags, or an option is not offered.

    Notes
    -----
    An update costs N^2 (max_lag + 1) multiplications, whatever the length of the window.
    """

    def __init__(
        self,
        n_series: int,
        window_bars: int,
        *,
        trend: str = "c",
        max_lag: int | None = None,
        autolag: str | None = "aic",
        anchor_every: int = 24,
        first_bar: int = 0,
    ) -> None:
        require_offered(trend, autolag)
        if trend == "n":
            raise DataError("trend 'n' is not carried on from bar to bar: use 'c' or 'ct'")
        if n_series < 2 or anchor_every < 1:
            raise DataError(
                f"{n_series} series and an anchor every {anchor_every} bars: give at least two "
                "series and one bar"
            )
        self._trend, self._autolag = trend, autolag
        self._max_lag = checked_max_lag(window_bars, max_lag)
        self._window_bars, self._anchor_every = window_bars, anchor_every
        self._next_bar, self._n_seen = first_bar, 0
        # Newest first, growing to the left, so that a window is one slice.
        self._levels = np.zeros((n_series, 2 * window_bars + 2))
        self._first = self._levels.shape[1]
        self._window: Window | None = None
        self._sums = np.zeros(n_series)
        self._reference = np.zeros(n_series)
        self._cross = np.zeros((n_series, n_series))

    @property
    def history_bars(self) -> int:
        """How many of the last bars a stream must be given to go on to the bit."""
        return self._window_bars + self._anchor_every - 1

    def begin(self, log_prices: Float2D) -> None:
        """Begin anew with a whole window, whose last bar is an anchor.

        Parameters
        ----------
        log_prices : ndarray of float64, shape (window_bars, N)
            Oldest first. The next anchor comes `anchor_every` bars after them.

        Raises
        ------
        DataError
            If the shape is another or a value is not finite; the stream is then as before.
        """
        expected = (self._window_bars, len(self._levels))
        if log_prices.shape != expected or not np.isfinite(log_prices).all():
            raise DataError(
                f"a window of shape {log_prices.shape} or with a value that is not finite: give "
                f"finite log prices of shape {expected}"
            )
        self._first = self._levels.shape[1] - self._window_bars
        self._levels[:, self._first :] = log_prices[::-1].T
        self._n_seen, self._next_bar = self._window_bars, 1
        self._anchor()

    def update(self, row: Float1D) -> None:
        """Append a bar.

        Parameters
        ----------
        row : ndarray of float64, shape (N,)
            Log prices.

        Raises
        ------
        DataError
            If the shape is another or a value is not finite; the stream is then as before.
        """
        if row.shape != (len(self._levels),) or not np.isfinite(row).all():
            raise DataError(
                f"bar {self._next_bar} has shape {row.shape} or a value that is not finite: give "
                f"{len(self._levels)} finite log prices"
            )
        if self._first == 0:
            kept = self._levels[:, : self._window_bars].copy()
            self._first = self._levels.shape[1] - self._window_bars
            self._levels[:, self._first :] = kept
        self._first -= 1
        self._levels[:, self._first] = row
        self._n_seen += 1
        bar = self._next_bar
        self._next_bar += 1
        if self._n_seen < self._window_bars:
            return
        if bar % self._anchor_every == 0:
            self._anchor()
        elif self._window is not None:
            self._advance(self._window)

    def result(self) -> EngleGrangerResult:
        """Return the tests of the last `window_bars` bars.

        Raises
        ------
        DataError
            If there are fewer bars yet, or a series never changes in the window.
        """
        if self._n_seen < self._window_bars:
            raise DataError(
                f"{self._n_seen} bars so far: a test needs the whole window of {self._window_bars}"
            )
        require_movement(self._present().T)
        # Before the first anchor there is nothing to carry on.
        window = self._window or Window.of(np.ascontiguousarray(self._present()), self._max_lag)
        return pair_tests(window, self._trend, self._autolag)

    def _present(self) -> Float2D:
        return self._levels[:, self._first : self._first + self._window_bars]

    def _anchor(self) -> None:
        levels = np.ascontiguousarray(self._present())
        made = Window.of(levels, self._max_lag)
        self._reference, self._sums = made.means, np.zeros(len(levels))
        self._cross = made.cross
        self._window = Window(
            self._levels, self._first, self._window_bars, made.means, made.cross, made.products
        )

    def _advance(self, before: Window) -> None:
        first, n_bars = self._first, self._window_bars
        n_edge = self._max_lag + 2
        newest = self._levels[:, first : first + n_edge]
        # The window before, with the bar that leaves it: its oldest changes.
        end = first + n_bars + 1
        oldest = self._levels[:, end - n_edge : end]
        advance_products(
            before.products,
            pack(newest[:, :-1] - newest[:, 1:]),
            pack(oldest[:, :-1] - oldest[:, 1:]),
        )
        came = self._levels[:, first] - self._reference
        left = self._levels[:, end - 1] - self._reference
        self._sums = self._sums + (came - left)
        self._cross = self._cross + (np.outer(came, came) - np.outer(left, left))
        shift = self._sums / n_bars
        self._window = Window(
            self._levels,
            first,
            n_bars,
            self._reference + shift,
            self._cross - np.outer(self._sums, shift),
            before.products,
        )
