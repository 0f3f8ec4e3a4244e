"""The one consumer of a service: exactly-once effects over streams delivered at least once.

A single task takes events one at a time, merged by close over all consumed streams, and
handles each in one transaction: the cursor moves first, which locks, deduplicates and
fences; then the handler writes its rows; last its outgoing events are appended to the log.
After the commit the handler's new state is swapped in and the events are added to Redis.
Rows that only repeat such an event follow when nothing waits, under a cursor of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import asyncpg
import structlog
from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.bus import dead_letters, log, metrics
from shared.bus.log import LogEntry
from shared.bus.retry import RetryDecision, RetryPolicy, Verdict
from shared.bus.streams import StreamEntry, Streams, entry_order
from shared.clock import TIMEFRAME_MS, monotonic_seconds, utc_now
from shared.database.engine import Insertion, autocommit, run_at_once, transaction
from shared.errors import ContractError, FatalError, RetryableError, StoreError
from shared.events.base import MAX_EVENT_BYTES, Event
from shared.events.catalogue import owned_topics, topic_named

IDLE_SECONDS = 0.25
"""How long a quiet consumer waits before it looks into the log by itself."""
REST_SECONDS = 0.025
"""How long nothing must have come before rows that repeat events are recorded.

It is more than a close takes from its bars to its orders: rows recorded at once would take
the processor and the disk from the services that the event was published for.
"""
_MOST_UNRECORDED = 64
"""Events whose rows may wait while there is no rest."""
TURN_WITHIN_SECONDS = 30.0
"""How long a person's request waits for the event in hand before it is refused."""
_BUFFERED = 2_000
_REFUSED_AT_ONCE = 100
"""Most dead letters of one transaction."""

T = TypeVar("T")

logger = structlog.get_logger()


class _TransactionNeededError(Exception):
    """A handler that was to do with one statement asks for the connection."""


@dataclass(slots=True)
class UnitOfWork:
    """One transaction of a handler.

    Attributes
    ----------
    source_uri, transform_id
        Lineage of everything written in it.
    """

    _connection: AsyncConnection | None
    source_uri: str
    transform_id: str
    foreign_entry_id: str | None = None
    writes: list[Insertion] = field(default_factory=list)
    outgoing: list[tuple[str, Event]] = field(default_factory=list)
    hooks: list[Callable[[], None]] = field(default_factory=list)
    errands: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    fence: log.Fence | None = None

    @property
    def connection(self) -> AsyncConnection:
        """The transaction, for what a handler has to read."""
        if self._connection is None:
            raise _TransactionNeededError
        return self._connection

    @property
    def lineage(self) -> dict[str, str]:
        """The lineage columns of a row."""
        return {"source_uri": self.source_uri, "transform_id": self.transform_id}

    def record(self, *writes: Insertion) -> None:
        """Queue rows for the end of the transaction, each table at most once in each way."""
        self.writes.extend(writes)

    def require(self, fence: log.Fence) -> None:
        """Let nothing be written unless a row is as it must be."""
        self.fence = fence

    def publish(self, topic: str, event: Event) -> None:
        """Queue an event for the end of the transaction."""
        self.outgoing.append((topic, event))

    def after_commit(self, hook: Callable[[], None]) -> None:
        """Swap in new state once the transaction has committed."""
        self.hooks.append(hook)

    def errand_after_commit(self, errand: Callable[[], Awaitable[None]]) -> None:
        """Do something outside, such as calling a venue, once all is recorded."""
        self.errands.append(errand)


Handler = Callable[[Any, UnitOfWork], Awaitable[None]]
Recorder = Callable[[Any, Mapping[str, str]], Iterable[Insertion]]
Reload = Callable[[AsyncConnection], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Routes:
    """What a service does with what it reads.

    Attributes
    ----------
    handlers
        One per consumed stream.
    adopters
        One per owned stream: what to do with an entry a foreign client added. It publishes
        the event, under its number, like the service itself does.
    reload
        Rebuilds the in-memory state from the record, at start and after any failure.
    when_idle
        Called whenever nothing waits, in turn with the handlers; True asks to be called
        again at once.
    close
        Called once at the end, after the last handler.
    at_once
        Streams whose handlers do without a transaction unless they ask for its connection,
        which they do before they change anything: all they record and publish, at most one
        event of a stream, then goes to the database in a single statement.
    recorders
        For owned streams whose events are repeated as rows: makes the rows of an event and
        its lineage. They are recorded when the service comes to rest, by a cursor of their
        own, so that whoever waits for the event does not wait for them.
    """

    handlers: Mapping[str, Handler]
    adopters: Mapping[str, Handler]
    reload: Reload
    when_idle: Callable[[], Awaitable[bool]] | None = None
    close: Callable[[], Awaitable[None]] | None = None
    at_once: frozenset[str] = frozenset()
    recorders: Mapping[str, Recorder] = field(default_factory=dict)


_Done = tuple[UnitOfWork, Sequence[LogEntry]]
"""What was done, and what was appended to the log by it."""


class _OvertakingError(Exception):
    """The chosen event must wait: one that was not at hand may come before it."""


class Consumer:
    """Runs the routes of one service.

    Parameters
    ----------
    name
        Service name: the key of its cursors and of its lock.
    version
        Version of its transformation, part of the lineage.
    """

    def __init__(
        self,
        name: str,
        version: str,
        engine: AsyncEngine,
        streams: Streams,
        routes: Routes,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self.name = name
        self.transform_id = f"{name}/{version}"
        self._engine = engine
        self._streams = streams
        self._routes = routes
        self._retry_policy = retry_policy or RetryPolicy()
        self._owned = [topic.name for topic in owned_topics(name)]
        self._wake = asyncio.Event()
        self._handlers = dict(routes.handlers)
        self._handlers |= {topic: _recording(make) for topic, make in routes.recorders.items()}
        self._at_once = routes.at_once.union(routes.recorders)
        self._is_at_rest = False
        self._buffers: dict[str, dict[int, LogEntry]] = {topic: {} for topic in self._handlers}
        self._decoded: dict[str, tuple[LogEntry, Event | ContractError]] = {}
        self._foreign: list[StreamEntry] = []
        self._adopted: dict[str, str] = {}
        self._lock_connection: AsyncConnection | None = None
        # Effects of one statement go through the session that holds the lock: without it, none.
        self._lock_driver: asyncpg.Connection | None = None
        # Whoever has the turn may touch the service's state; those who wait get it in order.
        self._turn = asyncio.Lock()
        self._is_stopping = False
        self._must_reload = False
        self.offsets: dict[str, int] = {}
        self.is_paused = False
        self.last_closes_at_ms: int | None = None
        self.last_error: str | None = None
        self.progressed_at = monotonic_seconds()
        self.is_started = asyncio.Event()

    # --- life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Consume until `stop`; returns early only by raising.

        Raises
        ------
        FatalError
            If the process must be restarted.
        """
        await self._patiently(self._lock)
        await self._patiently(self._prepare)
        await self._patiently(self._start_reading)
        self.is_started.set()
        try:
            while not self._is_stopping:
                await self._step()
            async with self._turn:
                while await self._record_next():
                    pass
        finally:
            if self._routes.close is not None:
                await self._routes.close()
            await self._unlock()

    async def stop(self) -> None:
        """Let the event in hand finish and end `run`."""
        self._is_stopping = True
        self._wake.set()

    def wake(self) -> None:
        """Make the consumer look again now."""
        self._wake.set()

    async def _patiently(self, task: Callable[[], Awaitable[None]]) -> None:
        """Do a step of the start, waiting for servers that are down."""
        attempt = 0
        while not self._is_stopping:
            try:
                return await task()
            except StoreError as error:
                attempt += 1
                self.last_error = str(error)
                logger.warning("waiting for a server", service=self.name, error=str(error))
                await asyncio.sleep(self._retry_policy.decide(error, attempt).wait_seconds)
        return None

    async def _lock(self) -> None:
        """Keep a second instance of this consumer out for as long as this one lives."""
        connection: AsyncConnection | None = None
        try:
            connection = await self._engine.connect()
            row = await connection.execute(
                text("SELECT pg_try_advisory_lock(hashtext('mnt.consumer'), hashtext(:name))"),
                {"name": self.name},
            )
            is_held = row.scalar_one()
            await connection.commit()
            driver = (await connection.get_raw_connection()).driver_connection
        except (DBAPIError, OSError) as error:
            if connection is not None:
                await connection.close()
            raise StoreError(f"the database did not answer: {error}") from error
        if not is_held:
            await connection.close()
            raise StoreError(f"another {self.name} is running on this database; waiting for it")
        self._lock_connection, self._lock_driver = connection, driver

    async def _unlock(self) -> None:
        """Give the lock back by ending its session; in the pool it would go on holding it."""
        if self._lock_connection is not None:
            connection, self._lock_connection = self._lock_connection, None
            self._lock_driver = None
            await connection.invalidate()
            await connection.close()

    async def _prepare(self) -> None:
        async with transaction(self._engine) as connection:
            await log.ensure_topics(connection, {*self._owned, *self._handlers})
            await self._load(connection)
            row = await connection.execute(
                text("SELECT is_paused FROM service_control WHERE service = :name"),
                {"name": self.name},
            )
            self.is_paused = bool(row.scalar_one_or_none())

    async def _load(self, connection: AsyncConnection) -> None:
        """Take cursors and state from the record."""
        self.offsets = await log.ensure_offsets(connection, self.name, self._handlers)
        self._adopted = await dead_letters.adoption_cursors(connection, self._owned)
        await self._routes.reload(connection)

    async def _start_reading(self) -> None:
        consumed = [topic_named(name) for name in self._routes.handlers]
        look_after = {name: self._adopted.get(name, "0-0") for name in self._owned}
        await self._streams.start(consumed, look_after, self._receive)

    # --- arrival --------------------------------------------------------------------------

    def _receive(self, entries: Sequence[StreamEntry]) -> None:
        """Take entries from Redis: numbered ones to the buffers, foreign ones to adoption."""
        for entry in entries:
            if entry.topic in self._owned:
                if entry.seq is None:
                    self._foreign.append(entry)
                continue
            buffer = self._buffers.get(entry.topic)
            if (
                entry.seq is not None
                and buffer is not None
                and entry.payload is not None
                and len(buffer) < _BUFFERED
            ):
                added_at_ms, _ = entry_order(entry.entry_id)
                buffer[entry.seq] = LogEntry(entry.topic, entry.seq, entry.payload, added_at_ms)
        self._wake.set()

    async def _read_log(self) -> None:
        async with transaction(self._engine) as connection:
            for entry in await log.read(connection, self.offsets):
                self._buffers[entry.topic][entry.seq] = entry
        metrics.LOG_READS.labels(self.name).inc()

    async def _fill_gaps(self) -> None:
        """Read from the log what Redis has not brought, before any choice is made."""
        if any(
            buffer and self.offsets[topic] + 1 not in buffer
            for topic, buffer in self._buffers.items()
        ):
            await self._read_log()

    def _next(self) -> tuple[LogEntry, Event | ContractError] | None:
        """Return the next event by close, the longest timeframe first."""
        chosen: tuple[LogEntry, Event | ContractError] | None = None
        chosen_order: tuple[int, int, int] | None = None
        for rank, topic in enumerate(self._routes.handlers):
            entry = self._first_of(topic)
            if entry is None:
                continue
            event = self._decode(entry)
            closes_at_ms = 0 if isinstance(event, ContractError) else event.closes_at_ms
            order = (closes_at_ms, -_timeframe_rank(topic), rank)
            if chosen_order is None or order < chosen_order:
                chosen, chosen_order = (entry, event), order
        return chosen

    def _first_of(self, topic: str) -> LogEntry | None:
        """Return the next entry of a stream where it is at hand, and forget what was before."""
        buffer, seq = self._buffers[topic], self.offsets[topic] + 1
        for stale in [known for known in buffer if known < seq]:
            del buffer[stale]
        return buffer.get(seq)

    def _decode(self, entry: LogEntry) -> Event | ContractError:
        known = self._decoded.get(entry.topic)
        if known is not None and known[0] == entry:  # a phantom has the same number
            return known[1]
        event: Event | ContractError
        try:
            event = topic_named(entry.topic).event.from_bytes(entry.payload)
        except ContractError as error:
            event = error
        self._decoded[entry.topic] = (entry, event)
        return event

    # --- handling -------------------------------------------------------------------------

    async def _step(self) -> None:
        """Handle one event or one foreign entry, or wait for something to do."""
        self._wake.clear()
        try:
            async with self._turn:
                if not self.is_paused and await self._do_next():
                    self._is_at_rest = False
                    return
                if self._is_at_rest and await self._record_next():
                    return
        except RetryableError as error:
            self.last_error = str(error)
            logger.warning("store or venue unavailable", service=self.name, error=str(error))
        is_recorded = not any(self._buffers[topic] for topic in self._routes.recorders)
        try:
            async with asyncio.timeout(IDLE_SECONDS if is_recorded else REST_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            self._is_at_rest = True
            if is_recorded and not self.is_paused:
                async with self._turn:
                    await self._look_into_log()

    async def _do_next(self) -> bool:
        """Do what comes next; False when there is nothing to do."""
        if self._must_reload:
            await self._reload()
        if self._foreign:
            await self._take_in_foreign()
            return True
        await self._fill_gaps()
        if any(len(self._buffers[topic]) >= _MOST_UNRECORDED for topic in self._routes.recorders):
            await self._record_next()
        chosen = self._next()
        if chosen is not None:
            await self._deliver(*chosen)
            return True
        return self._routes.when_idle is not None and await self._routes.when_idle()

    async def _record_next(self) -> bool:
        """Record the rows of one published event; False when there is none or it must wait."""
        for topic in self._routes.recorders:
            entry = self._first_of(topic)
            if entry is not None:
                await self._deliver(entry, self._decode(entry))
                return self.offsets[topic] == entry.seq
        return False

    async def _look_into_log(self) -> None:
        try:
            await self._keep_lock()
            if self._buffers:
                await self._read_log()
        except StoreError as error:
            self.last_error = str(error)
            logger.warning("log unavailable", service=self.name, error=str(error))

    async def _keep_lock(self) -> None:
        """Take the lock again when the session that held it is gone, as after a restart."""
        if self._lock_connection is None:
            return
        try:
            await self._lock_connection.execute(text("SELECT 1"))
            await self._lock_connection.commit()
        except (DBAPIError, OSError) as error:
            logger.warning("lock session lost, taking it anew", service=self.name, error=str(error))
            await self._unlock()
            await self._patiently(self._lock)
            await self._patiently(self._reload)

    async def _deliver(self, entry: LogEntry, event: Event | ContractError) -> None:
        began_at = utc_now()
        started_at = monotonic_seconds()
        labels = (self.name, entry.topic)
        source_uri = f"log:{entry.topic}/{entry.seq}"
        # Asked for with the first statement: the merge is by close, so an event that Redis lost
        # must not be overtaken by a later one of another stream. What arrives from now on has
        # taken no part in the choice. Rows that repeat an event wait for no other.
        is_record = entry.topic in self._routes.recorders
        merged = () if is_record else self._routes.handlers
        not_at_hand = [
            topic for topic in merged if self.offsets[topic] + 1 not in self._buffers[topic]
        ]

        async def handle(unit: UnitOfWork) -> bool:
            heads = await log.advance(unit.connection, self.name, entry, not_at_hand)
            if heads is None:
                return False
            if any(head > self.offsets[topic] for topic, head in heads.items()):
                raise _OvertakingError
            if isinstance(event, ContractError):
                raise event
            unit.after_commit(observe_commit)
            await self._handlers[entry.topic](event, unit)
            return True

        async def attempt() -> _Done | None:
            if isinstance(event, Event) and entry.topic in self._at_once:
                beside = {topic: self.offsets[topic] for topic in not_at_hand}
                advance = log.Advance(self.name, entry, beside)
                handler = partial(self._handlers[entry.topic], event)
                done = await self._settle_at_once(source_uri, handler, advance)
                if done is not None:
                    done[0].after_commit(observe_commit)
                    return done
            return await self._in_transaction(source_uri, None, handle)

        def observe_commit() -> None:
            if is_record:
                return
            metrics.COMMIT_SECONDS.labels(*labels).observe(monotonic_seconds() - started_at)
            if entry.added_at_ms is not None:
                waited_seconds = began_at.timestamp() - entry.added_at_ms / 1000
                # Two clocks: that of Redis may be ahead.
                metrics.WAIT_SECONDS.labels(*labels).observe(max(0.0, waited_seconds))

        outcome = await self._persist(attempt, entry)
        if outcome is None:
            return
        self.offsets[entry.topic] = entry.seq
        self._buffers[entry.topic].pop(entry.seq, None)
        if isinstance(event, Event) and not is_record:
            self.last_closes_at_ms = event.closes_at_ms
        metrics.HANDLED.labels(*labels).inc()
        taken = metrics.RECORD_SECONDS if is_record else metrics.HANDLE_SECONDS
        taken.labels(*labels).observe(monotonic_seconds() - started_at)

    async def _take_in_foreign(self) -> None:
        """Adopt the next foreign entry, or refuse in one transaction all before one that is good.

        A flood of garbage must not keep what waits behind it for long.
        """
        refused: list[tuple[StreamEntry, ContractError]] = []
        for entry in self._foreign[:_REFUSED_AT_ONCE]:
            try:
                event = _decode_foreign(entry)
            except ContractError as error:
                refused.append((entry, error))
                continue
            if not refused:
                await self._adopt(entry, event)
                self._foreign.pop(0)
                return
            break
        await self._refuse(refused)
        del self._foreign[: len(refused)]

    async def _refuse(self, refused: Sequence[tuple[StreamEntry, ContractError]]) -> None:
        """Send foreign entries that are no events of their streams to the dead letters."""
        letters: list[tuple[str, dict[str, str]]] = []
        async with transaction(self._engine) as connection:
            # Asked anew: the last try may have failed after it was recorded.
            adopted = await dead_letters.adoption_cursors(connection, self._owned)
            for entry, error in refused:
                if not _is_adopted(entry, adopted):
                    letters.append(await self._record_letter(connection, entry, _named(error), 1))
                    adopted[entry.topic] = entry.entry_id
            for topic in {entry.topic for entry, _ in refused}:
                await dead_letters.move_adoption_cursor(connection, topic, adopted[topic])
        self._adopted.update(adopted)
        self.progressed_at = monotonic_seconds()
        for entry, error in refused:
            self.last_error = _named(error)
            logger.error(
                "event goes to the dead letters",
                service=self.name,
                topic=entry.topic,
                error=self.last_error,
            )
        for topic, fields in letters:
            metrics.DEAD_LETTERS.labels(self.name, topic).inc()
            await self._streams.publish_dead_letter(topic, fields)

    async def _adopt(self, entry: StreamEntry, event: Event) -> None:
        """Take in an entry that a foreign client added to a stream this service owns."""

        async def handle(unit: UnitOfWork) -> bool:
            # Asked at every try: the last one may have failed after it was recorded.
            if _is_adopted(entry, self._adopted):
                return False
            await dead_letters.move_adoption_cursor(unit.connection, entry.topic, entry.entry_id)
            await self._routes.adopters[entry.topic](event, unit)
            return True

        async def attempt() -> _Done | None:
            source_uri = f"stream:{entry.topic}/{entry.entry_id}"
            return await self._in_transaction(source_uri, entry.entry_id, handle)

        if await self._persist(attempt, entry) is not None:
            self._adopted[entry.topic] = entry.entry_id
            metrics.ADOPTED.labels(self.name, entry.topic).inc()

    async def work(
        self,
        source_uri: str,
        handle: Callable[[UnitOfWork], Awaitable[None]],
        *,
        at_once: bool = False,
    ) -> None:
        """Do a service's own transaction, such as releasing bars, under the same rules.

        Call it from `when_idle` or an errand only, so that it never runs beside a handler;
        anybody else calls `do`.

        Parameters
        ----------
        source_uri
            Of the work, its lineage.
        handle
            Given the transaction.
        at_once
            Whether it does without one unless it asks for its connection, as in `Routes`.

        Raises
        ------
        StoreError
            If the database is unavailable; nothing was done.
        """

        async def in_transaction(unit: UnitOfWork) -> bool:
            await handle(unit)
            return True

        try:
            done = await self._settle_at_once(source_uri, handle) if at_once else None
            done = done or await self._in_transaction(source_uri, None, in_transaction)
        except StoreError:
            # The commit may have happened all the same: nothing goes on from what is remembered.
            self._must_reload = True
            raise
        if done is not None:
            await self._conclude(*done)

    async def ask(self, question: TextClause, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the one row that answers a question, asked outside any transaction.

        Parameters
        ----------
        question, parameters
            As for `run_at_once`.

        Raises
        ------
        StoreError
            If the database is unavailable.
        """
        driver = self._lock_driver
        if driver is not None and not driver.is_closed():
            return dict(await run_at_once(driver, question, parameters))
        async with autocommit(self._engine) as connection:
            return dict((await connection.execute(question, parameters)).one()._mapping)

    async def do(self, name: str, job: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Do a job that a person asked for in a transaction of its own, and return its answer.

        It gets its turn after the event in hand and before those that wait, also while the
        consumer is paused and between the tries of an event that keeps failing: a halt must
        not wait for the venue to come back. What it changes is therefore in force from the
        next event on, and a job never sees the state of a service half way through one.

        Parameters
        ----------
        name
            Of the request, part of the lineage.
        job
            Given the transaction; its hooks, events and errands are treated like a handler's.

        Raises
        ------
        StoreError
            If the service has not started, its turn does not come in time or the database is
            unavailable.
        MntError
            Whatever the job raised; nothing of it was recorded, unless an errand raised it.
        """
        if not self.is_started.is_set():
            raise StoreError(f"{self.name} is starting ({self.last_error}): ask again")
        try:
            async with asyncio.timeout(TURN_WITHIN_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise StoreError(
                f"{self.name} has been at one event or request for {TURN_WITHIN_SECONDS:g} s, "
                "so nothing was done: ask again, or look at GET /status"
            ) from None
        try:
            answers: list[T] = []

            async def work(unit: UnitOfWork) -> None:
                answers.append(await job(unit))

            await self.work(f"request:{name}", work)
            return answers[0]
        finally:
            self._turn.release()

    async def _persist(
        self, attempt_it: Callable[[], Awaitable[_Done | None]], entry: LogEntry | StreamEntry
    ) -> bool | None:
        """Attempt to handle an entry until that is done, dead-lettered or stale.

        Returns
        -------
        bool or None
            True when handled, False when dead-lettered, None when the entry has no effect or is
            not the next one after all.
        """
        attempt = 0
        while True:
            try:
                done = await attempt_it()
                if done is None:
                    await self._forget(entry)
                    return None
                await self._conclude(*done)
            except _OvertakingError:
                await self._read_log()
                return None
            except Exception as error:  # noqa: BLE001 the one place that retries, dead-letters or stops
                attempt += 1
                decision = self._retry_policy.decide(error, attempt)
                if await self._recover(error, decision, attempt, entry):
                    return False
                if self._is_stopping:
                    return None
            else:
                self.last_error = None
                self.progressed_at = monotonic_seconds()
                return True

    async def _in_transaction(
        self,
        source_uri: str,
        foreign_entry_id: str | None,
        handle: Callable[[UnitOfWork], Awaitable[bool]],
    ) -> _Done | None:
        """Run a handler in a transaction; `None` when there was nothing for it to do."""
        async with transaction(self._engine) as connection:
            unit = UnitOfWork(connection, source_uri, self.transform_id, foreign_entry_id)
            if not await handle(unit):
                return None
            logged = await self._settle(unit)
        return unit, logged

    async def _settle(self, unit: UnitOfWork) -> list[LogEntry]:
        """Write what was recorded and append what was published, at the end of a transaction."""
        writes: Sequence[Insertion] = unit.writes
        logged: list[LogEntry] = []
        for outgoing in _without_repeats(unit.outgoing) or [[]]:
            logged += await log.append_with(
                unit.connection,
                writes,
                outgoing,
                source_uri=unit.source_uri,
                transform_id=unit.transform_id,
                foreign_entry_id=unit.foreign_entry_id,
                fence=unit.fence,
            )
            writes = ()
        return logged

    async def _settle_at_once(
        self,
        source_uri: str,
        handle: Callable[[UnitOfWork], Awaitable[None]],
        advance: log.Advance | None = None,
    ) -> _Done | None:
        """Do work with one statement; `None` when it takes a transaction after all."""
        driver = self._lock_driver
        if driver is None or driver.is_closed():
            return None
        unit = UnitOfWork(None, source_uri, self.transform_id)
        try:
            await handle(unit)
        except _TransactionNeededError:
            return None
        if len(_without_repeats(unit.outgoing)) > 1:
            raise FatalError(f"{self.name} publishes several events of a stream at once")
        appended = await log.settle_at_once(
            driver,
            advance,
            unit.writes,
            unit.outgoing,
            source_uri=source_uri,
            transform_id=self.transform_id,
            fence=unit.fence,
        )
        if appended is None:
            # A transaction finds out why. The handler must not have seen the event before.
            await self._reload()
            return None
        return unit, appended

    async def _conclude(self, unit: UnitOfWork, logged: Sequence[LogEntry]) -> None:
        for hook in unit.hooks:
            hook()
        is_published = await self._streams.publish(*logged, adopted_up_to=self._adopted)
        for entry in logged:
            if not is_published:
                metrics.PUBLISH_FAILURES.labels(self.name, entry.topic).inc()
            if entry.topic in self._routes.recorders:
                self._buffers[entry.topic][entry.seq] = entry
        for errand in unit.errands:
            await errand()

    async def _forget(self, entry: LogEntry | StreamEntry) -> None:
        """Drop an entry without effect (handled before, phantom) and look at the record anew."""
        if isinstance(entry, LogEntry):
            self._buffers[entry.topic].clear()
            self._decoded.pop(entry.topic, None)
        metrics.WITHOUT_EFFECT.labels(self.name, entry.topic).inc()
        async with transaction(self._engine) as connection:
            await self._load(connection)
        await self._read_log()

    async def _recover(
        self,
        error: Exception,
        decision: RetryDecision,
        attempt: int,
        entry: LogEntry | StreamEntry,
    ) -> bool:
        """Deal with a failed handler; True when its event went to the dead letters."""
        # Kept apart: a server that fails while this is dealt with leaves its own error behind.
        reason = self.last_error = _named(error)
        bound = logger.bind(service=self.name, topic=entry.topic, attempt=attempt)
        if decision.verdict is Verdict.STOP:
            bound.error("handler stops the service", error=self.last_error)
            raise error
        if decision.verdict is Verdict.RETRY:
            bound.warning("handler failed, trying again", error=self.last_error)
            metrics.RETRIES.labels(self.name, entry.topic).inc()
            await self._patiently(self._reload)
            self._turn.release()
            try:
                await asyncio.sleep(decision.wait_seconds)
            finally:
                await self._turn.acquire()
            return False
        bound.error("event goes to the dead letters", error=self.last_error, exc_info=error)
        await self._patiently(self._reload)
        await self._patiently(lambda: self._dead_letter(entry, reason, attempt))
        metrics.DEAD_LETTERS.labels(self.name, entry.topic).inc()
        return True

    async def _reload(self) -> None:
        async with transaction(self._engine) as connection:
            await self._load(connection)
        self._must_reload = False

    async def _dead_letter(self, entry: LogEntry | StreamEntry, error: str, attempts: int) -> None:
        async with transaction(self._engine) as connection:
            if isinstance(entry, LogEntry):
                if await log.advance(connection, self.name, entry) is None:
                    return
            else:
                # Asked anew: the last try may have failed after it was recorded.
                adopted = await dead_letters.adoption_cursors(connection, [entry.topic])
                if _is_adopted(entry, adopted):
                    return
                await dead_letters.move_adoption_cursor(connection, entry.topic, entry.entry_id)
            letter = await self._record_letter(connection, entry, error, attempts)
        await self._streams.publish_dead_letter(*letter)

    async def _record_letter(
        self,
        connection: AsyncConnection,
        entry: LogEntry | StreamEntry,
        error: str,
        attempts: int,
    ) -> tuple[str, dict[str, str]]:
        """Record a dead letter; return its stream and what is to be shown there."""
        # Postgres takes neither a NUL nor a lone surrogate, both of which a message may quote.
        error = error.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
        payload = entry.payload or b""
        letter_id = await dead_letters.record(
            connection,
            topic=entry.topic,
            consumer=self.name,
            entry_id=None if isinstance(entry, LogEntry) else entry.entry_id,
            seq=entry.seq if isinstance(entry, LogEntry) else None,
            payload=payload,
            error=error,
            attempts=attempts,
            transform_id=self.transform_id,
        )
        return entry.topic, {
            "dead_letter_id": str(letter_id),
            "consumer": self.name,
            "error": error,
            "attempts": str(attempts),
            "data": payload[:MAX_EVENT_BYTES].decode(errors="replace"),
        }


def _recording(make: Recorder) -> Handler:
    """Return the handler that records the rows of an event."""

    async def record(event: Event, unit: UnitOfWork) -> None:
        unit.record(*make(event, unit.lineage))

    return record


def _decode_foreign(entry: StreamEntry) -> Event:
    """Return the event of an entry that a foreign client added.

    Raises
    ------
    ContractError
        If it is none of its stream.
    """
    if entry.payload is None:
        raise ContractError(
            f"entry {entry.entry_id} has no field 'data'; use XADD {entry.topic} '*' data '<json>'"
        )
    if b"\\u0000" in entry.payload:
        raise ContractError(
            f"entry {entry.entry_id} has a NUL (\\u0000), which no row can keep: leave it out"
        )
    return topic_named(entry.topic).event.from_bytes(entry.payload)


def _is_adopted(entry: StreamEntry, adopted: Mapping[str, str]) -> bool:
    """Whether an entry has been dealt with, by the last id dealt with of each stream."""
    last = adopted.get(entry.topic)
    return last is not None and entry_order(entry.entry_id) <= entry_order(last)


def _without_repeats(outgoing: Iterable[tuple[str, Event]]) -> list[list[tuple[str, Event]]]:
    """Split events, in their order, so that no part has two of one stream."""
    parts: list[list[tuple[str, Event]]] = []
    for topic, event in outgoing:
        if not parts or any(topic == other for other, _ in parts[-1]):
            parts.append([])
        parts[-1].append((topic, event))
    return parts


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _timeframe_rank(topic: str) -> int:
    """Return the length of a bar stream's timeframe; other streams rank below every bar."""
    subject, _, timeframe = topic.partition(".")
    return TIMEFRAME_MS.get(timeframe, 0) if subject == "bars" else 0
