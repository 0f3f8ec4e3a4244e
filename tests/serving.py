"""Services in the loop of a test, on real servers."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.bus import log
from shared.bus.streams import Streams
from shared.database.engine import create_engine, insert_rows, transaction
from shared.events.base import Event
from shared.service import Runtime
from tests.support import eventually_async

TOKEN = "the token of the test, which is long enough"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
LINEAGE = {"source_uri": "test", "transform_id": "test/1"}


@dataclass(slots=True)
class Record:
    """The record and the streams, as other services would write to them."""

    engine: AsyncEngine
    streams: Streams

    async def put(self, table: Table, *rows: Mapping[str, Any]) -> None:
        names = set(table.columns.keys())
        lineage = {name: value for name, value in LINEAGE.items() if name in names}
        async with transaction(self.engine) as connection:
            await insert_rows(connection, table, [{**lineage, **row} for row in rows])

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with transaction(self.engine) as connection:
            return [tuple(row) for row in await connection.execute(text(query))]

    async def publish(self, topic: str, event: Event) -> None:
        """Publish an event as the owner of its stream does."""
        async with transaction(self.engine) as connection:
            await log.ensure_topics(connection, [topic])
            entry = await log.append(connection, topic, event, **LINEAGE)
        await self.streams.publish(entry)

    async def is_handled(self, consumer: str) -> None:
        """Wait until a consumer has handled everything published."""

        async def has_reached_the_heads() -> bool:
            behind = await self.rows(
                "SELECT topic FROM consumer_offset JOIN stream_head USING (topic) "
                f"WHERE consumer = '{consumer}' AND consumer_offset.seq < stream_head.seq"
            )
            assert behind == []
            return True

        await eventually_async(has_reached_the_heads)
        assert await self.rows("SELECT topic, error FROM dead_letter") == []


@asynccontextmanager
async def recording(database_url: str, redis_url: str) -> AsyncIterator[Record]:
    """Open the record and the streams."""
    engine = create_engine(database_url, application="test")
    streams = Streams(redis_url)
    try:
        yield Record(engine, streams)
    finally:
        await streams.stop()
        await engine.dispose()


@dataclass(slots=True)
class Served:
    """A service and a client of its routes."""

    runtime: Runtime
    client: httpx.AsyncClient

    async def get(self, path: str, **parameters: Any) -> Any:
        answer = await self.client.get(path, params=parameters, headers=AUTHORISED)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request with the token and return its answer."""
        answer = await self.attempt(method, path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def attempt(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        return await self.client.request(method, path, json=body, headers=AUTHORISED, timeout=120)

    async def refusal(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, str]:
        answer = await self.attempt(method, path, body)
        return answer.status_code, answer.json()["detail"]


@asynccontextmanager
async def serving(service: str) -> AsyncIterator[Served]:
    """Run a service with the settings of the environment until it is left."""
    app = importlib.import_module(f"services.{service}.main").create_app()
    runtime: Runtime = app.state.runtime
    async with app.router.lifespan_context(app):
        await runtime.consumer.is_started.wait()
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield Served(runtime, client)


def settings_in_environment(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    database_url: str,
    redis_url: str,
    settings: Sequence[tuple[str, str]] = (),
) -> None:
    """Set what a service is told when it starts."""
    token_file = folder / "service-token"
    token_file.write_text(TOKEN + "\n")
    monkeypatch.setenv("MNT_HOME", str(folder))
    monkeypatch.setenv("MNT_API_TOKEN_FILE", str(token_file))
    monkeypatch.setenv("MNT_DATABASE_URL", database_url)
    monkeypatch.setenv("MNT_REDIS_URL", redis_url)
    for name, value in settings:
        monkeypatch.setenv(name, value)
