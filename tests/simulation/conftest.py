"""A Postgres for the simulation."""

from tests.integration.conftest import database_url, fleet_servers

__all__ = ["database_url", "fleet_servers"]
