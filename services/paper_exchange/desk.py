"""Use cases around orders that spot and USD-M share; each product adds its own to them."""

from __future__ import annotations

from collections.abc import Callable

from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.market import Listing
from services.paper_exchange.matching import PaperOrder, Product, Trade
from services.paper_exchange.order_entry import client_order_id, listing_of
from services.paper_exchange.parameters import Parameters, integer, limit_of
from services.paper_exchange.payloads import Payload
from services.paper_exchange.refusals import RefusalError

_DEFAULT_ROWS = 500
_MAX_ROWS = 1_000


class Desk:
    """The orders and trades of one product.

    Parameters
    ----------
    exchange, product
        The venue, and which of its products.
    show_order, show_trade, show_cancelled
        The product's own words for an order, a trade and a withdrawn order.
    """

    def __init__(
        self,
        exchange: PaperExchange,
        product: Product,
        show_order: Callable[[PaperOrder, Listing], Payload],
        show_trade: Callable[[Trade, Listing], Payload],
        show_cancelled: Callable[[PaperOrder, Listing], Payload],
    ) -> None:
        self._exchange = exchange
        self.product = product
        self._show_order = show_order
        self._show_trade = show_trade
        self._show_cancelled = show_cancelled

    def fetch_order(self, parameters: Parameters) -> Payload:
        """Return an order by its id or its client order id."""
        listing, found = self._find(parameters)
        if found is None or self._exchange.is_invisible(found):
            raise RefusalError(-2013, "Order does not exist.")
        return self._show_order(found, listing)

    def cancel_order(self, parameters: Parameters) -> Payload:
        """Withdraw what is left of an open order."""
        listing, found = self._find(parameters)
        if found is None or not found.is_open:
            raise RefusalError(-2011, "Unknown order sent.")
        (cancelled,) = self._exchange.cancel([found])
        return self._show_cancelled(cancelled, listing)

    def fetch_open_orders(self, parameters: Parameters) -> list[Payload]:
        """Return open orders, of one symbol or of all, in order of arrival."""
        symbol = self._optional_symbol(parameters)
        return [
            self._show_order(each, self._exchange.market.listings[each.symbol])
            for each in self._exchange.store.open_orders(self.product, symbol)
            if not self._exchange.is_invisible(each)
        ]

    def fetch_all_orders(self, parameters: Parameters) -> list[Payload]:
        """Return orders of a symbol, open or not, ascending by id."""
        listing = listing_of(parameters, self._exchange.market)
        orders = self._exchange.store.orders(
            self.product,
            listing.venue_symbol,
            integer(parameters, "orderId"),
            integer(parameters, "startTime"),
            integer(parameters, "endTime"),
            limit_of(parameters, _DEFAULT_ROWS, _MAX_ROWS),
        )
        return [
            self._show_order(each, listing)
            for each in orders
            if not self._exchange.is_invisible(each)
        ]

    def fetch_trades(self, parameters: Parameters) -> list[Payload]:
        """Return trades of a symbol, ascending by id."""
        listing = listing_of(parameters, self._exchange.market)
        trades = self._exchange.store.trades(
            self.product,
            listing.venue_symbol,
            integer(parameters, "orderId"),
            integer(parameters, "fromId"),
            integer(parameters, "startTime"),
            integer(parameters, "endTime"),
            limit_of(parameters, _DEFAULT_ROWS, _MAX_ROWS),
        )
        return [self._show_trade(each, listing) for each in trades]

    def _find(self, parameters: Parameters) -> tuple[Listing, PaperOrder | None]:
        listing = listing_of(parameters, self._exchange.market)
        order_id = integer(parameters, "orderId")
        own_id = client_order_id(parameters, "origClientOrderId")
        if order_id is None and own_id is None:
            raise RefusalError(
                -1102,
                "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!",
            )
        found = self._exchange.store.find_order(
            self.product, listing.venue_symbol, order_id, own_id
        )
        return listing, found

    def _optional_symbol(self, parameters: Parameters) -> str | None:
        if not parameters.get("symbol"):
            return None
        return listing_of(parameters, self._exchange.market).venue_symbol
