"""Redis streams: they wake consumers and carry the bytes, and are never the only copy.

FastStream routes the entries and documents the streams. It reads in batches and without
consumer groups: order, retry, gaps and dead letters are the log's business. Its known traps
are closed here: a concrete start position instead of `$` (which forgets what arrives between
two polls), a parser that admits plain entries, and an explicit stop.

A service waits for the streams it consumes. Into those it owns, where foreign entries may be,
it only looks now and then: else each event it publishes would come back at once and take the
time of whoever waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog
from faststream.middlewares import AckPolicy, BaseMiddleware
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.message import FAKE_CONSUMER, BatchStreamMessage, RedisBatchStreamMessage
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.bus.log import LogEntry
from shared.errors import StoreError
from shared.events.catalogue import Topic

KEPT_ENTRIES = 2_000
"""Entries a stream keeps for late readers and for people; the log keeps all."""
_TRIM_EVERY = 256
_BLOCKED_MS = 1_000
"""How long a reader waits for an entry before it asks again; an entry wakes it at once."""
_LOOKED_INTO_EVERY_SECONDS = 0.25
_MOST_READ = 500
_MOST_DIGITS = 18
"""A longer number is none the log has given: int() refuses one of thousands of digits."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """An entry as read from Redis: numbered by the log, or plain from a foreign client."""

    topic: str
    entry_id: str
    seq: int | None
    payload: bytes | None


OnEntries = Callable[[Sequence[StreamEntry]], None]


class Streams:
    """The Redis side of the bus for one service.

    Parameters
    ----------
    redis_url
        `redis://host:port/db`.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._redis: Any = Redis.from_url(
            redis_url, socket_connect_timeout=5, socket_timeout=10, health_check_interval=30
        )
        self._broker: RedisBroker | None = None
        self._looking: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._published: dict[str, int] = {}

    async def publish(
        self, *entries: LogEntry, adopted_up_to: Mapping[str, str] | None = None
    ) -> bool:
        """Add recorded events to their streams; a failure is harmless and reported as False.

        Parameters
        ----------
        entries
            The events as the log has them.
        adopted_up_to
            By stream, the entry id up to which foreign entries were adopted; nothing later is
            trimmed.
        """
        topics = [entry.topic for entry in entries]
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for entry in entries:
                    fields = {b"seq": str(entry.seq).encode(), b"data": entry.payload}
                    pipeline.xadd(entry.topic, fields)
                await pipeline.execute()
            for topic in topics:
                count = self._published.get(topic, 0) + 1
                self._published[topic] = count
                if count % _TRIM_EVERY == 0:
                    await self._trim(topic, (adopted_up_to or {}).get(topic))
        except RedisError as error:
            logger.warning("stream publish failed", topics=topics, error=str(error))
            return False
        return True

    async def publish_dead_letter(self, topic: str, fields: dict[str, str]) -> None:
        """Show a dead letter on `<stream>.dead`; its record is in Postgres."""
        try:
            await self._redis.xadd(
                f"{topic}.dead",
                {name.encode(): value.encode() for name, value in fields.items()},
                maxlen=KEPT_ENTRIES,
            )
        except RedisError as error:
            logger.warning("dead letter stream failed", topic=topic, error=str(error))

    async def add_plain(self, topic: str, payload: bytes) -> str:
        """Add an entry the way any foreign client would and return its id.

        Raises
        ------
        StoreError
            If Redis does not answer.
        """
        try:
            entry_id = await self._redis.xadd(topic, {b"data": payload})
        except RedisError as error:
            raise StoreError(
                f"Redis did not take the entry: {error}; see that it runs and has disk space"
            ) from error
        return entry_id.decode() if isinstance(entry_id, bytes) else str(entry_id)

    async def _trim(self, topic: str, adopted_up_to: str | None) -> None:
        """Drop what is both old and adopted: a foreign entry still waiting is never lost."""
        if adopted_up_to is None:
            return
        kept = await self._redis.xrevrange(topic, count=KEPT_ENTRIES)
        if len(kept) < KEPT_ENTRIES:
            return
        oldest_kept = kept[-1][0].decode()
        horizon = min(oldest_kept, adopted_up_to, key=entry_order)
        await self._redis.xtrim(topic, minid=horizon, approximate=True)

    async def start(
        self, topics: Sequence[Topic], look_after: Mapping[str, str], on_entries: OnEntries
    ) -> None:
        """Begin to read streams.

        Parameters
        ----------
        topics
            Streams to wait for, from their present end.
        look_after
            Streams to look into now and then, by name, each after the entry of this id.
        on_entries
            Called with each batch, in order within a stream.

        Raises
        ------
        StoreError
            If Redis does not answer.
        """
        broker = RedisBroker(
            self._redis_url,
            apply_types=False,
            logger=None,  # type: ignore[arg-type]  # None silences it, as its documentation says
            graceful_timeout=15.0,
            middlewares=[_handing_on(on_entries)],
        )
        for topic in topics:
            _subscribe(broker, topic, await self._end_of(topic.name))
        try:
            await broker.start()
        except (RedisError, OSError, TimeoutError) as error:
            await broker.stop()
            raise StoreError(f"Redis did not answer: {error}; is it running?") from error
        self._broker = broker
        if look_after:
            self._looking = asyncio.create_task(self._look(dict(look_after), on_entries))

    async def _look(self, after: dict[str, str], on_entries: OnEntries) -> None:
        """Hand on what is new in some streams, now and then."""
        while True:
            try:
                async with asyncio.timeout(_LOOKED_INTO_EVERY_SECONDS):
                    await self._ending.wait()
                return
            except TimeoutError:
                pass
            try:
                found = await self._redis.xread(after, count=_MOST_READ)
            except (RedisError, OSError) as error:
                logger.warning("streams not looked into", topics=[*after], error=str(error))
                continue
            for name, rows in dict(found).items():
                topic = name.decode()
                on_entries([_entry(topic, entry_id, fields) for entry_id, fields in rows])
                after[topic] = rows[-1][0].decode()

    async def _end_of(self, topic: str) -> str:
        try:
            last = await self._redis.xrevrange(topic, count=1)
        except (RedisError, OSError) as error:
            raise StoreError(f"Redis did not answer: {error}; is it running?") from error
        return str(last[0][0].decode()) if last else "0-0"

    @property
    def is_reading(self) -> bool:
        """Whether every subscriber still runs; a ping would not tell."""
        return (
            self._broker is not None
            and all(subscriber.running for subscriber in self._broker.subscribers)
            and (self._looking is None or not self._looking.done())
        )

    async def stop(self) -> None:
        """Stop reading and close the connections; without it the process hangs at exit."""
        if self._broker is not None:
            await self._broker.stop()
        if self._looking is not None:
            # Not cancelled: amid a command the client may swallow that, and then it never ends.
            self._ending.set()
            await asyncio.wait([self._looking])
        await self._redis.aclose()


def entry_order(entry_id: str) -> tuple[int, int]:
    """Return an entry id as numbers that sort as Redis sorts."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _subscribe(broker: RedisBroker, topic: Topic, last_id: str) -> None:
    async def parse(
        message: dict[str, Any], _original: Callable[..., Awaitable[Any]]
    ) -> RedisBatchStreamMessage:
        return RedisBatchStreamMessage(
            raw_message=cast("BatchStreamMessage", message),
            body=b"",
            consumer=FAKE_CONSUMER,
            group=None,
        )

    async def done(_: object) -> None:
        """Do nothing more: the entries were handed on as they came."""

    subscriber = broker.subscriber(
        stream=StreamSub(
            topic.name,
            batch=True,
            last_id=last_id,
            max_records=_MOST_READ,
            polling_interval=_BLOCKED_MS,
        ),
        parser=parse,
        ack_policy=AckPolicy.MANUAL,
        title=topic.name,
        description=topic.subject,
    )
    subscriber(done)


def _handing_on(on_entries: OnEntries) -> type[BaseMiddleware]:
    """Return what hands entries on before the broker does anything else with them.

    Whoever waited for them goes first: he asks Postgres, and while that works the broker can.
    """

    class HandingOn(BaseMiddleware):
        async def on_receive(self) -> None:
            raw: Any = self.msg
            pairs = zip(raw["message_ids"], raw["data"], strict=True)
            on_entries([_entry(raw["channel"], entry_id, fields) for entry_id, fields in pairs])
            await asyncio.sleep(0)

    return HandingOn


def _entry(topic: str, entry_id: bytes, fields: dict[bytes, bytes]) -> StreamEntry:
    number = fields.get(b"seq")
    seq = None
    if number is not None and number.isdigit() and len(number) <= _MOST_DIGITS:
        seq = int(number)
    return StreamEntry(topic, entry_id.decode(), seq, fields.get(b"data"))
