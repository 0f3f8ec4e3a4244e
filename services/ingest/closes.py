"""Which candle of which close is here: the bookkeeping of following a venue, without the venue.

A stream is one symbol in one timeframe. A close has passed once it has been published, with
all candles or without some. Candles of a close that has passed are late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.clock import timeframe_ms
from shared.quant.bars import BarRow
from shared.venues.candles import CandleStream

KEPT_ROWS = 2_000
"""Candles a stream holds while nobody takes them; those beyond are fetched again."""


@dataclass(slots=True)
class _Stream:
    """What is known of one stream.

    Attributes
    ----------
    covered_ms
        Up to here every candle the venue has is here or was published.
    rows
        Candles that wait, by close.
    ahead
        Closes published beyond `covered_ms`: a candle before them is still missing.
    gaps
        Closes up to `covered_ms` without a candle at the venue, should one come after all.
    is_late
        It missed the last close it should have had, so the next is not held up for it.
    """

    covered_ms: int
    rows: dict[int, BarRow] = field(default_factory=dict)
    ahead: set[int] = field(default_factory=set)
    gaps: set[int] = field(default_factory=set)
    is_late: bool = False

    def put(self, row: BarRow, bar_ms: int) -> None:
        at = row[1] or 0
        is_known = at in self.ahead or (at <= self.covered_ms and at not in self.gaps)
        if is_known or len(self.rows) >= KEPT_ROWS:
            return
        self.rows[at] = row
        self.gaps.discard(at)
        while (nearest := self.covered_ms + bar_ms) in self.rows or nearest in self.ahead:
            self.covered_ms = nearest
        self._forget_covered()

    def cover(self, up_to_ms: int, bar_ms: int) -> None:
        """Note that the venue has nothing up to an instant beside what is here."""
        found = range(self.covered_ms + bar_ms, up_to_ms + 1, bar_ms)
        gaps = {close for close in found if close not in self.rows and close not in self.ahead}
        self.gaps = set(sorted(self.gaps | gaps)[-KEPT_ROWS:])
        self.covered_ms = max(self.covered_ms, up_to_ms - up_to_ms % bar_ms)
        self._forget_covered()

    def _forget_covered(self) -> None:
        self.ahead = {close for close in self.ahead if close > self.covered_ms}


class Closes:
    """The closes of one venue in order, over all timeframes, and the candles that wait.

    Parameters
    ----------
    timeframes
        Those that may be followed.
    through_ms
        The last close that has passed.
    """

    def __init__(self, timeframes: Iterable[str], through_ms: int) -> None:
        bar_ms = {timeframe: timeframe_ms(timeframe) for timeframe in timeframes}
        self._bar_ms = dict(sorted(bar_ms.items(), key=lambda item: -item[1]))
        self._step_ms = min(bar_ms.values())
        self._streams: dict[CandleStream, _Stream] = {}
        self._late: set[int] = set()
        self.through_ms = through_ms

    @property
    def streams(self) -> frozenset[CandleStream]:
        """Every stream that is followed."""
        return frozenset(self._streams)

    @property
    def next_ms(self) -> int:
        """The close after the last one that has passed."""
        return (self.through_ms // self._step_ms + 1) * self._step_ms

    def is_behind(self, now_ms: int) -> bool:
        """Whether the close after the next one has come, too."""
        return now_ms >= self.next_ms + self._step_ms

    def join(self, stream: CandleStream, covered_ms: int) -> None:
        """Follow a stream whose candles up to an instant are recorded; a known one stays."""
        bar_ms = self._bar_ms[stream[0]]
        self._streams.setdefault(stream, _Stream(covered_ms - covered_ms % bar_ms))

    def leave(self, stream: CandleStream) -> None:
        """Follow a stream no longer."""
        self._streams.pop(stream, None)

    def put(self, timeframe: str, row: BarRow) -> None:
        """Take in a closed candle; one that is known or not followed has no effect."""
        stream = self._streams.get((timeframe, str(row[0])))
        if stream is not None:
            self._put(stream, row, self._bar_ms[timeframe])

    def put_page(self, stream: CandleStream, rows: Iterable[BarRow]) -> int:
        """Take in what the venue has after `covered_ms` of a stream, without a gap of ours.

        Returns
        -------
        int
            How many of them were not known.
        """
        known = self._streams.get(stream)
        if known is None:
            return 0
        bar_ms = self._bar_ms[stream[0]]
        n_before, last_ms = len(known.rows), known.covered_ms
        for row in rows:
            self._put(known, row, bar_ms)
            if len(known.rows) < KEPT_ROWS:
                last_ms = row[1] or 0
        # What lies between two candles of one answer, the venue does not have.
        known.cover(last_ms, bar_ms)
        return len(known.rows) - n_before

    def uncovered(self, closes_at_ms: int) -> dict[CandleStream, int]:
        """Return the streams that may lack a candle up to a close, each with its covered end."""
        return {
            name: stream.covered_ms
            for name, stream in self._closing_at(closes_at_ms)
            if stream.covered_ms < closes_at_ms
        }

    def awaited(self, closes_at_ms: int) -> list[CandleStream]:
        """Return the streams for whose candle a close should wait."""
        return [
            name
            for name, stream in self._closing_at(closes_at_ms)
            if not stream.is_late
            and stream.covered_ms < closes_at_ms
            and closes_at_ms not in stream.rows
        ]

    def at(self, closes_at_ms: int) -> dict[str, list[BarRow]]:
        """Return the candles of a close by timeframe, the longest first."""
        found: dict[str, list[BarRow]] = {}
        for timeframe in self._bar_ms:
            rows = [
                stream.rows[closes_at_ms]
                for (of_timeframe, _), stream in sorted(self._streams.items())
                if of_timeframe == timeframe and closes_at_ms in stream.rows
            ]
            if rows:
                found[timeframe] = rows
        return found

    def earliest_late(self) -> int | None:
        """Return the first close that has passed without a candle that is here now."""
        return min(self._late, default=None)

    def published(self, closes_at_ms: int, rows: Mapping[str, Iterable[BarRow]]) -> None:
        """Drop the candles of a close that were published."""
        self._late.discard(closes_at_ms)
        for timeframe, of_timeframe in rows.items():
            for row in of_timeframe:
                stream = self._streams.get((timeframe, str(row[0])))
                if stream is None:
                    continue
                stream.rows.pop(closes_at_ms, None)
                if closes_at_ms > stream.covered_ms:
                    stream.ahead.add(closes_at_ms)

    def passed(self, closes_at_ms: int) -> None:
        """Go on to the next close; streams without a candle of this one count as late."""
        for _, stream in self._closing_at(closes_at_ms):
            has_come_since = closes_at_ms in stream.rows
            if has_come_since:
                self._late.add(closes_at_ms)
            is_known = stream.covered_ms >= closes_at_ms or closes_at_ms in stream.ahead
            stream.is_late = not (is_known or has_come_since)
        self.through_ms = closes_at_ms

    def _put(self, stream: _Stream, row: BarRow, bar_ms: int) -> None:
        stream.put(row, bar_ms)
        at = row[1] or 0
        # One off the grid belongs to no close: it goes the way of late ones, into quarantine.
        if at in stream.rows and (at <= self.through_ms or at % bar_ms):
            self._late.add(at)

    def _closing_at(self, closes_at_ms: int) -> list[tuple[CandleStream, _Stream]]:
        return [
            (name, stream)
            for name, stream in self._streams.items()
            if closes_at_ms % self._bar_ms[name[0]] == 0
        ]
