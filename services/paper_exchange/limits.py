"""How much may be asked of the venue in a minute of its time, and what befalls who asks more.

As at Binance: each product counts the weight of requests, and new orders, in windows of the
calendar. Too much is answered with 429 and when to come back; who goes on all the same is
banned and answered with 418, each time for twice as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from services.paper_exchange.matching import Product
from services.paper_exchange.parameters import Parameters
from services.paper_exchange.refusals import RefusalError
from shared.venues.faults import FaultSettings

PATIENCE = 10
"""Requests after the first 429 of a minute until the ban."""

FIRST_BAN_SECONDS = 120
LONGEST_BAN_SECONDS = 3 * 86_400

Weight = Callable[[Parameters], int]

_MINUTE_MS = 60_000
_SECOND_MS = 1_000
_KLINE_STEPS = ((99, 1), (499, 2), (1_000, 5))
_HEAVIEST_KLINES = 10


class OrderLimit(NamedTuple):
    """How many new orders a span of time allows, and what the header of the count is called."""

    span_ms: int
    n_orders: int
    header: str

    @property
    def span(self) -> str:
        """The span in words."""
        return f"{self.span_ms // _SECOND_MS} SECOND"


ORDER_LIMITS = {
    Product.USDM: (
        OrderLimit(10_000, 300, "X-MBX-ORDER-COUNT-10S"),
        OrderLimit(_MINUTE_MS, 1_200, "X-MBX-ORDER-COUNT-1M"),
    ),
    Product.SPOT: (
        OrderLimit(10_000, 100, "X-MBX-ORDER-COUNT-10S"),
        OrderLimit(86_400_000, 200_000, "X-MBX-ORDER-COUNT-1D"),
    ),
}


def flat(weight: int) -> Weight:
    """Return the weight of a request that is always the same."""
    return lambda _: weight


def by_symbol(one: int, every: int) -> Weight:
    """Return the weight of a request about one symbol or about every one."""
    return lambda asked: one if asked.get("symbol") else every


def of_klines(asked: Parameters) -> int:
    """Return the weight of a request for USD-M bars, which grows with their number."""
    limit = asked.get("limit", "")
    n_rows = int(limit) if limit.isdecimal() else 500
    return next((weight for most, weight in _KLINE_STEPS if n_rows <= most), _HEAVIEST_KLINES)


def listed(product: Product, settings: FaultSettings) -> list[dict[str, Any]]:
    """Return the limits as `exchangeInfo` tells them; none while none is enforced."""
    if not settings.enforce_limits:
        return []
    rows = [("REQUEST_WEIGHT", _MINUTE_MS, weight_limit(product, settings))]
    rows += [("ORDERS", each.span_ms, each.n_orders) for each in ORDER_LIMITS[product]]
    return [
        {"rateLimitType": kind, "interval": unit, "intervalNum": number, "limit": limit}
        for kind, span_ms, limit in rows
        for unit, number in [_interval(span_ms)]
    ]


def weight_limit(product: Product, settings: FaultSettings) -> int:
    """Return the weight that a minute allows."""
    is_spot = product is Product.SPOT
    return settings.spot_weight_per_minute if is_spot else settings.usdm_weight_per_minute


class Limits:
    """What one product has been asked in the windows of now.

    Parameters
    ----------
    product
        Whose limits count.
    """

    def __init__(self, product: Product) -> None:
        self._product = product
        self._minute = -1
        self._used = 0
        self._n_refused = 0
        self._windows = dict.fromkeys(ORDER_LIMITS[product], (-1, 0))
        self._banned_until_ms = 0
        self._n_bans = 0

    def charge(self, weight: int, n_orders: int, now_ms: int, settings: FaultSettings) -> None:
        """Count a request.

        Raises
        ------
        RefusalError
            418 during a ban, 429 if limits are enforced and this one is beyond them.
        """
        if now_ms < self._banned_until_ms:
            raise self.banned(now_ms)
        if now_ms // _MINUTE_MS != self._minute:
            self._minute, self._used, self._n_refused = now_ms // _MINUTE_MS, 0, 0
        self._used += weight
        for limit, (window, count) in self._windows.items():
            now_in = now_ms // limit.span_ms
            self._windows[limit] = (now_in, n_orders + (count if window == now_in else 0))
        if not settings.enforce_limits:
            return
        if self._used > weight_limit(self._product, settings):
            self._n_refused += 1
            if self._n_refused > PATIENCE:
                self.ban(now_ms, min(FIRST_BAN_SECONDS << self._n_bans, LONGEST_BAN_SECONDS))
                self._n_bans += 1
                raise self.banned(now_ms)
            raise self.too_much(now_ms, settings)
        for limit, (_, count) in self._windows.items():
            if n_orders and count > limit.n_orders:
                raise RefusalError(
                    -1015,
                    f"Too many new orders; current limit is {limit.n_orders} orders per "
                    f"{limit.span}.",
                    429,
                    _seconds_left(now_ms, limit.span_ms),
                )

    def ban(self, now_ms: int, seconds: int) -> None:
        """Answer nobody for some time."""
        self._banned_until_ms = max(self._banned_until_ms, now_ms + seconds * _SECOND_MS)

    def headers(self) -> dict[str, str]:
        """Return what every answer says of the weight and the orders counted so far."""
        counts = {limit.header: str(count) for limit, (_, count) in self._windows.items()}
        used = str(self._used)
        return {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used, **counts}

    def too_much(self, now_ms: int, settings: FaultSettings) -> RefusalError:
        """Return the refusal of a request beyond the weight of a minute."""
        return RefusalError(
            -1003,
            f"Too much request weight used; current limit is "
            f"{weight_limit(self._product, settings)} request weight per 1 MINUTE. Please use "
            "WebSocket Streams for live updates to avoid polling the API.",
            429,
            _seconds_left(now_ms, _MINUTE_MS),
        )

    def banned(self, now_ms: int) -> RefusalError:
        """Return the refusal of everything during a ban."""
        return RefusalError(
            -1003,
            f"Way too much request weight used; IP banned until {self._banned_until_ms}. Please "
            "use WebSocket Streams for live updates to avoid bans.",
            418,
            -(-(self._banned_until_ms - now_ms) // _SECOND_MS),
        )


def _seconds_left(now_ms: int, span_ms: int) -> int:
    """Return how many seconds a window of the calendar lasts yet, rounded up."""
    return -(-(span_ms - now_ms % span_ms) // _SECOND_MS)


def _interval(span_ms: int) -> tuple[str, int]:
    units = (("DAY", 86_400_000), ("MINUTE", _MINUTE_MS), ("SECOND", _SECOND_MS))
    return next((name, span_ms // ms) for name, ms in units if span_ms % ms == 0)
