"""The connection to the record."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Table, Text, TextClause, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.errors import StoreError

STATEMENT_TIMEOUT_MS = 60_000
LOCK_TIMEOUT_MS = 10_000
DISK_FULL = "53100"
_DIALECT = PGDialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so


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
        if _state_of(error) == DISK_FULL:
            raise StoreError(
                f"the disk of the database is full: {error}; make room on it, and what waits "
                "goes on by itself"
            ) from error
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
    return _state_of(error)[:2] in {"08", "40", "53", "55", "57"}


def _state_of(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


@dataclass(frozen=True, slots=True)
class Insertion:
    """Rows for a table; one whose key exists is left as it is, or has columns renewed.

    Attributes
    ----------
    table
        Where to.
    rows
        All with the columns of the first; with `update`, no two with the same key.
    update
        Columns to renew.
    """

    table: Table
    rows: Sequence[Mapping[str, Any]]
    update: tuple[str, ...] = ()


async def insert_rows(
    connection: AsyncConnection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    update: Iterable[str] = (),
) -> None:
    """Insert rows; one whose key exists is left as it is, or has the columns `update` renewed."""
    await insert_together(connection, Insertion(table, rows, tuple(update)))


async def insert_together(connection: AsyncConnection, *insertions: Insertion) -> None:
    """Insert the rows of several tables with one statement, each table named at most once."""
    shapes, parameters = [], {}
    for insertion in insertions:
        if not insertion.rows:
            continue
        table, columns = insertion.table, tuple(insertion.rows[0])
        shapes.append((table, columns, insertion.update))
        for name in columns:
            encode = _encoder(table, name)
            parameters[f"{table.name}_{name}"] = [encode(row[name]) for row in insertion.rows]
    if shapes:
        await connection.execute(_statement(tuple(shapes)), parameters)


_Shape = tuple[Table, tuple[str, ...], tuple[str, ...]]
"""A table, the columns that rows have and those that are renewed."""


@functools.cache
def _statement(shapes: tuple[_Shape, ...]) -> TextClause:
    parts = [f"i{n} AS ({_insertion(*shape)})" for n, shape in enumerate(shapes)]
    return text(f"WITH {', '.join(parts)} SELECT")


def _insertion(table: Table, columns: tuple[str, ...], update: tuple[str, ...]) -> str:
    """Return the statement that inserts any number of rows, given as one array per column.

    To run a statement for every row costs about as much for each as the row itself.
    """
    names = ", ".join(columns)
    arrays = ", ".join(
        f"CAST(:{table.name}_{name} AS {_sent_as(table, name)}[])" for name in columns
    )
    values = ", ".join(f"CAST(sent.{name} AS {_type_of(table, name)})" for name in columns)
    conflict = "DO NOTHING"
    if update:
        key = ", ".join(column.name for column in table.primary_key.columns)
        renewed = ", ".join(f"{name} = excluded.{name}" for name in update)
        conflict = f"({key}) DO UPDATE SET {renewed}"
    return (
        f"INSERT INTO {table.name} ({names}) SELECT {values} "  # noqa: S608 - names of our tables
        f"FROM unnest({arrays}) AS sent ({names}) ON CONFLICT {conflict}"
    )


@functools.cache
def _type_of(table: Table, name: str) -> str:
    return table.c[name].type.compile(dialect=_DIALECT)


def _sent_as(table: Table, name: str) -> str:
    """Return the type in which a value travels: what unnest would flatten goes as its text."""
    return "text" if _encoder(table, name) is not _as_it_is else _type_of(table, name)


@functools.cache
def _encoder(table: Table, name: str) -> Callable[[Any], Any]:
    kind = table.c[name].type
    if isinstance(kind, JSONB):
        return _json_text
    if isinstance(kind, ARRAY):
        return _text_array if isinstance(kind.item_type, Text) else _number_array
    return _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


def _json_text(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _number_array(values: Sequence[float]) -> str:
    numbers = orjson.dumps(values)
    if b"null" in numbers:  # JSON has no nan and no inf, Postgres reads those of repr
        return f"{{{','.join(map(repr, values))}}}"
    return f"{{{numbers[1:-1].decode()}}}"


def _text_array(values: Sequence[str]) -> str:
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in escaped) + "}"


async def copy_csv(
    connection: AsyncConnection, table: Table, columns: Sequence[str], csv: Any
) -> None:
    """Load a binary file object of comma-separated values with COPY, for bulk history."""
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if driver is None:
        raise StoreError("the connection was lost before the bulk load began; try again")
    await driver.copy_to_table(table.name, source=csv, columns=list(columns), format="csv")
