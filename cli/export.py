"""`mnt export`: tables of the record as Parquet files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy import Boolean, DateTime, Double, Integer, LargeBinary, Numeric, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import TypeEngine

from cli.fleet.access import database_url, record_of
from cli.fleet.home import FleetHome
from shared.clock import TIMEFRAME_MS
from shared.database.tables import metadata
from shared.errors import DataError

_BATCH_ROWS = 50_000

# The form that `--bars` reads: open times, one file a timeframe.
_BARS = """
    SELECT closes_at - make_interval(secs => {seconds}) AS ts, symbol, venue AS exchange,
           open, high, low, close, volume
    FROM bars WHERE timeframe = {timeframe} AND {period} ORDER BY closes_at, symbol
"""

_INSTANT = pa.timestamp("us", tz="UTC")
_BARS_SCHEMA = pa.schema(
    [
        ("ts", _INSTANT),
        ("symbol", pa.string()),
        ("exchange", pa.string()),
        *((name, pa.float64()) for name in ("open", "high", "low", "close", "volume")),
    ]
)
_ARROW_TYPES: Mapping[type[TypeEngine[Any]], pa.DataType] = {
    Boolean: pa.bool_(),
    Integer: pa.int64(),  # of every width
    Double: pa.float64(),
    Numeric: pa.decimal128(38, 0),
    Text: pa.string(),
    JSONB: pa.string(),
    LargeBinary: pa.binary(),
    DateTime: _INSTANT,
}


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export: closes after `start` and up to `end`, where the table has closes."""

    table: str
    out: Path
    start: datetime | None = None
    end: datetime | None = None
    timeframe: str | None = None


async def export_table(home: FleetHome, request: ExportRequest) -> int:
    """Write a table and return the number of its rows.

    Raises
    ------
    DataError
        If there is no such table, bars lack a timeframe, or the file cannot be written.
    """
    query, schema = _query(request)
    async with record_of(home):
        return await asyncio.to_thread(_write, database_url(home), query, schema, request.out)


def _query(request: ExportRequest) -> tuple[sql.Composed, pa.Schema]:
    table = metadata.tables.get(request.table)
    if table is None:
        raise DataError(
            f"no table {request.table!r} in the record: choose from {', '.join(metadata.tables)}"
        )
    if request.table == "bars":
        if request.timeframe not in TIMEFRAME_MS:
            raise DataError(
                f"bars of timeframe {request.timeframe}: give --timeframe, one of "
                f"{', '.join(TIMEFRAME_MS)}"
            )
        query = sql.SQL(_BARS).format(
            seconds=TIMEFRAME_MS[request.timeframe] // 1000,
            timeframe=request.timeframe,
            period=_period(request, "closes_at"),
        )
        return query, _BARS_SCHEMA
    period = _period(request, "closes_at") if "closes_at" in table.columns else sql.SQL("true")
    if (request.start or request.end) and "closes_at" not in table.columns:
        raise DataError(f"{request.table} has no closes: leave --start and --end out")
    keys = [sql.Identifier(column.name) for column in table.primary_key.columns]
    query = sql.SQL("SELECT * FROM {table} WHERE {period} ORDER BY {keys}").format(
        table=sql.Identifier(request.table), period=period, keys=sql.SQL(", ").join(keys)
    )
    return query, pa.schema([(column.name, _arrow_type(column.type)) for column in table.columns])


def _arrow_type(kind: TypeEngine[Any]) -> pa.DataType:
    if isinstance(kind, ARRAY):
        return pa.list_(_arrow_type(kind.item_type))
    for ours, theirs in _ARROW_TYPES.items():
        if isinstance(kind, ours):
            return theirs
    raise DataError(f"columns of type {kind} cannot be exported yet")


def _period(request: ExportRequest, column: str) -> sql.Composed:
    bounds: list[sql.Composable] = [sql.SQL("true")]
    if request.start is not None:
        bounds.append(sql.SQL("{} > {}").format(sql.Identifier(column), request.start))
    if request.end is not None:
        bounds.append(sql.SQL("{} <= {}").format(sql.Identifier(column), request.end))
    return sql.SQL(" AND ").join(bounds)


def _write(url: str, query: sql.Composed, schema: pa.Schema, out: Path) -> int:
    draft = out.with_name(f".{out.name}.unfinished")
    n_rows = 0
    try:
        with pq.ParquetWriter(draft, schema) as writer:
            for batch in _batches(url, query, schema):
                writer.write_batch(batch)
                n_rows += batch.num_rows
        draft.replace(out)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error}): choose another --out") from error
    finally:
        draft.unlink(missing_ok=True)
    return n_rows


def _batches(url: str, query: sql.Composed, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with (
        psycopg.connect(url.replace("+asyncpg", ""), row_factory=dict_row) as connection,
        connection.cursor("export") as cursor,
    ):
        connection.execute("SET timezone = 'UTC'")
        cursor.execute(query)
        while rows := cursor.fetchmany(_BATCH_ROWS):
            yield pa.RecordBatch.from_pylist([_plain(row) for row in rows], schema=schema)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()
    }
