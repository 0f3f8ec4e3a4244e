"""What must hold of a fleet after every step, and what its record must be in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.executor import store
from shared.database.tables import metadata
from shared.events.catalogue import topic_named
from shared.settings import Settings
from tests.simulation.fleet_market import N_CLOSES
from tests.simulation.rules import Rules

if TYPE_CHECKING:
    from tests.simulation.fleet import FleetWorld

Record = dict[str, list[str]]
"""The rows of every table that the fleet has decided on, in their order."""

_ALWAYS = (
    "bars",
    "bar_quarantine",
    "dead_letter",
    "instruments",
    "screens",
    "roster",
    "features",
    "signals",
    "rule_memory",
)
_OF_AN_HONEST_VENUE = (
    "targets",
    "intents",
    "slot_memory",
    "orders",
    "fills",
    "pair_positions",
    "account",
)
"""What a venue that refuses an order, or fills a part of it, changes rightly."""
_BY_CHANCE = frozenset(
    {
        # When and how often it was recorded.
        "ingested_at",
        "acquired_at",
        "submitted_at",
        "quarantine_id",
        "dead_letter_id",
        "attempts",
        # What an order was told on its way to where it is.
        "reason",
        # Numbers among the entries of a stream count whatever else is on it.
        "entry_id",
        "source_uri",
    }
)
_EMPTY_AT_BEST = {"bar_quarantine", "dead_letter"}
_ONCE_A_CLOSE = (
    "bars.15m",
    "features.computed",
    "signals.raised",
    "orders.requested",
    "positions.changed",
)
_HANDLED_LATE_BARS = 2
"""A close that is refused or fills in part is sent again at the next closes."""


class FleetRules:
    """Judges a run of the fleet by its record and its venue.

    Parameters
    ----------
    world, connection, settings
        Venue, record, and what the services were told.
    """

    def __init__(self, world: FleetWorld, connection: AsyncConnection, settings: Settings) -> None:
        self._world = world
        self._connection = connection
        self._settings = settings
        self._cursors: dict[tuple[str, str], int] = {}
        self.executor = Rules(world, connection, settings)
        self.record: Record = {}

    async def _rows(self, query: str) -> Sequence[Any]:
        return (await self._connection.execute(text(query))).all()

    async def judge_cursors(self) -> tuple[set[str], set[str]]:
        """Judge how far the services say they are.

        Returns
        -------
        tuple of set, set
            Those that are behind, and those that have not recorded all rows.
        """
        found = await self._rows(
            "SELECT consumer, topic, consumer_offset.seq, stream_head.seq AS head "
            "FROM consumer_offset JOIN stream_head USING (topic)"
        )
        require = self._world.require
        for consumer, topic, seq, head in found:
            before = self._cursors.get((consumer, topic), 0)
            require(before <= seq, "cursors never go back", consumer, topic, before, seq)
            require(seq <= head, "a cursor is within its stream", consumer, topic, seq, head)
            self._cursors[(consumer, topic)] = seq
        behind = [(consumer, topic) for consumer, topic, seq, head in found if seq < head]
        without_rows = {name for name, topic in behind if topic_named(topic).publisher == name}
        return {
            name for name, topic in behind if topic_named(topic).publisher != name
        }, without_rows

    async def judge_held(self) -> None:
        """Judge, while all works, that no exit was lost on its way to the venue."""
        found = await self._rows(
            "SELECT position_id, (SELECT max(closes_at) FROM signals WHERE action = 'exit' "
            "AND y = symbol_y AND x = symbol_x AND closes_at > opened_at) AS left_at, "
            "(SELECT max(closes_at) FROM account) AS now FROM pair_positions "
            "WHERE state <> 'closed' AND NOT is_residue"
        )
        for row in found:
            if row.left_at is None:
                continue
            n_bars = (row.now - row.left_at).total_seconds() / 900
            self._world.require(
                n_bars <= _HANDLED_LATE_BARS, "what is left is closed", row.position_id, n_bars
            )

    async def judge_end(self, undisturbed: Record | None) -> None:
        """Judge the record, by that of an undisturbed fleet where there is one."""
        await self._judge_streams()
        self.executor._cursor = self._cursors[("executor", "orders.requested")]
        await self.executor.judge_trading()
        ledger, _ = await store.load_ledger(
            self._connection, self._settings.portfolio.capital_e8, self._settings.account
        )
        held = [each for each in ledger.positions.values() if not each.is_flat]
        self._world.require(not held, "everything is closed in the end", held)
        live = await self._rows("SELECT * FROM live_targets")
        self._world.require(not live, "every slot is free in the end", live)
        self.record = {
            name: await self._table(metadata.tables[name])
            for name in (*_ALWAYS, *_OF_AN_HONEST_VENUE)
        }
        if undisturbed is None:
            empty = [name for name, rows in self.record.items() if not rows]
            self._world.require(set(empty) <= _EMPTY_AT_BEST, "an undisturbed fleet records", empty)
            return
        names = (*_ALWAYS, *(_OF_AN_HONEST_VENUE if self._world.is_venue_honest else ()))
        for name in names:
            lost = sorted(set(undisturbed[name]) - set(self.record[name]))
            made = sorted(set(self.record[name]) - set(undisturbed[name]))
            self._world.require(
                undisturbed[name] == self.record[name],
                f"{name} are what they are undisturbed",
                *(f"lost {row}" for row in lost[:3]),
                *(f"made {row}" for row in made[:3]),
            )

    async def _judge_streams(self) -> None:
        """Judge that every stage has spoken once of every close, and everybody has listened."""
        require = self._world.require
        behind = await self._rows(
            "SELECT consumer, topic, consumer_offset.seq, stream_head.seq FROM consumer_offset "
            "JOIN stream_head USING (topic) WHERE consumer_offset.seq <> stream_head.seq"
        )
        require(not behind, "everything is consumed in the end", behind)
        told = await self._rows(
            "SELECT topic, count(*), count(DISTINCT closes_at) FROM event_log GROUP BY topic"
        )
        counts = {row[0]: (row[1], row[2]) for row in told}
        for topic in _ONCE_A_CLOSE:
            require(
                counts.get(topic) == (N_CLOSES, N_CLOSES),
                "a stage speaks once of every close",
                topic,
                counts.get(topic),
            )

    async def _table(self, table: Table) -> list[str]:
        columns = [column for column in table.columns if column.name not in _BY_CHANCE]
        rows = await self._connection.execute(table.select().with_only_columns(*columns))
        return sorted(repr(tuple(row)) for row in rows)
