"""Streams without Redis: what is added may be lost, come twice, late, or out of order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.bus.log import LogEntry
from shared.bus.streams import OnEntries, StreamEntry, entry_order
from shared.events.catalogue import Topic
from tests.simulation.world import World


@dataclass(slots=True)
class _Reader:
    """What one service reads, and what is on its way there."""

    on_entries: OnEntries | None = None
    topics: frozenset[str] = frozenset()
    on_the_way: list[tuple[int, StreamEntry]] = field(default_factory=list)


class Bus:
    """All streams; they outlive the processes.

    Parameters
    ----------
    world
        Whose seed decides what becomes of an entry.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.chance("bus")
        self._unreliability = self._random.choice((0.0, 0.1, 0.5))
        self._readers: dict[str, _Reader] = {}
        self._foreign: list[StreamEntry] = []
        self._n_added = 0

    def of(self, service: str) -> Port:
        """Return what the processes of a service take for their streams."""
        self._readers.setdefault(service, _Reader())
        return Port(self, self._world, service)

    def attach(
        self, service: str, topics: Sequence[Topic], look_after: Mapping[str, str], on: OnEntries
    ) -> None:
        """Let a process of a service read; Redis has kept what foreign clients added."""
        reader = self._readers[service]
        reader.topics = frozenset((*(topic.name for topic in topics), *look_after))
        reader.on_entries = on
        kept = [
            each
            for each in self._foreign
            if each.topic in look_after
            and entry_order(each.entry_id) > entry_order(look_after[each.topic])
        ]
        if kept:
            on(kept)

    def detach(self, service: str) -> None:
        """Let nobody read for a service."""
        self._readers[service].on_entries = None

    def add(self, entry: LogEntry) -> None:
        """Put an entry on its way to everybody."""
        self._n_added += 1
        found = StreamEntry(entry.topic, f"{self._n_added}-0", entry.seq, entry.payload)
        for reader in self._readers.values():
            for _ in range(2 if self.is_struck() else 1):
                delay_ms = self._random.randint(1, 60_000) if self.is_struck() else 0
                if not self.is_struck():
                    reader.on_the_way.append((self._world.now_ms + delay_ms, found))
            if self.is_struck():
                self._random.shuffle(reader.on_the_way)

    def add_foreign(self, topic: str, payload: bytes) -> None:
        """Put an entry without a number on a stream: it is kept there, in its place."""
        self._n_added += 1
        self._foreign.append(StreamEntry(topic, f"{self._n_added}-0", None, payload))
        for reader in self._readers.values():
            if reader.on_entries is None or topic not in reader.topics:
                continue
            known = [each for each in self._foreign if each.topic == topic]
            reader.on_entries(known if self.is_struck() else known[-1:])

    def deliver(self) -> None:
        """Hand over what has arrived by now."""
        now_ms = self._world.now_ms
        for reader in self._readers.values():
            arrived = [entry for due_ms, entry in reader.on_the_way if due_ms <= now_ms]
            reader.on_the_way = [each for each in reader.on_the_way if each[0] > now_ms]
            if reader.on_entries is not None and arrived:
                reader.on_entries([entry for entry in arrived if entry.topic in reader.topics])

    def is_struck(self) -> bool:
        """Tell whether something goes wrong now."""
        return not self._world.is_healed and self._random.random() < self._unreliability


class Port:
    """The streams as the processes of one service see them.

    Parameters
    ----------
    bus, world
        All streams, and where they are.
    service
        Whose they are.
    """

    def __init__(self, bus: Bus, world: World, service: str) -> None:
        self._bus = bus
        self._world = world
        self._service = service

    async def start(
        self, topics: Sequence[Topic], look_after: Mapping[str, str], on_entries: OnEntries
    ) -> None:
        """Let a process read."""
        self._bus.attach(self._service, topics, look_after, on_entries)

    async def publish(
        self, *entries: LogEntry, adopted_up_to: Mapping[str, str] | None = None
    ) -> bool:
        """Take entries of the process; one may be lost after others have come."""
        for entry in entries:
            self._world.side_effect(f"publish {entry.topic}")
            self._world.note(f"published {entry.topic}/{entry.seq}")
            if self._bus.is_struck():
                return False
            self._bus.add(entry)
        return True

    async def publish_dead_letter(self, topic: str, fields: dict[str, str]) -> None:
        """Show a dead letter; whether there may be one, the record is asked in the end."""
        self._world.side_effect(f"publish {topic}.dead")
        self._world.note(f"dead letter of {topic}")
