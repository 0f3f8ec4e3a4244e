"""The connection to the record."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
from sqlalchemy import Double, Table, Text, TextClause, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.errors import PermanentError, SettingsError, StoreError

STATEMENT_TIMEOUT_MS = 60_000
LOCK_TIMEOUT_MS = 10_000
DISK_FULL = "53100"
_SEARCH_PATH = re.compile(r"-c\s?search_path=([a-z_][a-z0-9_]{0,62})")
_DIALECT = PGDialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so


def create_engine(database_url: str, *, application: str, pool_size: int = 4) -> AsyncEngine:
    """Return an engine whose sessions give up on stuck statements and locks.

    Parameters
    ----------
    database_url
        `postgresql+asyncpg://user:password@host:port/database`, with
        `?options=-csearch_path%3Dname` where the tables are in a schema of that name.
    application
        Name shown in `pg_stat_activity`.
    pool_size
        Connections kept open.

    Raises
    ------
    SettingsError
        As `schema_of`.
    """
    schema = schema_of(database_url)
    return create_async_engine(
        make_url(database_url).difference_update_query(["options"]),
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
                **({} if schema is None else {"search_path": schema}),
            },
        },
    )


def schema_of(database_url: str) -> str | None:
    """Return the schema that a URL names as libpq does, None where it is Postgres's default.

    Raises
    ------
    SettingsError
        If the URL has other options, or the name is none that needs no quotes.

    Examples
    --------
    >>> schema_of("postgresql+asyncpg://mnt@127.0.0.1/mnt?options=-csearch_path%3Dresearch")
    'research'
    """
    options = make_url(database_url).query.get("options")
    if options is None:
        return None
    found = _SEARCH_PATH.fullmatch(options) if isinstance(options, str) else None
    if found is None:
        raise SettingsError(
            f"options {options!r} of the database URL: only -csearch_path=NAME is known, with a "
            "NAME of small letters, digits and _"
        )
    return found.group(1)


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction; a lost or refused connection becomes a `StoreError`.

    Raises
    ------
    StoreError
        If the database cannot be reached, goes away or times out. Nothing was committed,
        unless the connection broke during the commit itself; the log's cursors tell.
    """
    with _failing_as_store():
        async with engine.begin() as connection:
            yield connection


@asynccontextmanager
async def autocommit(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a connection on which every statement is a transaction of its own.

    For a question that is asked again and again: around it a transaction takes longer than it.

    Raises
    ------
    StoreError
        As `transaction`.
    """
    with _failing_as_store():
        async with engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def _failing_as_store() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, OSError) as error:
        if isinstance(error, InterfaceError) and _is_unsendable(error):
            raise
        raise StoreError(f"the database did not answer: {error}; is it running?") from error
    except DBAPIError as error:
        _refuse_for_now(error, _state_of(error.orig))
        if error.connection_invalidated:
            raise StoreError(f"the database refused for now: {error}") from error
        raise


async def run_at_once(
    driver: asyncpg.Connection, statement: TextClause, parameters: Mapping[str, Any]
) -> asyncpg.Record:
    """Run a statement that is a transaction of its own and returns one row.

    It goes to the driver without the layers in between, which take longer than the statement.

    Parameters
    ----------
    driver
        Of a session outside any transaction.
    statement, parameters
        As for SQLAlchemy; the text must say the type of every parameter.

    Raises
    ------
    StoreError
        As `transaction`.
    """
    sql, names = _positional(statement.text)
    try:
        row = await driver.fetchrow(sql, *(parameters[name] for name in names))
    except (asyncpg.InterfaceError, OSError) as error:
        if isinstance(error, ValueError):  # the driver's word for a value it cannot send
            raise
        raise StoreError(f"the database did not answer: {error}; is it running?") from error
    except asyncpg.PostgresError as error:
        _refuse_for_now(error, _state_of(error))
        raise
    if row is None:
        raise PermanentError(f"the statement returned no row: {sql:.200}")
    return row


@functools.cache
def _positional(sql: str) -> tuple[str, tuple[str, ...]]:
    """Return a statement with its parameters numbered as the driver wants, and their names."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match[1], len(names) + 1)}"

    return re.sub(r":(\w+)", number, sql), tuple(names)


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


def _is_unsendable(error: InterfaceError) -> bool:
    """Whether the driver was given a value it cannot send, for which it has no other class."""
    return error.orig is not None and isinstance(error.orig.__cause__, ValueError)


def _refuse_for_now(error: Exception, state: str) -> None:
    """Raise a `StoreError` for an error of a class that goes away by itself.

    08 connection, 40 rollback (deadlock, serialisation), 53 resources, 55 lock not
    available, 57 operator intervention (shutdown, statement timeout).
    """
    if state == DISK_FULL:
        raise StoreError(
            f"the disk of the database is full: {error}; make room on it, and what waits "
            "goes on by itself"
        ) from error
    if state[:2] in {"08", "40", "53", "55", "57"}:
        raise StoreError(f"the database refused for now: {error}") from error


def _state_of(error: BaseException | None) -> str:
    return getattr(error, "sqlstate", None) or ""


@dataclass(frozen=True, slots=True)
class Insertion:
    """Rows for a table; one whose key exists is left as it is, or has columns renewed.

    Attributes
    ----------
    table
        Where to.
    columns
        The values of every column, one for each row; with `update`, no two rows with one key.
    update
        Columns to renew.
    common
        Columns in which all rows are alike: they travel once.
    """

    table: Table
    columns: Mapping[str, Sequence[Any]]
    update: tuple[str, ...] = ()
    common: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_rows(
        cls,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        update: tuple[str, ...] = (),
        common: Mapping[str, Any] | None = None,
    ) -> Insertion:
        """Return the insertion of rows, which all have the columns of the first."""
        names = rows[0] if rows else ()
        columns = {name: [row[name] for row in rows] for name in names}
        return cls(table, columns, update, common or {})

    @property
    def n_rows(self) -> int:
        """How many rows there are.

        Raises
        ------
        PermanentError
            If a column is longer than another; the database would fill the other up with NULL.
        """
        lengths = {len(values) for values in self.columns.values()}
        if len(lengths) > 1:
            told = ", ".join(f"{name} {len(values)}" for name, values in self.columns.items())
            raise PermanentError(
                f"columns for {self.table.name} have different lengths ({told}): give every row "
                "a value in each"
            )
        return lengths.pop() if lengths else 0


@dataclass(frozen=True, slots=True)
class InsertionShape:
    """What of an insertion its statement depends on.

    Attributes
    ----------
    table
        Where to.
    columns, common, update
        Columns that rows have, have in common and have renewed.
    """

    table: Table
    columns: tuple[str, ...]
    common: tuple[str, ...]
    update: tuple[str, ...]


async def insert_rows(
    connection: AsyncConnection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    update: Iterable[str] = (),
) -> None:
    """Insert rows; one whose key exists is left as it is, or has the columns `update` renewed."""
    await write_together(connection, Insertion.of_rows(table, rows, tuple(update)))


async def write_together(connection: AsyncConnection, *writes: Insertion) -> None:
    """Write to several tables with one statement, each table at most once in each way."""
    shapes, parameters = compose(writes)
    if shapes:
        await connection.execute(_statement(shapes), parameters)


def compose(writes: Iterable[Insertion]) -> tuple[tuple[InsertionShape, ...], dict[str, Any]]:
    """Return the shapes of the writes that are not empty, and the parameters of all of them."""
    shapes: list[InsertionShape] = []
    parameters: dict[str, Any] = {}
    for write in writes:
        table = write.table
        if write.n_rows:
            names = tuple(write.columns)
            shapes.append(InsertionShape(table, names, tuple(write.common), write.update))
            for name, values in write.columns.items():
                parameters |= _sent(table, name, values)
            for name, value in write.common.items():
                parameters[f"{table.name}_{name}"] = _encoder(table, name)(value)
    return tuple(shapes), parameters


def write_parts(shapes: Iterable[InsertionShape], condition: str = "true") -> list[str]:
    """Return the statements of writes as parts of a common one, `written0` and so on."""
    return [f"written{n} AS ({_insertion(shape, condition)})" for n, shape in enumerate(shapes)]


@functools.cache
def _statement(shapes: tuple[InsertionShape, ...]) -> TextClause:
    return text(f"WITH {', '.join(write_parts(shapes))} SELECT")


def _insertion(shape: InsertionShape, condition: str) -> str:
    """Return the statement that inserts any number of rows, given as one array per column.

    To run a statement for every row costs about as much for each as the row itself.
    """
    table = shape.table
    arrays, aliases, sent = [], [], []
    for name in shape.columns:
        given, kind = f"{table.name}_{name}", _type_of(table, name)
        if _is_of_numbers(table, name):
            arrays += [f"CAST(:{given}_{bound} AS integer[])" for bound in _BOUNDS]
            first, last = (f"{name}_{bound}" for bound in _BOUNDS)
            aliases += [first, last]
            sent.append(f"(CAST(:{given} AS {kind}))[sent.{first} : sent.{last}]")
        else:
            arrays.append(f"CAST(:{given} AS {_sent_as(table, name)}[])")
            aliases.append(name)
            sent.append(f"CAST(sent.{name} AS {kind})")
    alike = [
        f"CAST(CAST(:{table.name}_{name} AS {_sent_as(table, name)}) AS {_type_of(table, name)})"
        for name in shape.common
    ]
    conflict = "DO NOTHING"
    if shape.update:
        key = ", ".join(column.name for column in table.primary_key.columns)
        renewed = ", ".join(f"{name} = excluded.{name}" for name in shape.update)
        conflict = f"({key}) DO UPDATE SET {renewed}"
    return (
        f"INSERT INTO {table.name} ({', '.join((*shape.columns, *shape.common))}) "  # noqa: S608 - names of our tables
        f"SELECT {', '.join((*sent, *alike))} "
        f"FROM unnest({', '.join(arrays)}) AS sent ({', '.join(aliases)}) "
        f"WHERE {condition} ON CONFLICT {conflict}"
    )


@functools.cache
def _type_of(table: Table, name: str) -> str:
    return table.c[name].type.compile(dialect=_DIALECT)


_BOUNDS = ("first", "last")


def _sent(table: Table, name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return the parameters that carry a column.

    Arrays of numbers go end to end in one, with the bounds of each: as texts they took most
    of the time of an insertion.
    """
    given = f"{table.name}_{name}"
    if not _is_of_numbers(table, name):
        encode = _encoder(table, name)
        return {given: list(values if encode is _as_it_is else map(encode, values))}
    numbers: list[float] = []
    first, last = [], []
    for value in values:
        first.append(len(numbers) + 1)
        numbers.extend(value or ())
        last.append(None if value is None else len(numbers))
    return {given: numbers, f"{given}_first": first, f"{given}_last": last}


def _sent_as(table: Table, name: str) -> str:
    """Return the type in which a value travels: what unnest would flatten goes as its text."""
    return "text" if _encoder(table, name) is not _as_it_is else _type_of(table, name)


@functools.cache
def _is_of_numbers(table: Table, name: str) -> bool:
    kind = table.c[name].type
    return isinstance(kind, ARRAY) and isinstance(kind.item_type, Double)


@functools.cache
def _encoder(table: Table, name: str) -> Callable[[Any], Any]:
    kind = table.c[name].type
    if isinstance(kind, JSONB):
        return _json_text
    if isinstance(kind, ARRAY) and isinstance(kind.item_type, Text):
        return _text_array
    return _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    try:
        sent = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # a whole number beyond 64 bits, for one
        return json.dumps(value)
    # For what is no number orjson writes null: it goes as what it is, and is refused.
    return json.dumps(value) if "null" in sent else sent


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
