"""Publishing every close of a venue, from websocket and REST, in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial

from services.ingest import metrics
from services.ingest.closes import Closes
from services.ingest.intake import take_in
from services.ingest.turns import Turns
from services.ingest.venue_time import VenueTime
from shared.bus.consumer import UnitOfWork
from shared.clock import instant_of_ms
from shared.errors import MntError, RetryableError, VenueError, VenueUnknownError
from shared.quant.bars import BarRow, RawBars
from shared.settings import Settings
from shared.venues.candles import CandleFeed, CandleStream, LiveCandle, VenueCandles
from shared.venues.market import bars_closed

SILENCE_SECONDS = 1.0
"""After so long without a word on the websocket the venue is asked for its time."""
FILL_SECONDS = 30.0
"""How long a close waits for slow answers about what the websocket did not bring."""
SILENT_CLOSES = 2
"""Closes in a row of which the websocket brought nothing before it is given up."""
IN_TIME, LATE, HISTORY = "close", "late", "history"
"""Kinds of bars, as their source names them."""
LONGEST_LEAP_MS = 3_600_000
"""A candle from further in the future than this is not believed."""
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 15.0
_CALLS_AT_ONCE = 8


class _Answers(Enum):
    """How many of the streams that were asked for had an answer."""

    ALL = "all"
    SOME = "some"
    NONE = "none"


class CloseFollower:
    """Follows the closes of one venue for as long as a session with it lasts.

    A close is published when all its candles are here; `follow.grace_seconds` after the
    venue's clock has reached it, without those that are late. Halfway there the venue is
    asked for what the websocket has not brought. Nothing at all, and no answer either,
    means that the venue is down: then the close waits.

    Parameters
    ----------
    settings
        Of the process.
    turns
        Where transactions are done.
    candles, closes, time
        The venue, the bookkeeping and the venue's clock.
    note
        Told of every fault.

    Attributes
    ----------
    is_streaming
        Whether the websocket brings candles.
    """

    def __init__(
        self,
        settings: Settings,
        turns: Turns,
        candles: VenueCandles,
        closes: Closes,
        time: VenueTime,
        note: Callable[[MntError], None],
    ) -> None:
        self._settings = settings
        self._turns = turns
        self._candles = candles
        self._time = time
        self._note = note
        self._known = frozenset(candles.listings)
        self._news = asyncio.Event()
        self._feed: CandleFeed | None = None
        self._fill: asyncio.Task[_Answers] | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._n_silent_closes = 0
        self.closes = closes
        self.is_streaming = False

    async def run(self) -> None:
        """Follow until the record fails; faults of the venue are noted and outlasted.

        Raises
        ------
        ExceptionGroup
            Of the `StoreError` that ended it.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._listen(), name="candle websocket")
                tasks.create_task(self._keep_time(), name="venue time")
                tasks.create_task(self._publish_closes(), name="closes")
        finally:
            self._tasks = None
            self._show_streaming(is_streaming=False)

    def join(self, covered_ms: Mapping[CandleStream, int]) -> None:
        """Follow more streams, whose candles up to the given closes are recorded."""
        for stream, at_ms in covered_ms.items():
            self.closes.join(stream, at_ms)
        if self._feed is not None:
            self._feed.add(covered_ms)
        self._news.set()

    def leave(self, stream: CandleStream) -> None:
        """Follow a stream no longer; the websocket brings it until it is next connected."""
        self.closes.leave(stream)

    # --- what the venue tells -------------------------------------------------------------

    async def _listen(self) -> None:
        """Keep a websocket open."""
        wait, asked_for = FIRST_WAIT_SECONDS, 0.0
        while True:
            feed = self._candles.open_feed(self._take)
            try:
                feed.add(self.closes.streams)
                self._feed = feed
                await feed.lost()
            except VenueError as error:
                self._note(error)
                asked_for = seconds_asked_for(error)
            finally:
                has_streamed = self.is_streaming
                self._show_streaming(is_streaming=False)
                self._feed = None
                await feed.close()
            metrics.RECONNECTS.inc()
            wait = FIRST_WAIT_SECONDS if has_streamed else min(2 * wait, LONGEST_WAIT_SECONDS)
            await asyncio.sleep(max(wait, asked_for))

    def _take(self, candle: LiveCandle) -> None:
        self._show_streaming(is_streaming=True)
        known_ms = self._time.now_ms or 0
        if candle.venue_ms - known_ms > LONGEST_LEAP_MS:
            # If the clock did leap, the venue says so when it is asked because of the silence,
            # and what has closed is fetched.
            return
        self._time.hear(candle.venue_ms)
        if candle.is_closed:
            self.closes.put(candle.timeframe, candle.row)
        if candle.is_closed or known_ms < self.closes.next_ms <= candle.venue_ms:
            self._news.set()

    def _show_streaming(self, *, is_streaming: bool) -> None:
        self.is_streaming = is_streaming
        metrics.IS_STREAMING.set(is_streaming)

    async def _keep_time(self) -> None:
        """Ask the venue for its time whenever the websocket is silent."""
        wait = SILENCE_SECONDS
        while True:
            await asyncio.sleep(wait)
            if self._time.silent_seconds() < SILENCE_SECONDS:
                continue
            try:
                self._time.hear(await self._candles.venue_time_ms())
                wait = SILENCE_SECONDS
            except VenueError as error:
                self._note(error)
                wait = max(min(2 * wait, LONGEST_WAIT_SECONDS), seconds_asked_for(error))
            self._news.set()

    # --- closes ---------------------------------------------------------------------------

    async def _publish_closes(self) -> None:
        while True:
            await asyncio.sleep(0)  # a long row of closes without a candle holds nothing up
            self._news.clear()
            late = self.closes.earliest_late()
            if late is not None:
                await self._publish(late, is_late=True)
            elif self._time.now_ms is None or self._time.now_ms < self.closes.next_ms:
                await self._news.wait()
            else:
                close = self.closes.next_ms
                await self._gather(close)
                await self._publish(close, is_late=False)
                if self.closes.uncovered(close):
                    self._start_fill(close)

    async def _gather(self, close: int) -> None:
        """Wait until a close may be published."""
        grace = self._settings.follow.grace_seconds
        fill: asyncio.Task[_Answers] | None = None
        wait = FIRST_WAIT_SECONDS
        while self.closes.awaited(close):
            elapsed = self._time.seconds_since(close)
            if fill is None and elapsed < grace / 2:
                await self._wait_for_news(grace / 2 - elapsed)
            elif fill is None:
                self._doubt_websocket(close)
                fill = self._start_fill(close)
                if fill is None:  # one that was begun for an earlier close is still running
                    await self._wait_for_news()
            elif not fill.done():
                await self._wait_for_news()
            elif elapsed < grace:
                await self._wait_for_news(grace - elapsed)
            elif self._is_behind() and fill.result() is _Answers.SOME:
                fill = None  # nobody waits for this close now, so it may as well be complete
            elif self.closes.at(close) or fill.result() is not _Answers.NONE:
                return
            else:  # not a candle and not an answer: the venue is down
                fill = None
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _is_behind(self) -> bool:
        """Whether the close after the next one has passed at the venue, too."""
        return self.closes.is_behind(self._time.now_ms or 0)

    async def _wait_for_news(self, most_seconds: float | None = None) -> None:
        """Wait until something has come, or a fill has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_seconds):
                await self._news.wait()
        self._news.clear()

    def _start_fill(self, close: int) -> asyncio.Task[_Answers] | None:
        """Ask the venue for what is missing, unless it is being asked already."""
        if self._tasks is None or (self._fill is not None and not self._fill.done()):
            return None
        self._fill = self._tasks.create_task(self._ask_for_missing(close), name="missing candles")
        self._fill.add_done_callback(lambda _: self._news.set())
        return self._fill

    async def _ask_for_missing(self, close: int) -> _Answers:
        """Fetch the candles up to the present of streams that may lack some.

        The venue's time is asked first: what has closed by then has its final values.
        """
        missing = self.closes.uncovered(close)
        answered: list[CandleStream] = []
        slots = asyncio.Semaphore(_CALLS_AT_ONCE)

        async def ask_for(stream: CandleStream, covered_ms: int, now_ms: int) -> None:
            timeframe, symbol = stream
            async with slots:
                try:
                    rows = await self._candles.page(symbol, timeframe, covered_ms, now_ms)
                except VenueError as error:
                    self._note(error)
                    return
            metrics.FETCHED_BARS.inc(self.closes.put_page(stream, rows))
            answered.append(stream)

        try:
            async with asyncio.timeout(FILL_SECONDS):
                now_ms = await self._candles.venue_time_ms()
                self._time.hear(now_ms)
                calls = (ask_for(stream, at_ms, now_ms) for stream, at_ms in missing.items())
                await asyncio.gather(*calls)
        except VenueError as error:
            self._note(error)
        except TimeoutError:
            self._note(
                VenueUnknownError(
                    f"{len(missing) - len(answered)} of {len(missing)} streams had no answer from "
                    f"{self._settings.venue_url} within {FILL_SECONDS:g} s: asked again at the "
                    "next close"
                )
            )
        if len(answered) == len(missing):
            return _Answers.ALL
        return _Answers.SOME if answered else _Answers.NONE

    def _doubt_websocket(self, close: int) -> None:
        """Connect anew when the websocket, though open, has brought nothing of several closes."""
        feed = self._feed
        is_silent = feed is not None and not self.closes.at(close)
        if feed is None or not (is_silent and any(map(feed.is_due, self.closes.awaited(close)))):
            self._n_silent_closes = 0
            return
        self._n_silent_closes += 1
        if self._n_silent_closes == SILENT_CLOSES:
            self._n_silent_closes = 0
            feed.drop(
                f"it brought no candle of {SILENT_CLOSES} closes up to {instant_of_ms(close)}"
            )

    async def _publish(self, close: int, *, is_late: bool) -> None:
        """Record and publish what is here of a close, and go on to the next."""
        rows = self.closes.at(close)
        if rows:
            kind = LATE if is_late else IN_TIME
            source = f"{source_of(self._settings.venue_name, kind)}{instant_of_ms(close)}"
            await self._turns.take(source, lambda unit: self._record(unit, rows, kind))
        self.closes.published(close, rows)
        if not is_late:
            self.closes.passed(close)
            if rows:
                metrics.LATENESS_SECONDS.observe(self._time.seconds_since(close))

    async def _record(self, unit: UnitOfWork, rows: Mapping[str, list[BarRow]], kind: str) -> None:
        for timeframe, of_timeframe in rows.items():
            accepted = await take_in(
                unit,
                RawBars.from_rows(self._settings.venue_name, timeframe, of_timeframe),
                now_ms=self._time.now_ms or 0,
                known=self._known,
                settings=self._settings.ingest,
                source=kind,
            )
            if len(accepted):
                unit.publish(f"bars.{timeframe}", bars_closed(accepted))
                unit.after_commit(partial(_count, timeframe, len(accepted), kind))


def _count(timeframe: str, n_bars: int, kind: str) -> None:
    if kind == LATE:
        metrics.LATE_BARS.labels(timeframe).inc(n_bars)
    else:
        metrics.CLOSES.labels(timeframe).inc()


def seconds_asked_for(error: MntError) -> float:
    """Return how long the venue asked to be left alone."""
    return error.retry_after or 0.0 if isinstance(error, RetryableError) else 0.0


def source_of(venue: str, kind: str) -> str:
    """Return how the source of bars from a venue begins, by their kind."""
    return f"venue:{venue}/{kind}/"
