"""What the venue demands of a new order, checked in one place."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

from services.paper_exchange.market import Listing, Market
from services.paper_exchange.matching import NetPosition
from services.paper_exchange.refusals import RefusalError, illegal, missing
from shared.book.instrument import NOTIONAL_DECIMALS
from shared.book.orders import Side

MAX_ORDER_LOTS = 10**12
MAX_POSITION_E8 = 10**9 * 10**NOTIONAL_DECIMALS
"""A billion of the quote: money in the store then stays far inside 64 bits."""

_SIDES = {"BUY": Side.BUY, "SELL": Side.SELL}
_FLAGS = {"true": True, "false": False}
_KNOWN_TYPES = frozenset({"MARKET"})
_NOT_FOR_MARKET_ORDERS = ("timeInForce", "price", "stopPrice", "goodTillDate")
_LEGAL_QUANTITY = r"^([0-9]{1,20})(\.[0-9]{1,20})?$"
_LEGAL_CLIENT_ORDER_ID = r"^[\.A-Z\:/a-z0-9_-]{1,36}$"


class OrderRequest(NamedTuple):
    """A new order that is well formed and allowed by the filters of its symbol."""

    listing: Listing
    side: Side
    quantity_lots: int
    reduce_only: bool
    client_order_id: str | None


def listing_of(parameters: dict[str, str], market: Market) -> Listing:
    """Return the listing that the parameter `symbol` names.

    Raises
    ------
    RefusalError
        -1102 if it was not sent, -1121 if there is no such symbol.
    """
    symbol = parameters.get("symbol")
    if not symbol:
        raise missing("symbol")
    if symbol not in market.listings:
        raise RefusalError(-1121, "Invalid symbol.")
    return market.listings[symbol]


def client_order_id(parameters: dict[str, str], name: str) -> str | None:
    """Return a client order id, `None` when it was not sent.

    Raises
    ------
    RefusalError
        -4015 if its characters or its length are not allowed.
    """
    value = parameters.get(name)
    if not value:
        return None
    if not re.fullmatch(_LEGAL_CLIENT_ORDER_ID, value):
        raise RefusalError(
            -4015, f"Client order id is not valid; legal range is '{_LEGAL_CLIENT_ORDER_ID}'."
        )
    return value


def read_order_request(parameters: dict[str, str], market: Market) -> OrderRequest:
    """Read a new order.

    Raises
    ------
    RefusalError
        For the first thing that is wrong with it, in the order symbol, side, type,
        parameters that are not for it, quantity, flags, client order id.
    """
    listing = listing_of(parameters, market)
    if not parameters.get("side"):
        raise missing("side")
    if parameters["side"] not in _SIDES:
        raise RefusalError(-1117, "Invalid side.")
    if not parameters.get("type"):
        raise missing("type")
    if parameters["type"] not in _KNOWN_TYPES:
        raise RefusalError(-1116, "Invalid orderType.")
    for name in _NOT_FOR_MARKET_ORDERS:
        if parameters.get(name):
            raise RefusalError(-1106, f"Parameter '{name}' sent when not required.")
    quantity_lots = _quantity_lots(parameters, listing)
    if parameters.get("positionSide", "BOTH") != "BOTH":
        raise RefusalError(-4061, "Order's position side does not match user's setting.")
    reduce_only = parameters.get("reduceOnly", "false").lower()
    if reduce_only not in _FLAGS:
        raise illegal("reduceOnly", "true|false")
    return OrderRequest(
        listing,
        _SIDES[parameters["side"]],
        quantity_lots,
        _FLAGS[reduce_only],
        client_order_id(parameters, "newClientOrderId"),
    )


def check_against_market(request: OrderRequest, market_at_ms: int, position: NetPosition) -> None:
    """Refuse an order that the market or the position does not allow.

    The price it is judged by is the last close up to `market_at_ms`.

    Raises
    ------
    RefusalError
        -4140 if the symbol has not traded yet, -2022 if the order is reduce-only and would
        not reduce, -4164 below the smallest notional, -2027 beyond the largest position.
    """
    listing, lots = request.listing, request.quantity_lots
    price_ticks = listing.last_price_ticks(market_at_ms)
    if price_ticks is None:
        raise RefusalError(-4140, "Invalid symbol status for opening position.")
    if request.reduce_only:
        if request.side.sign * position.lots >= 0:
            raise RefusalError(-2022, "ReduceOnly Order is rejected.")
        return
    instrument = listing.instrument
    if instrument.notional_e8(price_ticks, lots) < instrument.min_notional_e8:
        smallest = Decimal(instrument.min_notional_e8).scaleb(-NOTIONAL_DECIMALS).normalize()
        raise RefusalError(
            -4164,
            f"Order's notional must be no smaller than {smallest:f} "
            "(unless you choose reduce only).",
        )
    after_lots = abs(position.lots + request.side.sign * lots)
    if instrument.notional_e8(price_ticks, max(lots, after_lots)) > MAX_POSITION_E8:
        raise RefusalError(-2027, "Exceeded the maximum allowable position at current leverage.")


def _quantity_lots(parameters: dict[str, str], listing: Listing) -> int:
    given = parameters.get("quantity")
    if not given:
        raise missing("quantity")
    if given.startswith("-") and re.fullmatch(_LEGAL_QUANTITY, given[1:]):
        raise RefusalError(-4003, "Quantity less than or equal to zero.")
    if not re.fullmatch(_LEGAL_QUANTITY, given):
        raise illegal("quantity", _LEGAL_QUANTITY)
    quantity = Decimal(given)
    if quantity == 0:
        raise RefusalError(-4003, "Quantity less than or equal to zero.")
    lots = listing.instrument.lots_of(quantity)
    if listing.instrument.quantity_of(lots) != quantity:
        raise RefusalError(-1111, "Precision is over the maximum defined for this asset.")
    if lots > MAX_ORDER_LOTS:
        raise RefusalError(-4005, "Quantity greater than max quantity.")
    return lots
