"""Following a venue: its history first, then every close as it comes.

The venue is asked by tasks of their own, so that a slow answer holds nothing up; what they
find is recorded and published in turn with the events of the bus. Two rules make a restart
know where to go on: every close up to `through` has been published, of all timeframes, and
no later bar is recorded before it is published. So what is missing up to `through` is
fetched silently, page by page, and what comes after it is published close by close.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest import metrics, store
from services.ingest.backfill import Backfill, HistoryFetcher
from services.ingest.close_follower import (
    FIRST_WAIT_SECONDS,
    HISTORY,
    IN_TIME,
    LONGEST_WAIT_SECONDS,
    CloseFollower,
    seconds_asked_for,
    source_of,
)
from services.ingest.closes import Closes
from services.ingest.turns import Turns
from services.ingest.venue_time import VenueTime
from shared.bus.consumer import UnitOfWork
from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms, utc_now
from shared.database.engine import transaction
from shared.errors import (
    FatalError,
    MntError,
    VenueError,
    VenueUnknownError,
)
from shared.events.screener import PairsScreened
from shared.quant.bar_checks import PriorBar
from shared.service import Runtime
from shared.settings import Settings
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME
from shared.venues.candles import CandleStream, VenueCandles
from shared.venues.market import bars_closed

ANSWER_SECONDS = 10.0
"""How long an answer of the venue may take."""
ANNOUNCED_WITHIN_BARS = 1_000
"""How recent the newest bar of a symbol must be for its backfill to be announced."""
_ROUNDS = 5
_BACKFILLS_KEPT = 20

logger = structlog.get_logger()


class Fault(NamedTuple):
    """Something that went wrong with the venue or the record, and when."""

    at: datetime
    message: str


class VenueSource:
    """Records and publishes what a venue shows.

    Parameters
    ----------
    settings, runtime
        Of the process.

    Attributes
    ----------
    backfills
        The last of them, oldest first.
    last_fault
        What went wrong last, if anything did.
    """

    def __init__(self, settings: Settings, runtime: Runtime) -> None:
        self._settings = settings
        self._runtime = runtime
        self._turns = Turns(lambda: runtime.consumer)
        self._fetcher = HistoryFetcher(settings, runtime, self._turns)
        self._time = VenueTime()
        self._candles: VenueCandles | None = None
        self._follower: CloseFollower | None = None
        self._roster: PairsScreened | None = None
        self._requests: deque[Backfill] = deque()
        self._wants = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._n_backfills = 0
        self.backfills: deque[Backfill] = deque(maxlen=_BACKFILLS_KEPT)
        self.last_fault: Fault | None = None

    # --- routes of the consumer -----------------------------------------------------------

    async def serve(self) -> bool:
        """Do one piece of work that waits; True asks to be called again.

        The first call begins to follow: by then this instance has the lock.

        Raises
        ------
        FatalError
            If following has ended, which only a defect can make it.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="venue source")
        if self._task.done():
            raise FatalError("following the venue has ended: restart") from self._task.exception()
        return await self._turns.serve_one()

    async def reload(self, connection: AsyncConnection) -> None:
        """Take the roster from the record."""
        self._roster = await store.consumed_roster(connection)
        self._wants.set()

    async def follow_roster(self, roster: PairsScreened, unit: UnitOfWork) -> None:
        """Follow the symbols of a roster from now on; one older than the present is ignored."""

        def keep() -> None:
            if self._roster is None or roster.closes_at >= self._roster.closes_at:
                self._roster = roster
                self._wants.set()

        unit.after_commit(keep)

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    # --- what people ask ------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the venue has answered since the last fault that ended a session."""
        return self._candles is not None

    @property
    def is_streaming(self) -> bool:
        """Whether the websocket brings candles."""
        return self._follower is not None and self._follower.is_streaming

    @property
    def through_ms(self) -> int | None:
        """The last close that has been published; `None` until the first history is complete."""
        return None if self._follower is None else self._follower.closes.through_ms

    @property
    def venue_ms(self) -> int | None:
        """The venue's time as last heard."""
        return self._time.now_ms

    @property
    def streams(self) -> frozenset[CandleStream]:
        """What is followed."""
        return frozenset() if self._follower is None else self._follower.closes.streams

    def now_ms(self, venue: str) -> int:
        """Return the present instant of a venue: of the one that is followed, its own time."""
        if venue == self._settings.venue_name and self._time.now_ms is not None:
            return self._time.now_ms
        return ms_of_instant(utc_now())

    def listed_symbols(self) -> frozenset[str]:
        """Return what trades at the venue.

        Raises
        ------
        VenueUnknownError
            If the venue has not answered yet.
        """
        if self._candles is None:
            raise VenueUnknownError(
                f"{self._settings.venue_url} has not answered yet "
                f"({self.last_fault.message if self.last_fault else 'starting'}): ask again"
            )
        return frozenset(self._candles.listings)

    def request(
        self, symbols: Iterable[str], timeframe: str, since_ms: int, until_ms: int | None
    ) -> Backfill:
        """Have the gaps of some symbols filled, as far as the venue has the bars.

        Parameters
        ----------
        symbols, timeframe
            Of which bars.
        since_ms, until_ms
            Opening of the first and close of the last bar wanted; `None` for the last close
            that has passed.
        """
        backfill = self._new_backfill(
            "request", timeframe, symbols, since_ms, until_ms, is_tail=False
        )
        self._requests.append(backfill)
        self._wants.set()
        return backfill

    # --- a session with the venue ---------------------------------------------------------

    async def _run(self) -> None:
        """Hold one session after the other, whatever goes wrong."""
        wait = FIRST_WAIT_SECONDS
        while True:
            asked_for = 0.0
            try:
                await self._hold_session()
            except* MntError as group:
                error = _first_of(group)
                if isinstance(error, FatalError):
                    raise
                self._note(error)
                asked_for = seconds_asked_for(error)
            had_success = self._follower is not None
            self._follower = None
            wait = FIRST_WAIT_SECONDS if had_success else min(2 * wait, LONGEST_WAIT_SECONDS)
            await asyncio.sleep(max(wait, asked_for))

    async def _hold_session(self) -> None:
        """Follow the venue until the record fails or the venue does not answer at the start."""
        candles = await VenueCandles.connect(
            self._settings.venue_url, timeout_seconds=ANSWER_SECONDS
        )
        try:
            self._candles = candles
            self._time.hear(await candles.venue_time_ms())
            await self._record_instruments(candles)
            venue = self._settings.venue_name
            async with transaction(self._runtime.engine) as connection:
                through_ms = await store.last_close_from(connection, source_of(venue, IN_TIME))
            if through_ms is None:
                through_ms = await self._fetch_first_history(candles)
            elif (self._time.now_ms or 0) < through_ms:
                self._note(
                    VenueUnknownError(
                        f"the time of {self._settings.venue_url} is before the last close "
                        f"published, {instant_of_ms(through_ms)}: is it another market than the "
                        "one recorded? Nothing is published until it is past that"
                    )
                )
            closes = Closes((SCREEN_TIMEFRAME, self._settings.trade_timeframe), through_ms)
            follower = CloseFollower(
                self._settings, self._turns, candles, closes, self._time, self._note
            )
            await self._join_current(follower, candles)
            self._follower = follower
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(follower.run(), name="close follower")
                tasks.create_task(self._keep_wanted(follower, candles), name="backfills")
        finally:
            self._candles = None
            await candles.close()

    def _note(self, error: MntError) -> None:
        metrics.VENUE_ERRORS.inc()
        self.last_fault = Fault(utc_now(), str(error))
        logger.warning("fault while following the venue", error=str(error))

    async def _record_instruments(self, candles: VenueCandles) -> None:
        if candles.unusable:
            logger.warning("instruments left out", instruments=candles.unusable)
        absent = [s for s in self._settings.follow.symbols if candles.find(s) is None]
        if absent:
            logger.warning("symbols that do not trade at the venue", symbols=absent)
        found = {symbol: listing.instrument for symbol, listing in candles.listings.items()}
        venue = self._settings.venue_name

        async def record(unit: UnitOfWork) -> None:
            await store.insert_instruments(unit.connection, venue, found, unit.lineage)

        await self._turns.take(f"venue:{venue}/instruments", record)

    # --- which streams --------------------------------------------------------------------

    def _universe(self, candles: VenueCandles) -> frozenset[str]:
        """Return the symbols to screen: those named, or all.

        Raises
        ------
        VenueUnknownError
            If the venue lists none of them.
        """
        chosen = self._settings.follow.symbols
        found = frozenset(candles.listings)
        if chosen:
            found = frozenset(filter(None, map(candles.find, chosen)))
        if not found:
            raise VenueUnknownError(
                f"{self._settings.venue_url} lists {len(candles.listings)} perpetuals and none of "
                f"{list(chosen) or 'any'}: set MNT_FOLLOW__SYMBOLS to symbols it trades"
            )
        return found

    def _wanted(self, candles: VenueCandles) -> set[CandleStream]:
        """Return the streams to follow: the universe, and the roster in the trade timeframe.

        A roster names every pair that is a candidate, active or still to be closed.
        """
        streams = {(SCREEN_TIMEFRAME, symbol) for symbol in self._universe(candles)}
        for pair in self._roster.pairs if self._roster is not None else ():
            for symbol in {pair.y, pair.x} & candles.listings.keys():
                streams.add((self._settings.trade_timeframe, symbol))
        return streams

    async def _join_current(self, follower: CloseFollower, candles: VenueCandles) -> None:
        """Follow at once every wanted stream that is recorded up to the last published close."""
        wanted = self._wanted(candles)
        for timeframe in _timeframes(wanted):
            symbols = _symbols(wanted, timeframe)
            through_ms = floor_close(follower.closes.through_ms, timeframe)
            async with transaction(self._runtime.engine) as connection:
                last = await store.last_bars(
                    connection, self._settings.venue_name, timeframe, symbols
                )
            current = {s: bar for s, bar in last.items() if bar.closes_at_ms >= through_ms}
            if timeframe == SCREEN_TIMEFRAME:
                follower.join(_covered(timeframe, current))
            elif current:
                # The last backfill may have been cut off before it was announced.
                await self._announce(follower, timeframe, current)

    async def _keep_wanted(self, follower: CloseFollower, candles: VenueCandles) -> None:
        """Follow what is wanted, backfilled first, and do the backfills that people ask for."""
        wait = FIRST_WAIT_SECONDS
        while True:
            self._wants.clear()
            try:
                wanted = self._wanted(candles)
                for stream in follower.closes.streams - wanted:
                    follower.leave(stream)
                for timeframe in _timeframes(wanted):
                    symbols = _symbols(wanted - follower.closes.streams, timeframe)
                    if symbols:
                        await self._enter(follower, candles, timeframe, symbols)
            except VenueError as error:
                self._note(error)
                await asyncio.sleep(max(wait, seconds_asked_for(error)))
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                continue
            wait = FIRST_WAIT_SECONDS
            while self._requests:
                await self._serve_request(follower, candles, self._requests.popleft())
            await self._wants.wait()

    async def _enter(
        self,
        follower: CloseFollower,
        candles: VenueCandles,
        timeframe: str,
        symbols: Collection[str],
    ) -> None:
        """Backfill streams up to the last published close, and follow them from there."""
        kind, since_ms = "history", self._settings.follow.since_ms
        if timeframe != SCREEN_TIMEFRAME:
            n_bars = self._settings.follow.trade_history_bars
            back_ms = n_bars * timeframe_ms(timeframe)
            kind, since_ms = "roster", max(0, follower.closes.through_ms - back_ms)
        backfill = self._new_backfill(kind, timeframe, symbols, since_ms)
        for _ in range(_ROUNDS):
            until_ms = floor_close(follower.closes.through_ms, timeframe)
            await self._fetcher.fetch(candles, backfill, until_ms)
            if floor_close(follower.closes.through_ms, timeframe) == until_ms:
                break
        async with transaction(self._runtime.engine) as connection:
            last = await store.last_bars(connection, self._settings.venue_name, timeframe, symbols)
        new = PriorBar(follower.closes.through_ms, 0.0)
        await self._announce(follower, timeframe, {s: last.get(s, new) for s in symbols})

    async def _announce(
        self, follower: CloseFollower, timeframe: str, last: Mapping[str, PriorBar]
    ) -> None:
        """Publish the newest backfilled bars, and follow their streams from the last ones on.

        They belong to a close before the last one published, if there was any: consumers that
        have learnt from a record without the backfill see bars that are late, and learn anew.
        """
        topic, venue = f"bars.{timeframe}", self._settings.venue_name

        async def announce(unit: UnitOfWork) -> None:
            published_ms = await store.last_published_close(unit.connection, topic)
            bars = await store.newest_bars(
                unit.connection,
                venue,
                timeframe,
                last,
                follower.closes.through_ms + 1 if published_ms is None else published_ms,
                ANNOUNCED_WITHIN_BARS,
            )
            for close in bars.closes():
                unit.publish(topic, bars_closed(bars.at(int(close))))
            unit.after_commit(lambda: follower.join(_covered(timeframe, last)))

        await self._turns.take(f"{source_of(venue, HISTORY)}announced", announce)

    async def _serve_request(
        self, follower: CloseFollower, candles: VenueCandles, backfill: Backfill
    ) -> None:
        timeframe = backfill.timeframe
        through_ms = follower.closes.through_ms
        until_ms = min(through_ms, backfill.until_ms or through_ms)
        try:
            await self._fetcher.fetch(candles, backfill, floor_close(until_ms, timeframe))
        except VenueError as error:
            self._note(error)
            return
        followed = _symbols(follower.closes.streams, timeframe) & set(backfill.symbols)
        if backfill.bars and followed:
            async with transaction(self._runtime.engine) as connection:
                last = await store.last_bars(
                    connection, self._settings.venue_name, timeframe, followed
                )
            await self._announce(follower, timeframe, last)

    # --- history --------------------------------------------------------------------------

    async def _fetch_first_history(self, candles: VenueCandles) -> int:
        """Fetch the bars of the universe up to the present and publish the last close of them.

        Raises
        ------
        VenueUnknownError
            If the venue does not answer, or has no bar of the universe since the start.
        """
        venue, since = self._settings.venue_name, self._settings.follow.since
        backfill = self._new_backfill(
            "history", SCREEN_TIMEFRAME, self._universe(candles), self._settings.follow.since_ms
        )
        for _ in range(_ROUNDS):
            until_ms = floor_close(self._time.now_ms or 0, SCREEN_TIMEFRAME)
            await self._fetcher.fetch(candles, backfill, until_ms)
            self._time.hear(await candles.venue_time_ms())
            if floor_close(self._time.now_ms or 0, SCREEN_TIMEFRAME) == until_ms:
                break
        async with transaction(self._runtime.engine) as connection:
            await store.analyse_bars(connection)
            close = await store.newest_close(connection, venue, SCREEN_TIMEFRAME, until_ms)
            if close is None:
                raise VenueUnknownError(
                    f"{self._settings.venue_url} has no {SCREEN_TIMEFRAME} bar of the universe "
                    f"from {since} to its present {instant_of_ms(until_ms)}: set "
                    "MNT_FOLLOW__SINCE to an earlier instant, or wait for the first close"
                )
            bars = await store.bars_of_close(connection, venue, SCREEN_TIMEFRAME, close)

        async def publish(unit: UnitOfWork) -> None:
            unit.publish(f"bars.{SCREEN_TIMEFRAME}", bars_closed(bars))

        await self._turns.take(f"{source_of(venue, IN_TIME)}{instant_of_ms(close)}", publish)
        return close

    def _new_backfill(
        self,
        kind: str,
        timeframe: str,
        symbols: Iterable[str],
        since_ms: int,
        until_ms: int | None = None,
        *,
        is_tail: bool = True,
    ) -> Backfill:
        self._n_backfills += 1
        backfill = Backfill(
            f"{kind}-{self._n_backfills}",
            timeframe,
            tuple(sorted(symbols)),
            since_ms,
            until_ms,
            is_tail,
        )
        self.backfills.append(backfill)
        return backfill


def floor_close(instant_ms: int, timeframe: str) -> int:
    """Return the last close of a timeframe at or before an instant."""
    return instant_ms - instant_ms % timeframe_ms(timeframe)


def _timeframes(streams: Iterable[CandleStream]) -> list[str]:
    """Return the timeframes of some streams, the shortest first: it is the one traded on."""
    return sorted({timeframe for timeframe, _ in streams}, key=timeframe_ms)


def _symbols(streams: Iterable[CandleStream], timeframe: str) -> set[str]:
    return {symbol for of_timeframe, symbol in streams if of_timeframe == timeframe}


def _covered(timeframe: str, last: Mapping[str, PriorBar]) -> dict[CandleStream, int]:
    return {(timeframe, symbol): bar.closes_at_ms for symbol, bar in last.items()}


def _first_of(group: BaseExceptionGroup[MntError]) -> MntError:
    """Return the first of the errors that ended a group of tasks."""
    error = group.exceptions[0]
    return _first_of(error) if isinstance(error, BaseExceptionGroup) else error
