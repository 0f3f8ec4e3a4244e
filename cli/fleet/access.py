"""Where the record and the streams of a home are, and how a command gets at them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine

from cli.fleet.embedded import POSTGRES, postgres_url, redis_url
from cli.fleet.home import FleetError, FleetHome
from cli.fleet.supervisor import Supervisor
from cli.fleet.topology import DATABASE_URL, REDIS_URL, server_specs
from shared.database.engine import create_engine
from shared.database.migrate import upgrade
from shared.settings import load_settings


def database_url(home: FleetHome) -> str:
    """Return the URL of the record: `MNT_DATABASE_URL`, else the home's own Postgres.

    Raises
    ------
    SettingsError
        If the environment has a fault, such as a password file that cannot be read.
    """
    if os.environ.get(DATABASE_URL):
        return load_settings().database_url.get_secret_value()
    return postgres_url(home)


def transport_url(home: FleetHome) -> str:
    """Return the URL of the streams: `MNT_REDIS_URL`, else the home's own Valkey."""
    return os.environ.get(REDIS_URL) or redis_url(home)


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    parts = urlsplit(url)
    place = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    return f"{parts.scheme}://{place}{parts.path}"


@asynccontextmanager
async def record_of(home: FleetHome) -> AsyncIterator[AsyncEngine]:
    """Open the record of a home at the present schema.

    Its own Postgres is started for as long as that takes when no fleet runs.
    """
    is_embedded = not os.environ.get(DATABASE_URL)
    if is_embedded and home.supervisor_pid() is None:
        async with Supervisor(home) as fleet:
            specs = [spec for spec in server_specs(home, {}) if spec.name == POSTGRES]
            await fleet.start(specs)
            async with _migrated(home) as engine:
                yield engine
        return
    async with _migrated(home) as engine:
        yield engine


@asynccontextmanager
async def _migrated(home: FleetHome) -> AsyncIterator[AsyncEngine]:
    url = database_url(home)
    await asyncio.to_thread(upgrade, url)
    engine = create_engine(url, application="mnt", pool_size=1)
    try:
        yield engine
    finally:
        await engine.dispose()


def require_running(home: FleetHome) -> None:
    """Refuse to go on when no fleet runs on a home.

    Raises
    ------
    FleetError
        If none does, and the streams are not named by a setting either.
    """
    if home.supervisor_pid() is None and not os.environ.get(REDIS_URL):
        raise FleetError(f"no fleet runs in {home.path}: start one with `mnt up`")
