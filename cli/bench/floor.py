"""The floor under the fleet's latency: bare hops over Redis with a bare commit after each.

Every relay is a process of its own that does nothing but what a link of any such chain must:
it reads an entry from a stream by a consumer group, commits one row and its cursor, and adds
an entry to the next stream.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import psycopg
import redis

from cli.fleet.home import FleetError
from shared.clock import monotonic_seconds

PATIENCE_MS = 60_000
"""How long the end of a chain is waited for: a first close may have to compile its kernels."""
_GROUP = "relay"
_LINE = b"x" * 100
"""What travels along: a bare chain has little to say."""


def connect(redis_url: str) -> redis.Redis:
    """Return a client that bears to wait for the end of a chain."""
    return redis.Redis.from_url(redis_url, socket_timeout=2 * PATIENCE_MS / 1000)


def cross(
    client: redis.Redis, source: str, fields: dict[bytes, bytes], target: str
) -> tuple[float, dict[bytes, bytes]]:
    """Add an entry to a stream and wait for what it brings about on another.

    Returns
    -------
    tuple of float, dict
        Seconds from the addition to the arrival, and the fields of what arrived.

    Raises
    ------
    FleetError
        If nothing arrives.
    """
    newest: Any = client.xrevrange(target, count=1)
    after = newest[0][0] if newest else b"0-0"
    began = monotonic_seconds()
    client.xadd(source, fields)  # type: ignore[arg-type]  # its dict is invariant in str | bytes
    arrived: Any = client.xread({target: after}, block=PATIENCE_MS)
    seconds = monotonic_seconds() - began
    if not arrived:
        raise FleetError(
            f"an entry of {source} brought nothing to {target} within {PATIENCE_MS} ms: see the "
            "logs of the processes between them"
        )
    return seconds, arrived[0][1][0][1]


class Floor:
    """A chain of relays, measured from its first stream to its last.

    Parameters
    ----------
    redis_url, database_url
        The servers; the database as `postgresql://`.
    n_relays
        Links, each with one commit; the chain has one hop more.
    """

    def __init__(self, redis_url: str, database_url: str, n_relays: int) -> None:
        self._streams = [f"floor.{n_relays}.{n}" for n in range(n_relays + 1)]
        self._client = connect(redis_url)
        self._database_url = database_url
        # The database's password is nothing for a command line.
        self._environment = {"FLOOR_REDIS_URL": redis_url, "FLOOR_DATABASE_URL": database_url}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with psycopg.connect(self._database_url) as connection:
            _create_tables(connection, self._streams)
        with ExitStack() as stack:
            stack.enter_context(self._client)
            for source, target in zip(self._streams, self._streams[1:], strict=False):
                self._client.xgroup_create(source, _GROUP, id="0", mkstream=True)
                stack.enter_context(_running(source, target, self._environment))
            self.seconds(1)  # every relay has connected
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def seconds(self, n_crossings: int) -> list[float]:
        """Return how long each of so many crossings took, one after another."""
        fields = {b"data": _LINE}
        first, last = self._streams[0], self._streams[-1]
        return [cross(self._client, first, fields, last)[0] for _ in range(n_crossings)]

    def seconds_with_commit(self, n_crossings: int) -> list[float]:
        """Return the same where the one who starts a crossing commits first, as a relay does."""
        seconds = []
        with psycopg.connect(self._database_url) as connection:
            for _ in range(n_crossings):
                began = monotonic_seconds()
                _commit(connection, self._streams[-1])
                committed = monotonic_seconds() - began
                seconds.append(committed + self.seconds(1)[0])
        return seconds


@contextmanager
def _running(source: str, target: str, environment: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "cli.bench.floor", source, target]
    with subprocess.Popen(  # noqa: S603 - of this very module
        command, env={**os.environ, **environment}
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def _create_tables(connection: psycopg.Connection, streams: list[str]) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS floor_effect (stream text, seq bigint, line bytea, "
        "PRIMARY KEY (stream, seq))"
    )
    connection.execute("CREATE TABLE IF NOT EXISTS floor_cursor (stream text PRIMARY KEY, seq int)")
    for stream in streams:
        connection.execute("INSERT INTO floor_cursor VALUES (%s, 0)", [stream])


def _commit(connection: psycopg.Connection, stream: str) -> None:
    connection.execute(
        "INSERT INTO floor_effect SELECT stream, seq + 1, %s FROM floor_cursor WHERE stream = %s",
        [_LINE, stream],
        prepare=True,
    )
    connection.execute(
        "UPDATE floor_cursor SET seq = seq + 1 WHERE stream = %s", [stream], prepare=True
    )
    connection.commit()


def _relay(source: str, target: str) -> None:
    client = redis.Redis.from_url(os.environ["FLOOR_REDIS_URL"])
    with client, psycopg.connect(os.environ["FLOOR_DATABASE_URL"]) as connection:
        while True:
            batch: Any = client.xreadgroup(_GROUP, _GROUP, {source: ">"}, count=1, block=1000)
            for entry_id, fields in batch[0][1] if batch else ():
                _commit(connection, source)
                client.xadd(target, fields)
                client.xack(source, _GROUP, entry_id)


if __name__ == "__main__":
    _relay(*sys.argv[1:])
