"""The real Postgres, all of a run in one transaction that is never committed.

What the product commits is a savepoint that is released, what it rolls back one that is
rolled back to: the same rows appear and vanish, without a disk that must be waited for and
without a schema that must be made for every seed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from tests.simulation.world import World


class _WatchedConnection:
    """A connection on which every statement is a side effect."""

    def __init__(self, connection: AsyncConnection, world: World) -> None:
        self._connection = connection
        self._world = world

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        self._world.side_effect("a statement")
        self._world.break_connection("a statement")
        return await self._connection.execute(statement, parameters)


class Database:
    """What a process takes for its engine.

    Parameters
    ----------
    connection
        In the transaction of the run.
    world
        In which the process lives.
    """

    def __init__(self, connection: AsyncConnection, world: World) -> None:
        self._connection = connection
        self._world = world

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[_WatchedConnection]:
        world = self._world
        world.side_effect("begin")
        savepoint = await self._connection.begin_nested()
        world.n_open_transactions += 1
        try:
            yield _WatchedConnection(self._connection, world)
            world.side_effect("commit, before it")
            world.break_connection("commit, before it")
        except BaseException:
            await savepoint.rollback()
            raise
        finally:
            world.n_open_transactions -= 1
        await savepoint.commit()
        world.side_effect("commit, after it")
        world.break_connection("commit, after it")
