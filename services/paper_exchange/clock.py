"""The venue's clock.

It stands at the market's close when the market reaches it and runs in real milliseconds
from there, so that receive windows and the waiting for lost orders work as at a real venue.
It never goes back, neither at the next close, when the market is the slower of the two, nor
over a restart: a request whose window has passed stays refused.
"""

from __future__ import annotations

from shared.clock import monotonic_seconds

_MS_PER_SECOND = 1000


class VenueClock:
    """Milliseconds since 1970, at the venue.

    Parameters
    ----------
    at_ms
        What it shows now.
    """

    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms
        self._since_seconds = monotonic_seconds()

    def now_ms(self) -> int:
        """Return the present venue time."""
        elapsed_seconds = monotonic_seconds() - self._since_seconds
        return self._at_ms + int(elapsed_seconds * _MS_PER_SECOND)

    def reach(self, at_ms: int) -> None:
        """Put the clock forward to an instant, unless it is past it."""
        self._at_ms = max(self.now_ms(), at_ms)
        self._since_seconds = monotonic_seconds()
