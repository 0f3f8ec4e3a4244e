"""The venue's clock, as far as it has been told."""

from __future__ import annotations

from collections import deque

from shared.clock import TIMEFRAME_MS, monotonic_seconds

_STEP_MS = min(TIMEFRAME_MS.values())


class VenueTime:
    """The latest time heard from a venue, and when each close of it was first heard to be past.

    Its clock may run at any speed and may jump.

    Attributes
    ----------
    now_ms
        The latest time heard, in milliseconds since 1970; `None` before the first.
    """

    def __init__(self) -> None:
        self.now_ms: int | None = None
        self._heard_seconds = monotonic_seconds()
        self._reached: deque[tuple[int, float]] = deque()

    def hear(self, venue_ms: int) -> None:
        """Take a time the venue told."""
        self._heard_seconds = monotonic_seconds()
        if self.now_ms is not None and venue_ms <= self.now_ms:
            return
        if self.now_ms is None or venue_ms // _STEP_MS > self.now_ms // _STEP_MS:
            self._reached.append((venue_ms, self._heard_seconds))
        self.now_ms = venue_ms

    def silent_seconds(self) -> float:
        """Return for how long nothing has been heard."""
        return monotonic_seconds() - self._heard_seconds

    def seconds_since(self, closes_at_ms: int) -> float:
        """Return for how long a close has been known to be past; ask for closes in order."""
        while len(self._reached) > 1 and self._reached[0][0] < closes_at_ms:
            self._reached.popleft()
        if not self._reached or self._reached[0][0] < closes_at_ms:
            return 0.0
        return monotonic_seconds() - self._reached[0][1]
