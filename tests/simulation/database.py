"""The real Postgres, on which every statement and every commit of the process is a side effect.

One database serves one run after another. It does not wait for its disk: a crash of the
process is simulated, one of the server is not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.database.tables import metadata
from tests.simulation.world import World


class _WatchedConnection:
    """A connection on which every statement is a side effect."""

    def __init__(self, connection: AsyncConnection, world: World) -> None:
        self._connection = connection
        self._world = world
        self.has_adjusted = False

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        self._world.side_effect("a statement")
        self._world.break_connection("a statement")
        self.has_adjusted |= str(statement).startswith("INSERT INTO adjustments")
        return await self._connection.execute(statement, parameters)


class Database:
    """What a process takes for its engine.

    Parameters
    ----------
    engine
        The real one.
    world
        In which the process lives.
    """

    def __init__(self, engine: AsyncEngine, world: World) -> None:
        self._engine = engine
        self._world = world

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[_WatchedConnection]:
        world = self._world
        world.side_effect("begin")
        async with self._engine.begin() as connection:
            watched = _WatchedConnection(connection, world)
            yield watched
            world.side_effect("commit, before it")
            world.break_connection("commit, before it")
        world.side_effect("commit, after it")
        world.break_connection("commit, after it")
        if watched.has_adjusted:
            world.lose_adjustment()


def open_database(url: str) -> AsyncEngine:
    """Return an engine whose commits wait for no disk."""
    settings = {"synchronous_commit": "off", "timezone": "UTC", "lock_timeout": "5000"}
    return create_async_engine(url, connect_args={"server_settings": settings})


async def forget(connection: AsyncConnection) -> None:
    """Take every row out of the record."""
    for table in reversed(metadata.sorted_tables):
        await connection.execute(table.delete())
