"""Rows of several tables in one statement: what goes in comes out."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database.engine import (
    Insertion,
    create_engine,
    insert_rows,
    transaction,
    write_together,
)
from shared.errors import PermanentError

metadata = MetaData()
every_kind = Table(
    "every_kind",
    metadata,
    Column("name", Text, primary_key=True),
    Column("at", DateTime(timezone=True)),
    Column("number", Double),
    Column("whole", BigInteger),
    Column("side", SmallInteger),
    Column("cash", Numeric(38, 0)),
    Column("is_open", Boolean),
    Column("raw", LargeBinary),
    Column("document", JSONB),
    Column("numbers", ARRAY(Double)),
    Column("words", ARRAY(Text)),
)
other = Table("other", metadata, Column("name", Text, primary_key=True))

ROW: dict[str, Any] = {
    "name": 'a:b \\ "quoted" {x,y}',
    "at": datetime(2024, 1, 1, 12, 0, 0, 1000, UTC),
    "number": 0.1,
    "whole": 2**62,
    "side": -1,
    "cash": 10**30,
    "is_open": True,
    "raw": b"\x00\xff",
    "document": {"z": [1, None, "\u00e9"], "a": 0.1},
    "numbers": [0.1, 1e-300, -1.7976931348623157e308, 3.0],
    "words": ["plain", 'with "quotes"', "back\\slash", "{a,b}", "", "NULL"],
}


@pytest.fixture
async def engine(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(empty_database_url, application="test")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield engine
    await engine.dispose()


async def stored(engine: AsyncEngine) -> list[dict[str, Any]]:
    async with transaction(engine) as connection:
        rows = await connection.execute(select(every_kind).order_by(every_kind.c.name))
        return [dict(row._mapping) for row in rows]


async def test_every_kind_of_value_comes_back_as_it_was(engine: AsyncEngine) -> None:
    nothing: dict[str, Any] = {**dict.fromkeys(ROW), "name": "z", "numbers": [], "words": []}
    async with transaction(engine) as connection:
        await insert_rows(connection, every_kind, [ROW, nothing])
    assert await stored(engine) == [ROW, nothing]


async def test_numbers_that_json_does_not_know_are_kept_in_arrays(engine: AsyncEngine) -> None:
    numbers = [float("nan"), float("inf"), float("-inf"), 0.1]
    async with transaction(engine) as connection:
        await insert_rows(connection, every_kind, [{"name": "a", "numbers": numbers}])
    [row] = await stored(engine)
    assert str(row["numbers"]) == str(numbers)


@pytest.mark.parametrize(
    "document",
    [[2**63, -(2**70)], {"lots": 5, "gone": None}, "null", {1: "a whole number for a name"}],
)
async def test_a_document_is_kept_as_json_writes_it(engine: AsyncEngine, document: Any) -> None:
    async with transaction(engine) as connection:
        await insert_rows(connection, every_kind, [{"name": "a", "document": document}])
    [row] = await stored(engine)
    assert row["document"] == json.loads(json.dumps(document))


@pytest.mark.parametrize("value", [math.nan, math.inf])
async def test_a_document_with_what_is_no_number_is_refused(
    engine: AsyncEngine, value: float
) -> None:
    with pytest.raises(DBAPIError, match="invalid input syntax for type json"):
        async with transaction(engine) as connection:
            await insert_rows(connection, every_kind, [{"name": "a", "document": [0.1, value]}])
    assert await stored(engine) == []


async def test_columns_of_different_lengths_are_refused(engine: AsyncEngine) -> None:
    uneven = Insertion(every_kind, {"name": ["a", "b"], "number": [1.0]})
    with pytest.raises(PermanentError, match=r"every_kind .*\(name 2, number 1\)"):
        async with transaction(engine) as connection:
            await write_together(connection, uneven)


async def test_a_known_key_is_left_alone_or_has_the_named_columns_renewed(
    engine: AsyncEngine,
) -> None:
    first = [{"name": name, "number": 1.0, "whole": 1} for name in "ab"]
    second = [{"name": name, "number": 2.0, "whole": 2} for name in "bc"]
    for update in ((), ("whole",)):
        async with transaction(engine) as connection:
            await insert_rows(connection, every_kind, first)
            await insert_rows(connection, every_kind, second, update=update)
        numbers = [(row["name"], row["number"], row["whole"]) for row in await stored(engine)]
        assert numbers == [("a", 1.0, 1), ("b", 1.0, 2 if update else 1), ("c", 2.0, 2)]


async def test_tables_are_written_together_and_one_without_rows_is_left_out(
    engine: AsyncEngine,
) -> None:
    async with transaction(engine) as connection:
        await write_together(
            connection,
            Insertion(every_kind, {"name": ["a", "b"]}),
            Insertion(other, {"name": ("c",)}),
        )
        await write_together(connection, Insertion(every_kind, {"name": []}), Insertion(other, {}))
        await write_together(
            connection, Insertion.of_rows(every_kind, []), Insertion.of_rows(other, [ROW_OTHER])
        )
        names = (await connection.execute(select(other.c.name).order_by(other.c.name))).scalars()
        assert list(names) == ["c", "d"]
    assert [row["name"] for row in await stored(engine)] == ["a", "b"]


ROW_OTHER = {"name": "d"}
