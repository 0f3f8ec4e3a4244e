"""`mnt publish` and `mnt events tail`: putting events on the bus and watching them pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cli.fleet.access import record_of, require_running, transport_url
from cli.fleet.home import FleetHome
from shared.bus.streams import Streams
from shared.clock import monotonic_seconds
from shared.database.engine import transaction
from shared.errors import StoreError
from shared.events.base import Event
from shared.events.catalogue import TOPICS, topic_named
from shared.events.executor import FillsBooked, OrdersUpdated, PositionsChanged, RiskChanged
from shared.events.features import FeaturesComputed
from shared.events.ingest import BarsClosed
from shared.events.portfolio import OrdersRequested
from shared.events.screener import PairsScreened
from shared.events.signals import SignalsRaised
from shared.events.trainer import DriftTripped, ModelPromoted

POLL_SECONDS = 0.25
ADOPTION_SECONDS = 5.0
_BATCH = 500


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event of the log and its place there."""

    topic: str
    seq: int
    event: Event


class LogReader:
    """Reads the log forward from a place.

    Parameters
    ----------
    topics
        Streams to read; all when empty.
    """

    def __init__(self, topics: Sequence[str] = ()) -> None:
        self._after: dict[str, int] = {topic_named(name).name: 0 for name in topics or TOPICS}

    async def skip_to_end(self, connection: AsyncConnection, kept: int = 0) -> None:
        """Go to the present end of every stream, but for the last `kept` events of each."""
        heads = await connection.execute(text("SELECT topic, seq FROM stream_head"))
        for topic, seq in heads:
            if topic in self._after:
                self._after[topic] = max(0, seq - kept)

    async def read(self, connection: AsyncConnection) -> list[LoggedEvent]:
        """Return what has been recorded since the last call, by close."""
        rows = await connection.execute(
            text(
                """
                SELECT topic, seq, payload FROM event_log
                JOIN unnest(CAST(:topics AS text[]), CAST(:after AS bigint[]))
                  AS place(topic, after) USING (topic)
                WHERE seq > after ORDER BY closes_at, ingested_at, seq LIMIT :most
                """
            ),
            {"topics": list(self._after), "after": list(self._after.values()), "most": _BATCH},
        )
        events = []
        for topic, seq, payload in rows:
            event = topic_named(topic).event.from_bytes(payload.encode())
            events.append(LoggedEvent(topic, seq, event))
            self._after[topic] = max(seq, self._after[topic])
        return events


async def tail(
    home: FleetHome, topics: Sequence[str], last: int, *, is_following: bool
) -> AsyncIterator[LoggedEvent]:
    """Yield the last events of streams, then those that come."""
    reader = LogReader(topics)
    async with record_of(home) as engine:
        async with transaction(engine) as connection:
            await reader.skip_to_end(connection, last)
        while True:
            for event in await _read(reader, engine):
                yield event
            if not is_following:
                return
            await asyncio.sleep(POLL_SECONDS)


async def _read(reader: LogReader, engine: AsyncEngine) -> list[LoggedEvent]:
    try:
        async with transaction(engine) as connection:
            return await reader.read(connection)
    except StoreError:
        return []  # the database is being restarted; its supervisor says so


@dataclass(frozen=True, slots=True)
class Published:
    """What became of an event published by hand.

    Attributes
    ----------
    entry_id
        Of the stream entry.
    seq
        Its number in the log, once the stream's owner has taken it.
    dead_letter_id, error
        If the owner refused it.
    quarantined
        Reasons why bars of it were refused.
    """

    stream: str
    entry_id: str
    seq: int | None = None
    dead_letter_id: int | None = None
    error: str | None = None
    quarantined: tuple[str, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether the stream's owner has looked at it."""
        return bool(self.seq or self.dead_letter_id or self.quarantined)


async def publish(home: FleetHome, stream: str, payload: bytes, *, is_checked: bool) -> Published:
    """Add an event to a stream as any Redis client would, and see what its owner makes of it.

    Parameters
    ----------
    home, stream, payload
        Where to and what.
    is_checked
        Refuse here what is no event of the stream, instead of sending it to the dead letters.

    Raises
    ------
    ContractError
        If the stream is unknown, or the payload is checked and no event of it.
    FleetError
        If no fleet runs on the home.
    """
    topic = topic_named(stream)
    if is_checked:
        topic.event.from_bytes(payload)
    require_running(home)
    streams = Streams(transport_url(home))
    try:
        entry_id = await streams.add_plain(stream, payload)
    finally:
        await streams.stop()
    async with record_of(home) as engine:
        deadline = monotonic_seconds() + ADOPTION_SECONDS
        while True:
            async with transaction(engine) as connection:
                published = await _outcome(connection, stream, entry_id)
            if published.is_settled or monotonic_seconds() > deadline:
                return published
            await asyncio.sleep(POLL_SECONDS / 5)


async def _outcome(connection: AsyncConnection, stream: str, entry_id: str) -> Published:
    place = {"topic": stream, "entry_id": entry_id}
    seq = await connection.scalar(
        text("SELECT seq FROM event_log WHERE topic = :topic AND foreign_entry_id = :entry_id"),
        place,
    )
    letter = (
        await connection.execute(
            text(
                "SELECT dead_letter_id, error FROM dead_letter "
                "WHERE topic = :topic AND entry_id = :entry_id"
            ),
            place,
        )
    ).one_or_none()
    if letter is not None:
        return Published(stream, entry_id, None, letter.dead_letter_id, letter.error)
    refused = await connection.execute(
        text("SELECT symbol, message FROM bar_quarantine WHERE source_uri = :source_uri"),
        {"source_uri": f"stream:{stream}/{entry_id}"},
    )
    reasons = tuple(f"{row.symbol}: {row.message}" for row in refused)
    return Published(stream, entry_id, seq, quarantined=reasons)


def describe(event: Event) -> str:
    """Return an event in one line for people."""
    match event:
        case BarsClosed(venue=venue, timeframe=timeframe, bars=bars):
            return f"{venue} {timeframe}: {len(bars)} bars"
        case FeaturesComputed(y=pairs, warming_up=warming_up):
            waiting = f", {len(warming_up)} warming up" if warming_up else ""
            return f"features of {len(pairs)} pairs{waiting}"
        case _:
            return "; ".join(notable(event)) or "nothing to do"


def notable(event: Event) -> Iterator[str]:
    """Yield what a person would want to hear of an event; often nothing."""
    match event:
        case PairsScreened():
            active = sum(pair.status == "active" for pair in event.pairs)
            yield f"{event.summary} ({active} active)"
        case DriftTripped():
            yield f"{event.action}: {'; '.join(event.reasons)}"
        case ModelPromoted(is_rollback=True):
            now = "no model" if event.sha256 is None else f"version {event.model_version}"
            yield f"{event.name} is rolled back: {now} is {event.alias}: {event.override_reason}"
        case ModelPromoted():
            why = f" by override: {event.override_reason}" if event.override_reason else ""
            yield f"{event.name} version {event.model_version} is {event.alias}{why}"
        case SignalsRaised():
            for signal in event.rows:
                side = "long" if signal.side > 0 else "short"
                by = "model" if signal.model_sha256 else "z rule"
                yield (
                    f"{signal.action} {side} {signal.y}~{signal.x}: z {signal.z_score:+.2f}, "
                    f"{signal.reason} ({by})"
                )
        case OrdersRequested():
            for intent in event.intents:
                legs = ", ".join(f"{leg.side} {leg.symbol}" for leg in intent.legs)
                yield f"{intent.action} {intent.y}~{intent.x}{': ' if legs else ''}{legs}"
        case OrdersUpdated():
            states: dict[str, int] = {}
            for order in event.orders:
                states[order.state] = states.get(order.state, 0) + 1
            yield ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        case FillsBooked():
            for fill in event.fills:
                yield f"{fill.pair}: {fill.side} {fill.lots} lots of {fill.symbol}"
        case PositionsChanged():
            for position in event.positions:
                yield f"{position.pair} is {position.state}, equity {event.equity_e8 / 1e8:,.2f}"
        case RiskChanged():
            flat = ", every pair is being closed" if event.is_flattening else ""
            yield f"trading is {event.state}{flat}, says {event.decided_by}: {event.reason}"
