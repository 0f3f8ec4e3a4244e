"""The connection to the record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Table, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.errors import StoreError

STATEMENT_TIMEOUT_MS = 60_000
LOCK_TIMEOUT_MS = 10_000


def create_engine(database_url: str, *, application: str, pool_size: int = 4) -> AsyncEngine:
    """Return an engine whose sessions give up on stuck statements and locks.

    Parameters
    ----------
    database_url
        `postgresql+asyncpg://user:password@host:port/database`.
    application
        Name shown in `pg_stat_activity`.
    pool_size
        Connections kept open.
    """
    return create_async_engine(
        database_url,
        pool_size=pool_size,
        max_overflow=4,
        pool_pre_ping=False,
        connect_args={
            "timeout": 10,
            "server_settings": {
                "application_name": application,
                "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": "120000",
                "timezone": "UTC",
            },
        },
    )


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction; a lost or refused connection becomes a `StoreError`.

    Raises
    ------
    StoreError
        If the database cannot be reached, goes away or times out. Nothing was committed,
        unless the connection broke during the commit itself; the log's cursors tell.
    """
    try:
        async with engine.begin() as connection:
            yield connection
    except (OperationalError, InterfaceError, OSError) as error:
        raise StoreError(f"the database did not answer: {error}; is it running?") from error
    except DBAPIError as error:
        if error.connection_invalidated or _is_transient(error):
            raise StoreError(f"the database refused for now: {error}") from error
        raise


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that only reads, and sees the record as it is at one instant.

    Raises
    ------
    StoreError
        As `transaction`.
    """
    async with transaction(engine) as connection:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        yield connection


def _is_transient(error: DBAPIError) -> bool:
    """Whether the error belongs to a class that goes away by itself.

    08 connection, 40 rollback (deadlock, serialisation), 53 resources, 55 lock not
    available, 57 operator intervention (shutdown, statement timeout).
    """
    state = getattr(error.orig, "sqlstate", None) or ""
    return state[:2] in {"08", "40", "53", "55", "57"}


async def insert_rows(
    connection: AsyncConnection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    update: Iterable[str] = (),
) -> None:
    """Insert rows; one whose key exists is left as it is, or has the columns `update` renewed."""
    if not rows:
        return
    statement = insert(table)
    renewed = {name: statement.excluded[name] for name in update}
    if renewed:
        statement = statement.on_conflict_do_update(
            index_elements=list(table.primary_key.columns), set_=renewed
        )
    else:
        statement = statement.on_conflict_do_nothing()
    await connection.execute(statement, [dict(row) for row in rows])


async def copy_csv(
    connection: AsyncConnection, table: Table, columns: Sequence[str], csv: Any
) -> None:
    """Load a binary file object of comma-separated values with COPY, for bulk history."""
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if driver is None:
        raise StoreError("the connection was lost before the bulk load began; try again")
    await driver.copy_to_table(table.name, source=csv, columns=list(columns), format="csv")
