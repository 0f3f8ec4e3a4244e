"""The real Postgres, on which every statement and every commit of the process is a side effect.

One database serves one run after another. It does not wait for its disk: a crash of the
process is simulated, one of the server is not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import Insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.database.tables import adjustments, metadata
from tests.simulation.world import World


class _WatchedConnection:
    """A connection on which every statement is a side effect."""

    def __init__(self, connection: AsyncConnection, world: World) -> None:
        self._connection = connection
        self._world = world
        self.has_adjusted = False

    def _pass(self) -> None:
        self._world.side_effect("a statement")
        self._world.break_connection("a statement")

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        self._pass()
        self.has_adjusted |= isinstance(statement, Insert) and statement.table is adjustments
        return await self._connection.execute(statement, parameters)

    async def stream(self, *arguments: Any, **named: Any) -> Any:
        self._pass()
        return await self._connection.stream(*arguments, **named)

    async def execution_options(self, **options: Any) -> _WatchedConnection:
        await self._connection.execution_options(**options)
        return self

    async def get_raw_connection(self) -> Any:
        self._pass()
        return await self._connection.get_raw_connection()


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

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[_WatchedConnection]:
        async with self._engine.connect() as connection:
            yield _WatchedConnection(connection, self._world)


class Driver:
    """What a process takes for the driver of the session that holds its lock.

    Parameters
    ----------
    driver
        The real one, outside any transaction.
    world
        In which the process lives.
    """

    def __init__(self, driver: asyncpg.Connection, world: World) -> None:
        self._driver = driver
        self._world = world

    def is_closed(self) -> bool:
        """Say that the session lives."""
        return False

    async def fetchrow(self, statement: str, *arguments: Any) -> Any:
        """Run a statement that is a transaction of its own, or a question."""
        self._world.side_effect("a settling statement, before it")
        self._world.break_connection("commit, before it")
        row = await self._driver.fetchrow(statement, *arguments)
        self._world.side_effect("a settling statement, after it")
        self._world.break_connection("commit, after it")
        return row


@asynccontextmanager
async def simulated_database(url: str) -> AsyncIterator[tuple[AsyncEngine, AsyncConnection]]:
    """Open an engine whose commits wait for no disk, and a connection that commits at once."""
    settings = {"synchronous_commit": "off", "timezone": "UTC", "lock_timeout": "5000"}
    arguments = {"server_settings": settings, "prepared_statement_cache_size": 1_000}
    engine = create_async_engine(url, connect_args=arguments)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            yield engine, connection
    finally:
        await engine.dispose()


async def forget(connection: AsyncConnection) -> None:
    """Take every row out of the record, in one go."""
    deletes = (f"DELETE FROM {table.name};" for table in reversed(metadata.sorted_tables))
    await connection.execute(text(f"DO $$ BEGIN {' '.join(deletes)} END $$"))
