"""`mnt status`: every process, and how far each service is behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

from cli.fleet.home import FleetHome
from cli.fleet.status import ProcessStatus, read_status
from cli.fleet.topology import SERVICES

_TIMEOUT = aiohttp.ClientTimeout(total=3)


async def fleet_status(home: FleetHome) -> list[dict[str, Any]]:
    """Return name, pid, port, state and lag of every process of a home."""
    processes = read_status(home)
    headers = {"Authorization": f"Bearer {home.token()}"} if processes else {}
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        lags = await asyncio.gather(*(_lag(session, headers, process) for process in processes))
    return [
        {
            "name": process.name,
            "pid": process.pid,
            "port": process.port,
            "state": str(process.state),
            "lag": lag,
        }
        for process, lag in zip(processes, lags, strict=True)
    ]


async def _lag(
    session: aiohttp.ClientSession, headers: Mapping[str, str], process: ProcessStatus
) -> int | None:
    """Ask a service for its lag; a server has none, and one that is down cannot say."""
    if process.name not in SERVICES or process.port is None or process.pid is None:
        return None
    try:
        url = f"http://127.0.0.1:{process.port}/status"
        async with session.get(url, headers=headers) as answer:
            lag = (await answer.json()).get("lag") if answer.ok else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    return lag if isinstance(lag, int) else None
