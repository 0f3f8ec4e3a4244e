"""The venue itself: a market, a clock, a record, and who is told of them.

Each call runs from its first to its last line without giving way to another, so the order
in which requests arrive is the order in which they happen. Whoever calls them lets no
answer leave before `committed` has returned; the streams are told by the commit itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from services.paper_exchange import events, metrics
from services.paper_exchange.broadcast import Broadcast
from services.paper_exchange.clock import VenueClock
from services.paper_exchange.faults import Faults
from services.paper_exchange.market import Market
from services.paper_exchange.matching import (
    Matching,
    NetPosition,
    PaperOrder,
    Product,
    Step,
    match_closes,
)
from services.paper_exchange.order_entry import OrderRequest
from services.paper_exchange.refusals import RefusalError
from services.paper_exchange.sources.interface import Source
from services.paper_exchange.spot_wallet import SpotWallet
from services.paper_exchange.store import NewOrder, Store
from services.paper_exchange.streams import Hub
from shared.book.execution import FillTerms
from shared.book.instrument import Instrument
from shared.clock import TIMEFRAME_MS, instant_of_ms, ms_of_instant, utc_now

CLOCK_RESERVE_MS = 5_000
"""How far ahead the clock is recorded, so that few readings of it cost a commit."""

LATE_ORDER_MS = 30_000
"""After a close by so much of venue time, an order no longer trades at the open it missed."""

OWN_TIME_DISTANCE_MS = TIMEFRAME_MS["1d"]


class PaperExchange:
    """The venue.

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
    listen_keys
        Names of the streams that tell of the account.
    faults
        What goes wrong; nothing without it.
    seconds
        What the clock runs by, if not by time itself.

    Raises
    ------
    SettingsError
        If the store is of another market.
    """

    def __init__(
        self,
        source: Source,
        terms: FillTerms,
        store: Store,
        hub: Hub,
        listen_keys: Mapping[Product, str],
        faults: Faults | None = None,
        seconds: Callable[[], float] | None = None,
    ) -> None:
        self._source = source
        self._hub = hub
        self._listen_keys = listen_keys
        self._broadcast = Broadcast(hub, source.market, terms.funding_ppm)
        self.terms = terms
        self.store = store
        self.faults = Faults() if faults is None else faults
        state = store.state()
        source.resume(state.market_at_ms, store.instruments())
        store.enlist(_instruments(source.market))
        self.market_at_ms = state.market_at_ms
        self._reserved_ms = state.clock_ms
        self._clock = VenueClock(state.clock_ms, min(1.0, source.speed or 1.0), seconds)
        self._clock.reach(state.clock_ms, source.next_close(state.market_at_ms))
        self._countdowns = store.countdowns()

    @property
    def market(self) -> Market:
        """What is listed, and its bars."""
        return self._source.market

    @property
    def source(self) -> Source:
        """Where the market comes from."""
        return self._source

    async def committed(self) -> None:
        """Return when everything that calls have changed so far is on disk.

        Raises
        ------
        sqlite3.Error
            If it could not be written; none of it has happened then.
        """
        await self.store.committed()

    # --- time -----------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return venue time; no later call, even after a kill, returns an earlier one."""
        now_ms = self._clock.now_ms()
        if now_ms > self._reserved_ms:
            self._reserved_ms = now_ms + CLOCK_RESERVE_MS
            self.store.reserve_clock(self._reserved_ms)
        return now_ms

    def shown_ms(self) -> int:
        """Return the time that clients are shown and requests are judged by."""
        return self.now_ms() + self.faults.settings.clock_skew_ms

    def closed_until(self) -> datetime | None:
        """Return when the present maintenance ends, `None` while there is none."""
        return self.faults.settings.closed_until(instant_of_ms(self.now_ms()))

    def set_clock(self, now_ms: int) -> None:
        """Put the clock forward to an instant, unless it is past it."""
        self._clock.reach(now_ms, self._source.next_close(self.market_at_ms))

    def client_ms(self) -> int | None:
        """Return the time outside, if clients may sign by it.

        A market that moves by itself at a speed of its own takes its clock away from under
        any client that has set itself by it once; such clients use their own. While the two
        times are near each other there is only one, or a request held up on its way might
        be placed by the other after its window has passed.
        """
        if self._source.speed is None:
            return None
        own_ms = ms_of_instant(utc_now())
        if abs(own_ms - self.now_ms()) <= OWN_TIME_DISTANCE_MS:
            return None
        return own_ms + self.faults.settings.clock_skew_ms

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
        filled = self.move(closes_at_ms)
        return {"closes_at_ms": self.market_at_ms, "filled": filled}

    def move(self, closes_at_ms: int) -> int:
        """Move the market to a close, trading every open order on the way.

        A close that is not after the present one changes nothing, so a repeat is harmless.

        Returns
        -------
        int
            Fills.

        Raises
        ------
        sqlite3.Error
            If it could not be recorded; nothing has moved then.
        """
        filled = 0
        while (due_ms := min(self._countdowns.values(), default=closes_at_ms)) < closes_at_ms:
            # Bars that opened before a timer ran out have traded, later ones find no order.
            last_ms = self.market.last_close(due_ms + self.market.bar_ms - 1)
            filled += self._move(min(closes_at_ms, last_ms or 0))
            self._end_countdowns(due_ms)
        return filled + self._move(closes_at_ms)

    def _move(self, closes_at_ms: int) -> int:
        if closes_at_ms <= self.market_at_ms:
            return 0
        closes = self.market.closes_between(self.market_at_ms, closes_at_ms)
        matchings = [each for each in self._match(closes) if each.steps or each.funding]
        clock_ms = max(self.now_ms(), closes_at_ms) + CLOCK_RESERVE_MS
        steps: list[Step] = []
        if matchings:
            steps = self.store.save_matching(closes_at_ms, clock_ms, matchings)
            self._tell_matchings(matchings, steps, closes_at_ms)
            self.store.commit()
        else:
            self.store.move_market(closes_at_ms, clock_ms)
        self.market_at_ms, self._reserved_ms = closes_at_ms, clock_ms
        self._clock.reach(closes_at_ms, self._source.next_close(closes_at_ms))
        if self._hub.streams:
            for close_ms in closes:
                self._broadcast.tell_close(close_ms, self.now_ms())
        trades = [step.trade for step in steps if step.trade is not None]
        for trade in trades:
            metrics.TRADES.labels(trade.side.value).inc()
        for matching in matchings:
            metrics.FUNDING.inc(sum(each.paid_e8 for each in matching.funding) / 1e8)
        return len(trades)

    def _match(self, closes: Sequence[int]) -> list[Matching]:
        before_ms = self.market.last_close(self.market_at_ms)
        spot_e8 = self.store.state().spot_e8
        return [
            match_closes(
                product,
                self.store.open_orders(product),
                closes,
                self.positions(product),
                self.market.listings,
                self.terms,
                funded_to_ms=self.market_at_ms if before_ms is None else before_ms,
                quote_e8=spot_e8,
                share=partial(self.faults.lots_of, bar_ms=self.market.bar_ms),
            )
            for product in Product
        ]

    def enlist(self, instruments: Mapping[str, Instrument]) -> dict[str, Instrument]:
        """Record the units of what a live market lists now; return what must stay listed.

        Raises
        ------
        SettingsError
            If recorded orders would change their meaning.
        """
        return self.store.enlist(instruments, may_shrink=True)

    # --- orders and positions -------------------------------------------------------------

    def positions(self, product: Product) -> dict[str, NetPosition]:
        """Return the net positions of a product by symbol."""
        return {symbol: held.position for symbol, held in self.store.positions(product).items()}

    def spot_wallet(self) -> SpotWallet:
        """Return what the spot wallet holds and how much of it orders have claimed."""
        return SpotWallet(
            self.market,
            self.market_at_ms,
            self.terms,
            self.store.state().spot_e8,
            self.positions(Product.SPOT),
            self.store.open_orders(Product.SPOT),
        )

    def place(self, product: Product, request: OrderRequest) -> PaperOrder:
        """Accept an order that has passed every check.

        Raises
        ------
        DuplicateOrderError
            If an open order of the product has its client order id.
        """
        now_ms = self.now_ms()
        new = NewOrder(
            request.client_order_id or f"paper-{self.store.next_order_id()}",
            request.listing.venue_symbol,
            request.side,
            request.quantity_lots,
            request.reduce_only,
            self._trades_from_ms(now_ms),
            now_ms,
            product,
            request.price_ticks,
            request.time_in_force,
        )
        placed = self.store.insert_order(new)
        metrics.ORDERS.labels(placed.side.value).inc()
        self._tell_steps(product, [Step(placed, None)])
        return placed

    def cancel(self, orders: Iterable[PaperOrder]) -> list[PaperOrder]:
        """Withdraw what is left of open orders; return them as they then are."""
        cancelled = self.store.cancel_orders(orders, self.now_ms())
        for order in cancelled:
            self._tell_steps(order.product, [Step(order, None)])
        return cancelled

    def is_invisible(self, order: PaperOrder) -> bool:
        """Tell whether an order cannot be queried yet."""
        return self.faults.is_invisible(order, self.now_ms())

    def set_countdown(self, symbol: str, countdown_ms: int) -> None:
        """Withdraw the open USD-M orders of a symbol when so much venue time has passed.

        Another one for the symbol takes its place; 0 stops it.
        """
        if countdown_ms:
            self._countdowns[symbol] = self.now_ms() + countdown_ms
        else:
            self._countdowns.pop(symbol, None)
        self.store.set_countdown(symbol, self._countdowns.get(symbol))

    def end_countdowns(self) -> None:
        """Withdraw the orders whose timers have run out; every request asks for it first."""
        if self._countdowns:
            self._end_countdowns(self.now_ms())

    def _end_countdowns(self, at_ms: int) -> None:
        due = [symbol for symbol, due_ms in self._countdowns.items() if due_ms <= at_ms]
        for symbol in due:
            self.cancel(self.store.open_orders(Product.USDM, symbol))
            self.set_countdown(symbol, 0)

    def _trades_from_ms(self, now_ms: int) -> int:
        """Return from which open on an order of this moment may trade.

        While the market is led by the hand, and for a moment after a close, the open that
        follows the close; later that open would be a price of the past.
        """
        is_late = now_ms - self.market_at_ms > LATE_ORDER_MS
        return now_ms if is_late and self._source.speed is not None else self.market_at_ms

    # --- who is told ----------------------------------------------------------------------

    def _tell_matchings(
        self, matchings: Sequence[Matching], steps: Sequence[Step], closes_at_ms: int
    ) -> None:
        for matching in matchings:
            product = matching.product
            if not self._hub.has(self._listen_keys[product]):
                continue
            if product is Product.USDM and matching.trades:
                traded = {trade.symbol for trade in matching.trades}
                self._tell_account("ORDER", traded, matching.positions, closes_at_ms)
            if matching.funding:
                charged = {payment.symbol for payment in matching.funding}
                self._tell_account("FUNDING_FEE", charged, matching.positions, closes_at_ms)
            self._tell_steps(product, [step for step in steps if step.order.product is product])

    def _tell_account(
        self, reason: str, symbols: set[str], positions: Mapping[str, NetPosition], at_ms: int
    ) -> None:
        self._tell(
            Product.USDM,
            events.account_update(
                reason,
                self.market,
                self.store.state().wallet_e8,
                {symbol: positions[symbol] for symbol in sorted(symbols)},
                at_ms,
                self.now_ms(),
            ),
        )

    def _tell_steps(self, product: Product, steps: Sequence[Step]) -> None:
        """Tell of orders once it is on record what became of them."""
        if not steps or not self._hub.has(self._listen_keys[product]):
            return
        show = events.order_trade_update if product is Product.USDM else events.execution_report
        for step in steps:
            listing = self.market.listings[step.order.symbol]
            self._tell(product, show(step, listing, self.now_ms()))
        if product is Product.SPOT:
            bases = {self.market.listings[step.order.symbol].base for step in steps}
            wallet = self.spot_wallet()
            self._tell(product, events.account_position(wallet, bases, self.now_ms()))

    def _tell(self, product: Product, event: Any) -> None:
        stream = self._listen_keys[product]
        self.store.after_commit(partial(self._hub.publish, stream, event))

    def present(self, stream: str) -> list[Any]:
        """Return what a public stream says to who joins it now."""
        return self._broadcast.present(stream, self.market_at_ms, self.now_ms())

    def status(self) -> dict[str, Any]:
        """Return where the venue is, for people."""
        counts = self.store.counts()
        n_open = sum(len(self.store.open_orders(product)) for product in Product)
        metrics.OPEN_ORDERS.set(n_open)
        metrics.MARKET_TIME.set(self.market_at_ms / 1000)
        metrics.CONNECTIONS.set(self._hub.n_connections)
        return {
            "service": "paper_exchange",
            "state": self._source.state(),
            "source": self._source.name,
            "speed": self._source.speed,
            "market_at_ms": self.market_at_ms,
            "market_at": instant_of_ms(self.market_at_ms).isoformat(),
            "venue_time_ms": self.now_ms(),
            "symbols": len(self.market.listings),
            "connections": self._hub.n_connections,
            "streams": len(self._hub.streams),
            "open_orders": n_open,
            **counts,
        }


def _instruments(market: Market) -> dict[str, Instrument]:
    return {name: listing.instrument for name, listing in market.listings.items()}
