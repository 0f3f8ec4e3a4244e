"""Use cases of the paper venue.

Each call runs from its first to its last line without giving way to another, so the order
in which requests arrive is the order in which they happen. Whoever calls them lets no
answer leave before `committed` has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from services.paper_exchange import charts, metrics, payloads, spot_payloads
from services.paper_exchange.authentication import integer
from services.paper_exchange.broadcast import Broadcast
from services.paper_exchange.clock import VenueClock
from services.paper_exchange.market import Listing
from services.paper_exchange.matching import FLAT, PaperOrder, match_closes
from services.paper_exchange.order_entry import (
    check_against_market,
    client_order_id,
    listing_of,
    read_order_request,
)
from services.paper_exchange.refusals import RefusalError, missing
from services.paper_exchange.sources import Source
from services.paper_exchange.store import DuplicateOrderError, NewOrder, Store
from services.paper_exchange.streams import Hub
from shared.book.execution import FillTerms
from shared.clock import instant_of_ms

CLOCK_RESERVE_MS = 5_000
"""How far ahead the clock is recorded, so that few readings of it cost a commit."""

MAX_INSTANT_MS = 10**14
_MAX_TRADES = 1_000
_DEFAULT_TRADES = 500
_DEFAULT_KLINES = 500
_DEFAULT_FUNDING = 100

Parameters = dict[str, str]
Answer = dict[str, Any] | list[dict[str, Any]]


class PaperExchange:
    """The venue: a market, a clock and an account.

    Parameters
    ----------
    source
        Where its market comes from.
    terms
        What a fill costs.
    store
        The record; everything else is made from it at start.
    hub
        Who listens to its streams.
    """

    def __init__(self, source: Source, terms: FillTerms, store: Store, hub: Hub) -> None:
        self._source = source
        self._market = source.market
        self._terms = terms
        self._store = store
        self._hub = hub
        self._broadcast = Broadcast(hub, source.market, terms.funding_ppm)
        store.enlist(source.market.listings.values())
        state = store.state()
        source.stand_at(state.market_at_ms)
        self._market_at_ms = state.market_at_ms
        self._reserved_ms = state.clock_ms
        self._clock = VenueClock(state.clock_ms, min(1.0, source.speed or 1.0))
        self._clock.reach(state.clock_ms, source.next_close(state.market_at_ms))

    async def committed(self) -> None:
        """Return when everything that calls have changed so far is on disk.

        Raises
        ------
        sqlite3.Error
            If it could not be written; none of it has happened then.
        """
        await self._store.committed()

    # --- time -----------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return venue time; no later call, even after a kill, returns an earlier one."""
        now_ms = self._clock.now_ms()
        if now_ms > self._reserved_ms:
            self._reserved_ms = now_ms + CLOCK_RESERVE_MS
            self._store.reserve_clock(self._reserved_ms)
        return now_ms

    def advance(self, closes_at_ms: int) -> dict[str, int]:
        """Move the market to a close by hand.

        Raises
        ------
        RefusalError
            -5000 if it moves by itself.
        """
        if self._source.speed is not None:
            raise RefusalError(
                -5000,
                f"the {self._source.name} market moves by itself; only recorded bars named by "
                "MNT_REPLAY__BARS are moved by hand",
                409,
            )
        return self.move(closes_at_ms)

    def move(self, closes_at_ms: int) -> dict[str, int]:
        """Move the market to a close, trading every open order on the way.

        A close that is not after the present one changes nothing, so a repeat is harmless.

        Raises
        ------
        sqlite3.Error
            If it could not be recorded; nothing has moved then.
        """
        filled = 0
        if closes_at_ms > self._market_at_ms:
            closes = self._market.closes_between(self._market_at_ms, closes_at_ms)
            positions = {name: held.position for name, held in self._store.positions().items()}
            matching = match_closes(
                self._store.open_orders(), closes, positions, self._market.listings, self._terms
            )
            clock_ms = max(self.now_ms(), closes_at_ms) + CLOCK_RESERVE_MS
            if matching.orders:
                self._store.save_matching(closes_at_ms, clock_ms, matching)
            else:
                self._store.move_market(closes_at_ms, clock_ms)
            self._market_at_ms, self._reserved_ms = closes_at_ms, clock_ms
            self._clock.reach(closes_at_ms, self._source.next_close(closes_at_ms))
            self._tell_closes(closes)
            filled = len(matching.trades)
            for trade in matching.trades:
                metrics.TRADES.labels(trade.side.value).inc()
        return {"closes_at_ms": self._market_at_ms, "filled": filled}

    def _tell_closes(self, closes: Sequence[int]) -> None:
        """Tell of closes that are on record."""
        if self._hub.streams:
            now_ms = self.now_ms()
            for closes_at_ms in closes:
                self._broadcast.tell_close(closes_at_ms, now_ms)

    # --- orders ---------------------------------------------------------------------------

    def place_order(self, parameters: Parameters) -> payloads.Payload:
        """Accept an order."""
        request = read_order_request(parameters, self._market)
        symbol = request.listing.venue_symbol
        held = self._store.positions().get(symbol)
        check_against_market(request, self._market_at_ms, FLAT if held is None else held.position)
        new = NewOrder(
            request.client_order_id or f"paper-{self._store.next_order_id()}",
            symbol,
            request.side,
            request.quantity_lots,
            request.reduce_only,
            self._market_at_ms,
            self.now_ms(),
        )
        try:
            placed = self._store.insert_order(new)
        except DuplicateOrderError as error:
            raise RefusalError(-4116, "ClientOrderId is duplicated.") from error
        metrics.ORDERS.labels(placed.side.value).inc()
        return payloads.order(placed, request.listing)

    def fetch_order(self, parameters: Parameters) -> payloads.Payload:
        """Return an order by its id or its client order id."""
        listing, found = self._find(parameters)
        if found is None:
            raise RefusalError(-2013, "Order does not exist.")
        return payloads.order(found, listing)

    def fetch_open_order(self, parameters: Parameters) -> payloads.Payload:
        """Return an order if it may still trade."""
        listing, found = self._find(parameters)
        if found is None or not found.is_open:
            raise RefusalError(-2013, "Order does not exist.")
        return payloads.order(found, listing)

    def cancel_order(self, parameters: Parameters) -> payloads.Payload:
        """Withdraw what is left of an open order."""
        _, found = self._find(parameters)
        if found is None or not found.is_open:
            raise RefusalError(-2011, "Unknown order sent.")
        self._store.cancel_orders([found], self.now_ms())
        return self.fetch_order({"symbol": found.symbol, "orderId": str(found.order_id)})

    def cancel_all_orders(self, parameters: Parameters) -> payloads.Payload:
        """Withdraw every open order of a symbol."""
        listing = listing_of(parameters, self._market)
        found = self._store.open_orders(listing.venue_symbol)
        self._store.cancel_orders(found, self.now_ms())
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def fetch_open_orders(self, parameters: Parameters) -> list[payloads.Payload]:
        """Return open orders, of one symbol or of all, in order of arrival."""
        symbol = self._optional_symbol(parameters)
        return [
            payloads.order(each, self._market.listings[each.symbol])
            for each in self._store.open_orders(symbol)
        ]

    def fetch_trades(self, parameters: Parameters) -> list[payloads.Payload]:
        """Return trades of a symbol, ascending by id."""
        listing = listing_of(parameters, self._market)
        trades = self._store.trades(
            listing.venue_symbol,
            integer(parameters, "orderId"),
            integer(parameters, "fromId"),
            integer(parameters, "startTime"),
            integer(parameters, "endTime"),
            _limit(parameters, _DEFAULT_TRADES, _MAX_TRADES),
        )
        return [payloads.trade(each, listing) for each in trades]

    # --- the account ----------------------------------------------------------------------

    def account(self) -> payloads.Account:
        """Return the account as it is now."""
        return payloads.Account(
            self._market,
            self._market_at_ms,
            self._store.state().wallet_e8,
            self._store.positions(),
            self.now_ms(),
        )

    def fetch_position_risk(
        self, parameters: Parameters, *, is_every_symbol: bool
    ) -> list[payloads.Payload]:
        """Return positions with their marks, of one symbol or of several."""
        symbol = self._optional_symbol(parameters)
        return self.account().position_risk(symbol, is_every_symbol=is_every_symbol)

    # --- public ---------------------------------------------------------------------------

    def exchange_info(self) -> payloads.Payload:
        """Return everything that is listed."""
        return payloads.exchange_info(self._market, self._source.name, self.now_ms())

    def spot_exchange_info(self) -> payloads.Payload:
        """Return everything that is listed, as spot."""
        return spot_payloads.exchange_info(self._market, self._source.name, self.now_ms())

    def leverage_brackets(self, parameters: Parameters) -> list[payloads.Payload]:
        """Return the leverage allowed: none."""
        symbol = self._optional_symbol(parameters)
        brackets = payloads.leverage_brackets(self._market)
        return [each for each in brackets if symbol in (None, each["symbol"])]

    def present(self, stream: str) -> list[Any]:
        """Return what a public stream says to who joins it now."""
        return self._broadcast.present(stream, self._market_at_ms, self.now_ms())

    async def klines(self, parameters: Parameters, max_limit: int) -> list[charts.KlineRow]:
        """Return bars of a symbol, ascending; the one that forms comes last."""
        listing = listing_of(parameters, self._market)
        interval = parameters.get("interval")
        if not interval:
            raise missing("interval")
        return await self._source.klines(
            listing,
            interval,
            integer(parameters, "startTime"),
            integer(parameters, "endTime"),
            _limit(parameters, _DEFAULT_KLINES, max_limit),
            self._market_at_ms,
        )

    def prices(self, parameters: Parameters) -> Answer:
        """Return last prices, of one symbol or of all."""
        return self._of_each(parameters, lambda each: charts.price(each, self._market_at_ms))

    def tickers(self, parameters: Parameters) -> Answer:
        """Return the last day, of one symbol or of all."""
        return self._of_each(parameters, lambda each: charts.ticker(each, self._market_at_ms))

    def premium_index(self, parameters: Parameters) -> Answer:
        """Return marks and funding, of one symbol or of all."""
        now_ms, rate = self.now_ms(), self._terms.funding_ppm
        return self._of_each(
            parameters,
            lambda each: charts.premium_index(each, self._market_at_ms, now_ms, rate),
        )

    def past_funding(self, parameters: Parameters) -> list[charts.Payload]:
        """Return the funding instants of a symbol, or of all, ascending."""
        symbol = self._optional_symbol(parameters)
        limit = _limit(parameters, _DEFAULT_FUNDING, _MAX_TRADES)
        start_ms, end_ms = integer(parameters, "startTime"), integer(parameters, "endTime")
        end_ms = self._market_at_ms if end_ms is None else min(end_ms, self._market_at_ms)
        found = [
            each
            for name, listing in self._market.listings.items()
            if symbol in (None, name)
            for each in charts.past_funding(
                listing, start_ms, end_ms, limit, self._terms.funding_ppm
            )
        ]
        found.sort(key=lambda each: (each["fundingTime"], each["symbol"]))
        return found[-limit:] if start_ms is None else found[:limit]

    def funding_info(self) -> list[charts.Payload]:
        """Return the funding interval of every symbol."""
        return charts.funding_info(self._market.listings)

    def _of_each(self, parameters: Parameters, show: Callable[[Listing], charts.Payload]) -> Answer:
        """Show one symbol, or a list of all that have traded."""
        if parameters.get("symbol"):
            return show(listing_of(parameters, self._market))
        return [
            show(listing)
            for listing in self._market.listings.values()
            if listing.last_price(self._market_at_ms) is not None
        ]

    def status(self) -> dict[str, Any]:
        """Return where the venue is, for people."""
        counts = self._store.counts()
        n_open = len(self._store.open_orders())
        metrics.OPEN_ORDERS.set(n_open)
        metrics.MARKET_TIME.set(self._market_at_ms / 1000)
        metrics.CONNECTIONS.set(self._hub.n_connections)
        return {
            "service": "paper_exchange",
            "state": self._source.state(),
            "source": self._source.name,
            "speed": self._source.speed,
            "market_at_ms": self._market_at_ms,
            "market_at": instant_of_ms(self._market_at_ms).isoformat(),
            "venue_time_ms": self.now_ms(),
            "symbols": len(self._market.listings),
            "connections": self._hub.n_connections,
            "open_orders": n_open,
            **counts,
        }

    def _find(self, parameters: Parameters) -> tuple[Listing, PaperOrder | None]:
        listing = listing_of(parameters, self._market)
        order_id = integer(parameters, "orderId")
        own_id = client_order_id(parameters, "origClientOrderId")
        if order_id is None and own_id is None:
            raise RefusalError(
                -1102,
                "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!",
            )
        return listing, self._store.find_order(listing.venue_symbol, order_id, own_id)

    def _optional_symbol(self, parameters: Parameters) -> str | None:
        if not parameters.get("symbol"):
            return None
        return listing_of(parameters, self._market).venue_symbol


def _limit(parameters: Parameters, default: int, most: int) -> int:
    limit = integer(parameters, "limit")
    if limit is None:
        return default
    if limit == 0:
        raise RefusalError(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(limit, most)


def read_close(document: object) -> int:
    """Return the close that an `advance` request names.

    Raises
    ------
    RefusalError
        If it is not an object with a whole number of milliseconds since 1970.
    """
    if not isinstance(document, dict) or "closes_at_ms" not in document:
        raise missing("closes_at_ms")
    closes_at_ms = document["closes_at_ms"]
    if type(closes_at_ms) is not int or not 0 < closes_at_ms < MAX_INSTANT_MS:
        raise RefusalError(
            -1100, f"closes_at_ms {closes_at_ms!r}: send whole milliseconds since 1970"
        )
    return closes_at_ms
