"""Which faults strike: a pure function of the seed, the kind, the route and its ordinal.

The ordinal counts the requests of one route (the messages of one stream) since the settings
were given, so that the fifth order meets the same fate whatever else was asked meanwhile. The
fate of an order depends on its client order id, that of its fill on the bar too: neither
changes with a restart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple

import structlog

from services.paper_exchange import metrics
from services.paper_exchange.matching import PaperOrder, TimeInForce
from shared.clock import instant_of_ms
from shared.venues.faults import FaultSettings, RequestFaults

SERVER_ERRORS = (500, 502, 503, 504)
PAGES_OF_THE_DEAF = (200, 403, 502)
"""Statuses of a page that came in place of doing what was asked."""
PAGES_OF_THE_DOER = (200, 502)
"""Statuses of a page that came after it was done: 403 would be a refusal."""

_PERCENT = 100
_MS_PER_SECOND = 1000

logger = structlog.get_logger()


class Family(StrEnum):
    """What a request is about; each family has probabilities of its own."""

    ORDERS = "orders"
    CANCELS = "cancels"
    QUERIES = "queries"
    ACCOUNT = "account"
    MARKET = "market"


class Fault(StrEnum):
    """What may strike; of several that strike one request the first in this order does."""

    BAN = "ban"
    RATE_LIMIT = "rate_limit"
    DISCONNECT = "disconnect"
    REJECT = "reject"
    MIN_NOTIONAL = "min_notional"
    SERVER_ERROR = "server_error"
    HTML = "html"
    LOST_ANSWER = "lost_answer"
    LATE_ANSWER = "late_answer"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    PARTIAL_FILL = "partial_fill"
    INVISIBLE_ORDER = "invisible_order"
    MAINTENANCE = "maintenance"


_OF_REQUESTS = (
    Fault.BAN,
    Fault.RATE_LIMIT,
    Fault.DISCONNECT,
    Fault.REJECT,
    Fault.MIN_NOTIONAL,
    Fault.SERVER_ERROR,
    Fault.HTML,
    Fault.LOST_ANSWER,
    Fault.LATE_ANSWER,
)
_OF_MESSAGES = (Fault.DISCONNECT, Fault.DUPLICATE, Fault.REORDER)


class Fate(NamedTuple):
    """What becomes of a request.

    Attributes
    ----------
    fault
        What strikes it, if anything does.
    is_done
        Whether the venue does what it was asked.
    status
        Of the answer that a server error or a page makes; 0 where the venue's own counts.
    late_ms
        How late the answer is, in venue time.
    ordinal
        How many requests of the route came before.
    """

    fault: Fault | None = None
    is_done: bool = True
    status: int = 0
    late_ms: int = 0
    ordinal: int = 0


def chance(seed: int, kind: str, route: str, ordinal: int) -> float:
    """Return a number in [0, 1), the same for the same arguments at any time and place.

    Parameters
    ----------
    seed
        Of the settings.
    kind
        What is decided.
    route, ordinal
        Whose, and how many of its kind came before.
    """
    digest = blake2b(f"{seed}\0{kind}\0{route}\0{ordinal}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


class Faults:
    """Decides what strikes, and counts and logs it.

    Parameters
    ----------
    settings
        Probabilities and seed.
    names
        What account streams are called, by their listen keys: those are secret, and of
        another home they are others.
    """

    def __init__(
        self, settings: FaultSettings | None = None, names: Mapping[str, str] | None = None
    ) -> None:
        self.settings = FaultSettings() if settings is None else settings
        self._names = names or {}
        self._ordinals: Counter[str] = Counter()
        self._injected: Counter[str] = Counter()

    @property
    def injected(self) -> dict[str, int]:
        """How often each fault has struck since the settings were given, by family and kind."""
        return dict(sorted(self._injected.items()))

    def change(self, settings: FaultSettings) -> None:
        """Go by other settings, and count every route from its beginning again."""
        self.settings = settings
        self._ordinals.clear()
        self._injected.clear()
        logger.info("faults changed", **settings.model_dump(mode="json", exclude_defaults=True))

    def of_request(self, family: Family, route: str) -> Fate:
        """Return the fate of the next request of a route."""
        ordinal = self._next(route)
        fault = self._first(_OF_REQUESTS, getattr(self.settings, family), route, ordinal)
        if fault is None:
            return Fate(ordinal=ordinal)
        seed = self.settings.seed
        size = chance(seed, f"{fault} size", route, ordinal)
        is_done = fault in (Fault.LOST_ANSWER, Fault.LATE_ANSWER)
        status = late_ms = 0
        if fault is Fault.LATE_ANSWER:
            late_ms = 1 + int(size * self.settings.late_seconds * _MS_PER_SECOND)
        elif fault in (Fault.SERVER_ERROR, Fault.HTML):
            is_done = chance(seed, f"{fault} done", route, ordinal) < 1 / 2
            pages = PAGES_OF_THE_DOER if is_done else PAGES_OF_THE_DEAF
            statuses = SERVER_ERRORS if fault is Fault.SERVER_ERROR else pages
            status = statuses[int(size * len(statuses))]
        return Fate(fault, is_done, status, late_ms, ordinal)

    def of_message(self, stream: str) -> Fault | None:
        """Return what strikes the next message of a stream, if anything does."""
        streams = self.settings.streams
        if not (streams.disconnect or streams.duplicate or streams.reorder):
            return None
        route = self._names.get(stream, stream)
        ordinal = self._next(route)
        fault = self._first(_OF_MESSAGES, streams, route, ordinal)
        if fault is not None:
            self.count(fault, "streams", route=route, ordinal=ordinal)
        return fault

    def lots_of(self, order: PaperOrder, closes_at_ms: int, lots: int, bar_ms: int) -> int:
        """Return how many of the lots that a bar would fill of an order it does fill.

        None during maintenance. An order to be filled whole or not at all is left alone.
        """
        settings = self.settings
        if settings.closed_until(instant_of_ms(closes_at_ms - bar_ms)) is not None:
            return 0
        if lots < 2 or order.time_in_force is TimeInForce.FOK:
            return lots
        route = _name_of(order)
        if chance(settings.seed, Fault.PARTIAL_FILL, route, closes_at_ms) >= settings.partial_fill:
            return lots
        size = chance(settings.seed, "partial_fill size", route, closes_at_ms)
        percent = 1 + int(size * (_PERCENT - 1))
        self.count(Fault.PARTIAL_FILL, "fills", route=route, ordinal=closes_at_ms)
        return max(1, lots * percent // _PERCENT)

    def is_invisible(self, order: PaperOrder, now_ms: int) -> bool:
        """Tell whether an order cannot be queried yet."""
        settings, route = self.settings, _name_of(order)
        if chance(settings.seed, Fault.INVISIBLE_ORDER, route, 0) >= settings.invisible_order:
            return False
        share = chance(settings.seed, "invisible_order size", route, 0)
        invisible_ms = 1 + int(share * settings.invisible_seconds * _MS_PER_SECOND)
        is_invisible = now_ms < order.created_at_ms + invisible_ms
        if is_invisible:
            self.count(Fault.INVISIBLE_ORDER, Family.QUERIES, route=route, ordinal=0)
        return is_invisible

    def count(self, fault: Fault, family: str, **where: str | int) -> None:
        """Count and log a fault that strikes."""
        self._injected[f"{family}.{fault}"] += 1
        metrics.FAULTS.labels(family, fault).inc()
        logger.info("fault injected", fault=fault.value, family=str(family), **where)

    def _next(self, route: str) -> int:
        ordinal = self._ordinals[route]
        self._ordinals[route] += 1
        return ordinal

    def _first(
        self, kinds: tuple[Fault, ...], odds: RequestFaults | object, route: str, ordinal: int
    ) -> Fault | None:
        for kind in kinds:
            # Only new orders can be refused as orders are.
            probability = getattr(odds, kind, 0.0)
            if probability and chance(self.settings.seed, kind, route, ordinal) < probability:
                return kind
        return None


def _name_of(order: PaperOrder) -> str:
    return f"{order.product} {order.symbol} {order.client_order_id}"
