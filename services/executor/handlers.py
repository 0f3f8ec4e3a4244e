"""Use cases of the executor.

An order exists in the record before the venue hears of it. What the venue answers is
recorded next; what it does not answer stays unknown and is asked for, by client order id,
until the venue says what became of it. It is sent again only when the venue proves that it
has not got it: asked after its receive window has passed, it knows no such order.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.executor import metrics, store
from services.executor.store import RecordedControl, Standing
from shared.book.control import TradingCommand, TradingControl, TradingState, obey
from shared.book.execution import Execution
from shared.book.instrument import Instrument
from shared.book.ledger import (
    Identity,
    Ledger,
    OrderReport,
    acknowledge,
    in_flight,
    settle_close,
)
from shared.book.limits import Guard, RiskView
from shared.book.orders import IN_FLIGHT, TERMINAL, Order, OrderState
from shared.book.positions import PairState
from shared.book.reconciliation import Reconciliation, VenueBook, reconcile
from shared.book.reports import fills_booked, orders_updated, positions_changed
from shared.bus import log
from shared.bus.consumer import Consumer, Routes, UnitOfWork
from shared.clock import instant_of_ms, monotonic_seconds
from shared.database.instruments import load_instruments
from shared.database.tables import execution_leases
from shared.errors import (
    ContractError,
    FatalError,
    RetryableError,
    VenueError,
    VenueNotFoundError,
    VenueNotReducingError,
    VenueRejectedError,
    VenueUnknownError,
)
from shared.events.base import Event
from shared.events.executor import RiskChanged
from shared.events.portfolio import OrdersRequested
from shared.events.trainer import DriftTripped
from shared.service import Runtime
from shared.settings import Settings
from shared.venues.gateway import VenueAccount, VenueFill, VenueGateway, VenueOpenOrder, VenueOrder

RECEIVE_WINDOW_MS = 2_000
"""The venue refuses a request that arrives later than this after it was signed."""
ABSENCE_MARGIN_MS = 500
ABSENCE_ANSWERS = 2
"""So often in a row, after that, must the venue not know an order before it counts as absent."""
DOUBTFUL_ANSWERS = 8
"""So often in a row is the venue asked for fills that do not add up before a close goes on."""
RECONCILE_EVERY_SECONDS = 300.0
RECONCILE_AGAIN_SECONDS = 5.0
CANCELS_AT_ONCE = 20
_EARLIEST = datetime.min.replace(tzinfo=UTC)

logger = structlog.get_logger()


class RiskMemory:
    """The equities that losses are counted from, kept up close by close.

    Parameters
    ----------
    equities
        Equity by close since trading was last resumed, ascending.
    """

    def __init__(self, equities: Iterable[tuple[datetime, int]] = ()) -> None:
        self.peak_e8: int | None = None
        self._last_e8: int | None = None
        self._day_start_e8: int | None = None
        self._day: date | None = None
        for closes_at, equity_e8 in equities:
            self.note(closes_at, equity_e8)

    def note(self, closes_at: datetime, equity_e8: int) -> None:
        """Remember the equity of a settled close."""
        self._day_start_e8, self._day = self.day_start_e8(closes_at), _day_of(closes_at)
        if self._day_start_e8 is None:
            self._day_start_e8 = equity_e8
        self.peak_e8 = max(equity_e8, equity_e8 if self.peak_e8 is None else self.peak_e8)
        self._last_e8 = equity_e8

    def day_start_e8(self, closes_at: datetime) -> int | None:
        """Return the equity that a close's day began with."""
        return self._day_start_e8 if _day_of(closes_at) == self._day else self._last_e8

    def forget(self) -> None:
        """Count losses from the last close on: a person has seen the earlier ones."""
        self.peak_e8 = self._day_start_e8 = self._last_e8


def _day_of(closes_at: datetime) -> date:
    """Return the day a close belongs to; the one at midnight ends the day before."""
    return (closes_at - timedelta(microseconds=1)).date()


def _risk_changed(
    control: TradingControl, closes_at: datetime | None, decided_by: str
) -> RiskChanged:
    return RiskChanged(
        closes_at=closes_at or instant_of_ms(0),
        state=control.state.value,
        is_flattening=control.is_flattening,
        reason=control.reason,
        decided_by=decided_by,
    )


def _tell(found: Reconciliation, quarantined: Sequence[str]) -> None:
    """Report differences and orders of others."""
    for adjustment in found.adjustments:
        metrics.ADJUSTMENTS.labels(adjustment.kind.value).inc()
        logger.warning("book brought to the venue", adjustment=adjustment)
    for venue_order_id in quarantined:
        metrics.QUARANTINED_ORDERS.inc()
        logger.warning("order that we did not place, left alone", venue_order_id=venue_order_id)


def _without(requested: OrdersRequested, repeated: frozenset[str]) -> OrdersRequested:
    """Leave out intents whose orders exist: an event replayed by hand trades only once."""
    if not repeated:
        return requested
    kept = tuple(each for each in requested.intents if each.intent_id not in repeated)
    return requested.model_copy(update={"intents": kept})


class Executor:
    """Sends orders, books fills, keeps the account.

    Parameters
    ----------
    settings
        Of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runtime: Runtime | None = None
        self._identity = Identity(
            settings.account, settings.strategy.run_id(settings.replay.start_ms)
        )
        self._ledger = Ledger(settings.portfolio.capital_e8)
        self._instruments: dict[str, Instrument] = {}
        self._gateway: VenueGateway | None = None
        self._submitted_at_ms: dict[str, int] = {}
        self._control = TradingControl()
        self._last_closes_at: datetime | None = None
        self._withdrawn: set[str] = set()
        self._token: int | None = None
        # How often in a row the venue's answer about an order proved nothing.
        self._doubts: dict[str, int] = {}
        self._sought_since: dict[str, float] = {}
        self._reconciled_at: float | None = None
        self._reconcile_not_before = 0.0
        self._risk = RiskMemory()

    def attach(self, runtime: Runtime) -> None:
        """Name the runtime whose consumer records what the venue answers."""
        self._runtime = runtime

    @property
    def routes(self) -> Routes:
        """What the executor does with what it reads."""
        return Routes(
            handlers={"orders.requested": self.settle, "drift.tripped": self.restrict_trading},
            adopters={
                "orders.updated": self.refuse_foreign,
                "fills.booked": self.refuse_foreign,
                "positions.changed": self.refuse_foreign,
                "risk.changed": self.refuse_foreign_change,
            },
            reload=self.reload,
            when_idle=self.tidy_up,
            close=self.close,
            # No transaction is open while the venue is asked.
            at_once=frozenset({"orders.requested"}),
        )

    @property
    def _consumer(self) -> Consumer:
        if self._runtime is None:
            raise FatalError("the executor has no runtime: the service did not start")
        return self._runtime.consumer

    async def reload(self, connection: AsyncConnection) -> None:
        """Take the book from the record, and the account from whoever traded it before.

        What the venue said before is not believed any longer: no order leaves until the book
        has been compared with it again.
        """
        if not self._consumer.is_started.is_set():
            # At every try to start: the one before may have taken it and been undone.
            holder = f"{socket.gethostname()}:{os.getpid()}"
            self._token = await store.take_lease(connection, self._settings.account, holder)
        await self._require_lease(connection)
        metrics.LEASE.set(1)
        self._reconciled_at = None
        self._ledger, self._submitted_at_ms = await store.load_ledger(
            connection, self._settings.portfolio.capital_e8, self._settings.account
        )
        await self._load_instruments(connection)
        self._risk = RiskMemory(await store.load_equities(connection))
        self._control = (await store.load_control(connection)).control
        self._last_closes_at = await log.newest_consumed_close(
            connection, "executor", "orders.requested"
        )

    async def _require_lease(self, connection: AsyncConnection) -> None:
        if self._token is None:
            raise FatalError("the executor has no lease: it has not read the record yet")
        try:
            await store.require_lease(connection, self._settings.account, self._token)
        except FatalError:
            metrics.LEASE.set(0)
            raise

    @property
    def _lease(self) -> log.Fence:
        """What everything is written under: nobody takes over in between."""
        lease = {"account": self._settings.account, "token": self._token}
        return log.Fence(execution_leases, lease, self._require_lease)

    async def _load_instruments(self, connection: AsyncConnection) -> None:
        """Take the units of the record, and of what else the venue lists the venue's."""
        listed = {} if self._gateway is None else self._gateway.instruments()
        self._instruments = listed | await load_instruments(connection, self._settings.venue_name)

    async def close(self) -> None:
        """Close the connections to the venue."""
        if self._gateway is not None:
            await self._gateway.close()

    async def refuse_foreign(self, event: Event, unit: UnitOfWork) -> None:
        """Refuse what only the venue can say.

        Raises
        ------
        ContractError
            Always: fills and positions are booked from the venue's answers alone.
        """
        raise ContractError(
            f"{type(event).__name__} from {unit.source_uri}: orders, fills and positions are "
            "booked from the venue's answers alone; publish an intent on orders.requested"
        )

    async def refuse_foreign_change(self, changed: Event, unit: UnitOfWork) -> None:
        """Refuse a change of what may be traded that did not bear the token.

        Raises
        ------
        ContractError
            Always.
        """
        raise ContractError(
            f"{type(changed).__name__} from {unit.source_uri}: what may be traded is changed with "
            "POST /halt, /reduce-only, /flatten and /resume, which ask for the token and a reason"
        )

    async def settle(self, requested: OrdersRequested, unit: UnitOfWork) -> None:
        """Settle a close: book what the venue reports, record the orders, then send them."""
        unit.require(self._lease)
        if requested.intents or self._ledger.positions or self._ledger.orders:
            await self._require_reconciliation()
        if in_flight(self._ledger):
            await self.resolve_in_flight()
            if in_flight(self._ledger):
                raise RetryableError("orders are in flight: waiting for the venue's word on them")
        reports = await self._poll()
        if not requested.marks.keys() <= self._instruments.keys():
            await self._load_instruments(unit.connection)
        submitted_at_ms = None
        if requested.intents:
            submitted_at_ms = await (await self._venue()).synchronise()
        # Asked of the record, not of memory: a halt holds whoever has written it there.
        found = await self._standing(requested, submitted_at_ms)
        requested = _without(requested, found.repeated)
        control = standing = found.recorded.control
        if found.recorded.comes_after(requested.closes_at):
            before = await store.load_control(unit.connection, found.recorded.change_id)
            control = before.control
        settlement = settle_close(
            self._ledger,
            requested,
            reports,
            self._instruments,
            self._settings.execution,
            self._identity,
            control,
            self._guard(requested, found.n_recent_orders, submitted_at_ms),
        )
        if submitted_at_ms is None and (settlement.submit or settlement.cancel):
            submitted_at_ms = await (await self._venue()).synchronise()
        unit.record(
            *store.settlement_rows(requested.closes_at, settlement, submitted_at_ms, unit.lineage)
        )
        if settlement.orders:
            unit.publish("orders.updated", orders_updated(requested.closes_at, settlement.orders))
        if settlement.fills:
            unit.publish("fills.booked", fills_booked(requested.closes_at, settlement))
        unit.publish("positions.changed", positions_changed(requested.closes_at, settlement))
        if settlement.breach is not None and control.state is TradingState.ACTIVE:
            standing = await self._cut_off(unit, standing, settlement.breach, requested.closes_at)

        def keep() -> None:
            self._ledger, self._control = settlement.ledger, standing
            self._last_closes_at = max(requested.closes_at, self._last_closes_at or _EARLIEST)
            self._risk.note(self._last_closes_at, settlement.equity_e8)
            self._withdrawn &= settlement.ledger.orders.keys()
            self._doubts = {k: n for k, n in self._doubts.items() if k in settlement.ledger.orders}
            for order in settlement.submit:
                if submitted_at_ms is not None:
                    self._submitted_at_ms[order.client_order_id] = submitted_at_ms
            for position in settlement.positions:
                if position.state is PairState.CLOSED and position.exposed_ms:
                    metrics.EXPOSURE_SECONDS.observe(position.exposed_ms / 1_000)

        unit.after_commit(keep)
        if settlement.submit or settlement.cancel:

            async def send() -> None:
                self._withdrawn |= await self._cancel(settlement.cancel)
                await self._submit(settlement.submit)

            unit.errand_after_commit(send)

    async def _standing(self, requested: OrdersRequested, venue_at_ms: int | None) -> Standing:
        """Return what the record says of a close's intents, and of the orders of a minute."""
        since = None
        if venue_at_ms is not None:
            since = instant_of_ms(venue_at_ms) - timedelta(minutes=1)
        ids = [intent.intent_id for intent in requested.intents]
        asked = {"intent_ids": ids, "since": since}
        return store.read_standing(await self._consumer.ask(store.STANDING, asked))

    def _guard(
        self, requested: OrdersRequested, n_recent_orders: int, venue_at_ms: int | None
    ) -> Guard:
        """Return the limits of a close and what they are judged by."""
        view = RiskView(
            day_start_e8=self._risk.day_start_e8(requested.closes_at), peak_e8=self._risk.peak_e8
        )
        if venue_at_ms is not None and self._gateway is not None:
            age_ms = venue_at_ms - requested.closes_at_ms
            market = self._settings.market
            if age_ms > 0 and market.source != "live":
                age_ms = round(age_ms / market.speed)  # as long as it took us
            view = replace(
                view,
                recent_orders=n_recent_orders,
                data_age_ms=age_ms,
                clock_skew_ms=self._gateway.clock_skew_ms,
            )
        return Guard(self._settings.limits, self._settings.portfolio.capital_e8, view)

    async def _cut_off(
        self, unit: UnitOfWork, control: TradingControl, breach: str, closes_at: datetime
    ) -> TradingControl:
        """Open nothing from now on, because a limit of the account is broken."""
        reduced = obey(control, TradingCommand.REDUCE_ONLY, breach)
        await store.insert_control(unit.connection, reduced, "limits", closes_at, unit.lineage)
        unit.publish("risk.changed", _risk_changed(reduced, closes_at, "limits"))
        metrics.BREACHES.inc()
        logger.error("limit broken, nothing is opened any more", breach=breach)
        return reduced

    async def restrict_trading(self, tripped: DriftTripped, unit: UnitOfWork) -> None:
        """Open nothing from the close after a check of drift on, where its wire asks for that.

        A person lifts it with `/resume`. What is stricter already stands.
        """
        unit.require(self._lease)
        control = (await store.load_control(unit.connection)).control
        if tripped.action != "reduce_only" or control.state is not TradingState.ACTIVE:
            return
        reason = "; ".join(tripped.reasons)
        reduced = obey(control, TradingCommand.REDUCE_ONLY, reason)
        await store.insert_control(
            unit.connection, reduced, store.TRIPWIRE, tripped.closes_at, unit.lineage
        )
        unit.publish("risk.changed", _risk_changed(reduced, tripped.closes_at, store.TRIPWIRE))

        def keep() -> None:
            self._control = reduced
            metrics.RESTRICTIONS.inc()
            logger.error("drift, nothing is opened any more", reason=reason)

        unit.after_commit(keep)

    async def change_trading(
        self, unit: UnitOfWork, command: TradingCommand, reason: str, operator: str
    ) -> RecordedControl:
        """Do what a person says about what may be traded; in force from the next close on.

        After a halt, opening orders that work are withdrawn at once, and again whenever there
        is time until the venue has confirmed it: the venue may be down just then.
        """
        unit.require(self._lease)
        control = obey(self._control, command, reason)
        recorded = await store.insert_control(
            unit.connection, control, operator, self._last_closes_at, unit.lineage
        )
        unit.publish("risk.changed", _risk_changed(control, self._last_closes_at, operator))

        def keep() -> None:
            self._control = control
            self._withdrawn.clear()
            if control.state is TradingState.ACTIVE:
                self._risk.forget()

        async def withdraw() -> None:
            try:
                await self._withdraw_orders()
            except VenueError as error:
                logger.warning("opening orders not withdrawn yet", error=str(error))

        unit.after_commit(keep)
        unit.errand_after_commit(withdraw)
        return recorded

    async def resume_trading(self, unit: UnitOfWork, reason: str, operator: str) -> RecordedControl:
        """Let everything be traded again; nothing is recorded where it may be already."""
        if self._control.state is TradingState.ACTIVE:
            return await store.load_control(unit.connection)
        return await self.change_trading(unit, TradingCommand.RESUME, reason, operator)

    # --- the venue ------------------------------------------------------------------------

    async def _venue(self) -> VenueGateway:
        if self._gateway is None:
            key, secret = self._settings.venue_api_key, self._settings.venue_api_secret
            if key is None or secret is None:
                raise FatalError(
                    "the executor needs MNT_VENUE_API_KEY and MNT_VENUE_API_SECRET to trade"
                )
            self._gateway = await VenueGateway.connect(
                self._settings.venue_url,
                key.get_secret_value(),
                secret.get_secret_value(),
                recv_window_ms=RECEIVE_WINDOW_MS,
            )
        return self._gateway

    async def _poll(self) -> list[OrderReport]:
        """Ask the venue for every order that it is known to have."""
        working = [
            order
            for order in self._ledger.orders.values()
            if order.is_working and order.state not in IN_FLIGHT
        ]
        if not working:
            return []
        venue = await self._venue()
        await venue.synchronise()
        return list(await asyncio.gather(*(self._report(venue, order) for order in working)))

    async def _report(self, venue: VenueGateway, order: Order) -> OrderReport:
        try:
            found = await venue.fetch_order(order.client_order_id, order.symbol)
        except VenueNotFoundError as error:
            return self._report_lost(order, error)
        fills: tuple[VenueFill, ...] = ()
        if found.filled > 0:
            fills = await venue.fetch_fills(found.venue_order_id, order.symbol)
        instrument = self._instruments[order.symbol]
        executions = tuple(
            (
                fill.traded_at_ms,
                Execution(
                    instrument.lots_of(fill.quantity),
                    instrument.price_ticks(fill.price, "nearest"),
                    int(fill.fee.scaleb(8)),
                ),
            )
            for fill in fills
        )
        listed_lots = sum(execution.lots for _, execution in executions)
        filled_lots = instrument.lots_of(found.filled)
        # More listed than filled is a fill between the two questions, unless all had ended.
        if listed_lots < filled_lots or (found.state in TERMINAL and listed_lots != filled_lots):
            return self._report_doubtful(order, found, listed_lots, executions)
        self._doubts.pop(order.client_order_id, None)
        return OrderReport(order.client_order_id, found.state, executions)

    def _report_doubtful(
        self,
        order: Order,
        found: VenueOrder,
        listed_lots: int,
        executions: tuple[tuple[int, Execution], ...],
    ) -> OrderReport:
        """Deal with an order whose fills do not add up to what it filled.

        Fills may be listed late, and an order that has ended is not asked for again. So it is
        asked again at once for a while; then the close goes on and the order stays at work.
        """
        message = (
            f"order {order.client_order_id} is {found.state} with {found.filled} of the base "
            f"filled, but {listed_lots} lots of it are listed: asking again"
        )
        if self._doubt(order) < DOUBTFUL_ANSWERS:
            raise VenueUnknownError(message)
        logger.warning("fills do not add up, order kept at work", order=order.client_order_id)
        return OrderReport(order.client_order_id, OrderState.ACCEPTED, executions, message)

    def _report_lost(self, order: Order, error: VenueNotFoundError) -> OrderReport:
        """Deal with an order that the venue took and does not know any more.

        Once is no evidence; in the end it trades no more, and what it may have traded shows
        in the position.
        """
        if self._doubt(order) < DOUBTFUL_ANSWERS:
            raise VenueUnknownError(
                f"the venue took order {order.client_order_id} and does not know it now: asking "
                "again"
            ) from error
        return OrderReport(
            order.client_order_id,
            OrderState.EXPIRED,
            reason=f"the venue took it and knows it no more, asked {DOUBTFUL_ANSWERS} times",
        )

    def _doubt(self, order: Order) -> int:
        """Count an answer that proved nothing, and return how many it were in a row."""
        count = self._doubts.get(order.client_order_id, 0) + 1
        self._doubts[order.client_order_id] = count
        return count

    async def _submit(self, orders: Sequence[Order]) -> None:
        if not orders:
            return
        venue = await self._venue()
        reports = await asyncio.gather(*(self._send(venue, order) for order in orders))
        await self._acknowledge(reports)

    async def _send(self, venue: VenueGateway, order: Order) -> OrderReport:
        quantity = self._instruments[order.symbol].quantity_of(order.quantity_lots)
        try:
            answer = await venue.submit_market_order(
                order.client_order_id,
                order.symbol,
                order.side,
                quantity,
                reduce_only=self._ledger.reduces_at_venue(order),
                # Counted from the recorded instant, so that a stall of this process cannot
                # have the order placed after it was shown to be absent.
                signed_at_ms=self._submitted_at_ms.get(order.client_order_id),
            )
        except VenueRejectedError as error:
            if isinstance(error, VenueNotReducingError):
                # The book counted otherwise: no further order before they have been compared.
                self._reconciled_at = None
            metrics.REFUSED_ORDERS.inc()
            return OrderReport(order.client_order_id, OrderState.REJECTED, (), str(error))
        except VenueUnknownError as error:
            return OrderReport(order.client_order_id, OrderState.UNKNOWN, (), str(error))
        return OrderReport(order.client_order_id, answer.state)

    async def _cancel(self, orders: Iterable[Order]) -> set[str]:
        """Withdraw orders, and return those that the venue has answered for.

        What became of each is asked at the next close.
        """
        venue = await self._venue()
        at_once = asyncio.Semaphore(CANCELS_AT_ONCE)

        async def withdraw(order: Order) -> str | None:
            try:
                async with at_once:
                    await venue.cancel_order(order.client_order_id, order.symbol)
            except (VenueNotFoundError, VenueRejectedError, VenueUnknownError) as error:
                logger.warning(
                    "cancel not confirmed", order=order.client_order_id, error=str(error)
                )
                if isinstance(error, VenueUnknownError):
                    return None
            return order.client_order_id

        answers = await asyncio.gather(*(withdraw(order) for order in orders))
        return {answer for answer in answers if answer is not None}

    async def _withdraw_orders(self) -> None:
        """Withdraw the opening orders that still work in a halted book or for a closing pair.

        Again and again, until the venue has answered; one whose arrival there is not known yet
        waits until it is.
        """
        positions = self._ledger.positions.values()
        closing = {p.pair for p in positions if p.state is PairState.CLOSING}
        is_halted = self._control.state is TradingState.HALTED
        unwanted = [
            order
            for order in self._ledger.orders.values()
            if order.is_working
            and not order.reduce_only
            and (is_halted or order.pair in closing)
            and order.state not in IN_FLIGHT
            and order.client_order_id not in self._withdrawn
        ]
        if unwanted:
            self._withdrawn |= await self._cancel(unwanted)

    async def cancel_all(self, unit: UnitOfWork, reason: str, operator: str) -> int:
        """Withdraw every order of ours that works, also those that close; return how many.

        Nothing is opened from then on, or what was withdrawn would come back. What was to be
        closed is ordered anew at the next close.
        """
        unit.require(self._lease)
        working = [
            order
            for order in self._ledger.orders.values()
            if order.is_working and order.state not in IN_FLIGHT
        ]
        control = self._control
        if control.state is TradingState.ACTIVE:
            control = obey(control, TradingCommand.REDUCE_ONLY, reason)
        control = replace(control, reason=reason)
        await store.insert_control(
            unit.connection, control, operator, self._last_closes_at, unit.lineage
        )
        unit.publish("risk.changed", _risk_changed(control, self._last_closes_at, operator))

        def keep() -> None:
            self._control = control

        async def withdraw() -> None:
            try:
                self._withdrawn |= await self._cancel(working)
            except VenueError as error:
                logger.warning("orders not withdrawn", error=str(error))

        unit.after_commit(keep)
        unit.errand_after_commit(withdraw)
        return len(working)

    async def _acknowledge(self, reports: Sequence[OrderReport]) -> None:
        """Record the venue's answers and tell the fleet."""
        ledger, changed = acknowledge(self._ledger, reports)
        if not changed:
            return
        closes_at_ms = max(order.created_at_ms for order in changed)

        def keep() -> None:
            self._ledger = ledger

        async def record(unit: UnitOfWork) -> None:
            unit.require(self._lease)
            unit.record(store.answered_rows(changed, unit.lineage))
            unit.publish("orders.updated", orders_updated(instant_of_ms(closes_at_ms), changed))
            unit.after_commit(keep)

        await self._consumer.work(f"venue:{self._settings.venue_url}", record, at_once=True)

    async def tidy_up(self) -> bool:
        """Do what is left over whenever nothing waits; False: there is no hurry to go on."""
        try:
            # First what takes risk away: it waits for no comparison of books.
            await self._withdraw_orders()
            if self._is_reconciliation_due():
                # Counted from the try: a venue that fails is not asked all the time.
                self._reconcile_not_before = monotonic_seconds() + RECONCILE_AGAIN_SECONDS
                await self.reconcile()
            if self._reconciled_at is not None:
                await self.resolve_in_flight()
        except VenueRejectedError as error:
            raise RetryableError(f"the venue refuses what must be asked of it: {error}") from error
        return False

    # --- the book and the venue -----------------------------------------------------------

    def _is_reconciliation_due(self) -> bool:
        now = monotonic_seconds()
        if self._settings.venue_api_key is None or now < self._reconcile_not_before:
            return False
        return self._reconciled_at is None or now - self._reconciled_at > RECONCILE_EVERY_SECONDS

    async def _require_reconciliation(self) -> None:
        """Compare book and venue unless that has been done since the start and every failure.

        Raises
        ------
        RetryableError
            If it failed: a venue that does not answer is not an empty one.
        """
        if self._reconciled_at is not None:
            return
        try:
            await self.reconcile()
        except VenueError as error:
            raise RetryableError(
                f"no order leaves before book and venue have been compared: {error}"
            ) from error

    async def reconcile(self) -> None:
        """Compare the book with the venue, and record how it was brought to it.

        Orders that we did not place are put on record and left alone; ours that the book holds
        for ended are withdrawn.

        Raises
        ------
        VenueError
            If the venue did not say all that is needed, or something moved meanwhile; nothing
            was changed.
        """
        try:
            await self._compare()
        except VenueError:
            metrics.RECONCILIATIONS.labels("failed").inc()
            raise
        self._reconciled_at = monotonic_seconds()
        metrics.RECONCILIATIONS.labels("passed").inc()

    async def _compare(self) -> None:
        venue = await self._venue()
        if unresolved := (await self._look_for_orders())[1]:
            raise VenueUnknownError(
                f"it is not known yet whether the venue has {len(unresolved)} orders"
            )
        reports = await self._poll()
        account = await venue.fetch_account()
        open_orders = await venue.fetch_open_orders()
        as_of_ms = await venue.synchronise()
        if await self._poll() != reports:
            raise VenueUnknownError("orders traded while book and venue were compared: again")
        await self._consumer.work(
            f"venue:{self._settings.venue_url}",
            lambda unit: self._take_over(unit, reports, account, open_orders, as_of_ms),
        )

    async def _take_over(
        self,
        unit: UnitOfWork,
        reports: Sequence[OrderReport],
        account: VenueAccount,
        open_orders: Sequence[VenueOpenOrder],
        as_of_ms: int,
    ) -> None:
        """Record what the venue has and the book has not."""
        unit.require(self._lease)
        await self._load_instruments(unit.connection)
        name = self._settings.account
        found = reconcile(
            self._ledger,
            reports,
            self._venue_book(account, as_of_ms),
            self._instruments,
            await store.load_baseline(unit.connection, name),
        )
        if found.adjustments:
            await store.save_reconciliation(
                unit.connection, name, found, self._instruments, unit.lineage
            )
        ids = [order.client_order_id for order in open_orders]
        known = await store.known_orders(unit.connection, ids)
        foreign = [order for order in open_orders if order.client_order_id not in known]
        quarantined = await store.quarantine(unit.connection, name, foreign, unit.lineage)
        ended = [order for order in known.values() if not order.is_working]

        def keep() -> None:
            self._ledger = found.ledger
            _tell(found, quarantined)

        async def withdraw() -> None:
            for order in ended:
                logger.error("order works that the book holds for ended", order=order)
            await self._cancel(ended)

        unit.after_commit(keep)
        if ended:
            unit.errand_after_commit(withdraw)

    def _venue_book(self, account: VenueAccount, as_of_ms: int) -> VenueBook:
        lots, prices_ticks = {}, {}
        for symbol, quantity in account.positions.items():
            instrument = self._instruments[symbol]
            held = instrument.lots_of(abs(quantity))
            lots[symbol] = held if quantity > 0 else -held
            price = account.notionals[symbol] / quantity
            if price > 0:
                prices_ticks[symbol] = instrument.price_ticks(price, "nearest")
        cost = sum(account.notionals.values()) - account.unrealised_profit
        cash_e8 = int((account.wallet_balance - cost).scaleb(8).to_integral_value())
        return VenueBook(cash_e8, lots, prices_ticks, as_of_ms)

    async def resolve_in_flight(self) -> None:
        """Find out what became of orders whose answer never came; send again what is absent.

        An order of a book that may not open it any more is given up instead.
        """
        absent, _ = await self._look_for_orders()
        if not absent:
            return
        denial = self._control.denial
        given_up = [order for order in absent if denial and not order.reduce_only]
        await self._acknowledge(
            [
                OrderReport(
                    order.client_order_id,
                    # Not cancelled: nothing was placed, so there is nothing more to ask for.
                    OrderState.REJECTED,
                    reason=f"the venue never had it, and it is not sent again: {denial}",
                )
                for order in given_up
            ]
        )
        again = [order for order in absent if order not in given_up]
        if again:
            await self._send_again(again, await (await self._venue()).synchronise())

    async def _look_for_orders(self) -> tuple[list[Order], list[Order]]:
        """Ask for orders in flight, and record what the venue knows of them.

        Returns
        -------
        list of Order, list of Order
            Those that it proved not to have: it did not know them, several times in a row,
            after its receive window had passed. And those that are still unknown.
        """
        orders = in_flight(self._ledger)
        self._observe_in_flight(orders)
        if not orders:
            return [], []
        venue = await self._venue()
        now_ms = await venue.synchronise()
        reports: list[OrderReport] = []
        absent: list[Order] = []
        unresolved: list[Order] = []
        for order in orders:
            try:
                found = await venue.fetch_order(order.client_order_id, order.symbol)
                reports.append(OrderReport(order.client_order_id, found.state))
                self._doubts.pop(order.client_order_id, None)
            except VenueNotFoundError:
                is_late = now_ms > self._deadline_ms(order)
                is_absent = is_late and self._doubt(order) >= ABSENCE_ANSWERS
                (absent if is_absent else unresolved).append(order)
            except VenueUnknownError as error:
                unresolved.append(order)
                logger.warning("order still unknown", order=order.client_order_id, error=str(error))
        await self._acknowledge(reports)
        return absent, unresolved

    def _observe_in_flight(self, orders: Sequence[Order]) -> None:
        now = monotonic_seconds()
        ids = [order.client_order_id for order in orders]
        self._sought_since = {each: self._sought_since.get(each, now) for each in ids}
        metrics.IN_FLIGHT_SECONDS.set(now - min(self._sought_since.values(), default=now))

    def _deadline_ms(self, order: Order) -> int:
        """Return the venue time after which a request for the order would be refused."""
        submitted_at_ms = self._submitted_at_ms.get(order.client_order_id, order.created_at_ms)
        return submitted_at_ms + RECEIVE_WINDOW_MS + ABSENCE_MARGIN_MS

    async def _send_again(self, orders: Sequence[Order], now_ms: int) -> None:
        """Send orders that the venue has been shown not to have, under their own ids."""

        async def note(unit: UnitOfWork) -> None:
            unit.require(self._lease)
            ids = [order.client_order_id for order in orders]
            await store.note_submission(unit.connection, ids, instant_of_ms(now_ms))

        await self._consumer.work(f"venue:{self._settings.venue_url}", note)
        for order in orders:
            self._doubts.pop(order.client_order_id, None)
            self._submitted_at_ms[order.client_order_id] = now_ms
            logger.warning("order was absent, sent again", order=order.client_order_id)
        await self._submit(orders)
