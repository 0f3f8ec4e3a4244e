"""What a request passes on its way to its use case, and its answer on the way back.

The gate knows no web server. It counts weights, lets faults strike, checks signatures and
turns refusals into answers; whoever stands before it carries the answers: not before
`PaperExchange.committed`, as late as they say, or not at all.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson

from services.paper_exchange import metrics
from services.paper_exchange.authentication import Credentials, authenticate, check_key
from services.paper_exchange.endpoints import STATUS_PATH, Access, Endpoint
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.faults import Fate, Fault
from services.paper_exchange.limits import Limits
from services.paper_exchange.matching import Product
from services.paper_exchange.order_entry import below_notional, filter_failure
from services.paper_exchange.parameters import Parameters, parse_parameters
from services.paper_exchange.refusals import RefusalError, closed_for_maintenance

_PAGE = b"<html><head><title>Just a moment</title></head><body>Checking the weather.</body></html>"
# None of them says whether it was done, and neither does the venue's documentation.
_SERVER_ERRORS = {
    500: (-1000, "An unknown error occurred while processing the request."),
    502: (-1006, "An unexpected response was received from the message bus."),
    503: (-1001, "Internal error; unable to process your request. Please try again."),
    504: (-1007, "Timeout waiting for response from backend server."),
}


class Request(NamedTuple):
    """A request as it was sent: query and body still encoded, the key of its header."""

    raw_query: str
    body: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the venue answers.

    Attributes
    ----------
    late_ms
        Venue time that passes until it arrives.
    is_lost
        Whether the connection ends in its place.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    late_ms: int = 0
    is_lost: bool = False

    @property
    def document(self) -> Any:
        """What the body says.

        Raises
        ------
        orjson.JSONDecodeError
            If it is a page.
        """
        return orjson.loads(self.body)


class Gate:
    """The way in and out.

    Parameters
    ----------
    exchange
        The venue.
    credentials
        What requests to the account are signed with.
    """

    def __init__(self, exchange: PaperExchange, credentials: Credentials) -> None:
        self._exchange = exchange
        self._credentials = credentials
        self._limits = {product: Limits(product) for product in Product}

    async def answer(self, endpoint: Endpoint, request: Request) -> Answer:
        """Do what a request asks for, as far as no fault is in the way.

        Raises
        ------
        sqlite3.Error
            If it could not be recorded; nothing has happened then.
        """
        limits = self._limits[endpoint.product]
        # Drawn in any case: what the limits make of other requests leaves its ordinal alone.
        fate = self._exchange.faults.of_request(endpoint.family, endpoint.name)
        asked = _readable(request)
        try:
            self._admit(endpoint, asked, limits)
        except RefusalError as refusal:
            answer = refused(refusal)
        else:
            answer = await self._meet(fate, endpoint, request, asked, limits)
        return replace(answer, headers={**limits.headers(), **answer.headers})

    def _admit(self, endpoint: Endpoint, asked: Parameters, limits: Limits) -> None:
        """Refuse what comes too often or during maintenance; then let timers run out."""
        exchange = self._exchange
        faults = exchange.faults
        weight = endpoint.weight(asked)
        limits.charge(weight, endpoint.n_orders, exchange.now_ms(), faults.settings)
        reopens_at = exchange.closed_until()
        if reopens_at is not None and endpoint.path != STATUS_PATH:
            faults.count(Fault.MAINTENANCE, endpoint.family, route=endpoint.name)
            raise closed_for_maintenance(reopens_at)
        exchange.end_countdowns()

    async def _meet(
        self,
        fate: Fate,
        endpoint: Endpoint,
        request: Request,
        asked: Parameters,
        limits: Limits,
    ) -> Answer:
        """Let a request meet its fate."""
        fault, rejection = fate.fault, self._rejection(fate, endpoint, asked)
        if fault is None or (fault is Fault.MIN_NOTIONAL and rejection is None):
            return await self._serve(endpoint, request)
        faults, now_ms = self._exchange.faults, self._exchange.now_ms()
        faults.count(fault, endpoint.family, route=endpoint.name, ordinal=fate.ordinal)
        if fault is Fault.BAN:
            limits.ban(now_ms, faults.settings.ban_seconds)
            return refused(limits.banned(now_ms))
        if fault is Fault.RATE_LIMIT:
            return refused(limits.too_much(now_ms, faults.settings))
        answer = Answer(0, b"")
        if fate.is_done or rejection is not None:
            answer = await self._serve(endpoint, request, rejection)
        if fault is Fault.SERVER_ERROR:
            code, message = _SERVER_ERRORS[fate.status]
            return Answer(fate.status, orjson.dumps({"code": code, "msg": message}))
        if fault is Fault.HTML:
            return Answer(fate.status, _PAGE, content_type="text/html")
        is_lost = fault in (Fault.DISCONNECT, Fault.LOST_ANSWER)
        return replace(answer, is_lost=is_lost, late_ms=fate.late_ms)

    def _rejection(self, fate: Fate, endpoint: Endpoint, asked: Parameters) -> RefusalError | None:
        """Return the refusal that a fault makes of a new order, if it makes one."""
        is_spot = endpoint.product is Product.SPOT
        is_reduce_only = asked.get("reduceOnly", "").lower() == "true"
        if fate.fault is Fault.REJECT:
            if is_reduce_only:
                return RefusalError(-2022, "ReduceOnly Order is rejected.")
            if is_spot:
                return RefusalError(-2010, "Account has insufficient balance for requested action.")
            return RefusalError(-2019, "Margin is insufficient.")
        listing = self._exchange.market.listings.get(asked.get("symbol", ""))
        if fate.fault is not Fault.MIN_NOTIONAL or is_reduce_only or listing is None:
            return None
        return filter_failure("NOTIONAL") if is_spot else below_notional(listing.instrument)

    async def _serve(
        self, endpoint: Endpoint, request: Request, rejection: RefusalError | None = None
    ) -> Answer:
        try:
            parameters = self._parameters(endpoint, request)
            if rejection is not None:
                raise rejection
            result = endpoint.use_case(parameters)
            if inspect.isawaitable(result):
                result = await result
        except RefusalError as refusal:
            return refused(refusal)
        return Answer(200, orjson.dumps(result))

    def _parameters(self, endpoint: Endpoint, request: Request) -> Parameters:
        if endpoint.access is Access.PUBLIC:
            return parse_parameters(request.raw_query, "")
        if endpoint.access is Access.KEYED:
            check_key(request.key, self._credentials)
            return {}
        exchange = self._exchange
        return authenticate(
            request.raw_query,
            request.body,
            request.key,
            self._credentials,
            exchange.shown_ms(),
            exchange.client_ms(),
        )


def refused(refusal: RefusalError) -> Answer:
    """Return the answer that a refusal is, and count it."""
    metrics.REFUSALS.labels(refusal.code).inc()
    document = orjson.dumps({"code": refusal.code, "msg": refusal.message})
    headers = {}
    if refusal.retry_after_seconds is not None:
        headers["Retry-After"] = str(refusal.retry_after_seconds)
    return Answer(refusal.status, document, headers)


def _readable(request: Request) -> Parameters:
    """Return the parameters as far as they can be read; who cannot be read weighs the least."""
    try:
        return parse_parameters(request.raw_query, request.body)
    except RefusalError:
        return {}
