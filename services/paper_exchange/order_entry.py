"""What the venue demands of a new order, checked in one place.

Spot and USD-M demand much the same in different words: what is common is read here once,
each product's codes and its own rules stand together below.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

from services.paper_exchange.market import Listing, Market
from services.paper_exchange.matching import NetPosition, TimeInForce, affordable_lots
from services.paper_exchange.refusals import RefusalError, illegal, missing
from shared.book.arithmetic import PARTS_PER_MILLION
from shared.book.execution import FillTerms, charge_e8
from shared.book.instrument import NOTIONAL_DECIMALS, Instrument
from shared.book.orders import Side

MAX_ORDER_LOTS = 10**12
MAX_PRICE_TICKS = 10**12
MAX_POSITION_E8 = 10**9 * 10**NOTIONAL_DECIMALS
"""A billion of the quote: money in the store then stays far inside 64 bits."""

_SIDES = {"BUY": Side.BUY, "SELL": Side.SELL}
_FLAGS = {"true": True, "false": False}
_NOT_FOR_LIMIT_ORDERS = ("stopPrice", "goodTillDate")
_NOT_FOR_MARKET_ORDERS = ("timeInForce", "price", *_NOT_FOR_LIMIT_ORDERS)
_LEGAL_NUMBER = r"^([0-9]{1,20})(\.[0-9]{1,20})?$"
_LEGAL_CLIENT_ORDER_ID = r"^[\.A-Z\:/a-z0-9_-]{1,36}$"


class OrderRequest(NamedTuple):
    """A new order that is well formed and allowed by the filters of its symbol.

    Attributes
    ----------
    price_ticks
        Of a limit order; `None` for a market order.
    """

    listing: Listing
    side: Side
    quantity_lots: int
    reduce_only: bool
    client_order_id: str | None
    price_ticks: int | None
    time_in_force: TimeInForce


# --- what both products read ------------------------------------------------------------------


def listing_of(parameters: dict[str, str], market: Market) -> Listing:
    """Return the listing that the parameter `symbol` names.

    Raises
    ------
    RefusalError
        -1102 if it was not sent, -1121 if there is no such symbol.
    """
    symbol = _mandatory(parameters, "symbol")
    if symbol not in market.listings:
        raise RefusalError(-1121, "Invalid symbol.")
    return market.listings[symbol]


def client_order_id(parameters: dict[str, str], name: str, code: int = -4015) -> str | None:
    """Return a client order id, `None` when it was not sent.

    Raises
    ------
    RefusalError
        With the code given if its characters or its length are not allowed.
    """
    value = parameters.get(name)
    if not value:
        return None
    if not re.fullmatch(_LEGAL_CLIENT_ORDER_ID, value):
        raise RefusalError(
            code, f"Client order id is not valid; legal range is '{_LEGAL_CLIENT_ORDER_ID}'."
        )
    return value


def _mandatory(parameters: dict[str, str], name: str) -> str:
    value = parameters.get(name)
    if not value:
        raise missing(name)
    return value


def _side(parameters: dict[str, str]) -> Side:
    side = _mandatory(parameters, "side")
    if side not in _SIDES:
        raise RefusalError(-1117, "Invalid side.")
    return _SIDES[side]


def _type(parameters: dict[str, str], known: tuple[str, ...]) -> str:
    order_type = _mandatory(parameters, "type")
    if order_type not in known:
        raise RefusalError(-1116, "Invalid orderType.")
    return order_type


def _refuse_extras(parameters: dict[str, str], names: tuple[str, ...]) -> None:
    for name in names:
        if parameters.get(name):
            raise RefusalError(-1106, f"Parameter '{name}' sent when not required.")


def _time_in_force(parameters: dict[str, str], known: tuple[TimeInForce, ...]) -> TimeInForce:
    given = _mandatory(parameters, "timeInForce")
    if given not in known:
        raise RefusalError(-1115, "Invalid timeInForce.")
    return TimeInForce(given)


def _number(parameters: dict[str, str], name: str, not_positive: RefusalError) -> Decimal:
    """Return a positive decimal."""
    given = _mandatory(parameters, name)
    if given.startswith("-") and re.fullmatch(_LEGAL_NUMBER, given[1:]):
        raise not_positive
    if not re.fullmatch(_LEGAL_NUMBER, given):
        raise illegal(name, _LEGAL_NUMBER)
    value = Decimal(given)
    if value == 0:
        raise not_positive
    return value


def _quantity_lots(
    parameters: dict[str, str],
    instrument: Instrument,
    not_positive: RefusalError,
    off_step: RefusalError,
    too_large: RefusalError,
) -> int:
    quantity = _number(parameters, "quantity", not_positive)
    lots = instrument.lots_of(quantity)
    if instrument.quantity_of(lots) != quantity:
        raise off_step
    if lots > MAX_ORDER_LOTS:
        raise too_large
    return lots


def _price_ticks(
    parameters: dict[str, str],
    instrument: Instrument,
    not_positive: RefusalError,
    off_tick: RefusalError,
    too_high: RefusalError,
) -> int:
    price = _number(parameters, "price", not_positive)
    ticks = instrument.price_ticks(price, "down")
    if instrument.price_of(ticks) != price:
        raise off_tick
    if ticks > MAX_PRICE_TICKS:
        raise too_high
    return ticks


def _would_trade_now(request: OrderRequest, last_ticks: int) -> bool:
    """Tell whether a post-only order would not rest but trade at the price of the moment."""
    return (
        request.time_in_force is TimeInForce.GTX
        and request.price_ticks is not None
        and request.side.sign * (last_ticks - request.price_ticks) <= 0
    )


# --- USD-M ------------------------------------------------------------------------------------


def read_usdm_order(parameters: dict[str, str], market: Market) -> OrderRequest:
    """Read a new USD-M order.

    Raises
    ------
    RefusalError
        For the first thing that is wrong with it, in the order symbol, side, type,
        parameters that are not for it, time in force, quantity, price, flags, client order id.
    """
    listing = listing_of(parameters, market)
    side = _side(parameters)
    is_limit = _type(parameters, ("MARKET", "LIMIT")) == "LIMIT"
    _refuse_extras(parameters, _NOT_FOR_LIMIT_ORDERS if is_limit else _NOT_FOR_MARKET_ORDERS)
    time_in_force = TimeInForce.GTC
    if is_limit:
        time_in_force = _time_in_force(parameters, tuple(TimeInForce))
    quantity_lots = _quantity_lots(
        parameters,
        listing.instrument,
        RefusalError(-4003, "Quantity less than or equal to zero."),
        RefusalError(-1111, "Precision is over the maximum defined for this asset."),
        RefusalError(-4005, "Quantity greater than max quantity."),
    )
    price_ticks = None
    if is_limit:
        price_ticks = _price_ticks(
            parameters,
            listing.instrument,
            RefusalError(-4001, "Price less than or equal to zero."),
            RefusalError(-4014, "Price not increased by tick size."),
            RefusalError(-4002, "Price greater than max price."),
        )
    if parameters.get("positionSide", "BOTH") != "BOTH":
        raise RefusalError(-4061, "Order's position side does not match user's setting.")
    reduce_only = parameters.get("reduceOnly", "false").lower()
    if reduce_only not in _FLAGS:
        raise illegal("reduceOnly", "true|false")
    return OrderRequest(
        listing,
        side,
        quantity_lots,
        _FLAGS[reduce_only],
        client_order_id(parameters, "newClientOrderId"),
        price_ticks,
        time_in_force,
    )


def below_notional(instrument: Instrument) -> RefusalError:
    """Return the refusal of a USD-M order that is smaller than its symbol allows."""
    smallest = Decimal(instrument.min_notional_e8).scaleb(-NOTIONAL_DECIMALS).normalize()
    return RefusalError(
        -4164,
        f"Order's notional must be no smaller than {smallest:f} (unless you choose reduce only).",
    )


def check_usdm_order(request: OrderRequest, market_at_ms: int, position: NetPosition) -> None:
    """Refuse a USD-M order that the market or the position does not allow.

    A market order is judged by the last close up to `market_at_ms`.

    Raises
    ------
    RefusalError
        -4140 if the symbol has not traded yet, -5022 if a post-only order would trade at
        once, -2022 if the order is reduce-only and would not reduce, -4164 below the smallest
        notional, -2027 beyond the largest position.
    """
    listing, lots = request.listing, request.quantity_lots
    last_ticks = listing.last_price_ticks(market_at_ms)
    if last_ticks is None:
        raise RefusalError(-4140, "Invalid symbol status for opening position.")
    if _would_trade_now(request, last_ticks):
        raise RefusalError(
            -5022,
            "Due to the order could not be executed as maker, the Post Only order will be "
            "rejected. The order will not be recorded in the order history",
        )
    if request.reduce_only:
        if request.side.sign * position.lots >= 0:
            raise RefusalError(-2022, "ReduceOnly Order is rejected.")
        return
    instrument, price_ticks = listing.instrument, request.price_ticks or last_ticks
    if instrument.notional_e8(price_ticks, lots) < instrument.min_notional_e8:
        raise below_notional(instrument)
    after_lots = abs(position.lots + request.side.sign * lots)
    if instrument.notional_e8(price_ticks, max(lots, after_lots)) > MAX_POSITION_E8:
        raise RefusalError(-2027, "Exceeded the maximum allowable position at current leverage.")


# --- spot -------------------------------------------------------------------------------------


def filter_failure(name: str) -> RefusalError:
    """Return the refusal of a spot order that a filter of its symbol does not let pass."""
    return RefusalError(-1013, f"Filter failure: {name}")


def read_spot_order(
    parameters: dict[str, str], market: Market, market_at_ms: int, terms: FillTerms
) -> OrderRequest:
    """Read a new spot order.

    A market order of an amount of the quote becomes one of the lots that the amount pays for
    at the last price, slippage and fee included.

    Raises
    ------
    RefusalError
        For the first thing that is wrong with it, in the order symbol, side, type,
        parameters that are not for it, time in force, quantity, price, client order id.
    """
    listing = listing_of(parameters, market)
    side = _side(parameters)
    order_type = _type(parameters, ("MARKET", "LIMIT", "LIMIT_MAKER"))
    price_ticks, time_in_force = None, TimeInForce.GTC
    if order_type == "MARKET":
        _refuse_extras(parameters, _NOT_FOR_MARKET_ORDERS)
        if parameters.get("quantity") and parameters.get("quoteOrderQty"):
            raise RefusalError(-1128, "Combination of optional parameters invalid.")
    else:
        _refuse_extras(parameters, ("quoteOrderQty", *_NOT_FOR_LIMIT_ORDERS))
        if order_type == "LIMIT_MAKER":
            time_in_force = TimeInForce.GTX
            _refuse_extras(parameters, ("timeInForce",))
        else:
            known = (TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)
            time_in_force = _time_in_force(parameters, known)
        price_ticks = _price_ticks(
            parameters,
            listing.instrument,
            RefusalError(-1013, "Invalid price."),
            filter_failure("PRICE_FILTER"),
            filter_failure("PRICE_FILTER"),
        )
    if order_type == "MARKET" and not parameters.get("quantity"):
        lots = _lots_for_quote(parameters, listing, market_at_ms, side, terms)
    else:
        lots = _quantity_lots(
            parameters,
            listing.instrument,
            RefusalError(-1013, "Invalid quantity."),
            filter_failure("LOT_SIZE"),
            filter_failure("MARKET_LOT_SIZE" if order_type == "MARKET" else "LOT_SIZE"),
        )
    own_id = client_order_id(parameters, "newClientOrderId", -1100)
    return OrderRequest(listing, side, lots, False, own_id, price_ticks, time_in_force)


def check_spot_order(
    request: OrderRequest, market_at_ms: int, terms: FillTerms, free_e8: int, free_lots: int
) -> None:
    """Refuse a spot order that the market or the wallet does not allow.

    Parameters
    ----------
    request, market_at_ms, terms
        The order, where the market stands, and what a fill costs.
    free_e8, free_lots
        What the wallet holds of the quote and of the base that no other order has claimed.

    Raises
    ------
    RefusalError
        -1013 if the symbol has not traded yet or the order is below the smallest or above the
        largest notional, -2010 if a post-only order would trade at once or the wallet does
        not hold what it takes: nothing can be sold that is not held.
    """
    listing, instrument = request.listing, request.listing.instrument
    last_ticks = listing.last_price_ticks(market_at_ms)
    if last_ticks is None:
        raise RefusalError(-1013, "Market is closed.")
    if _would_trade_now(request, last_ticks):
        raise RefusalError(-2010, "Order would immediately match and take.")
    notional_e8 = instrument.notional_e8(request.price_ticks or last_ticks, request.quantity_lots)
    if not instrument.min_notional_e8 <= notional_e8 <= MAX_POSITION_E8:
        raise filter_failure("NOTIONAL")
    lots, price_ticks = request.quantity_lots, request.price_ticks
    if request.side is Side.SELL:
        is_covered = lots <= free_lots
    else:
        is_covered = purchase_e8(instrument, lots, price_ticks, last_ticks, terms) <= free_e8
    if not is_covered:
        raise RefusalError(-2010, "Account has insufficient balance for requested action.")


def purchase_e8(
    instrument: Instrument,
    lots: int,
    price_ticks: int | None,
    last_ticks: int,
    terms: FillTerms,
) -> int:
    """Return what a purchase takes, fee included: at its limit, else at the last price slipped."""
    ticks = _slipped_ticks(last_ticks, terms) if price_ticks is None else price_ticks
    notional_e8 = instrument.notional_e8(ticks, lots)
    return notional_e8 + charge_e8(notional_e8, terms.fee_ppm)


def _lots_for_quote(
    parameters: dict[str, str], listing: Listing, market_at_ms: int, side: Side, terms: FillTerms
) -> int:
    quote = _number(parameters, "quoteOrderQty", RefusalError(-1013, "Invalid quoteOrderQty."))
    last_ticks = listing.last_price_ticks(market_at_ms)
    if last_ticks is None:
        raise RefusalError(-1013, "Market is closed.")
    quote_e8, instrument = int(quote.scaleb(NOTIONAL_DECIMALS)), listing.instrument
    if side is Side.BUY:
        lots = affordable_lots(quote_e8, _slipped_ticks(last_ticks, terms), instrument, terms)
    else:
        lots = quote_e8 // instrument.notional_e8(last_ticks, 1)
    if lots == 0:
        raise filter_failure("NOTIONAL")
    return min(lots, MAX_ORDER_LOTS)


def _slipped_ticks(last_ticks: int, terms: FillTerms) -> int:
    """Return the price a purchase at the market may come to, rounded up."""
    return -(-last_ticks * (PARTS_PER_MILLION + terms.slippage_ppm) // PARTS_PER_MILLION)
