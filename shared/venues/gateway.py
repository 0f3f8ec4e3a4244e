"""The way to a venue: unmodified ccxt towards Binance USD-M futures, or whatever speaks it.

What an answer proves is decided here, once, by the venue's own error code; everything that
proves nothing is *unknown*. Amounts are taken from the strings the venue sent, as decimals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Self
from urllib.parse import urlsplit

from shared.book.instrument import NOTIONAL_DECIMALS, PERPETUAL, Instrument, venue_id
from shared.book.orders import OrderState, Side
from shared.errors import (
    DataError,
    VenueError,
    VenueNotFoundError,
    VenueRejectedError,
    VenueUnknownError,
)

TIMEOUT_MS = 10_000
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
_NOT_FOUND = frozenset({-2011, -2013})
_OUTSIDE_WINDOW = frozenset({-1021, -5028})
# -1000, -1001, -1006, -1007: the venue itself does not know. -1003, -1008, -1015: it was
# too busy to look. -1021, -5028: nothing was placed, but nothing is wrong with the order
# either; asking for it and then sending it again is the way out, unwinding the other leg is
# not. -4116: an order of this id works there, so it is anything but rejected.
_NO_VERDICT = frozenset({-1000, -1001, -1003, -1006, -1007, -1008, -1015, -4116}) | _OUTSIDE_WINDOW
_RETRY_AFTER_SECONDS = {-1003: 10.0, -1008: 1.0, -1015: 10.0}
_SERVER_ERROR = 500
_DOCUMENT = re.compile(r"\{.*\}", re.DOTALL)


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
class VenueAccount:
    """The account: its balance in the quote currency and its open net positions by symbol."""

    wallet_balance: Decimal
    positions: Mapping[str, Decimal]


class VenueGateway:
    """One account at one venue. Made by `connect`."""

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange
        self._instruments: dict[str, Instrument] = {}
        self._symbol_of: dict[str, str] = {}

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
        from ccxt.base.errors import ExchangeNotAvailable

        class Client(binanceusdm):  # type: ignore[misc]
            """ccxt's client, to which a failing server's answer proves nothing."""

            def handle_errors(self, code: int, reason: str, url: str, *answer: Any) -> Any:
                if code >= _SERVER_ERROR:
                    raise ExchangeNotAvailable(f"{self.id} {url} answered {code} {reason}")
                return super().handle_errors(code, reason, url, *answer)

        exchange = Client(
            {
                "apiKey": api_key,
                "secret": api_secret,
                "enableRateLimit": False,
                "timeout": TIMEOUT_MS,
                "options": {
                    "recvWindow": recv_window_ms,
                    "fetchMarkets": {"types": ["linear"]},
                    "fetchCurrencies": False,
                    "fetchMargins": False,
                },
            }
        )
        exchange.urls["api"] = _on_host(exchange.urls["api"], base_url.rstrip("/"))
        gateway = cls(exchange)
        try:
            markets = await gateway._call("load the markets", exchange.load_markets)
            gateway._list(market["info"] for market in markets.values())
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
        answer = await self._call("ask the time", self._exchange.fapiPublicGetTime)
        return _integer(answer, "serverTime")

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
        return dict(self._instruments)

    # --- orders ---------------------------------------------------------------------------

    async def submit_market_order(
        self,
        client_order_id: str,
        symbol: str,
        side: Side,
        quantity: Decimal,
        *,
        signed_at_ms: int | None = None,
    ) -> VenueOrder:
        """Send a market order, once.

        It is never reduce-only at the venue, where positions of different pairs are one net
        position; the book enforces that.

        Parameters
        ----------
        client_order_id, symbol, side
            The order.
        quantity
            In the base currency, a multiple of the lot.
        signed_at_ms
            Venue time that the receive window is counted from; by default the moment of
            sending. Give the recorded instant to make sure that no order can be placed
            later than the window after it, whatever holds up this call.

        Raises
        ------
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
        if signed_at_ms is not None:
            parameters["timestamp"] = str(signed_at_ms)
        answer = await self._call(
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
                _integer(fill, "id"),
                _decimal(fill, "price"),
                _decimal(fill, "qty"),
                _decimal(fill, "commission"),
                _integer(fill, "time"),
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
        positions = {
            self._our_symbol(_text(position, "symbol")): _decimal(position, "positionAmt")
            for position in _field(answer, "positions")
        }
        return VenueAccount(
            _decimal(answer, "totalWalletBalance"),
            {symbol: quantity for symbol, quantity in positions.items() if quantity},
        )

    # --- how a call is made ---------------------------------------------------------------

    async def _ask(
        self, doing: str, call: Callable[..., Awaitable[Any]], parameters: dict[str, Any]
    ) -> Any:
        """Make a signed call that may be repeated; once more if the clocks have parted."""
        try:
            return await self._call(doing, call, parameters)
        except _OutsideWindowError:
            await self.synchronise()
            return await self._call(doing, call, parameters)

    async def _call(
        self, doing: str, call: Callable[..., Awaitable[Any]], *arguments: dict[str, Any]
    ) -> Any:
        from ccxt.base.errors import BaseError

        try:
            return await call(*arguments)
        except BaseError as error:
            raise _meaning(doing, error) from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # ccxt stumbles over answers that are no JSON object or lack what it looks for.
            raise VenueUnknownError(
                f"{doing}: the answer is unreadable ({type(error).__name__}: {error})"
            ) from error

    def _list(self, listed: Any) -> None:
        for info in listed:
            instrument = _instrument(info)
            self._instruments[instrument.symbol] = instrument
            self._symbol_of[_text(info, "symbol")] = instrument.symbol

    def _our_symbol(self, name: str) -> str:
        try:
            return self._symbol_of[name]
        except KeyError:
            raise VenueUnknownError(
                f"the venue has a position in {name}, which it did not list: connect again"
            ) from None


class _OutsideWindowError(VenueUnknownError):
    """The venue's clock says that the request came too late or too early."""


def _meaning(doing: str, error: Exception) -> VenueError:
    """Return what an error of ccxt proves."""
    from ccxt.base import errors as ccxt_errors

    code, message = _verdict(str(error))
    described = f"{doing}: {type(error).__name__} {message}"
    if code in _NOT_FOUND:
        return VenueNotFoundError(described)
    if code in _OUTSIDE_WINDOW:
        return _OutsideWindowError(described)
    if code in _NO_VERDICT:
        return VenueUnknownError(described, retry_after=_RETRY_AFTER_SECONDS.get(code))
    if isinstance(error, ccxt_errors.RateLimitExceeded | ccxt_errors.DDoSProtection):
        return VenueUnknownError(described, retry_after=_RETRY_AFTER_SECONDS[-1003])
    # Refusals that ccxt makes before it sends, or tells by the venue's words alone.
    in_words = (
        ccxt_errors.ArgumentsRequired,
        ccxt_errors.BadRequest,
        ccxt_errors.InsufficientFunds,
        ccxt_errors.InvalidOrder,
        ccxt_errors.NotSupported,
        ccxt_errors.OperationRejected,
        ccxt_errors.PermissionDenied,
    )
    if code is not None or isinstance(error, in_words):
        return VenueRejectedError(described)
    return VenueUnknownError(described)


def _verdict(text: str) -> tuple[int | None, str]:
    """Return the venue's code and message from the text of an error; no code, no verdict."""
    found = _DOCUMENT.search(text)
    if found is not None:
        try:
            document = json.loads(found[0])
        except ValueError:
            return None, text[:300]
        code = document.get("code")
        if isinstance(code, int) and code < 0:
            return code, f"{code} {document.get('msg', '')}"
    return None, text[:300]


def _on_host(urls: Any, base_url: str) -> Any:
    if isinstance(urls, dict):
        return {name: _on_host(url, base_url) for name, url in urls.items()}
    return base_url + urlsplit(urls).path


def _instrument(info: Mapping[str, Any]) -> Instrument:
    """Read the units of a listing from its filters."""
    name = _text(info, "symbol")
    filters = {_text(each, "filterType"): each for each in _field(info, "filters")}
    lot = _decimal(_field(filters, "MARKET_LOT_SIZE"), "stepSize")
    smallest = _decimal(_field(filters, "MIN_NOTIONAL"), "notional")
    ours = f"{_text(info, 'baseAsset')}/{_text(info, 'quoteAsset')}"
    return Instrument(
        symbol=str(info.get("recordedSymbol", ours)),
        price_decimals=_decimals(name, _decimal(_field(filters, "PRICE_FILTER"), "tickSize")),
        lot_decimals=_decimals(name, lot),
        min_notional_e8=int(smallest.scaleb(NOTIONAL_DECIMALS)),
        price_source=str(info.get("priceSource", PERPETUAL)),
    )


def _decimals(name: str, step: Decimal) -> int:
    decimals = -step.normalize().adjusted()
    if step <= 0 or step != Decimal(1).scaleb(-decimals) or decimals < 0:
        raise DataError(
            f"{name} has a step of {step}, which is no tenth, hundredth, ... or one: "
            "the book cannot count in it; leave the symbol out"
        )
    return decimals


def _order(answer: Any, client_order_id: str) -> VenueOrder:
    if _text(answer, "clientOrderId") != client_order_id:
        raise VenueUnknownError(
            f"asked for order {client_order_id}, the venue answered {str(answer)[:200]}"
        )
    status = _text(answer, "status")
    if status not in _STATES:
        raise VenueUnknownError(f"order status {status!r} is none of {', '.join(_STATES)}")
    return VenueOrder(
        client_order_id,
        _text(answer, "orderId"),
        _STATES[status],
        _decimal(answer, "executedQty"),
    )


def _field(answer: Any, name: str) -> Any:
    if not isinstance(answer, dict) or name not in answer:
        raise VenueUnknownError(f"the venue's answer has no {name}: {str(answer)[:200]}")
    return answer[name]


def _text(answer: Any, name: str) -> str:
    return str(_field(answer, name))


def _integer(answer: Any, name: str) -> int:
    value = _text(answer, name)
    if not re.fullmatch("-?[0-9]{1,18}", value):
        raise VenueUnknownError(f"the venue's answer has {name} {value[:60]!r}: no whole number")
    return int(value)


def _decimal(answer: Any, name: str) -> Decimal:
    value = _field(answer, name)
    try:
        exact = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        exact = None
    if exact is None or not exact.is_finite():
        raise VenueUnknownError(
            f"the venue's answer has {name} {value!r}: expected a decimal in a string"
        )
    return exact
