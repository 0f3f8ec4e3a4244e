"""Streams without Redis: what is added may be lost, come twice, late, or out of order."""

from __future__ import annotations

from collections.abc import Sequence

from shared.bus.log import LogEntry
from shared.bus.streams import OnEntries, StreamEntry
from shared.events.catalogue import Topic
from tests.simulation.world import World


class Bus:
    """What a process takes for its streams; it outlives the processes.

    Parameters
    ----------
    world
        Whose seed decides what becomes of an entry.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.chance("bus")
        self._unreliability = self._random.choice((0.0, 0.1, 0.5))
        self._on_entries: OnEntries | None = None
        self._topics: frozenset[str] = frozenset()
        self._on_the_way: list[tuple[int, StreamEntry]] = []
        self._n_added = 0

    async def start(
        self, topics: Sequence[Topic], start_after: dict[str, str], on_entries: OnEntries
    ) -> None:
        """Let a process read; nobody adds foreign entries here, so all start at the end."""
        self._topics = frozenset(topic.name for topic in topics)
        self._on_entries = on_entries

    async def publish(self, entry: LogEntry, adopted_up_to: str | None = None) -> bool:
        """Take an entry of the process."""
        self._world.side_effect(f"publish {entry.topic}")
        self._world.note(f"published {entry.topic}/{entry.seq}")
        if self._is_struck():
            return False
        self.add(entry)
        return True

    async def publish_dead_letter(self, topic: str, fields: dict[str, str]) -> None:
        """Say that an event went to the dead letters, which none may here."""
        self._world.require(False, "no event goes to the dead letters", topic, fields)

    def add(self, entry: LogEntry) -> None:
        """Put an entry on its way."""
        self._n_added += 1
        found = StreamEntry(entry.topic, f"{self._n_added}-0", entry.seq, entry.payload)
        for _ in range(2 if self._is_struck() else 1):
            delay_ms = self._random.randint(1, 60_000) if self._is_struck() else 0
            if not self._is_struck():
                self._on_the_way.append((self._world.now_ms + delay_ms, found))
        if self._is_struck():
            self._random.shuffle(self._on_the_way)

    def deliver(self) -> None:
        """Hand over what has arrived by now."""
        now_ms = self._world.now_ms
        arrived = [entry for due_ms, entry in self._on_the_way if due_ms <= now_ms]
        self._on_the_way = [each for each in self._on_the_way if each[0] > now_ms]
        if self._on_entries is not None and arrived:
            self._on_entries([entry for entry in arrived if entry.topic in self._topics])

    def _is_struck(self) -> bool:
        return not self._world.is_healed and self._random.random() < self._unreliability
