"""What the venue answers when it refuses."""

from __future__ import annotations

from datetime import datetime

from shared.errors import PermanentError


class RefusalError(PermanentError):
    """A refusal in the venue's own terms.

    Parameters
    ----------
    code
        Negative, of Binance's list of error codes for USD-M futures.
    message
        The fact, as Binance words it.
    status
        HTTP status of the answer.
    retry_after_seconds
        When to come back, where the venue says so.
    """

    def __init__(
        self, code: int, message: str, status: int = 400, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after_seconds = retry_after_seconds


def missing(name: str) -> RefusalError:
    """Return the refusal of a request that lacks a parameter."""
    return RefusalError(
        -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
    )


def illegal(name: str, legal: str) -> RefusalError:
    """Return the refusal of a parameter whose characters are not those allowed."""
    return RefusalError(
        -1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'."
    )


def out_of_order(why: str) -> RefusalError:
    """Return the answer of a venue that has lost the exchange behind it."""
    return RefusalError(
        -1001, f"Internal error; the exchange behind this venue does not answer: {why}", 503
    )


def closed_for_maintenance(reopens_at: datetime) -> RefusalError:
    """Return the answer of a venue that is closed for a while."""
    return RefusalError(
        -1001,
        f"Service Unavailable: closed for maintenance until {reopens_at.isoformat()}.",
        503,
    )
