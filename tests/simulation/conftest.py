"""A Postgres for the simulation, and simulators that all its tests share.

What they have learnt, from prepared statements to what an undisturbed fleet decides, is what
most of a short test would otherwise be spent on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest_asyncio

from tests.integration.conftest import FleetServers, database_url, fleet_servers
from tests.simulation.fleet import FleetSimulator, fleet_simulator
from tests.simulation.run import Simulator, simulator

__all__ = ["database_url", "fleet_servers", "simulated", "simulated_fleet"]


@contextmanager
def _database(servers: FleetServers, name: str) -> Iterator[str]:
    servers.execute("CREATE DATABASE {} TEMPLATE {}", name, servers.template)
    yield servers.database(name, "asyncpg")
    servers.execute("DROP DATABASE {} WITH (FORCE)", name)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def simulated(fleet_servers: FleetServers) -> AsyncIterator[Simulator]:
    """Open a simulator of the executor."""
    with _database(fleet_servers, "simulated") as url:
        async with simulator(url) as opened:
            yield opened


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def simulated_fleet(fleet_servers: FleetServers) -> AsyncIterator[FleetSimulator]:
    """Open a simulator of the whole fleet."""
    with _database(fleet_servers, "simulated_fleet") as url:
        async with fleet_simulator(url) as opened:
            yield opened
