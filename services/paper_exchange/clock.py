"""The venue's clock.

It stands at the market's close when the market reaches it and runs in real milliseconds
from there, so that receive windows and the waiting for lost orders work as at a real venue.
It never goes back, neither at the next close, when the market is the slower of the two, nor
over a restart: a request whose window has passed stays refused.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.clock import monotonic_seconds

_MS_PER_SECOND = 1000


class VenueClock:
    """Milliseconds since 1970, at the venue.

    Parameters
    ----------
    at_ms
        What it shows now.
    rate
        Venue seconds in a second of ours: one, or less for a market slower than life.
    seconds
        What it runs by, if not by time itself.
    """

    def __init__(
        self, at_ms: int, rate: float = 1.0, seconds: Callable[[], float] | None = None
    ) -> None:
        self._seconds = monotonic_seconds if seconds is None else seconds
        self._at_ms = at_ms
        self._rate = rate
        self._before_ms: int | None = None
        self._since_seconds = self._seconds()

    def now_ms(self) -> int:
        """Return the present venue time."""
        elapsed_seconds = self._seconds() - self._since_seconds
        now_ms = self._at_ms + int(elapsed_seconds * _MS_PER_SECOND * self._rate)
        if self._before_ms is None:
            return now_ms
        return max(self._at_ms, min(now_ms, self._before_ms - 1))

    def reach(self, at_ms: int, before_ms: int | None = None) -> None:
        """Put the clock forward to an instant, unless it is past it.

        Parameters
        ----------
        at_ms
            The instant.
        before_ms
            An instant that the market will reach by itself: until then the clock stays before
            it, so that no bar looks closed that is not.
        """
        self._at_ms = max(self.now_ms(), at_ms)
        self._before_ms = before_ms
        self._since_seconds = self._seconds()
