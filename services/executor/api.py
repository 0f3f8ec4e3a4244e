"""REST routes of the executor."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from services.executor import store
from services.executor.handlers import Executor
from services.executor.store import RecordedControl
from shared.access.guard import FLATTEN, HALT, READ, TRADE, Operator
from shared.book.control import TradingCommand
from shared.book.instrument import Instrument
from shared.book.orders import OrderState
from shared.book.positions import PairPosition, PairState, value_e8
from shared.book.reconciliation import AdjustmentKind
from shared.clock import instant_of_ms
from shared.database.book import last_account
from shared.database.engine import snapshot
from shared.database.instruments import load_instruments
from shared.rest import Limit, PairName, Reason, Reasoned, Since, Until, usdt
from shared.service import PauseState, Runtime, ServedBy, Status
from shared.settings import Settings


class Trading(BaseModel):
    """What may be traded, and who decided it when and why.

    Attributes
    ----------
    is_flattening
        Whether every open pair is being closed.
    from_closes_at
        The last close handled before the decision, which is in force from the next one on.
    decided_at
        By the clock on the wall. Both are empty where nobody has ever decided anything.
    """

    state: Literal["active", "reduce_only", "halted"]
    is_flattening: bool
    reason: str
    decided_by: str | None
    from_closes_at: datetime | None
    decided_at: datetime | None


class ExecutorStatus(Status):
    """How far the executor is, and what it may trade."""

    trading: Trading


class RecordedAdjustment(BaseModel):
    """A difference between book and venue, and how the book was brought to the venue.

    Attributes
    ----------
    kind
        `baseline`: the venue's money less the book's when they were first compared. `cash`:
        money that came or went since. `position`: lots that a position gained or lost.
    position_id
        Of the pair that lost them; empty where no pair holds them.
    amount_usdt
        Cash that the book gained by it; a baseline is not cash of the book.
    book_value, venue_value
        What was compared, in lots or in 1e-8 of the quote.
    """

    kind: AdjustmentKind
    symbol: str | None
    position_id: str | None
    lots: int
    amount_usdt: Decimal
    book_value: Decimal
    venue_value: Decimal
    from_closes_at: datetime | None
    recorded_at: datetime


class QuarantinedOrder(BaseModel):
    """An order at the venue that we did not place: it is left alone."""

    venue_order_id: str
    client_order_id: str
    symbol: str
    side: Literal["buy", "sell"]
    quantity: Decimal
    recorded_at: datetime


class Withdrawn(BaseModel):
    """How many orders the venue was asked to withdraw."""

    n_orders: int


class Resumed(PauseState):
    """That events are handled again, and what may be traded."""

    trading: Trading


class Resumption(Reasoned):
    """A resumption needs no reason but itself."""

    reason: Reason = "resumed"


class RecordedOrder(BaseModel):
    """An order for one leg of a pair.

    Attributes
    ----------
    quantity, filled
        Of the base currency; empty for a symbol that is no instrument.
    created_at
        The close on which it was decided.
    """

    client_order_id: str
    intent_id: str
    pair: str
    leg: Literal["y", "x"]
    attempt: int
    symbol: str
    side: Literal["buy", "sell"]
    state: OrderState
    reason: str
    quantity_lots: int
    filled_lots: int
    quantity: Decimal | None
    filled: Decimal | None
    reduce_only: bool
    created_at: datetime
    submitted_at: datetime | None


class RecordedFill(BaseModel):
    """A fill of one order."""

    client_order_id: str
    fill_number: int
    pair: str
    leg: Literal["y", "x"]
    symbol: str
    side: Literal["buy", "sell"]
    lots: int
    price_ticks: int
    quantity: Decimal | None
    price: Decimal | None
    fee_usdt: Decimal
    filled_at: datetime


class RecordedPosition(BaseModel):
    """The position of one pair.

    Attributes
    ----------
    lots_y, lots_x
        Signed holdings.
    cash_usdt
        All cash that moved, costs included; of a closed position this is its profit.
    fees_usdt, funding_usdt
        The part of it that was costs, as positive numbers.
    value_usdt
        What the holdings are worth at the marks of the last close.
    profit_usdt
        Cash and value.
    is_residue
        Whether what closing has left is below the venue's smallest order.
    exposed_seconds
        For how long its legs were out of proportion before the last close.
    """

    position_id: str
    pair: str
    symbol_y: str
    symbol_x: str
    state: PairState
    opened_at: datetime
    closed_at: datetime | None
    lots_y: int
    lots_x: int
    cash_usdt: Decimal
    fees_usdt: Decimal
    funding_usdt: Decimal
    value_usdt: Decimal
    profit_usdt: Decimal
    is_residue: bool
    exposed_seconds: Decimal


class Positions(BaseModel):
    """Positions, and the close at whose marks they are valued."""

    marked_at: datetime | None
    positions: list[RecordedPosition]


OrderFilter = Annotated[
    OrderState | Literal["working"] | None,
    Query(description="Only this state; `working` is every state that may still trade"),
]


def executor_routes(settings: Settings, executor: Executor) -> APIRouter:
    """Return the routes of the executor."""
    router = APIRouter()

    async def change(
        runtime: Runtime, command: TradingCommand, body: Reasoned, operator: str
    ) -> Trading:
        recorded = await runtime.do(
            command.value,
            lambda unit: executor.change_trading(unit, command, body.reason, operator),
        )
        return _trading(recorded)

    @router.get(
        "/status", dependencies=[READ], summary="Lag, last close, state, and what may be traded"
    )
    async def status(runtime: ServedBy) -> ExecutorStatus:
        """Tell how far the executor is; `trading` is what a person last decided."""
        async with snapshot(runtime.engine) as connection:
            recorded = await store.load_control(connection)
        common = await runtime.status()
        return ExecutorStatus(**common.model_dump(), trading=_trading(recorded))

    @router.post(
        "/halt",
        dependencies=[HALT],
        summary="Open nothing, and withdraw opening orders that work",
    )
    async def halt(runtime: ServedBy, body: Reasoned, operator: Operator) -> Trading:
        """Halt at once, also while the venue is down or the service is paused.

        From the next close on every opening intent is denied, which frees its slot. Opening
        orders that work are withdrawn now, and again until the venue has confirmed it. What
        closes or unwinds a position goes on. Only `POST /resume` ends a halt.
        """
        return await change(runtime, TradingCommand.HALT, body, operator)

    @router.post(
        "/reduce-only",
        dependencies=[HALT],
        summary="Open nothing; orders that work are left alone",
    )
    async def reduce_only(runtime: ServedBy, body: Reasoned, operator: Operator) -> Trading:
        """Deny every opening intent from the next close on; in a halted book this eases it."""
        return await change(runtime, TradingCommand.REDUCE_ONLY, body, operator)

    @router.post(
        "/flatten",
        dependencies=[FLATTEN],
        summary="Close every open pair at the next close, and open nothing",
    )
    async def flatten(runtime: ServedBy, body: Reasoned, operator: Operator) -> Trading:
        """Close every pair with orders that fill at the open of the bar after the next close.

        Trading is reduce-only from then on, or stays halted. A paused service handles no
        close, so it flattens nothing until it goes on. `POST /resume` before the next close
        takes it back.
        """
        return await change(runtime, TradingCommand.FLATTEN, body, operator)

    @router.post(
        "/resume",
        dependencies=[TRADE],
        summary="Trade everything again, and handle events again",
    )
    async def resume(
        runtime: ServedBy, operator: Operator, body: Resumption | None = None
    ) -> Resumed:
        """End a halt, a reduce-only state or a flattening, and a pause, in this order.

        What was not traded in the meantime is not caught up: signals given up stay so.
        """
        given = body or Resumption()
        recorded = await runtime.do(
            "resume", lambda unit: executor.resume_trading(unit, given.reason, operator)
        )
        state = await runtime.set_paused(is_paused=False)
        return Resumed(**state.model_dump(), trading=_trading(recorded))

    @router.post(
        "/cancel-all",
        dependencies=[HALT],
        summary="Withdraw every order of ours that works, and open nothing",
    )
    async def cancel_all(runtime: ServedBy, body: Reasoned, operator: Operator) -> Withdrawn:
        """Withdraw once, also what closes a position: that is ordered anew at the next close.

        Trading is reduce-only from then on, or stays halted. Orders that others placed on the
        account are left alone.
        """
        n_orders = await runtime.do(
            "cancel-all", lambda unit: executor.cancel_all(unit, body.reason, operator)
        )
        return Withdrawn(n_orders=n_orders)

    @router.get("/orders", dependencies=[READ], summary="Orders, newest first")
    async def orders(
        runtime: ServedBy,
        pair: PairName = None,
        state: OrderFilter = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
    ) -> list[RecordedOrder]:
        """Return orders by the close on which they were decided."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.find_orders(
                connection, pair=pair, state=state, since=since, until=until, limit=limit
            )
            instruments = await load_instruments(connection, settings.venue_name)
        return [
            RecordedOrder(
                **row._mapping,
                quantity=_quantity(instruments.get(row.symbol), row.quantity_lots),
                filled=_quantity(instruments.get(row.symbol), row.filled_lots),
            )
            for row in rows
        ]

    @router.get("/fills", dependencies=[READ], summary="Fills, newest first")
    async def fills(
        runtime: ServedBy,
        pair: PairName = None,
        client_order_id: Annotated[
            str | None, Query(pattern="^[0-9a-f]{32}$", description="Only of this order")
        ] = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
    ) -> list[RecordedFill]:
        """Return what the venue filled, by its own instants."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.find_fills(
                connection,
                pair=pair,
                client_order_id=client_order_id,
                since=since,
                until=until,
                limit=limit,
            )
            instruments = await load_instruments(connection, settings.venue_name)
        return [
            RecordedFill(
                **row._mapping,
                quantity=_quantity(instruments.get(row.symbol), row.lots),
                price=instruments[row.symbol].price_of(row.price_ticks)
                if row.symbol in instruments
                else None,
                fee_usdt=usdt(row.fee_e8),
            )
            for row in rows
        ]

    @router.get(
        "/adjustments",
        dependencies=[READ],
        summary="Differences between book and venue, newest first",
    )
    async def adjustments(runtime: ServedBy, limit: Limit = 100) -> list[RecordedAdjustment]:
        """Return what comparing the book with the account at the venue has changed."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.find_adjustments(connection, settings.account, limit)
        return [
            RecordedAdjustment(
                **row._mapping, amount_usdt=usdt(int(row.amount_e8)), recorded_at=row.ingested_at
            )
            for row in rows
        ]

    @router.get(
        "/quarantined-orders",
        dependencies=[READ],
        summary="Orders of others on the account, newest first",
    )
    async def quarantined_orders(runtime: ServedBy, limit: Limit = 100) -> list[QuarantinedOrder]:
        """Return orders found at the venue that we did not place, since ended ones included."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.find_quarantined(connection, settings.account, limit)
        return [QuarantinedOrder(**row._mapping, recorded_at=row.ingested_at) for row in rows]

    @router.get(
        "/positions", dependencies=[READ], summary="Positions at the last marks, newest first"
    )
    async def positions(
        runtime: ServedBy,
        pair: PairName = None,
        state: Annotated[
            PairState | Literal["live", "all"],
            Query(description="Only this state; `live` is every one but closed"),
        ] = "live",
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
    ) -> Positions:
        """Return positions by the close on which they were opened."""
        async with snapshot(runtime.engine) as connection:
            found = await store.find_positions(
                connection, pair=pair, state=state, since=since, until=until, limit=limit
            )
            account = await last_account(connection)
            instruments = await load_instruments(connection, settings.venue_name)
        marks = {} if account is None else account.marks_ticks
        return Positions(
            marked_at=None if account is None else account.closes_at,
            positions=[_position(each, marks, instruments) for each in found],
        )

    return router


def _trading(recorded: RecordedControl) -> Trading:
    control = recorded.control
    return Trading(
        state=control.state.value,
        is_flattening=control.is_flattening,
        reason=control.reason,
        decided_by=recorded.decided_by,
        from_closes_at=recorded.from_closes_at,
        decided_at=recorded.decided_at,
    )


def _quantity(instrument: Instrument | None, lots: int) -> Decimal | None:
    return None if instrument is None else instrument.quantity_of(lots)


def _position(
    position: PairPosition, marks_ticks: dict[str, int], instruments: dict[str, Instrument]
) -> RecordedPosition:
    net_e8, _ = value_e8(position, marks_ticks, instruments)
    return RecordedPosition(
        position_id=position.position_id,
        pair=position.pair,
        symbol_y=position.symbol_y,
        symbol_x=position.symbol_x,
        state=position.state,
        opened_at=instant_of_ms(position.opened_at_ms),
        closed_at=None if position.closed_at_ms is None else instant_of_ms(position.closed_at_ms),
        lots_y=position.lots_y,
        lots_x=position.lots_x,
        cash_usdt=usdt(position.cash_e8),
        fees_usdt=usdt(position.fees_e8),
        funding_usdt=usdt(position.funding_e8),
        value_usdt=usdt(net_e8),
        profit_usdt=usdt(position.cash_e8 + net_e8),
        is_residue=position.is_residue,
        exposed_seconds=Decimal(position.exposed_ms) / 1000,
    )
