"""Bugs that are planted into the product, to see the simulation catch them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from unittest.mock import AsyncMock, PropertyMock, patch

import services.executor.handlers as handlers
import shared.book.ledger as ledger
import shared.bus.log as log
from services.executor import store
from services.executor.handlers import Executor
from shared.book.compensation import Compensation, Remedy
from shared.book.control import TradingControl
from shared.book.instrument import Instrument
from shared.book.orders import OrderState, Side, advance_order
from shared.book.positions import apply_execution
from shared.bus.consumer import Consumer, UnitOfWork

Bug = Callable[[], contextlib.AbstractContextManager[Any]]
BUGS: dict[str, Bug] = {}
_PATIENCE = 300


def seeds_to_try(known: int) -> Iterator[int]:
    """Give the seed that once caught a bug, then others: which one does shifts with the code."""
    yield known
    yield from (seed for seed in range(1, _PATIENCE + 1) if seed != known)


def _bug(plant: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
    BUGS[plant.__name__.strip("_").replace("_", " ")] = contextlib.contextmanager(plant)
    return plant


@_bug
def _send_before_the_commit() -> Iterator[None]:
    settle = Executor.settle

    async def early(self: Executor, requested: Any, unit: UnitOfWork) -> None:
        await settle(self, requested, unit)
        for hook in unit.hooks:
            hook()
        for errand in unit.errands:
            await errand()
        unit.hooks.clear()
        unit.errands.clear()

    with patch.object(Executor, "settle", early):
        yield


@_bug
def _acknowledge_before_the_commit() -> Iterator[None]:
    advance = log.advance

    async def apart(connection: Any, *arguments: Any) -> Any:
        async with connection._connection.engine.begin() as another:
            return await advance(another, *arguments)

    with patch.object(log, "advance", apart):
        yield


@_bug
def _handle_what_was_handled() -> Iterator[None]:
    advance = log.advance

    async def always(*arguments: Any) -> Any:
        return await advance(*arguments) or {}

    with patch.object(log, "advance", always):
        yield


@_bug
def _trust_the_transport() -> Iterator[None]:
    async def nothing(self: Consumer) -> None:
        pass

    with (
        patch.object(Consumer, "_fill_gaps", nothing),
        patch.object(Consumer, "_look_into_log", nothing),
    ):
        yield


@_bug
def _keep_a_lease_whose_taking_was_undone() -> Iterator[None]:
    reload = Executor.reload

    async def with_the_first_lease(self: Executor, connection: Any) -> None:
        if self._token is None:
            await reload(self, connection)
            return
        with patch.object(store, "take_lease", AsyncMock(return_value=self._token)):
            await reload(self, connection)

    with patch.object(Executor, "reload", with_the_first_lease):
        yield


@_bug
def _go_on_from_memory_after_a_lost_commit() -> Iterator[None]:
    do_next = Consumer._do_next

    async def regardless(self: Consumer) -> bool:
        self._must_reload = False
        return await do_next(self)

    with patch.object(Consumer, "_do_next", regardless):
        yield


@_bug
def _retry_under_a_new_id() -> Iterator[None]:
    send_again = Executor._send_again

    async def renamed(self: Executor, orders: Any, now_ms: int) -> None:
        await send_again(
            self, [replace(o, client_order_id=f"{o.client_order_id[:31]}r") for o in orders], now_ms
        )

    with patch.object(Executor, "_send_again", renamed):
        yield


@_bug
def _send_again_without_asking() -> Iterator[None]:
    async def all_absent(self: Executor) -> Any:
        return list(ledger.in_flight(self._ledger)), []

    with patch.object(Executor, "_look_for_orders", all_absent):
        yield


@_bug
def _skip_reconciliation() -> Iterator[None]:
    async def passed(self: Executor) -> None:
        self._reconciled_at = 0.0

    with patch.object(Executor, "reconcile", passed):
        yield


@_bug
def _take_a_timeout_for_a_rejection() -> Iterator[None]:
    send = Executor._send

    async def rejected(self: Executor, venue: Any, order: Any) -> Any:
        report = await send(self, venue, order)
        if report.state is OrderState.UNKNOWN:
            return replace(report, state=OrderState.REJECTED)
        return report

    with patch.object(Executor, "_send", rejected):
        yield


@_bug
def _believe_that_an_order_has_ended() -> Iterator[None]:
    def at_its_word(book: Any, reports: Any) -> Any:
        orders = dict(book.orders)
        changed = []
        for report in reports:
            moved = advance_order(orders[report.client_order_id], report.state, report.reason)
            orders[report.client_order_id] = moved
            changed.append(moved)
        return replace(book, orders=orders), tuple(changed)

    with patch.object(handlers, "acknowledge", at_its_word):
        yield


@_bug
def _quantities_in_floating_point() -> Iterator[None]:
    def inexact(self: Instrument, lots: int) -> Decimal:
        return Decimal(lots * 10.0**-self.lot_decimals)

    with patch.object(Instrument, "quantity_of", inexact):
        yield


@_bug
def _forget_the_second_leg() -> Iterator[None]:
    submit = ledger._submit

    def first_only(draft: Any, order: Any) -> None:
        if order.leg == "y" or order.reduce_only:
            submit(draft, order)

    with patch.object(ledger, "_submit", first_only):
        yield


@_bug
def _leave_legs_out_of_proportion() -> Iterator[None]:
    def nothing(*_: Any, **__: Any) -> Compensation:
        return Compensation(Remedy.NONE)

    with patch.object(ledger, "compensate", nothing):
        yield


@_bug
def _book_fills_anew_after_a_restart() -> Iterator[None]:
    load = store.load_ledger

    async def without_counts(*arguments: Any) -> Any:
        book, submitted_at_ms = await load(*arguments)
        return replace(book, fill_counts={}), submitted_at_ms

    with patch.object(store, "load_ledger", without_counts):
        yield


@_bug
def _forget_orders_in_flight_at_a_restart() -> Iterator[None]:
    with patch.object(store, "_WORKING", ("accepted", "partially_filled")):
        yield


@_bug
def _trade_a_replayed_event_again() -> Iterator[None]:
    def as_it_is(requested: Any, repeated: Any) -> Any:
        return requested

    with patch.object(handlers, "_without", as_it_is):
        yield


@_bug
def _open_while_halted() -> Iterator[None]:
    with patch.object(TradingControl, "denial", PropertyMock(return_value=None)):
        yield


@_bug
def _ignore_the_limits() -> Iterator[None]:
    with patch.object(Executor, "_guard", lambda *_: None):
        yield


@_bug
def _close_the_wrong_way() -> Iterator[None]:
    make = ledger._leg_order

    def turned(*arguments: Any, **named: Any) -> Any:
        order = make(*arguments, **named)
        return replace(order, side=Side.SELL if order.side is Side.BUY else Side.BUY)

    with patch.object(ledger, "_leg_order", turned):
        yield


@_bug
def _forget_the_fees() -> Iterator[None]:
    def free(position: Any, order: Any, execution: Any, instrument: Any) -> Any:
        return apply_execution(position, order, replace(execution, fee_e8=0), instrument)

    with patch.object(ledger, "apply_execution", free):
        yield


@_bug
def _book_prices_a_tick_off() -> Iterator[None]:
    report = Executor._report

    async def off(self: Executor, *arguments: Any) -> Any:
        told = await report(self, *arguments)
        executions = tuple(
            (at_ms, replace(each, price_ticks=each.price_ticks + 1))
            for at_ms, each in told.executions
        )
        return replace(told, executions=executions)

    with patch.object(Executor, "_report", off):
        yield


@_bug
def _record_no_positions() -> Iterator[None]:
    record = store.settlement_rows

    def all_but_positions(*arguments: Any) -> Any:
        return [each for each in record(*arguments) if each.table.name != "pair_positions"]

    with patch.object(store, "settlement_rows", all_but_positions):
        yield
