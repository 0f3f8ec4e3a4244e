"""Moves the market of the paper venue."""

from __future__ import annotations

import aiohttp

from shared.errors import VenueRejectedError, VenueUnknownError

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
        self._url = f"{base_url.rstrip('/')}/paper/advance"
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
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout)
        try:
            async with self._session.post(
                self._url, json={"closes_at_ms": closes_at_ms}, headers=self._headers
            ) as response:
                status, text = response.status, await response.text(errors="replace")
                answer = await response.json() if status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise VenueUnknownError(
                f"POST {self._url} for close {closes_at_ms}: no usable answer "
                f"({type(error).__name__}: {error}); it is safe to call again"
            ) from error
        if isinstance(answer, dict) and isinstance(answer.get("filled"), int):
            return int(answer["filled"])
        message = f"POST {self._url} for close {closes_at_ms} answered {status}: {text[:300]}"
        if 400 <= status < _SERVER_ERROR:
            raise VenueRejectedError(message)
        raise VenueUnknownError(message)

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None
