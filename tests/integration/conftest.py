"""Real servers for integration tests: one embedded pair a session, an empty state a test."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql

from shared.database.migrate import upgrade
from tests.serving import Record, recording, settings_in_environment

PROJECT = Path(__file__).resolve().parents[2]

# The supervisor handles signals, so it wants the main thread of a process of its own. That
# process ends with its standard input: also when pytest is killed and cleans nothing up.
SERVERS = """
import asyncio, pathlib, sys
import structlog
from cli.fleet.embedded import postgres_url, redis_url
from cli.fleet.home import FleetHome
from cli.fleet.supervisor import Supervisor
from cli.fleet.topology import server_specs
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
async def main():
    home = FleetHome(pathlib.Path(sys.argv[1]))
    async with Supervisor(home) as fleet:
        await fleet.start(server_specs(home, {}))
        print(postgres_url(home, driver=""), redis_url(home), flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class FleetServers:
    """Where the servers of this session are.

    Attributes
    ----------
    maintenance_url
        A database to connect to while others are created and dropped.
    template
        Name of a migrated database that tests are given copies of.
    """

    maintenance_url: str
    template: str
    redis_url: str

    def database(self, name: str, driver: str = "") -> str:
        """Return the URL of a database on the same server."""
        server, _, _ = self.maintenance_url.rpartition("/")
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{server}/{name}".replace("postgresql", scheme, 1)

    def execute(self, statement: str, *names: str) -> None:
        """Run a statement on databases as such, their names filled in as identifiers."""
        with psycopg.connect(self.maintenance_url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture(scope="session")
def fleet_servers() -> Iterator[FleetServers]:
    """Start an embedded Postgres and Valkey for the session."""
    with (
        tempfile.TemporaryDirectory(prefix="mnt-servers-") as home,
        subprocess.Popen(
            [sys.executable, "-c", SERVERS, home],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            urls = process.stdout.readline().split()
            assert len(urls) == 2, "the servers did not start; their reason stands on stderr"
            servers = FleetServers(urls[0], "migrated_template", urls[1])
            servers.execute("CREATE DATABASE {}", servers.template)
            upgrade(servers.database(servers.template, "asyncpg"))
            yield servers
        finally:
            process.stdin.close()
            process.wait(timeout=60)


_numbers = itertools.count()


@pytest.fixture
def empty_database_url(fleet_servers: FleetServers) -> Iterator[str]:
    """Create a database without a single table and return its asyncpg URL."""
    name = f"test_{next(_numbers)}"
    fleet_servers.execute("CREATE DATABASE {}", name)
    yield fleet_servers.database(name, "asyncpg")
    fleet_servers.execute("DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def database_url(fleet_servers: FleetServers) -> Iterator[str]:
    """Create a migrated database without a single row and return its asyncpg URL."""
    name = f"test_{next(_numbers)}"
    fleet_servers.execute("CREATE DATABASE {} TEMPLATE {}", name, fleet_servers.template)
    yield fleet_servers.database(name, "asyncpg")
    fleet_servers.execute("DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def redis_url(fleet_servers: FleetServers) -> str:
    """Empty the Valkey of this session and return its URL."""
    with redis.Redis.from_url(fleet_servers.redis_url) as client:
        client.flushall()
    return fleet_servers.redis_url


@pytest.fixture
def told() -> Sequence[tuple[str, str]]:
    """Settings of the services of a test; a module that has some defines this anew."""
    return ()


@pytest.fixture
async def record(
    tmp_path: Path,
    database_url: str,
    redis_url: str,
    told: Sequence[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Record]:
    """Open an empty record, which services of the test start on with its settings."""
    settings_in_environment(monkeypatch, tmp_path, database_url, redis_url, told)
    async with recording(database_url, redis_url) as opened:
        yield opened
