from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from sqlalchemy import Column, MetaData, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.bus import consumer as consuming
from shared.bus import dead_letters, log, streams
from shared.bus.consumer import Consumer, Handler, Recorder, Routes, UnitOfWork
from shared.bus.dead_letters import DeadLetter
from shared.bus.log import LogEntry
from shared.bus.retry import RetryPolicy
from shared.bus.streams import StreamEntry, Streams
from shared.clock import instant_of_ms
from shared.database.engine import Insertion, create_engine, transaction
from shared.errors import (
    ContractError,
    FatalError,
    PermanentError,
    RetryableError,
    StoreError,
    VenueUnknownError,
)
from shared.events.base import Event
from shared.events.catalogue import TOPICS
from shared.events.ingest import Bar, BarsClosed
from shared.events.screener import PairsScreened
from tests.support import eventually_async

T = TypeVar("T")

NOON = instant_of_ms(1_704_110_400_000)  # 2024-01-01T12:00:00Z
IMPATIENT = RetryPolicy(first_wait_seconds=0.001, longest_wait_seconds=0.01)
LINEAGE = {"source_uri": "test", "transform_id": "test/1"}


def bars(hour: int, symbol: str = "AAA", timeframe: str = "1h") -> BarsClosed:
    bar = Bar(symbol=symbol, open=1.0, high=1.0, low=1.0, close=1.0, volume=1.0)
    closes_at = NOON + timedelta(hours=hour)
    return BarsClosed(closes_at=closes_at, venue="binance", timeframe=timeframe, bars=(bar,))


def screen(closes_at: datetime) -> PairsScreened:
    return PairsScreened(
        closes_at=closes_at,
        timeframe="1h",
        method="holm",
        level=0.05,
        n_symbols=2,
        n_tests=1,
        n_accepted=0,
        summary="nothing",
        pairs=(),
    )


def note_of(event: Event) -> str:
    return f"{type(event).__name__} {event.closes_at:%d %H:%M}"


async def take_note(event: Event, unit: UnitOfWork) -> None:
    """Have an effect in the transaction of the cursor."""
    await unit.connection.execute(
        text("INSERT INTO note (words) VALUES (:words)"), {"words": note_of(event)}
    )


NOTES = Table("note", MetaData(), Column("words", Text))


async def record_note(event: Event, unit: UnitOfWork) -> None:
    """Have the same effect in the statement that moves the cursor."""
    unit.record(Insertion(NOTES, {"words": [note_of(event)]}))


async def nothing_to_reload(_connection: AsyncConnection) -> None:
    pass


@dataclass(slots=True)
class Bus:
    """Both sides of the bus, and what the toy consumers left on them."""

    database_url: str
    redis_url: str
    engine: AsyncEngine
    redis: Redis
    streams: Streams

    async def record(self, topic: str, event: Event) -> LogEntry:
        """Commit an event to the log, as a publisher that crashes before it adds the entry."""
        async with transaction(self.engine) as connection:
            await log.ensure_topics(connection, [topic])
            return await log.append(connection, topic, event, **LINEAGE)

    async def publish(self, topic: str, *events: Event) -> None:
        for event in events:
            assert await self.streams.publish(await self.record(topic, event))

    async def entries(self, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return await self.redis.xrange(stream)  # type: ignore[return-value]

    async def add(self, stream: str, fields: Mapping[Any, Any]) -> str:
        entry_id = await self.redis.xadd(stream, dict(fields))
        assert isinstance(entry_id, bytes)
        return entry_id.decode()

    async def rows(self, statement: str) -> Sequence[Any]:
        async with transaction(self.engine) as connection:
            return (await connection.execute(text(statement))).all()

    async def notes(self) -> list[str]:
        return [row.words for row in await self.rows("SELECT words FROM note ORDER BY note_id")]

    async def has_notes(self, *events: Event) -> bool:
        notes = await self.notes()
        assert notes == [note_of(event) for event in events]
        return True

    async def letters(self) -> Sequence[DeadLetter]:
        async with transaction(self.engine) as connection:
            return await dead_letters.find(connection)

    async def log_of(self, topic: str) -> list[str]:
        rows = await self.rows(f"SELECT seq, payload FROM event_log WHERE topic = '{topic}' "
                               "ORDER BY seq")  # fmt: skip
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        return [note_of(TOPICS[topic].event.from_bytes(row.payload.encode())) for row in rows]

    def consumer(
        self,
        name: str,
        handlers: Mapping[str, Handler],
        adopters: Mapping[str, Handler] | None = None,
        reload: Callable[[AsyncConnection], Awaitable[None]] = nothing_to_reload,
        when_idle: Callable[[], Awaitable[bool]] | None = None,
        at_once: frozenset[str] = frozenset(),
        recorders: Mapping[str, Recorder] | None = None,
    ) -> Consumer:
        return Consumer(
            name,
            "1",
            create_engine(self.database_url, application=f"test-{name}"),
            Streams(self.redis_url),
            Routes(
                handlers,
                adopters or {},
                reload,
                when_idle,
                at_once=at_once,
                recorders=recorders or {},
            ),
            IMPATIENT,
        )


@pytest.fixture
async def bus(database_url: str, redis_url: str) -> AsyncIterator[Bus]:
    engine = create_engine(database_url, application="test")
    streams = Streams(redis_url)
    async with Redis.from_url(redis_url) as redis:
        async with transaction(engine) as connection:
            await connection.execute(
                text("CREATE TABLE note (note_id int GENERATED ALWAYS AS IDENTITY, words text)")
            )
        yield Bus(database_url, redis_url, engine, redis, streams)
    await streams.stop()
    await engine.dispose()


@asynccontextmanager
async def running(consumer: Consumer, *, is_waited_for: bool = True) -> AsyncIterator[None]:
    """Run a consumer; its death ends the test with its own error."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(consumer.run())
            try:
                if is_waited_for:
                    await consumer.is_started.wait()
                yield
            finally:
                await consumer.stop()
    finally:
        await close(consumer)


async def close(consumer: Consumer) -> None:
    await consumer._streams.stop()
    await consumer._engine.dispose()


# --- delivery -----------------------------------------------------------------------------


async def test_events_are_handled_once_and_in_order(bus: Bus) -> None:
    events = [bars(hour) for hour in range(20)]
    async with running(bus.consumer("screener", {"bars.1h": take_note})):
        await bus.publish("bars.1h", *events)
        await eventually_async(lambda: bus.has_notes(*events))


async def test_a_restarted_consumer_goes_on_where_it_stopped(bus: Bus) -> None:
    async with running(bus.consumer("screener", {"bars.1h": take_note})):
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: bus.has_notes(bars(0)))
    await bus.publish("bars.1h", bars(1))
    async with running(bus.consumer("screener", {"bars.1h": take_note})):
        await bus.publish("bars.1h", bars(2))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1), bars(2)))


async def test_an_event_that_never_reached_redis_is_found_in_the_log(bus: Bus) -> None:
    async with running(bus.consumer("screener", {"bars.1h": take_note})):
        await bus.record("bars.1h", bars(0))
        await eventually_async(lambda: bus.has_notes(bars(0)))


async def test_a_later_event_does_not_overtake_one_that_redis_lacks(bus: Bus) -> None:
    async with running(bus.consumer("screener", {"bars.1h": take_note})):
        await bus.record("bars.1h", bars(0))
        await bus.publish("bars.1h", bars(1))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1)))


async def test_an_event_that_arrives_while_a_later_one_is_begun_is_not_overtaken(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = {"pairs.screened": take_note, "bars.1h": take_note}
    async with running(consumer := bus.consumer("signals", handlers)):
        consumer.is_paused = True
        entry = await bus.record("pairs.screened", screen(NOON))
        arriving = StreamEntry(entry.topic, "1-1", entry.seq, entry.payload)
        advance = log.advance

        async def advance_meanwhile(*arguments: Any) -> dict[str, int] | None:
            heads = await advance(*arguments)
            consumer._receive([arriving])
            return heads

        monkeypatch.setattr(log, "advance", advance_meanwhile)
        await bus.publish("bars.1h", bars(1))
        await eventually_async(lambda: arrived(consumer, "bars.1h"))
        consumer.is_paused = False
        consumer.wake()
        await eventually_async(lambda: bus.has_notes(screen(NOON), bars(1)))


async def arrived(consumer: Consumer, topic: str) -> bool:
    return bool(consumer._buffers[topic])


async def test_what_an_emptied_redis_forgot_is_read_from_the_log(bus: Bus) -> None:
    async with running(consumer := bus.consumer("screener", {"bars.1h": take_note})):
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: bus.has_notes(bars(0)))
        consumer.is_paused = True
        await bus.publish("bars.1h", bars(1))
        await bus.redis.flushall()
        await bus.publish("bars.1h", bars(2))
        consumer.is_paused = False
        consumer.wake()
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1), bars(2)))


async def test_an_entry_delivered_twice_has_one_effect(bus: Bus) -> None:
    entry = await bus.record("bars.1h", bars(0))
    async with running(bus.consumer("screener", {"bars.1h": take_note})):
        for _ in range(3):
            await bus.streams.publish(entry)
        await bus.publish("bars.1h", bars(1))
        await bus.streams.publish(entry)
        await bus.publish("bars.1h", bars(2))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1), bars(2)))


@pytest.mark.parametrize("number", [b"1", b"2", b"7", b"0", b"9" * 30, b"9" * 5000])
async def test_a_numbered_entry_that_the_log_does_not_have_has_no_effect(
    bus: Bus, number: bytes
) -> None:
    async with running(consumer := bus.consumer("screener", {"bars.1h": take_note})):
        await bus.redis.xadd("bars.1h", {"seq": number, "data": bars(30).to_bytes()})
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1)))
        assert consumer._streams.is_reading
    assert not await bus.letters()


async def test_an_entry_with_the_right_number_and_other_bytes_has_no_effect(bus: Bus) -> None:
    async with running(consumer := bus.consumer("screener", {"bars.1h": take_note})):
        consumer.is_paused = True
        await bus.publish("bars.1h", bars(0))
        await bus.redis.xadd("bars.1h", {"seq": b"1", "data": bars(30).to_bytes()})
        await eventually_async(lambda: _holds(consumer, "bars.1h", bars(30)))
        consumer.is_paused = False
        consumer.wake()
        await eventually_async(lambda: bus.has_notes(bars(0)))


async def _holds(consumer: Consumer, topic: str, event: Event) -> bool:
    return any(entry.payload == event.to_bytes() for entry in consumer._buffers[topic].values())


async def test_a_phantom_that_was_looked_at_is_not_handled_in_place_of_the_event(
    bus: Bus,
) -> None:
    phantom, first, wanted = screen(NOON + timedelta(hours=9)), bars(8), screen(NOON)
    is_blocked = asyncio.Event()

    async def take_note_slowly(event: Event, unit: UnitOfWork) -> None:
        await take_note(event, unit)
        if event == first:  # both heads have been decoded to choose this one
            await bus.publish("pairs.screened", wanted)
            await eventually_async(lambda: _holds(consumer, "pairs.screened", wanted))
            is_blocked.set()

    handlers = {"pairs.screened": take_note, "bars.5m": take_note_slowly}
    async with running(consumer := bus.consumer("features", handlers)):
        consumer.is_paused = True
        await bus.redis.xadd("pairs.screened", {"seq": b"1", "data": phantom.to_bytes()})
        await eventually_async(lambda: _holds(consumer, "pairs.screened", phantom))
        await bus.publish("bars.5m", first)
        await eventually_async(lambda: _holds(consumer, "bars.5m", first))
        consumer.is_paused = False
        consumer.wake()
        await is_blocked.wait()
        await eventually_async(lambda: bus.has_notes(first, wanted))


async def test_a_pause_keeps_events_waiting(bus: Bus) -> None:
    async with running(consumer := bus.consumer("screener", {"bars.1h": take_note})):
        consumer.is_paused = True
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: _holds(consumer, "bars.1h", bars(0)))
        assert await bus.notes() == []
        consumer.is_paused = False
        consumer.wake()
        await eventually_async(lambda: bus.has_notes(bars(0)))


async def test_a_consumer_that_was_paused_starts_paused(bus: Bus) -> None:
    async with transaction(bus.engine) as connection:
        await connection.execute(
            text("INSERT INTO service_control VALUES ('screener', true, now())")
        )
    async with running(consumer := bus.consumer("screener", {"bars.1h": take_note})):
        assert consumer.is_paused


# --- several streams ----------------------------------------------------------------------


async def test_streams_are_merged_by_close(bus: Bus) -> None:
    screens = [screen(NOON + timedelta(hours=hour, minutes=30)) for hour in (0, 1, 2)]
    closes = [bars(hour, timeframe="5m") for hour in (0, 1, 2)]
    await bus.publish("pairs.screened", *screens)
    await bus.publish("bars.5m", *closes)
    handlers = {"pairs.screened": take_note, "bars.5m": take_note}
    expected = [event for both in zip(closes, screens, strict=True) for event in both]
    async with running(bus.consumer("features", handlers)):
        await eventually_async(lambda: bus.has_notes(*expected))


async def test_an_earlier_close_that_redis_lacks_still_goes_first(bus: Bus) -> None:
    handlers = {"pairs.screened": take_note, "bars.5m": take_note}
    async with running(bus.consumer("features", handlers)):
        await bus.record("pairs.screened", screen(NOON))
        await bus.publish("bars.5m", bars(1, timeframe="5m"))
        await eventually_async(
            lambda: bus.has_notes(screen(NOON), bars(1, timeframe="5m")),
        )


async def test_at_one_close_the_longer_timeframe_goes_first(bus: Bus) -> None:
    async def name_timeframe(event: BarsClosed, unit: UnitOfWork) -> None:
        await unit.connection.execute(
            text("INSERT INTO note (words) VALUES (:words)"), {"words": event.timeframe}
        )

    await bus.publish("bars.5m", bars(0, timeframe="5m"))
    await bus.publish("bars.1h", bars(0))
    handlers = {"bars.5m": name_timeframe, "bars.1h": name_timeframe}
    async with running(bus.consumer("features", handlers)):
        await eventually_async(lambda: _notes_are(bus, ["1h", "5m"]))


async def _notes_are(bus: Bus, expected: list[str]) -> bool:
    assert await bus.notes() == expected
    return True


# --- what a handler publishes -------------------------------------------------------------


async def screen_bars(event: BarsClosed, unit: UnitOfWork) -> None:
    await take_note(event, unit)
    unit.publish("pairs.screened", screen(event.closes_at))


async def test_an_outgoing_event_is_recorded_with_its_lineage_and_added_to_redis(
    bus: Bus,
) -> None:
    async with running(bus.consumer("screener", {"bars.1h": screen_bars})):
        await bus.publish("bars.1h", bars(0))
        [(_, fields)] = await eventually_async(lambda: bus.entries("pairs.screened"))
    assert fields == {b"seq": b"1", b"data": screen(NOON).to_bytes()}
    [row] = await bus.rows("SELECT * FROM event_log WHERE topic = 'pairs.screened'")
    assert (row.source_uri, row.transform_id) == ("log:bars.1h/1", "screener/1")
    assert row.payload.encode() == screen(NOON).to_bytes()


async def test_a_handler_that_fails_at_its_end_leaves_neither_rows_nor_events(bus: Bus) -> None:
    swapped: list[Event] = []

    async def fail_late(event: BarsClosed, unit: UnitOfWork) -> None:
        await screen_bars(event, unit)
        unit.after_commit(lambda: swapped.append(event))
        if event == bars(0):
            raise PermanentError("refused at the end")

    async with running(bus.consumer("screener", {"bars.1h": fail_late})):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(1)))
        await eventually_async(lambda: _is(swapped, [bars(1)]))
    assert await bus.log_of("pairs.screened") == [note_of(screen(bars(1).closes_at))]


async def _is(present: object, expected: object) -> bool:
    assert present == expected
    return True


async def test_an_errand_that_fails_does_not_repeat_what_was_recorded(bus: Bus) -> None:
    errands: list[Event] = []

    async def send_for(event: BarsClosed, unit: UnitOfWork) -> None:
        async def errand() -> None:
            errands.append(event)
            raise RetryableError("the venue does not answer")

        await take_note(event, unit)
        unit.errand_after_commit(errand)

    async with running(bus.consumer("screener", {"bars.1h": send_for})):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: _is(errands, [bars(0), bars(1)]))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1)))
    assert not await bus.letters()


# --- requests of people -------------------------------------------------------------------


async def note_request(unit: UnitOfWork) -> str:
    await unit.connection.execute(text("INSERT INTO note (words) VALUES ('request')"))
    return unit.source_uri


async def test_a_request_is_done_while_the_consumer_is_paused(bus: Bus) -> None:
    async with running(consumer := bus.consumer("screener", {"bars.1h": take_note})):
        consumer.is_paused = True
        assert await consumer.do("rest", note_request) == "request:rest"
        assert await bus.notes() == ["request"]


async def test_a_request_goes_before_events_that_wait(bus: Bus) -> None:
    is_handling, may_go_on = asyncio.Event(), asyncio.Event()

    async def take_note_slowly(event: Event, unit: UnitOfWork) -> None:
        await take_note(event, unit)
        is_handling.set()
        await may_go_on.wait()

    async with running(consumer := bus.consumer("screener", {"bars.1h": take_note_slowly})):
        await bus.publish("bars.1h", bars(0), bars(1))
        await is_handling.wait()
        request = asyncio.create_task(consumer.do("rest", note_request))
        await eventually_async(lambda: _is(bool(consumer._turn._waiters), True))
        may_go_on.set()
        await request
        await eventually_async(
            lambda: _are_notes(bus, [note_of(bars(0)), "request", note_of(bars(1))])
        )


async def _are_notes(bus: Bus, expected: list[str]) -> bool:
    return await _is(await bus.notes(), expected)


async def test_a_request_is_done_between_the_tries_of_an_event_that_keeps_failing(bus: Bus) -> None:
    is_failing = True

    async def handle(event: Event, unit: UnitOfWork) -> None:
        if is_failing:
            raise RetryableError("the venue is down")
        await take_note(event, unit)

    async with running(consumer := bus.consumer("screener", {"bars.1h": handle})):
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: _has_error(consumer))
        await consumer.do("rest", note_request)
        is_failing = False
        await eventually_async(lambda: _are_notes(bus, ["request", note_of(bars(0))]))


async def _has_error(consumer: Consumer) -> bool:
    return consumer.last_error is not None


async def test_a_request_that_fails_records_nothing_and_harms_nothing(bus: Bus) -> None:
    async def fail(unit: UnitOfWork) -> None:
        await note_request(unit)
        raise PermanentError("no model is champion")

    async with running(consumer := bus.consumer("screener", {"bars.1h": take_note})):
        with pytest.raises(PermanentError, match="no model is champion"):
            await consumer.do("rest", fail)
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: bus.has_notes(bars(0)))


async def test_what_a_request_changes_is_in_force_for_the_next_event(bus: Bus) -> None:
    words = ["before"]

    async def change(unit: UnitOfWork) -> None:
        unit.publish("pairs.screened", screen(NOON))
        unit.after_commit(lambda: words.append("after"))

    async def handle(event: Event, unit: UnitOfWork) -> None:
        await unit.connection.execute(
            text("INSERT INTO note (words) VALUES (:words)"), {"words": words[-1]}
        )

    async with running(consumer := bus.consumer("screener", {"bars.1h": handle})):
        await consumer.do("rest", change)
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: _are_notes(bus, ["after"]))
    assert await bus.log_of("pairs.screened") == [note_of(screen(NOON))]


async def test_a_request_to_a_service_that_has_not_started_is_refused(bus: Bus) -> None:
    consumer = bus.consumer("screener", {"bars.1h": take_note})
    with pytest.raises(StoreError, match="screener is starting"):
        await consumer.do("rest", note_request)
    await close(consumer)


async def test_a_request_whose_turn_does_not_come_is_refused(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.consumer.TURN_WITHIN_SECONDS", 0.01)
    is_handling, may_go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: Event, unit: UnitOfWork) -> None:
        is_handling.set()
        await may_go_on.wait()

    async with running(consumer := bus.consumer("screener", {"bars.1h": handle})):
        await bus.publish("bars.1h", bars(0))
        await is_handling.wait()
        with pytest.raises(StoreError, match="nothing was done: ask again"):
            await consumer.do("rest", note_request)
        may_go_on.set()
    assert await bus.notes() == []


async def test_a_venue_that_is_down_while_nothing_waits_does_not_end_the_consumer(
    bus: Bus,
) -> None:
    calls: list[int] = []

    async def ask_venue() -> bool:
        calls.append(len(calls))
        raise VenueUnknownError("no answer")

    consumer = bus.consumer("screener", {"bars.1h": take_note}, when_idle=ask_venue)
    async with running(consumer):
        await eventually_async(lambda: _is(len(calls) > 1, True))
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: bus.has_notes(bars(0)))


# --- failures -----------------------------------------------------------------------------


def failing(errors: list[Exception], attempts: list[Event]) -> Handler:
    """Return a handler that raises each error in turn, then takes note."""

    async def handle(event: Event, unit: UnitOfWork) -> None:
        attempts.append(event)
        await take_note(event, unit)
        if errors:
            raise errors.pop(0)

    return handle


async def test_a_permanent_error_sends_the_event_to_the_dead_letters_at_once(bus: Bus) -> None:
    attempts: list[Event] = []
    handler = failing([PermanentError("AAA has no instrument")], attempts)
    async with running(bus.consumer("screener", {"bars.1h": handler})):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(1)))
        [(_, shown)] = await eventually_async(lambda: bus.entries("bars.1h.dead"))
    assert attempts == [bars(0), bars(1)]
    [letter] = await bus.letters()
    assert (letter.topic, letter.consumer, letter.seq) == ("bars.1h", "screener", 1)
    assert (letter.entry_id, letter.attempts, letter.status) == (None, 1, "open")
    assert letter.error == "PermanentError: AAA has no instrument"
    assert letter.payload == bars(0).to_bytes()
    assert shown[b"dead_letter_id"] == str(letter.dead_letter_id).encode()
    assert shown[b"error"] == letter.error.encode()
    assert shown[b"data"] == letter.payload


async def test_a_retryable_error_is_tried_until_it_passes(bus: Bus) -> None:
    errors: list[Exception] = [RetryableError("not now") for _ in range(8)]
    attempts: list[Event] = []
    handler = failing(errors, attempts)
    async with running(bus.consumer("screener", {"bars.1h": handler})):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1)))
    assert attempts == [bars(0)] * 9 + [bars(1)]
    assert not await bus.letters()


async def test_a_defect_is_tried_three_times_and_then_put_aside(bus: Bus) -> None:
    errors: list[Exception] = [ZeroDivisionError("division by zero") for _ in range(3)]
    attempts: list[Event] = []
    handler = failing(errors, attempts)
    async with running(bus.consumer("screener", {"bars.1h": handler})):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(1)))
    assert attempts == [bars(0)] * 3 + [bars(1)]
    [letter] = await bus.letters()
    assert (letter.seq, letter.attempts) == (1, 3)
    assert letter.error == "ZeroDivisionError: division by zero"


async def test_a_statement_the_database_refuses_is_put_aside_like_a_defect(bus: Bus) -> None:
    async def insert_nul(event: BarsClosed, unit: UnitOfWork) -> None:
        words = "\x00" if event == bars(0) else note_of(event)
        await unit.connection.execute(text("INSERT INTO note (words) VALUES (:w)"), {"w": words})

    async with running(bus.consumer("screener", {"bars.1h": insert_nul})):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(1)))
    assert [letter.seq for letter in await bus.letters()] == [1]


@pytest.mark.parametrize("words", ["a \x00 b", "a \ud800 b"])
async def test_an_error_message_that_is_no_text_does_not_stop_the_consumer(
    bus: Bus, words: str
) -> None:
    handler = failing([PermanentError(words)], [])
    async with running(bus.consumer("screener", {"bars.1h": handler})):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(1)))
    [letter] = await bus.letters()
    assert letter.error.startswith("PermanentError: a ")


async def test_a_fatal_error_ends_the_consumer_and_leaves_the_event_waiting(bus: Bus) -> None:
    handler = failing([FatalError("the state is broken")], [])
    consumer = bus.consumer("screener", {"bars.1h": handler})
    await bus.publish("bars.1h", bars(0))
    with pytest.raises(FatalError, match="the state is broken"):
        await consumer.run()
    await close(consumer)
    async with running(bus.consumer("screener", {"bars.1h": handler})):
        await eventually_async(lambda: bus.has_notes(bars(0)))
    assert not await bus.letters()


async def test_the_state_is_reloaded_before_every_further_try(bus: Bus) -> None:
    reloads: list[int] = []
    attempts: list[Event] = []
    handler = failing([RetryableError("not now"), PermanentError("never")], attempts)

    async def reload(_connection: AsyncConnection) -> None:
        reloads.append(len(attempts))

    async with running(bus.consumer("screener", {"bars.1h": handler}, reload=reload)):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(1)))
    assert reloads == [0, 1, 2]


async def test_an_undecodable_event_of_the_log_is_put_aside(bus: Bus) -> None:
    await bus.record("bars.1h", bars(0))
    async with transaction(bus.engine) as connection:
        await connection.execute(
            text("UPDATE event_log SET payload = '{', payload_sha256 = sha256('{')")
        )
    await bus.publish("bars.1h", bars(1))
    async with running(bus.consumer("screener", {"bars.1h": take_note})):
        await eventually_async(lambda: bus.has_notes(bars(1)))
    [letter] = await bus.letters()
    assert (letter.seq, letter.payload, letter.attempts) == (1, b"{", 1)
    assert letter.error.startswith("ContractError: BarsClosed: payload: Invalid JSON")


async def test_a_corrected_dead_letter_is_handled_once(bus: Bus) -> None:
    async def refuse_symbol(event: BarsClosed, unit: UnitOfWork) -> None:
        if event.bars[0].symbol == "BAD":
            raise PermanentError("BAD is not listed")
        await take_note(event, unit)

    async with running(bus.consumer("screener", {"bars.1h": refuse_symbol})):
        await bus.publish("bars.1h", bars(0, "BAD"), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(1)))
        [letter] = await bus.letters()
        with pytest.raises(ContractError, match="BarsClosed: payload: Invalid JSON"):
            async with transaction(bus.engine) as connection:
                await dead_letters.requeue(connection, letter, b"{")
        async with transaction(bus.engine) as connection:
            entry = await dead_letters.requeue(connection, letter, bars(0, "GOOD").to_bytes())
        assert entry is not None
        assert entry.seq == 3
        await bus.streams.publish(entry)
        await eventually_async(lambda: bus.has_notes(bars(1), bars(0)))
        with pytest.raises(PermanentError, match="replayed already"):
            async with transaction(bus.engine) as connection:
                await dead_letters.requeue(connection, letter, bars(0, "GOOD").to_bytes())
    assert [found.status for found in await bus.letters()] == ["replayed"]


# --- adoption -----------------------------------------------------------------------------


def adopting(topic: str) -> dict[str, Handler]:
    async def adopt(event: Event, unit: UnitOfWork) -> None:
        await take_note(event, unit)
        unit.publish(topic, event)

    return {topic: adopt}


async def test_a_plain_entry_is_adopted_under_a_number(bus: Bus) -> None:
    async with (
        running(bus.consumer("ingest", {}, adopting("bars.1h"))),
        running(bus.consumer("screener", {"bars.1h": take_note})),
    ):
        entry_id = await bus.streams.add_plain("bars.1h", bars(0).to_bytes())
        await eventually_async(lambda: bus.has_notes(bars(0), bars(0)))
    [row] = await bus.rows("SELECT * FROM event_log")
    assert (row.topic, row.seq, row.foreign_entry_id) == ("bars.1h", 1, entry_id)
    assert (row.source_uri, row.transform_id) == (f"stream:bars.1h/{entry_id}", "ingest/1")
    entries = await bus.entries("bars.1h")
    assert [fields.get(b"seq") for _, fields in entries] == [None, b"1"]


async def test_a_plain_entry_added_while_the_owner_was_away_is_adopted_once(bus: Bus) -> None:
    await bus.streams.add_plain("bars.1h", bars(0).to_bytes())
    for hour in (1, 2):
        async with running(bus.consumer("ingest", {}, adopting("bars.1h"))):
            await bus.streams.add_plain("bars.1h", bars(hour).to_bytes())
            expected = [note_of(bars(n)) for n in range(hour + 1)]
            await eventually_async(partial(_notes_are, bus, expected))
    assert await bus.log_of("bars.1h") == [note_of(bars(hour)) for hour in (0, 1, 2)]


async def test_an_owner_goes_on_looking_after_redis_refused(bus: Bus) -> None:
    await bus.redis.set("bars.1h", "no stream")
    async with running(consumer := bus.consumer("ingest", {}, adopting("bars.1h"))):
        await asyncio.sleep(2 * streams._LOOKED_INTO_EVERY_SECONDS)
        await bus.redis.delete("bars.1h")
        await bus.streams.add_plain("bars.1h", bars(0).to_bytes())
        await eventually_async(lambda: bus.has_notes(bars(0)))
        assert consumer._streams.is_reading


async def test_an_owner_ends_wherever_its_looking_is(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_LOOKED_INTO_EVERY_SECONDS", 0.002)
    for wait_ms in range(60):
        looking = Streams(bus.redis_url)
        await looking.start([], {"bars.1h": "0-0"}, lambda _entries: None)
        await asyncio.sleep(wait_ms / 2000)
        async with asyncio.timeout(20):
            await looking.stop()
        assert not looking.is_reading


async def test_an_absurd_number_does_not_cost_the_entries_read_with_it(bus: Bus) -> None:
    async with running(bus.consumer("ingest", {}, adopting("bars.1h"))):
        async with bus.redis.pipeline(transaction=True) as both:
            both.xadd("bars.1h", {"seq": b"9" * 5000, "data": b"{"})
            both.xadd("bars.1h", {"data": bars(1).to_bytes()})
            await both.execute()
        await eventually_async(lambda: bus.has_notes(bars(1)), within_seconds=5)


async def test_an_adoption_whose_errand_failed_is_not_repeated(bus: Bus) -> None:
    async def adopt(event: Event, unit: UnitOfWork) -> None:
        async def errand() -> None:
            raise RetryableError("the venue does not answer")

        await adopting("bars.1h")["bars.1h"](event, unit)
        if event == bars(0):
            unit.errand_after_commit(errand)

    async with running(bus.consumer("ingest", {}, {"bars.1h": adopt})):
        await bus.streams.add_plain("bars.1h", bars(0).to_bytes())
        await bus.streams.add_plain("bars.1h", bars(1).to_bytes())
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1)))
    assert not await bus.letters()
    assert len(await bus.log_of("bars.1h")) == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"data": b"\xff\x00{"}, "BarsClosed: payload: Invalid JSON"),
        ({"data": bars(0, "A\x00").to_bytes()}, "has a NUL"),
        ({"data": b'{"version": 2}'}, "BarsClosed: version: Input should be 1 (got 2)"),
        ({"bars": b"{}"}, "has no field 'data'; use XADD bars.1h '*' data '<json>'"),
        ({"seq": b"one", "data": b"{}"}, "closes_at: Field required"),
    ],
)
async def test_a_malformed_plain_entry_goes_to_the_dead_letters_under_its_id(
    bus: Bus, fields: dict[Any, Any], reason: str
) -> None:
    async with running(bus.consumer("ingest", {}, adopting("bars.1h"))):
        entry_id = await bus.add("bars.1h", fields)
        await bus.streams.add_plain("bars.1h", bars(1).to_bytes())
        await eventually_async(lambda: bus.has_notes(bars(1)))
        [(_, shown)] = await eventually_async(lambda: bus.entries("bars.1h.dead"))
    [letter] = await bus.letters()
    assert (letter.entry_id, letter.seq, letter.consumer) == (entry_id, None, "ingest")
    assert letter.payload == fields.get("data", b"")
    assert reason in letter.error
    assert shown[b"dead_letter_id"] == str(letter.dead_letter_id).encode()
    assert await bus.log_of("bars.1h") == [note_of(bars(1))]


# --- one instance -------------------------------------------------------------------------


async def test_a_second_instance_waits_until_the_first_has_stopped(bus: Bus) -> None:
    first = bus.consumer("screener", {"bars.1h": take_note})
    second = bus.consumer("screener", {"bars.1h": take_note})
    async with running(first), running(second, is_waited_for=False):
        await eventually_async(lambda: _says(second, "another screener is running"))
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: bus.has_notes(bars(0)))
        assert not second.is_started.is_set()
        await first.stop()
        await second.is_started.wait()
        await bus.publish("bars.1h", bars(1))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1)))
    assert first.offsets == {"bars.1h": 1}
    assert second.offsets == {"bars.1h": 2}


async def _says(consumer: Consumer, words: str) -> bool:
    return consumer.last_error is not None and words in consumer.last_error


async def test_a_lost_lock_session_is_replaced(bus: Bus) -> None:
    async with running(bus.consumer("screener", {"bars.1h": take_note})):
        await bus.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'test-screener'"
        )
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: bus.has_notes(bars(0)))
        await eventually_async(
            lambda: bus.rows("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
        )


async def test_the_newest_close_is_that_of_what_the_consumer_has_handled(bus: Bus) -> None:
    async def newest(consumer: str) -> datetime | None:
        async with transaction(bus.engine) as connection:
            await log.ensure_offsets(connection, consumer, ["bars.1h", "bars.5m"])
            return await log.newest_consumed_close(connection, consumer, "bars.1h")

    assert await newest("reader") is None
    entries = [await bus.record("bars.1h", bars(hour)) for hour in (1, 3, 2, 4)]
    await bus.record("bars.5m", bars(9, timeframe="5m"))
    found = []
    for entry in entries:
        async with transaction(bus.engine) as connection:
            assert await log.advance(connection, "reader", entry) is not None
        found.append(await newest("reader"))
    # The close of hour 2 came late.
    assert found == [NOON + timedelta(hours=hour) for hour in (1, 3, 3, 4)]
    assert await newest("other") is None


# --- what is measured ---------------------------------------------------------------------


async def test_every_hop_is_measured_from_the_stream_to_the_commit(bus: Bus) -> None:
    def n_measured() -> list[float]:
        labels = {"consumer": "measured", "topic": "bars.1h"}
        found = [
            REGISTRY.get_sample_value(f"mnt_bus_{hop}_seconds_count", labels)
            for hop in ("wait", "commit", "handle")
        ]
        return [value or 0.0 for value in found]

    async def fail_once(event: Event, unit: UnitOfWork) -> None:
        await take_note(event, unit)
        if tries.pop():
            raise RetryableError("down")

    tries = [False, False, True, False]
    async with running(bus.consumer("measured", {"bars.1h": fail_once})):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1)))
        await bus.record("bars.1h", bars(2))  # was never on its stream, so it waited on none
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1), bars(2)))
    assert n_measured() == [2, 3, 3]


# --- effects of one statement ---------------------------------------------------------------

AT_ONCE = frozenset({"bars.1h"})


async def screen_at_once(event: BarsClosed, unit: UnitOfWork) -> None:
    await record_note(event, unit)
    unit.publish("pairs.screened", screen(event.closes_at))


async def test_cursor_rows_and_event_of_one_statement_are_one_transaction(bus: Bus) -> None:
    entry = await bus.record("bars.1h", bars(0))
    async with running(bus.consumer("screener", {"bars.1h": screen_at_once}, at_once=AT_ONCE)):
        await bus.streams.publish(entry)
        await bus.streams.publish(entry)
        await bus.publish("bars.1h", bars(1))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1)))
        entries = await eventually_async(lambda: has_two(bus.entries("pairs.screened")))
    assert [fields[b"seq"] for _, fields in entries] == [b"1", b"2"]
    assert await bus.log_of("pairs.screened") == [
        note_of(screen(bars(n).closes_at)) for n in (0, 1)
    ]
    rows = await bus.rows("SELECT * FROM event_log WHERE topic = 'pairs.screened' ORDER BY seq")
    assert [(row.source_uri, row.transform_id) for row in rows] == [
        ("log:bars.1h/1", "screener/1"),
        ("log:bars.1h/2", "screener/1"),
    ]
    [same] = await bus.rows(
        "SELECT count(DISTINCT xmin::text) AS n FROM ("
        "SELECT xmin FROM note WHERE words LIKE '%13:%' UNION ALL "
        " SELECT xmin FROM event_log WHERE topic = 'pairs.screened' AND seq = 2 UNION ALL "
        "SELECT xmin FROM consumer_offset WHERE topic = 'bars.1h') AS written"
    )
    assert same.n == 1


async def has_two(found: Awaitable[Sequence[T]]) -> Sequence[T]:
    entries = await found
    assert len(entries) == 2
    return entries


@pytest.mark.parametrize("number", [b"1", b"2", b"0"])
async def test_an_unlogged_entry_leaves_nothing_of_its_statement(bus: Bus, number: bytes) -> None:
    n_reloads = 0

    async def reload(_: AsyncConnection) -> None:
        nonlocal n_reloads
        n_reloads += 1

    consumer = bus.consumer("screener", {"bars.1h": screen_at_once}, None, reload, at_once=AT_ONCE)
    async with running(consumer):
        await bus.redis.xadd("bars.1h", {"seq": number, "data": bars(30).to_bytes()})
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(0), bars(1)))
    assert len(await bus.log_of("pairs.screened")) == 2
    assert n_reloads > (number == b"1"), "what was computed from it must be forgotten"


async def test_an_event_of_one_statement_does_not_overtake_one_that_redis_lacks(bus: Bus) -> None:
    handlers = {"pairs.screened": record_note, "bars.1h": record_note}
    async with running(consumer := bus.consumer("signals", handlers, at_once=AT_ONCE)):
        consumer.is_paused = True
        await bus.publish("bars.1h", bars(1))
        await eventually_async(lambda: arrived(consumer, "bars.1h"))
        await bus.record("pairs.screened", screen(NOON))
        consumer.is_paused = False
        consumer.wake()
        await eventually_async(lambda: bus.has_notes(screen(NOON), bars(1)))


async def test_a_handler_that_asks_for_the_connection_gets_a_transaction(bus: Bus) -> None:
    n_begun = 0

    async def look_then_record(event: BarsClosed, unit: UnitOfWork) -> None:
        nonlocal n_begun
        n_begun += 1
        await unit.connection.execute(text("SELECT words FROM note"))
        await screen_at_once(event, unit)

    async with running(bus.consumer("screener", {"bars.1h": look_then_record}, at_once=AT_ONCE)):
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: bus.has_notes(bars(0)))
        await eventually_async(lambda: bus.entries("pairs.screened"))
    assert n_begun == 2


async def test_a_cursor_does_not_move_where_the_next_event_has_no_stream(bus: Bus) -> None:
    async with running(bus.consumer("screener", {"bars.1h": screen_at_once}, at_once=AT_ONCE)):
        await bus.rows("DELETE FROM stream_head WHERE topic = 'pairs.screened' RETURNING topic")
        await bus.publish("bars.1h", bars(0))
        [letter] = await eventually_async(bus.letters)
    assert "stream 'pairs.screened' is not known" in letter.error
    assert await bus.notes() == []


@pytest.mark.parametrize("words", ["\x00", "\ud800"])
async def test_rows_of_one_statement_that_are_refused_are_put_aside_like_a_defect(
    bus: Bus, words: str
) -> None:
    async def record_bad(event: BarsClosed, unit: UnitOfWork) -> None:
        await screen_at_once(event, unit)
        if event == bars(0):
            unit.writes[:] = [Insertion(NOTES, {"words": [words]})]

    async with running(bus.consumer("screener", {"bars.1h": record_bad}, at_once=AT_ONCE)):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: bus.has_notes(bars(1)))
    assert [letter.seq for letter in await bus.letters()] == [1]
    assert await bus.log_of("pairs.screened") == [note_of(screen(bars(1).closes_at))]


async def test_effects_go_on_while_the_session_of_the_lock_is_lost(bus: Bus) -> None:
    async with running(bus.consumer("screener", {"bars.1h": screen_at_once}, at_once=AT_ONCE)):
        for hour in range(3):
            await bus.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'test-screener'"
            )
            await bus.publish("bars.1h", bars(hour))
        await eventually_async(lambda: bus.has_notes(*map(bars, range(3))))
    assert len(await bus.log_of("pairs.screened")) == 3
    assert await bus.letters() == []


# --- work of one's own ------------------------------------------------------------------------


@pytest.mark.parametrize(("at_once", "n_begun"), [(False, 1), (True, 2)])
async def test_work_that_asks_for_the_connection_gets_a_transaction(
    bus: Bus, at_once: bool, n_begun: int
) -> None:
    begun: list[UnitOfWork] = []

    async def look(unit: UnitOfWork) -> None:
        begun.append(unit)
        await unit.connection.execute(text("SELECT words FROM note"))
        await screen_at_once(bars(0), unit)

    async with running(consumer := bus.consumer("screener", {})):
        await consumer.work("mine:1", look, at_once=at_once)
    assert len(begun) == n_begun
    assert await bus.has_notes(bars(0))


@pytest.mark.parametrize("at_once", [False, True])
async def test_work_is_one_transaction_and_is_published(bus: Bus, at_once: bool) -> None:
    begun: list[UnitOfWork] = []
    done: list[str] = []

    async def do(unit: UnitOfWork) -> None:
        begun.append(unit)
        await screen_at_once(bars(0), unit)
        unit.after_commit(lambda: done.append("kept"))

    async with running(consumer := bus.consumer("screener", {})):
        await consumer.work("mine:1", do, at_once=at_once)
        [(_, fields)] = await bus.entries("pairs.screened")
    assert (len(begun), done, fields[b"seq"]) == (1, ["kept"], b"1")
    assert await bus.has_notes(bars(0))
    [row] = await bus.rows(
        "SELECT source_uri, xmin::text = (SELECT xmin::text FROM note) AS is_one "
        "FROM event_log WHERE topic = 'pairs.screened'"
    )
    assert (row.source_uri, row.is_one) == ("mine:1", True)


async def test_work_of_one_statement_does_nothing_where_its_event_has_no_stream(bus: Bus) -> None:
    async with running(consumer := bus.consumer("screener", {})):
        await bus.rows("DELETE FROM stream_head WHERE topic = 'pairs.screened' RETURNING topic")
        with pytest.raises(PermanentError, match=r"stream 'pairs\.screened' is not known"):
            await consumer.work("mine:1", partial(screen_at_once, bars(0)), at_once=True)
    assert await bus.notes() == []


async def test_work_whose_session_was_lost_is_not_remembered(bus: Bus) -> None:
    n_reloads = 0

    async def reload(_: AsyncConnection) -> None:
        nonlocal n_reloads
        n_reloads += 1

    async def end_the_session(unit: UnitOfWork) -> None:
        await bus.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'test-screener'"
        )
        await screen_at_once(bars(0), unit)

    async with running(consumer := bus.consumer("screener", {}, None, reload)):
        with pytest.raises(StoreError):
            await consumer.work("mine:1", end_the_session, at_once=True)
        n_before = n_reloads
        consumer.wake()
        await eventually_async(lambda: is_more(lambda: n_reloads, n_before))
    assert await bus.notes() == []


async def is_more(count: Callable[[], int], than: int) -> bool:
    return count() > than


@pytest.mark.parametrize("has_session", [True, False])
async def test_a_question_is_answered_with_and_without_the_session_of_the_lock(
    bus: Bus, has_session: bool
) -> None:
    async with running(consumer := bus.consumer("screener", {})):
        if not has_session:
            consumer._lock_driver = None
        answer = await consumer.ask(text("SELECT CAST(:n AS integer) + 1 AS more"), {"n": 1})
    assert answer == {"more": 2}


# --- fences -----------------------------------------------------------------------------------


async def taken_over(_: AsyncConnection) -> None:
    raise PermanentError("it is another's now")


MINE = log.Fence(NOTES, {"words": "mine"}, taken_over)


async def screen_what_is_mine(event: BarsClosed, unit: UnitOfWork) -> None:
    unit.require(MINE)
    await screen_at_once(event, unit)


@pytest.mark.parametrize("at_once", [frozenset(), AT_ONCE])
async def test_nothing_is_written_beyond_a_fence(bus: Bus, at_once: frozenset[str]) -> None:
    await bus.rows("INSERT INTO note (words) VALUES ('mine') RETURNING words")
    handlers = {"bars.1h": screen_what_is_mine}
    async with running(bus.consumer("screener", handlers, at_once=at_once)):
        await bus.publish("bars.1h", bars(0))
        await eventually_async(lambda: has_screened(bus, 1))
        await bus.rows("UPDATE note SET words = 'theirs' WHERE words = 'mine' RETURNING words")
        await bus.publish("bars.1h", bars(1))
        [letter] = await eventually_async(bus.letters)
    assert letter.error == "PermanentError: it is another's now"
    assert sorted(await bus.notes()) == [note_of(bars(0)), "theirs"]
    assert len(await bus.log_of("pairs.screened")) == 1


@pytest.mark.parametrize("at_once", [False, True])
async def test_work_stays_within_its_fence(bus: Bus, at_once: bool) -> None:
    async with running(consumer := bus.consumer("screener", {})):
        with pytest.raises(PermanentError, match="another's"):
            await consumer.work("mine:1", partial(screen_what_is_mine, bars(0)), at_once=at_once)
        with pytest.raises(PermanentError, match="another's"):
            await consumer.work("mine:2", only_what_is_mine, at_once=at_once)
        await bus.rows("INSERT INTO note (words) VALUES ('mine') RETURNING words")
        await consumer.work("mine:3", partial(screen_what_is_mine, bars(1)), at_once=at_once)
    assert await bus.notes() == ["mine", note_of(bars(1))]
    assert await bus.log_of("pairs.screened") == [note_of(screen(bars(1).closes_at))]


async def only_what_is_mine(unit: UnitOfWork) -> None:
    unit.require(MINE)


async def test_a_fence_is_not_moved_before_the_transaction_ends(bus: Bus) -> None:
    await bus.rows("INSERT INTO note (words) VALUES ('mine') RETURNING words")
    async with transaction(bus.engine) as connection:
        settled = await log.append_with(
            connection, (), (), fence=MINE, foreign_entry_id=None, **LINEAGE
        )
        assert settled == []
        async with transaction(bus.engine) as another:
            found = await another.execute(text("SELECT words FROM note FOR UPDATE SKIP LOCKED"))
            assert found.all() == []


async def has_screened(bus: Bus, n: int) -> bool:
    assert len(await bus.log_of("pairs.screened")) == n
    return True


# --- rows that repeat events ----------------------------------------------------------------


async def publish_screen(event: BarsClosed, unit: UnitOfWork) -> None:
    unit.publish("pairs.screened", screen(event.closes_at))


def notes_of(event: Event, lineage: Mapping[str, str]) -> list[Insertion]:
    return [Insertion(NOTES, {"words": [f"{note_of(event)} {lineage['source_uri']}"]})]


def screens_noted(*hours: int) -> list[str]:
    events = [screen(bars(hour).closes_at) for hour in hours]
    return [f"{note_of(each)} log:pairs.screened/{n}" for n, each in enumerate(events, start=1)]


def measured_topics(histogram: str, consumer: str) -> set[str]:
    found = (family for family in REGISTRY.collect() if family.name == histogram)
    samples = (sample.labels for family in found for sample in family.samples)
    return {labels["topic"] for labels in samples if labels["consumer"] == consumer}


def screening(bus: Bus, make: Recorder = notes_of, **given: Any) -> Consumer:
    handlers = {"bars.1h": publish_screen}
    return bus.consumer("screener", handlers, recorders={"pairs.screened": make}, **given)


async def are_noted(bus: Bus, *hours: int) -> bool:
    assert await bus.notes() == screens_noted(*hours)
    return True


async def is_drained(bus: Bus, *, with_rows: bool) -> bool:
    async with transaction(bus.engine) as connection:
        return await log.is_drained(connection, with_rows=with_rows)


async def are_screened(bus: Bus, n_closes: int) -> bool:
    assert len(await bus.log_of("pairs.screened")) == n_closes
    assert await is_drained(bus, with_rows=False)
    return True


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let consumers wait for ever before they record rows."""
    monkeypatch.setattr(consuming, "REST_SECONDS", 3_600.0)
    monkeypatch.setattr(consuming, "IDLE_SECONDS", 3_600.0)


@pytest.mark.parametrize("at_once", [frozenset(), AT_ONCE])
async def test_rows_that_repeat_an_event_are_recorded_once_it_is_published(
    bus: Bus, at_once: frozenset[str]
) -> None:
    async with running(consumer := screening(bus, at_once=at_once)):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: are_noted(bus, 0, 1))
        assert await is_drained(bus, with_rows=True)
    assert consumer.offsets == {"bars.1h": 2, "pairs.screened": 2}
    for metric, topics in (("handle", {"bars.1h"}), ("record", {"pairs.screened"})):
        assert measured_topics(f"mnt_bus_{metric}_seconds", "screener") == topics
    assert consumer.last_closes_at_ms == bars(1).closes_at_ms


@pytest.mark.usefixtures("restless")
async def test_nobody_waits_for_the_rows_that_repeat_an_event(bus: Bus) -> None:
    consumer = screening(bus)
    task = asyncio.create_task(consumer.run())
    await consumer.is_started.wait()
    await bus.publish("bars.1h", bars(0))
    await eventually_async(lambda: are_screened(bus, 1))
    assert not await is_drained(bus, with_rows=True)
    assert await bus.notes() == []
    task.cancel()  # as if it were killed: what was published is not recorded
    await asyncio.wait([task])
    await close(consumer)


async def test_rows_that_a_killed_owner_left_out_are_made_from_the_log(bus: Bus) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consuming, "REST_SECONDS", 3_600.0)
        await test_nobody_waits_for_the_rows_that_repeat_an_event(bus)
    async with running(screening(bus)):
        await eventually_async(lambda: are_noted(bus, 0))
        await bus.publish("bars.1h", bars(1))
        await eventually_async(lambda: are_noted(bus, 0, 1))


@pytest.mark.usefixtures("restless")
async def test_an_owner_that_stops_records_what_is_left(bus: Bus) -> None:
    async with running(screening(bus)):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: are_screened(bus, 2))
    assert await are_noted(bus, 0, 1)


@pytest.mark.usefixtures("restless")
async def test_an_owner_without_rest_records_what_becomes_too_much(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consuming, "_MOST_UNRECORDED", 3)
    async with running(screening(bus)):
        await bus.publish("bars.1h", *(bars(hour) for hour in range(5)))
        await eventually_async(lambda: are_screened(bus, 5))
        await eventually_async(lambda: are_noted(bus, 0, 1, 2))


async def test_a_paused_owner_records_what_it_has_published(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(consuming, "REST_SECONDS", 0.5)
        async with running(consumer := screening(bus)):
            await bus.publish("bars.1h", bars(0))
            await eventually_async(lambda: are_screened(bus, 1))
            consumer.is_paused = True
            consumer.wake()
            await bus.publish("bars.1h", bars(1))
            await eventually_async(lambda: are_noted(bus, 0))
            assert await bus.log_of("pairs.screened") == [note_of(screen(bars(0).closes_at))]


async def test_rows_that_are_refused_are_put_aside_and_later_ones_recorded(bus: Bus) -> None:
    def make(event: Event, lineage: Mapping[str, str]) -> list[Insertion]:
        [insertion] = notes_of(event, lineage)
        refused = event.closes_at == bars(0).closes_at
        return [Insertion(NOTES, {"words": ["a\0b"]}) if refused else insertion]

    async with running(screening(bus, make)):
        await bus.publish("bars.1h", bars(0), bars(1))
        await eventually_async(lambda: are_noted_after(bus, 1))
    [letter] = await bus.letters()
    assert (letter.consumer, letter.topic, letter.seq) == ("screener", "pairs.screened", 1)


async def are_noted_after(bus: Bus, n_refused: int) -> bool:
    assert await bus.notes() == screens_noted(0, 1)[n_refused:]
    return True


async def test_a_plain_entry_of_an_owned_stream_has_its_rows(bus: Bus) -> None:
    async def adopt(event: PairsScreened, unit: UnitOfWork) -> None:
        unit.publish("pairs.screened", event)

    async with running(screening(bus, adopters={"pairs.screened": adopt})):
        await bus.add("pairs.screened", {b"data": screen(NOON).to_bytes()})
        await eventually_async(lambda: are_noted(bus, 0))


async def test_whoever_reads_rows_waits_until_they_are_recorded(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(hour: int) -> None:
        async with transaction(bus.engine) as connection:
            await log.wait_for_rows(connection, "pairs.screened", bars(hour).closes_at)

    await wait(0)  # nobody records them
    with monkeypatch.context() as patch:
        patch.setattr(consuming, "REST_SECONDS", 3_600.0)
        async with running(consumer := screening(bus)):
            await bus.publish("bars.1h", bars(1))
            await eventually_async(lambda: are_screened(bus, 1))
            await wait(0)
            waiting = asyncio.create_task(wait(1))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            monkeypatch.setattr(log, "_ROWS_WITHIN_SECONDS", 0.05)
            with pytest.raises(StoreError, match="screener has not recorded the rows of pairs"):
                await wait(1)
            await consumer.stop()
    await waiting
    assert await are_noted(bus, 1)
