"""What a screen carries on from the one before, so that it need not be made anew.

The moments of the longest series, and the copies of the universe that `empirical_null`
judges by, are made at an anchor and serve until the next. What comes out is, to the bit, a
function of the bars the window holds: what is kept here is a cache.
"""

from __future__ import annotations

from shared.quant.cointegration import EngleGrangerResult
from shared.quant.streaming_cointegration import StreamingEngleGranger
from shared.quant.typing import Float1D
from shared.sleeves.pairs.screen_window import ANCHOR_EVERY_BARS, RaggedWindow, ScreenWindow
from shared.sleeves.pairs.screening import ScreenSettings, moved_at_all, null_of


class CarriedTests:
    """The tests of the longest series and the null of the last anchor.

    Parameters
    ----------
    settings
        Window and method of the screens.
    """

    def __init__(self, settings: ScreenSettings) -> None:
        self._settings = settings
        self._stream: StreamingEngleGranger | None = None
        self._symbols: tuple[str, ...] = ()
        self._anchor_ms = self._streamed_ms = -1
        self._null: Float1D | None = None
        self._null_anchor_ms = -1

    def forget(self, closes_at_ms: int) -> None:
        """Give up what was made from an instant that has changed."""
        if closes_at_ms <= self._streamed_ms:
            self._stream = None
        if closes_at_ms <= self._null_anchor_ms:
            self._null = None

    def longest(self, window: ScreenWindow, present: RaggedWindow) -> EngleGrangerResult | None:
        """Return the tests among the symbols that moved and have all bars of the window.

        Parameters
        ----------
        window
            What the instants since the anchor are read from.
        present
            What it holds at its newest instant.

        Returns
        -------
        EngleGrangerResult or None
            None where fewer than two symbols have all bars.
        """
        is_longest = (present.n_bars == self._settings.window_bars) & moved_at_all(
            present.log_prices
        )
        symbols = tuple(
            s for s, longest in zip(present.symbols, is_longest, strict=True) if longest
        )
        anchor_ms = window.anchor_closes_at_ms
        if len(symbols) < 2 or anchor_ms is None:
            return None
        if self._stream is None or (self._symbols, self._anchor_ms) != (symbols, anchor_ms):
            self._stream = None  # its memory is needed for the next
            self._stream = StreamingEngleGranger(
                len(symbols), self._settings.window_bars, anchor_every=ANCHOR_EVERY_BARS
            )
            self._stream.begin(window.log_prices_up_to(anchor_ms, symbols))
            self._symbols, self._anchor_ms, self._streamed_ms = symbols, anchor_ms, anchor_ms
        for row in window.log_prices_since(self._streamed_ms, symbols):
            self._stream.update(row)
        self._streamed_ms = window.last_closes_at_ms or anchor_ms
        return self._stream.result()

    def null(self, window: ScreenWindow) -> Float1D | None:
        """Return the smallest p-values of the copies of the universe at the anchor.

        None where the method does not ask for them.
        """
        anchor_ms = window.anchor_closes_at_ms
        if self._settings.method != "empirical_null" or anchor_ms is None:
            return None
        if self._null is None or self._null_anchor_ms != anchor_ms:
            log_prices = window.ragged_at_anchor().log_prices
            self._null = null_of(log_prices[:, moved_at_all(log_prices)], self._settings)
            self._null_anchor_ms = anchor_ms
        return self._null
