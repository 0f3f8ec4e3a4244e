"""`mnt dead`: the messages that could not be handled."""

from __future__ import annotations

from collections.abc import Sequence

from cli.fleet.access import record_of, require_running, transport_url
from cli.fleet.home import FleetError, FleetHome
from shared.bus import dead_letters
from shared.bus.dead_letters import DeadLetter
from shared.bus.streams import Streams
from shared.database.engine import transaction


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
    require_running(home)
    streams = Streams(transport_url(home))
    try:
        async with record_of(home) as engine:
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
