"""Use cases of the executor.

An order exists in the record before the venue hears of it. What the venue answers is
recorded next; what it does not answer stays unknown and is asked for, by client order id,
until the venue says what became of it. It is sent again only when the venue proves that it
has not got it: asked after its receive window has passed, it knows no such order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.executor import store
from services.executor.store import RecordedControl
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
from shared.book.orders import IN_FLIGHT, Order, OrderState
from shared.book.reports import fills_booked, orders_updated, positions_changed
from shared.bus import log
from shared.bus.consumer import Consumer, UnitOfWork
from shared.clock import instant_of_ms
from shared.database.instruments import load_instruments
from shared.errors import (
    ContractError,
    FatalError,
    RetryableError,
    VenueError,
    VenueNotFoundError,
    VenueRejectedError,
    VenueUnknownError,
)
from shared.events.base import Event
from shared.events.executor import RiskChanged
from shared.events.portfolio import OrdersRequested
from shared.service import Runtime
from shared.settings import Settings
from shared.venues.gateway import VenueGateway

RECEIVE_WINDOW_MS = 2_000
"""The venue refuses a request that arrives later than this after it was signed."""
ABSENCE_MARGIN_MS = 500
_EARLIEST = datetime.min.replace(tzinfo=UTC)

logger = structlog.get_logger()


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

    def attach(self, runtime: Runtime) -> None:
        """Name the runtime whose consumer records what the venue answers."""
        self._runtime = runtime

    @property
    def _consumer(self) -> Consumer:
        if self._runtime is None:
            raise FatalError("the executor has no runtime: the service did not start")
        return self._runtime.consumer

    async def reload(self, connection: AsyncConnection) -> None:
        """Take the book from the record."""
        self._ledger, self._submitted_at_ms = await store.load_ledger(
            connection, self._settings.portfolio.capital_e8
        )
        self._instruments = await load_instruments(connection, self._settings.venue_name)
        self._control = (await store.load_control(connection)).control
        self._last_closes_at = await log.newest_consumed_close(
            connection, "executor", "orders.requested"
        )

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
        if in_flight(self._ledger):
            await self.resolve_in_flight()
            if in_flight(self._ledger):
                raise RetryableError("orders are in flight: waiting for the venue's word on them")
        requested = await self._without_repeats(requested, unit)
        reports = await self._poll()
        symbols = {mark.symbol for mark in requested.marks}
        if not symbols <= self._instruments.keys():
            venue = self._settings.venue_name
            self._instruments = await load_instruments(unit.connection, venue)
        # Asked of the record, not of memory: a halt holds whoever has written it there.
        control = (await store.load_control(unit.connection)).control
        settlement = settle_close(
            self._ledger,
            requested,
            reports,
            self._instruments,
            self._settings.execution,
            self._identity,
            control,
        )
        submitted_at_ms = None
        if settlement.submit or settlement.cancel:
            submitted_at_ms = await (await self._venue()).synchronise()
        await store.save_settlement(
            unit.connection, requested.closes_at, settlement, submitted_at_ms, unit.lineage
        )
        if settlement.orders:
            unit.publish("orders.updated", orders_updated(requested.closes_at, settlement.orders))
        if settlement.fills:
            unit.publish("fills.booked", fills_booked(requested.closes_at, settlement))
        unit.publish("positions.changed", positions_changed(requested.closes_at, settlement))

        def keep() -> None:
            self._ledger, self._control = settlement.ledger, control
            self._last_closes_at = max(requested.closes_at, self._last_closes_at or _EARLIEST)
            for order in settlement.submit:
                if submitted_at_ms is not None:
                    self._submitted_at_ms[order.client_order_id] = submitted_at_ms

        unit.after_commit(keep)
        if settlement.submit or settlement.cancel:

            async def send() -> None:
                await self._cancel(settlement.cancel)
                await self._submit(settlement.submit)

            unit.errand_after_commit(send)

    async def _without_repeats(
        self, requested: OrdersRequested, unit: UnitOfWork
    ) -> OrdersRequested:
        """Leave out intents whose orders exist: an event replayed by hand trades only once."""
        if not requested.intents:
            return requested
        ids = [intent.intent_id for intent in requested.intents]
        known = await store.intents_with_orders(unit.connection, ids)
        kept = tuple(i for i in requested.intents if i.intent_id not in known)
        return requested.model_copy(update={"intents": kept})

    async def change_trading(
        self, unit: UnitOfWork, command: TradingCommand, reason: str, operator: str
    ) -> RecordedControl:
        """Do what a person says about what may be traded; in force from the next close on.

        After a halt, opening orders that work are withdrawn at once, and again whenever there
        is time until the venue has confirmed it: the venue may be down just then.
        """
        control = obey(self._control, command, reason)
        recorded = await store.insert_control(
            unit.connection, control, operator, self._last_closes_at, unit.lineage
        )
        unit.publish(
            "risk.changed",
            RiskChanged(
                closes_at=self._last_closes_at or instant_of_ms(0),
                state=control.state.value,
                is_flattening=control.is_flattening,
                reason=reason,
                decided_by=operator,
            ),
        )

        def keep() -> None:
            self._control = control
            self._withdrawn.clear()

        async def withdraw() -> None:
            try:
                await self._withdraw_opening_orders()
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
        """Ask the venue for every order that works."""
        working = [order for order in self._ledger.orders.values() if order.is_working]
        if not working:
            return []
        venue = await self._venue()
        await venue.synchronise()
        return list(await asyncio.gather(*(self._report(venue, order) for order in working)))

    async def _report(self, venue: VenueGateway, order: Order) -> OrderReport:
        found = await venue.fetch_order(order.client_order_id, order.symbol)
        instrument = self._instruments[order.symbol]
        executions: tuple[tuple[int, Execution], ...] = ()
        if found.filled > 0:
            fills = await venue.fetch_fills(found.venue_order_id, order.symbol)
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
        return OrderReport(order.client_order_id, found.state, executions)

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
            return OrderReport(order.client_order_id, OrderState.REJECTED, (), str(error))
        except VenueUnknownError as error:
            return OrderReport(order.client_order_id, OrderState.UNKNOWN, (), str(error))
        return OrderReport(order.client_order_id, answer.state)

    async def _cancel(self, orders: Sequence[Order]) -> set[str]:
        """Withdraw orders, and return those that the venue has answered for.

        What became of each is asked at the next close.
        """
        venue = await self._venue()
        answered = set()
        for order in orders:
            try:
                await venue.cancel_order(order.client_order_id, order.symbol)
            except (VenueNotFoundError, VenueRejectedError, VenueUnknownError) as error:
                logger.warning(
                    "cancel not confirmed", order=order.client_order_id, error=str(error)
                )
                if isinstance(error, VenueUnknownError):
                    continue
            answered.add(order.client_order_id)
        return answered

    async def _withdraw_opening_orders(self) -> None:
        """Withdraw the opening orders that still work in a halted book.

        One whose arrival at the venue is not known yet waits until it is.
        """
        if self._control.state is not TradingState.HALTED:
            return
        opening = [
            order
            for order in self._ledger.orders.values()
            if order.is_working
            and not order.reduce_only
            and order.state not in IN_FLIGHT
            and order.client_order_id not in self._withdrawn
        ]
        if opening:
            self._withdrawn |= await self._cancel(opening)

    async def _acknowledge(self, reports: Sequence[OrderReport]) -> None:
        """Record the venue's answers and tell the fleet."""
        ledger, changed = acknowledge(self._ledger, reports)
        if not changed:
            return
        closes_at_ms = max(order.created_at_ms for order in changed)

        def keep() -> None:
            self._ledger = ledger

        async def record(unit: UnitOfWork) -> None:
            await store.update_orders(unit.connection, changed)
            unit.publish("orders.updated", orders_updated(instant_of_ms(closes_at_ms), changed))
            unit.after_commit(keep)

        await self._consumer.work(f"venue:{self._settings.venue_url}", record)

    async def tidy_up(self) -> bool:
        """Do what is left over whenever nothing waits; False: there is no hurry to go on."""
        await self.resolve_in_flight()
        await self._withdraw_opening_orders()
        return False

    async def resolve_in_flight(self) -> None:
        """Find out what became of orders whose answer never came."""
        orders = in_flight(self._ledger)
        if not orders:
            return
        venue = await self._venue()
        now_ms = await venue.synchronise()
        reports, absent = [], []
        for order in orders:
            try:
                found = await venue.fetch_order(order.client_order_id, order.symbol)
                reports.append(OrderReport(order.client_order_id, found.state))
            except VenueNotFoundError:
                if now_ms > self._deadline_ms(order):
                    absent.append(order)
            except VenueUnknownError as error:
                logger.warning("order still unknown", order=order.client_order_id, error=str(error))
        denial = self._control.denial
        given_up = [order for order in absent if denial and not order.reduce_only]
        reports += [
            OrderReport(
                order.client_order_id,
                # Not cancelled: nothing was placed, so there is nothing more to ask for.
                OrderState.REJECTED,
                reason=f"the venue never had it, and it is not sent again: {denial}",
            )
            for order in given_up
        ]
        await self._acknowledge(reports)
        again = [order for order in absent if order not in given_up]
        if again:
            await self._send_again(again, now_ms)

    def _deadline_ms(self, order: Order) -> int:
        """Return the venue time after which a request for the order would be refused."""
        submitted_at_ms = self._submitted_at_ms.get(order.client_order_id, order.created_at_ms)
        return submitted_at_ms + RECEIVE_WINDOW_MS + ABSENCE_MARGIN_MS

    async def _send_again(self, orders: Sequence[Order], now_ms: int) -> None:
        """Send orders that the venue has been shown not to have, under their own ids."""

        async def note(unit: UnitOfWork) -> None:
            ids = [order.client_order_id for order in orders]
            await store.note_submission(unit.connection, ids, instant_of_ms(now_ms))

        await self._consumer.work(f"venue:{self._settings.venue_url}", note)
        for order in orders:
            self._submitted_at_ms[order.client_order_id] = now_ms
            logger.warning("order was absent, sent again", order=order.client_order_id)
        await self._submit(orders)
