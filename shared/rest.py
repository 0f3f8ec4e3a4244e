"""What the REST routes of all services have in common: parameters, bodies and refusals."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints

from shared.errors import MntError, RetryableError

MOST_ROWS = 1_000
"""Most rows one answer holds; older ones are reached with `until`."""

_EXACT = Context(prec=80)
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"

Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="Most rows to return")]
Since = Annotated[
    AwareDatetime | None,
    Query(description="Only what is at this instant or later", examples=["2024-03-10T13:00:00Z"]),
]
Until = Annotated[
    AwareDatetime | None,
    Query(
        description="Only what is before this instant: the oldest one of the last answer gives "
        "the page before it, as long as `limit` is more than one instant holds",
        examples=["2024-03-10T13:00:00Z"],
    ),
]
PairName = Annotated[
    str | None,
    Query(
        max_length=100,
        pattern=_PRINTABLE,
        description="Only this pair, written `BTC/USDT~ETH/USDT` or `BTC-USDT~ETH-USDT`",
        examples=["BTC-USDT~ETH-USDT"],
    ),
]


class Refusal(BaseModel):
    """Why a request was refused, and what to do about it."""

    detail: str


Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=_PRINTABLE),
    Field(description="Why; it is recorded", examples=["the venue announced maintenance"]),
]


class Reasoned(BaseModel, extra="forbid"):
    """A decision of a person; who it is, their token says."""

    reason: Reason


_REFUSALS = {
    400: "The body cannot be read",
    401: "The token is missing, unknown, expired or revoked",
    403: "The token does not have the scope that the route needs",
    404: "There is no such thing; the answer names what there is",
    409: "It cannot be done as things are; the answer says what to do first",
    422: "The request breaks a rule; the answer names the value and the rule",
    429: "Too many wrong tokens came from this address: wait",
    503: "A server does not answer, or the service is busy: ask again",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of refusals a route may give beside its answer."""
    return {status: {"model": Refusal, "description": _REFUSALS[status]} for status in statuses}


def answer_errors(app: FastAPI) -> None:
    """Turn our errors and faulty requests into refusals.

    What may pass when asked again is 503, everything else we refuse 409, a faulty request
    422; a route that knows better raises an `HTTPException` itself.
    """
    app.add_exception_handler(RetryableError, _refuse(503, str))
    app.add_exception_handler(MntError, _refuse(409, str))
    app.add_exception_handler(RequestValidationError, _refuse(422, _describe_request))


def _refuse(
    status: int, describe: Callable[[Any], str]
) -> Callable[[Request, Exception], JSONResponse]:
    def refuse(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": describe(error)}, status)

    return refuse


def _describe_request(error: RequestValidationError) -> str:
    """Return in one line which value of a request breaks which rule."""
    faults = []
    for fault in error.errors()[:5]:
        place = ".".join(str(part) for part in fault["loc"])
        # The input of a missing field is all that surrounds it.
        given = "" if fault["type"] == "missing" else f" (got {fault['input']!r:.80})"
        faults.append(f"{place}: {fault['msg']}{given}")
    return "; ".join(faults)


def path_safe(pair: str) -> str:
    """Return the name of a pair without slashes, as it can stand in a path.

    Examples
    --------
    >>> path_safe("BTC/USDT~ETH/USDT")
    'BTC-USDT~ETH-USDT'
    """
    return pair.replace("/", "-")


def usdt(amount_e8: int | Decimal) -> Decimal:
    """Return an amount in 1e-8 of the quote in units of it, exactly; JSON gets it as a string.

    Examples
    --------
    >>> usdt(150_000_000)
    Decimal('1.50000000')
    """
    # Through an integer: the database's decimals come without their zeros.
    return Decimal(int(amount_e8)).scaleb(-8, _EXACT)
