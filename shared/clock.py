"""The only place that reads the wall clock.

Decisions depend on event time alone. Wall time is for `recorded_at`, latency metrics,
the live stale-data guard and pauses between tries.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from shared.errors import DataError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def utc_now() -> datetime:
    """Return the present instant as an aware UTC datetime."""
    return datetime.now(UTC)


def monotonic_seconds() -> float:
    """Return a clock that never goes back, in seconds, for measuring durations."""
    return time.monotonic()


TIMEFRAME_MS = {
    "1m": 60_000,
    "5m": 300_000,
    "15m": 900_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "1d": 86_400_000,
}
"""Length of each supported bar, in milliseconds."""


def timeframe_ms(timeframe: str) -> int:
    """Return the length of a bar in milliseconds.

    Raises
    ------
    DataError
        If the timeframe is not one of `TIMEFRAME_MS`.
    """
    try:
        return TIMEFRAME_MS[timeframe]
    except KeyError:
        known = ", ".join(TIMEFRAME_MS)
        raise DataError(f"unknown timeframe {timeframe!r}: use one of {known}") from None


def instant_of_ms(epoch_ms: int) -> datetime:
    """Return the aware UTC instant of milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=epoch_ms)


def ms_of_instant(instant: datetime) -> int:
    """Return milliseconds since 1970 of an aware instant, exactly."""
    return (instant - _EPOCH) // _MILLISECOND
