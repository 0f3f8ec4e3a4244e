"""Bugs that are planted into the services before the executor, to see the fleet's rules fail."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from sqlalchemy import text

import services.ingest.handlers as ingest
from services.features import store as features_store
from services.ingest.intake import take_in
from services.portfolio.handlers import Portfolio
from services.screener.handlers import Screening
from services.signals.handlers import Signals
from shared.bus import dead_letters, log
from shared.bus.consumer import Consumer, UnitOfWork
from shared.clock import instant_of_ms
from shared.database.engine import write_together
from shared.quant.bars import RawBars
from tests.simulation.fleet_market import BAR_MS

Bug = Callable[[], contextlib.AbstractContextManager[Any]]
BUGS: dict[str, Bug] = {}


def _bug(plant: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
    BUGS[plant.__name__.strip("_").replace("_", " ")] = contextlib.contextmanager(plant)
    return plant


# --- the bus ------------------------------------------------------------------------------


@_bug
def _acknowledge_features_before_the_commit() -> Iterator[None]:
    advance = log.advance

    async def apart(connection: Any, consumer: str, *arguments: Any) -> Any:
        if consumer != "features":
            return await advance(connection, consumer, *arguments)
        async with connection._connection.engine.begin() as another:
            return await advance(another, consumer, *arguments)

    with patch.object(log, "advance", apart):
        yield


@_bug
def _move_the_cursor_after_the_commit() -> Iterator[None]:
    advance, conclude = log.advance, Consumer._conclude
    left: list[tuple[Any, ...]] = []

    async def later(connection: Any, consumer: str, *arguments: Any) -> Any:
        if consumer != "portfolio":
            return await advance(connection, consumer, *arguments)
        left[:] = [(consumer, arguments[0])]
        return {}

    async def then(self: Consumer, unit: UnitOfWork, logged: Any) -> None:
        if self.name == "portfolio" and left:
            async with self._engine.begin() as connection:
                await advance(connection, *left.pop())
        await conclude(self, unit, logged)

    with patch.object(log, "advance", later), patch.object(Consumer, "_conclude", then):
        yield


@_bug
def _publish_before_the_commit() -> Iterator[None]:
    settle = Consumer._settle

    async def apart(self: Consumer, unit: UnitOfWork) -> Any:
        if self.name != "signals":
            return await settle(self, unit)
        await write_together(unit.connection, *unit.writes)
        async with self._engine.begin() as another:
            return await settle(self, replace(unit, _connection=another, writes=[]))

    with patch.object(Consumer, "_settle", apart):
        yield


@_bug
def _handle_a_close_again_after_a_lost_commit() -> Iterator[None]:
    advance, load = log.advance, Consumer._load

    async def always(connection: Any, name: str, *arguments: Any) -> Any:
        moved = await advance(connection, name, *arguments)
        return {} if moved is None and name == "signals" else moved

    async def with_old_cursors(self: Consumer, connection: Any) -> None:
        known = self.offsets
        await load(self, connection)
        if self.name == "signals" and known:
            self.offsets = known

    with patch.object(log, "advance", always), patch.object(Consumer, "_load", with_old_cursors):
        yield


@_bug
def _leave_rows_out_that_were_not_recorded_before_a_restart() -> Iterator[None]:
    load = Consumer._load

    async def from_the_head(self: Consumer, connection: Any) -> None:
        topics = list(self._routes.recorders)
        if self.name == "signals" and not self.offsets:
            await connection.execute(
                text(
                    "UPDATE consumer_offset SET seq = stream_head.seq FROM stream_head "
                    "WHERE consumer = 'signals' AND stream_head.topic = consumer_offset.topic "
                    "AND consumer_offset.topic = ANY(CAST(:topics AS text[]))"
                ),
                {"topics": topics},
            )
        await load(self, connection)

    with patch.object(Consumer, "_load", from_the_head):
        yield


@_bug
def _adopt_an_entry_again() -> Iterator[None]:
    async def never(*_: Any) -> dict[str, str]:
        return {}

    with patch.object(dead_letters, "adoption_cursors", never):
        yield


# --- ingest -------------------------------------------------------------------------------


@_bug
def _let_a_revision_replace_a_bar() -> Iterator[None]:
    async def replaced(unit: UnitOfWork, raw: RawBars, **named: Any) -> Any:
        for symbol, at_ms in zip(raw.symbols, raw.closes_at_ms.tolist(), strict=True):
            await unit.connection.execute(
                text("DELETE FROM bars WHERE timeframe = :t AND closes_at = :at AND symbol = :s"),
                {"t": raw.timeframe, "at": instant_of_ms(at_ms), "s": symbol},
            )
        lenient = named["settings"].model_copy(update={"max_log_change": 10.0})
        return await take_in(unit, raw, **(named | {"settings": lenient}))

    with patch.object(ingest, "take_in", replaced):
        yield


# --- screener and features ----------------------------------------------------------------


@_bug
def _forget_the_roster_at_a_restart() -> Iterator[None]:
    reload = Screening.reload

    async def without_roster(self: Screening, connection: Any) -> None:
        await reload(self, connection)
        self._screener.roster = ()

    with patch.object(Screening, "reload", without_roster):
        yield


@_bug
def _use_bars_of_the_next_close() -> Iterator[None]:
    histories = features_store.joined_histories

    async def one_later(connection: Any, closed: Any, *arguments: Any) -> Any:
        later = instant_of_ms(closed.closes_at_ms + BAR_MS)
        return await histories(
            connection, closed.model_copy(update={"closes_at": later}), *arguments
        )

    with patch.object(features_store, "joined_histories", one_later):
        yield


# --- signals and portfolio ----------------------------------------------------------------


@_bug
def _forget_how_long_a_pair_is_held_at_a_restart() -> Iterator[None]:
    reload = Signals.reload

    async def as_if_new(self: Signals, connection: Any) -> None:
        await reload(self, connection)
        self._trades = {key: trade._replace(bars_held=0) for key, trade in self._trades.items()}

    with patch.object(Signals, "reload", as_if_new):
        yield


@_bug
def _never_free_a_slot() -> Iterator[None]:
    async def ignore(self: Portfolio, changed: Any, unit: UnitOfWork) -> None:
        pass

    with patch.object(Portfolio, "release", ignore):
        yield
