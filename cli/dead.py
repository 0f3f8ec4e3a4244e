"""`mnt dead`: the messages that could not be handled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from cli.fleet.embedded import postgres_url, redis_url
from cli.fleet.home import FleetError, FleetHome
from cli.fleet.supervisor import Supervisor
from cli.fleet.topology import server_specs
from shared.bus import dead_letters
from shared.bus.dead_letters import DeadLetter
from shared.bus.streams import Streams
from shared.database.engine import create_engine, transaction
from shared.database.migrate import upgrade


@asynccontextmanager
async def record_of(home: FleetHome) -> AsyncIterator[AsyncEngine]:
    """Open the record of a home, starting its database for as long as that takes if need be."""
    if home.supervisor_pid() is None:
        async with Supervisor(home) as fleet:
            await fleet.start([spec for spec in server_specs(home, {}) if spec.name == "postgres"])
            await asyncio.to_thread(upgrade, postgres_url(home))
            async with _engine(home) as engine:
                yield engine
        return
    async with _engine(home) as engine:
        yield engine


@asynccontextmanager
async def _engine(home: FleetHome) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres_url(home), application="mnt", pool_size=1)
    try:
        yield engine
    finally:
        await engine.dispose()


async def find(
    home: FleetHome, *, dead_letter_id: int | None = None, status: str | None = None
) -> Sequence[DeadLetter]:
    """Return dead letters of a home, oldest first."""
    async with record_of(home) as engine, transaction(engine) as connection:
        return await dead_letters.find(connection, dead_letter_id=dead_letter_id, status=status)


async def replay(home: FleetHome, dead_letter_id: int, corrected: bytes | None) -> str:
    """Send a letter's message, corrected or as it was, through the running fleet again.

    Returns
    -------
    str
        Where it went: a stream entry or a log position.

    Raises
    ------
    FleetError
        If the fleet does not run, or there is no such letter.
    ContractError
        If the message still is no event of its stream.
    """
    if home.supervisor_pid() is None:
        raise FleetError(f"no fleet runs in {home.path}: start it, then replay the letter")
    streams = Streams(redis_url(home))
    try:
        async with _engine(home) as engine:
            async with transaction(engine) as connection:
                found = await dead_letters.find(connection, dead_letter_id=dead_letter_id)
                if not found:
                    raise FleetError(f"there is no dead letter {dead_letter_id}: see mnt dead list")
                letter = found[0]
                payload = letter.payload if corrected is None else corrected
                entry = await dead_letters.requeue(connection, letter, payload)
                if entry is None:
                    # Inside the transaction: if Redis refuses, the letter stays open.
                    return f"{letter.topic} {await streams.add_plain(letter.topic, payload)}"
            await streams.publish(entry)
            return f"{entry.topic} #{entry.seq}"
    finally:
        await streams.stop()
