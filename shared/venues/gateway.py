"""The way to a venue: unmodified ccxt towards Binance USD-M futures, or whatever speaks it.

Everything that proves nothing is *unknown*. Amounts are taken from the strings the venue
sent, as decimals.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from shared.book.instrument import Instrument, venue_id
from shared.book.orders import OrderState, Side
from shared.errors import VenueUnknownError
from shared.venues.answers import decimal_of, field_of, integer_of, text_of
from shared.venues.connection import OutsideWindowError, ask, open_exchange
from shared.venues.listings import Listing, is_perpetual, read_listing

MAX_FILLS = 1_000

_STATES = {
    "NEW": OrderState.ACCEPTED,
    "PARTIALLY_FILLED": OrderState.PARTIALLY_FILLED,
    "FILLED": OrderState.FILLED,
    "CANCELED": OrderState.CANCELLED,
    "EXPIRED": OrderState.EXPIRED,
    "EXPIRED_IN_MATCH": OrderState.EXPIRED,
    "REJECTED": OrderState.REJECTED,
}


@dataclass(frozen=True, slots=True)
class VenueOrder:
    """An order as the venue reports it; `filled` in the base currency."""

    client_order_id: str
    venue_order_id: str
    state: OrderState
    filled: Decimal


@dataclass(frozen=True, slots=True)
class VenueFill:
    """One fill: price and fee in the quote currency, quantity in the base currency."""

    trade_id: int
    price: Decimal
    quantity: Decimal
    fee: Decimal
    traded_at_ms: int


@dataclass(frozen=True, slots=True)
class VenueOpenOrder:
    """An order that works at the venue, whoever placed it; quantity in the base currency.

    The symbol is the venue's own: it may be one that is not listed to us.
    """

    venue_order_id: str
    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class VenueAccount:
    """The account: its balance in the quote currency and its open net positions by symbol.

    Attributes
    ----------
    notionals, unrealised_profit
        Signed worth of each position at the venue's price, and the profit of them all that is
        not in the balance, in the quote currency.
    """

    wallet_balance: Decimal
    positions: Mapping[str, Decimal]
    notionals: Mapping[str, Decimal]
    unrealised_profit: Decimal


class VenueGateway:
    """One account at one venue. Made by `connect`."""

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange
        self._listings: dict[str, Listing] = {}

    @classmethod
    async def connect(
        cls, base_url: str, api_key: str, api_secret: str, recv_window_ms: int = 5_000
    ) -> Self:
        """Load the markets and the clock of a venue.

        Parameters
        ----------
        base_url
            Scheme, host and port. Every address ccxt knows is rewritten to it, so that no
            other host is ever called.
        api_key, api_secret
            Of the account.
        recv_window_ms
            A request that reaches the venue later than this after it was signed is refused.

        Raises
        ------
        VenueUnknownError
            If the venue does not answer.
        VenueRejectedError
            If it refuses.
        DataError
            If it lists an instrument whose units cannot be counted.
        """
        # ccxt takes half a second and 100 MB to import: only those who trade pay for it.
        from ccxt.async_support import binanceusdm

        exchange = open_exchange(
            binanceusdm,
            base_url,
            apiKey=api_key,
            secret=api_secret,
            options={"recvWindow": recv_window_ms},
        )
        gateway = cls(exchange)
        try:
            await gateway._list()
            await gateway.synchronise()
        except BaseException:
            await exchange.close()
            raise
        return gateway

    async def close(self) -> None:
        """Close the connections."""
        await self._exchange.close()

    # --- time and instruments -------------------------------------------------------------

    async def venue_time_ms(self) -> int:
        """Return the venue's time in milliseconds since 1970.

        Raises
        ------
        VenueUnknownError
            If the venue does not answer.
        """
        answer = await ask("ask the time", self._exchange.fapiPublicGetTime)
        return integer_of(answer, "serverTime")

    @property
    def clock_skew_ms(self) -> int:
        """Our time less the venue's, as of the last synchronisation."""
        return int(self._exchange.options["timeDifference"])

    async def synchronise(self) -> int:
        """Sign requests by the venue's clock from now on; return its time.

        Needed whenever the venue's clock has jumped, which the paper venue's does at every
        close.

        Raises
        ------
        VenueUnknownError
            If the venue does not answer.
        """
        now_ms = await self.venue_time_ms()
        self._exchange.options["timeDifference"] = self._exchange.milliseconds() - now_ms
        return now_ms

    def instruments(self) -> dict[str, Instrument]:
        """Return what is listed, by our symbol."""
        return {
            listing.instrument.symbol: listing.instrument for listing in self._listings.values()
        }

    # --- orders ---------------------------------------------------------------------------

    async def submit_market_order(
        self,
        client_order_id: str,
        symbol: str,
        side: Side,
        quantity: Decimal,
        *,
        reduce_only: bool = False,
        signed_at_ms: int | None = None,
    ) -> VenueOrder:
        """Send a market order, once.

        Parameters
        ----------
        client_order_id, symbol, side
            The order.
        quantity
            In the base currency, a multiple of the lot.
        reduce_only
            Whether the venue may only reduce its net position with it; such an order may be
            smaller than the smallest notional. The positions of all pairs are one there.
        signed_at_ms
            Venue time that the receive window is counted from; by default the moment of
            sending. Give the recorded instant to make sure that no order can be placed
            later than the window after it, whatever holds up this call.

        Raises
        ------
        VenueNotReducingError
            If it is reduce-only and the venue holds nothing that it would reduce.
        VenueRejectedError
            On positive evidence that nothing was placed.
        VenueUnknownError
            On anything else: the order must be queried.
        """
        parameters = {
            "symbol": venue_id(symbol),
            "side": side.value.upper(),
            "type": "MARKET",
            "quantity": f"{quantity:f}",
            "newClientOrderId": client_order_id,
        }
        if reduce_only:
            parameters["reduceOnly"] = "true"
        if signed_at_ms is not None:
            parameters["timestamp"] = str(signed_at_ms)
        answer = await ask(
            f"submit {client_order_id}", self._exchange.fapiPrivatePostOrder, parameters
        )
        return _order(answer, client_order_id)

    async def fetch_order(self, client_order_id: str, symbol: str) -> VenueOrder:
        """Return the latest order of a client order id.

        Raises
        ------
        VenueNotFoundError
            If the venue knows none.
        VenueRejectedError, VenueUnknownError
            If the question is refused, or not answered.
        """
        answer = await self._ask(
            f"fetch {client_order_id}",
            self._exchange.fapiPrivateGetOrder,
            {"symbol": venue_id(symbol), "origClientOrderId": client_order_id},
        )
        return _order(answer, client_order_id)

    async def cancel_order(self, client_order_id: str, symbol: str) -> VenueOrder:
        """Withdraw what is left of an order; return it as it then is.

        Raises
        ------
        VenueNotFoundError
            If no order of this id works at the venue: it may be filled.
        VenueRejectedError, VenueUnknownError
            If the request is refused, or not answered.
        """
        answer = await self._ask(
            f"cancel {client_order_id}",
            self._exchange.fapiPrivateDeleteOrder,
            {"symbol": venue_id(symbol), "origClientOrderId": client_order_id},
        )
        return _order(answer, client_order_id)

    async def fetch_fills(self, venue_order_id: str, symbol: str) -> tuple[VenueFill, ...]:
        """Return the fills of an order, ascending by trade id.

        Raises
        ------
        VenueUnknownError
            If the question is not answered, or there may be more fills than one answer holds.
        VenueRejectedError
            If it is refused.
        """
        answer = await self._ask(
            f"fetch the fills of {venue_order_id}",
            self._exchange.fapiPrivateGetUserTrades,
            {"symbol": venue_id(symbol), "orderId": venue_order_id, "limit": MAX_FILLS},
        )
        if not isinstance(answer, list) or len(answer) >= MAX_FILLS:
            raise VenueUnknownError(
                f"the fills of {venue_order_id} came back as {str(answer)[:200]}: "
                f"expected a list of fewer than {MAX_FILLS}"
            )
        fills = [
            VenueFill(
                integer_of(fill, "id"),
                decimal_of(fill, "price"),
                decimal_of(fill, "qty"),
                decimal_of(fill, "commission"),
                integer_of(fill, "time"),
            )
            for fill in answer
        ]
        return tuple(sorted(fills, key=lambda fill: fill.trade_id))

    async def fetch_account(self) -> VenueAccount:
        """Return the balance and the open positions.

        Raises
        ------
        VenueRejectedError, VenueUnknownError
            If the question is refused, or not answered.
        """
        answer = await self._ask("fetch the account", self._exchange.fapiPrivateV3GetAccount, {})
        by_name = {
            text_of(position, "symbol"): position
            for position in field_of(answer, "positions")
            if decimal_of(position, "positionAmt")
        }
        if not by_name.keys() <= self._listings.keys():
            await self._list()  # of others, on what was listed after we connected
        held = {self._our_symbol(name): position for name, position in by_name.items()}
        return VenueAccount(
            decimal_of(answer, "totalWalletBalance"),
            {symbol: decimal_of(position, "positionAmt") for symbol, position in held.items()},
            {symbol: decimal_of(position, "notional") for symbol, position in held.items()},
            sum(
                (decimal_of(position, "unrealizedProfit") for position in held.values()), Decimal(0)
            ),
        )

    async def fetch_open_orders(self) -> tuple[VenueOpenOrder, ...]:
        """Return every order that works, also those that others placed.

        Raises
        ------
        VenueRejectedError, VenueUnknownError
            If the question is refused, or not answered.
        """
        answer = await self._ask("fetch open orders", self._exchange.fapiPrivateGetOpenOrders, {})
        if not isinstance(answer, list):
            raise VenueUnknownError(f"open orders came back as {str(answer)[:200]}, not as a list")
        return tuple(
            VenueOpenOrder(
                text_of(order, "orderId"),
                text_of(order, "clientOrderId"),
                text_of(order, "symbol"),
                _side_of(order),
                decimal_of(order, "origQty"),
            )
            for order in answer
        )

    # --- how a call is made ---------------------------------------------------------------

    async def _ask(
        self, doing: str, call: Callable[..., Awaitable[Any]], parameters: dict[str, Any]
    ) -> Any:
        """Make a signed call that may be repeated; once more if the clocks have parted."""
        try:
            return await ask(doing, call, parameters)
        except OutsideWindowError:
            await self.synchronise()
            return await ask(doing, call, parameters)

    async def _list(self) -> None:
        """Learn what the venue lists."""
        markets = await ask("load the markets", self._exchange.load_markets, True)
        if not markets:
            # What ccxt makes of a page that is no answer.
            raise VenueUnknownError("load the markets: the venue listed none")
        infos = (market["info"] for market in markets.values())
        found = [read_listing(info) for info in infos if is_perpetual(info)]
        self._listings = {listing.venue_symbol: listing for listing in found}

    def _our_symbol(self, name: str) -> str:
        try:
            return self._listings[name].instrument.symbol
        except KeyError:
            raise VenueUnknownError(
                f"the venue has a position in {name}, which it does not list"
            ) from None


def _side_of(answer: Any) -> Side:
    side = text_of(answer, "side").lower()
    if side not in set(Side):
        raise VenueUnknownError(f"the venue's answer has side {side!r}: neither buy nor sell")
    return Side(side)


def _order(answer: Any, client_order_id: str) -> VenueOrder:
    if text_of(answer, "clientOrderId") != client_order_id:
        raise VenueUnknownError(
            f"asked for order {client_order_id}, the venue answered {str(answer)[:200]}"
        )
    status = text_of(answer, "status")
    if status not in _STATES:
        raise VenueUnknownError(f"order status {status!r} is none of {', '.join(_STATES)}")
    return VenueOrder(
        client_order_id,
        text_of(answer, "orderId"),
        _STATES[status],
        decimal_of(answer, "executedQty"),
    )
