"""Use cases that anybody may ask for: what is listed, prices, funding."""

from __future__ import annotations

from collections.abc import Callable

from services.paper_exchange import charts, limits, payloads, spot_payloads
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.market import Listing
from services.paper_exchange.matching import Product
from services.paper_exchange.order_entry import listing_of
from services.paper_exchange.parameters import Parameters, integer, limit_of
from services.paper_exchange.payloads import Payload
from services.paper_exchange.refusals import missing, out_of_order

_DEFAULT_KLINES = 500
_DEFAULT_FUNDING = 100
_MAX_FUNDING = 1_000


class PublicData:
    """What the venue tells everyone.

    Parameters
    ----------
    exchange
        The venue.
    """

    def __init__(self, exchange: PaperExchange) -> None:
        self._exchange = exchange

    def time(self) -> Payload:
        """Return the time that the venue shows."""
        return {"serverTime": self._exchange.shown_ms()}

    def system_status(self) -> Payload:
        """Tell whether the venue is closed for maintenance; it says so even then."""
        if self._exchange.closed_until() is None:
            return {"status": 0, "msg": "normal"}
        return {"status": 1, "msg": "system_maintenance"}

    def usdm_exchange_info(self) -> Payload:
        """Return everything that is listed, as perpetuals."""
        exchange = self._exchange
        self._refuse_unlisted()
        info = payloads.exchange_info(exchange.market, exchange.source.name, exchange.shown_ms())
        return {**info, "rateLimits": limits.listed(Product.USDM, exchange.faults.settings)}

    def spot_exchange_info(self) -> Payload:
        """Return everything that is listed, as spot."""
        exchange = self._exchange
        self._refuse_unlisted()
        info = spot_payloads.exchange_info(
            exchange.market, exchange.source.name, exchange.shown_ms()
        )
        return {**info, "rateLimits": limits.listed(Product.SPOT, exchange.faults.settings)}

    async def klines(self, parameters: Parameters, max_limit: int) -> list[charts.KlineRow]:
        """Return bars of a symbol, ascending; the one that forms comes last."""
        listing = listing_of(parameters, self._exchange.market)
        interval = parameters.get("interval")
        if not interval:
            raise missing("interval")
        return await self._exchange.source.klines(
            listing,
            interval,
            integer(parameters, "startTime"),
            integer(parameters, "endTime"),
            limit_of(parameters, _DEFAULT_KLINES, max_limit),
            self._exchange.market_at_ms,
        )

    def prices(self, parameters: Parameters) -> Payload | list[Payload]:
        """Return last prices, of one symbol or of all."""
        at_ms = self._exchange.market_at_ms
        return self._of_each(parameters, lambda listing: charts.price(listing, at_ms))

    def tickers(self, parameters: Parameters) -> Payload | list[Payload]:
        """Return the last day, of one symbol or of all."""
        at_ms = self._exchange.market_at_ms
        return self._of_each(parameters, lambda listing: charts.ticker(listing, at_ms))

    def premium_index(self, parameters: Parameters) -> Payload | list[Payload]:
        """Return marks and funding, of one symbol or of all."""
        at_ms, now_ms = self._exchange.market_at_ms, self._exchange.now_ms()
        rate = self._exchange.terms.funding_ppm
        return self._of_each(
            parameters, lambda listing: charts.premium_index(listing, at_ms, now_ms, rate)
        )

    def past_funding(self, parameters: Parameters) -> list[Payload]:
        """Return the funding instants of a symbol, or of all, ascending."""
        market, at_ms = self._exchange.market, self._exchange.market_at_ms
        limit = limit_of(parameters, _DEFAULT_FUNDING, _MAX_FUNDING)
        start_ms, end_ms = integer(parameters, "startTime"), integer(parameters, "endTime")
        until_ms = at_ms if end_ms is None else min(end_ms, at_ms)
        chosen = list(market.listings.values())
        if parameters.get("symbol"):
            chosen = [listing_of(parameters, market)]
        rate = self._exchange.terms.funding_ppm
        found = [
            each
            for listing in chosen
            for each in charts.past_funding(listing, start_ms, until_ms, limit, rate)
        ]
        found.sort(key=lambda each: (each["fundingTime"], each["symbol"]))
        return found[-limit:] if start_ms is None else found[:limit]

    def funding_info(self) -> list[Payload]:
        """Return the funding interval of every symbol."""
        return charts.funding_info(self._exchange.market.listings)

    def _of_each(
        self, parameters: Parameters, show: Callable[[Listing], Payload]
    ) -> Payload | list[Payload]:
        """Show one symbol, or a list of all that have traded."""
        market, at_ms = self._exchange.market, self._exchange.market_at_ms
        if self._exchange.source.fault is not None:
            raise out_of_order(self._exchange.source.fault)
        if parameters.get("symbol"):
            return show(listing_of(parameters, market))
        return [
            show(listing)
            for listing in market.listings.values()
            if listing.last_price(at_ms) is not None
        ]

    def _refuse_unlisted(self) -> None:
        """Refuse to say that nothing is listed only because it is not known yet."""
        fault = self._exchange.source.fault
        if fault is not None and not self._exchange.market.listings:
            raise out_of_order(fault)
