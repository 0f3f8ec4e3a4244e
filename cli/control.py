"""Calls to the REST routes of a running fleet."""

from __future__ import annotations

from typing import Any

import aiohttp

from cli.fleet.home import FleetError, FleetHome
from cli.fleet.status import read_status

_TIMEOUT = aiohttp.ClientTimeout(total=600, connect=5)


async def post(
    home: FleetHome, service: str, route: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Post to a service of the fleet that runs on a home, with its token.

    Raises
    ------
    FleetError
        If the service does not run or refuses.
    """
    answer: dict[str, Any] = await _ask(home, service, "POST", route, body or {})
    return answer


async def put(home: FleetHome, service: str, route: str, body: dict[str, Any]) -> dict[str, Any]:
    """Put to a service of the fleet that runs on a home, with its token.

    Raises
    ------
    FleetError
        If the service does not run or refuses.
    """
    answer: dict[str, Any] = await _ask(home, service, "PUT", route, body)
    return answer


async def get(home: FleetHome, service: str, route: str) -> Any:
    """Get what a service of the fleet that runs on a home answers, with its token.

    Raises
    ------
    FleetError
        If the service does not run or refuses.
    """
    return await _ask(home, service, "GET", route, None)


async def _ask(
    home: FleetHome, service: str, method: str, route: str, body: dict[str, Any] | None
) -> Any:
    port = next((p.port for p in read_status(home) if p.name == service and p.pid), None)
    if port is None:
        raise FleetError(f"{service} does not run in {home.path}: start the fleet with `mnt up`")
    url = f"http://127.0.0.1:{port}{route}"
    headers = {"Authorization": f"Bearer {home.token()}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.request(method, url, headers=headers, json=body) as response,
        ):
            answer = await response.json(content_type=None)
            is_ok = response.ok
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise FleetError(
            f"{method} {url} had no usable answer ({error!r}): see mnt status"
        ) from error
    if not is_ok:
        raise FleetError(f"{service} refused {route}: {answer.get('detail', answer)}")
    return answer
