"""What the spot wallet holds, and how much of it open orders have claimed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple

from services.paper_exchange.market import Listing, Market
from services.paper_exchange.matching import FLAT, NetPosition, PaperOrder
from services.paper_exchange.order_entry import purchase_e8
from shared.book.execution import FillTerms
from shared.book.instrument import NOTIONAL_DECIMALS
from shared.book.orders import Side


class Balance(NamedTuple):
    """One currency of the wallet."""

    asset: str
    free: Decimal
    locked: Decimal


class SpotWallet:
    """The wallet at one instant.

    Parameters
    ----------
    market, market_at_ms, terms
        Units, the last prices that open market orders are reckoned at, and costs.
    quote_e8
        Balance in the quote, in 1e-8 of it.
    holdings
        Lots held by symbol.
    open_orders
        Open spot orders, in order of arrival.
    """

    def __init__(
        self,
        market: Market,
        market_at_ms: int,
        terms: FillTerms,
        quote_e8: int,
        holdings: Mapping[str, NetPosition],
        open_orders: Iterable[PaperOrder],
    ) -> None:
        self._market = market
        self._quote_e8 = quote_e8
        self._holdings = holdings
        self._claimed_lots: dict[str, int] = {}
        claimed_e8 = 0
        for order in open_orders:
            if order.side is Side.SELL:
                claimed = self._claimed_lots.get(order.symbol, 0)
                self._claimed_lots[order.symbol] = claimed + order.remaining_lots
            else:
                listing = market.listings[order.symbol]
                claimed_e8 += purchase_e8(
                    listing.instrument,
                    order.remaining_lots,
                    order.price_ticks,
                    listing.last_price_ticks(market_at_ms) or 1,
                    terms,
                )
        # What an open market order claims moves with the price: more than all is all.
        self._claimed_e8 = min(claimed_e8, quote_e8)

    @property
    def free_e8(self) -> int:
        """What a new purchase may spend, in 1e-8 of the quote."""
        return self._quote_e8 - self._claimed_e8

    def free_lots(self, symbol: str) -> int:
        """Return what a new order may sell."""
        return self._held(symbol) - self._claimed(symbol)

    def balances(self, bases: Iterable[str] | None = None) -> list[Balance]:
        """Return the quote and the currencies that are held, or those named, by name."""
        wanted = None if bases is None else set(bases)
        held = [
            Balance(
                listing.base,
                listing.instrument.quantity_of(self.free_lots(symbol)),
                listing.instrument.quantity_of(self._claimed(symbol)),
            )
            for symbol, listing in self._market.listings.items()
            if self._is_shown(listing, wanted)
        ]
        free, locked = (
            Decimal(e8).scaleb(-NOTIONAL_DECIMALS) for e8 in (self.free_e8, self._claimed_e8)
        )
        return [Balance(self._market.asset, free, locked), *sorted(held)]

    def _is_shown(self, listing: Listing, wanted: set[str] | None) -> bool:
        if wanted is None:
            return self._held(listing.venue_symbol) > 0
        return listing.base in wanted

    def _held(self, symbol: str) -> int:
        return self._holdings.get(symbol, FLAT).lots

    def _claimed(self, symbol: str) -> int:
        return min(self._claimed_lots.get(symbol, 0), self._held(symbol))
