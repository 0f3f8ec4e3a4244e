"""Use cases of the spot account: what is bought is held, and only what is held can be sold."""

from __future__ import annotations

from services.paper_exchange import spot_payloads
from services.paper_exchange.desk import Desk
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.matching import Product
from services.paper_exchange.order_entry import check_spot_order, listing_of, read_spot_order
from services.paper_exchange.parameters import Parameters
from services.paper_exchange.payloads import Payload
from services.paper_exchange.refusals import RefusalError
from services.paper_exchange.store import DuplicateOrderError


class SpotDesk(Desk):
    """The spot account.

    Parameters
    ----------
    exchange
        The venue.
    """

    def __init__(self, exchange: PaperExchange) -> None:
        shapes = (spot_payloads.order, spot_payloads.trade, spot_payloads.cancelled)
        super().__init__(exchange, Product.SPOT, *shapes)

    def place_order(self, parameters: Parameters) -> Payload:
        """Accept an order."""
        exchange = self._exchange
        at_ms, terms = exchange.market_at_ms, exchange.terms
        request = read_spot_order(parameters, exchange.market, at_ms, terms)
        wallet = exchange.spot_wallet()
        free_lots = wallet.free_lots(request.listing.venue_symbol)
        check_spot_order(request, at_ms, terms, wallet.free_e8, free_lots)
        try:
            placed = exchange.place(self.product, request)
        except DuplicateOrderError as error:
            raise RefusalError(-2010, "Duplicate order sent.") from error
        return spot_payloads.accepted(placed, request.listing)

    def cancel_all_orders(self, parameters: Parameters) -> list[Payload]:
        """Withdraw every open order of a symbol."""
        listing = listing_of(parameters, self._exchange.market)
        found = self._exchange.store.open_orders(self.product, listing.venue_symbol)
        if not found:
            raise RefusalError(-2011, "Unknown order sent.")
        return [self._show_cancelled(each, listing) for each in self._exchange.cancel(found)]

    def account(self, _: Parameters) -> Payload:
        """Return the balances."""
        exchange = self._exchange
        return spot_payloads.account(
            exchange.spot_wallet(), exchange.terms.fee_ppm, exchange.now_ms()
        )

    def trade_fees(self, parameters: Parameters) -> list[Payload]:
        """Return the fee of a symbol, or of all: the same for makers and takers."""
        symbol = self._optional_symbol(parameters)
        rate = self._exchange.terms.fee_ppm
        return [
            spot_payloads.trade_fee(each, rate)
            for each in self._exchange.market.listings
            if symbol in (None, each)
        ]
