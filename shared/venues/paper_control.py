"""Moves the market of the paper venue, and decides what goes wrong there."""

from __future__ import annotations

from typing import Any

import aiohttp

from shared.errors import VenueRejectedError, VenueUnknownError
from shared.venues.faults import FaultSettings

TIMEOUT_SECONDS = 30.0
_SERVER_ERROR = 500


class PaperControl:
    """A client of the paper venue's control routes.

    Parameters
    ----------
    base_url
        Of the venue.
    token
        Bearer token of its control routes.
    """

    def __init__(self, base_url: str, token: str) -> None:
        self._url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None

    async def advance(self, closes_at_ms: int) -> int:
        """Move the market to a close; return how many fills that made.

        A repeat moves nothing, so an unknown outcome is resolved by calling again.

        Raises
        ------
        VenueRejectedError
            If the venue refuses, for example because of the token.
        VenueUnknownError
            If it does not answer, or with a failure of its own.
        """
        document = {"closes_at_ms": closes_at_ms}
        doing = f" for close {closes_at_ms}"
        return int(await self._ask("POST", "/paper/advance", "filled", document, doing))

    async def set_faults(self, faults: FaultSettings) -> None:
        """Let other faults strike from now on; every route is counted from its beginning.

        They hold until the venue's process ends.

        Raises
        ------
        VenueRejectedError, VenueUnknownError
            As for `advance`.
        """
        await self._ask("PUT", "/paper/faults", "injected", faults.model_dump(mode="json"))

    async def injected(self) -> dict[str, int]:
        """Return how often each fault has struck since they were set, as `orders.lost_answer`.

        Raises
        ------
        VenueRejectedError, VenueUnknownError
            As for `advance`.
        """
        return dict(await self._ask("GET", "/paper/faults", "injected"))

    async def _ask(
        self, method: str, path: str, field: str, document: Any = None, doing: str = ""
    ) -> Any:
        """Send a request; return the field of its answer."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout)
        url = self._url + path
        described = f"{method} {url}{doing}"
        try:
            async with self._session.request(
                method, url, json=document, headers=self._headers
            ) as response:
                status, text = response.status, await response.text(errors="replace")
                answer = await response.json() if status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise VenueUnknownError(
                f"{described}: no usable answer ({type(error).__name__}: {error}); it is safe to "
                "call again"
            ) from error
        if isinstance(answer, dict) and answer.get(field) is not None:
            return answer[field]
        message = f"{described} answered {status}: {text[:300]}"
        if 400 <= status < _SERVER_ERROR:
            raise VenueRejectedError(message)
        raise VenueUnknownError(message)

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None
