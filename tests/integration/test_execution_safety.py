"""An executor whose venue loses answers, refuses, forgets, and is used by others too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from sqlalchemy import text

from shared.book.instrument import Instrument
from shared.clock import instant_of_ms
from shared.database.engine import transaction
from shared.database.tables import instruments
from shared.errors import FatalError
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder
from shared.events.trainer import DriftTripped, TripwireAction
from tests.serving import Record, Served, recording, serving, settings_in_environment
from tests.support import eventually_async
from tests.trading_stub import TradingStub, refused
from tests.trading_stub import serving as serving_venue

Y, X = "AAA/USDT", "BBB/USDT"
BAR_MS = 300_000
FIRST_MS = 1_704_067_500_000
REASON = {"reason": "the venue is odd"}
ONE = Decimal(1)


def close_ms(number: int) -> int:
    return FIRST_MS + number * BAR_MS


def opening(number: int, y: str = Y, x: str = X, lots: int = 1_000) -> SubmitOrder:
    """Return an intent for a lot of coins of each leg, a coin being a thousand lots."""
    intent_id = f"{close_ms(number)}:{y}~{x}:open"
    return SubmitOrder(
        intent_id=intent_id,
        sleeve="pairs",
        y=y,
        x=x,
        action="open",
        position_id=intent_id,
        reason="z_score",
        hedge_ratio=1.0,
        legs=(
            OrderLeg(leg="y", symbol=y, side="buy", quantity_lots=lots),
            OrderLeg(leg="x", symbol=x, side="sell", quantity_lots=lots),
        ),
    )


def closing(number: int, opened: int, y: str = Y, x: str = X) -> SubmitOrder:
    intent_id = f"{close_ms(number)}:{y}~{x}:close"
    return opening(opened, y, x).model_copy(
        update={"intent_id": intent_id, "action": "close", "legs": ()}
    )


async def _nothing(_: object) -> None:
    pass


@dataclass(slots=True)
class Trading:
    """An executor, its venue and what it is asked for."""

    record: Record
    venue: TradingStub
    executor: Served
    symbols: Sequence[str] = field(default=(Y, X))

    async def ask(self, number: int, *intents: SubmitOrder) -> None:
        """Publish what is wanted at a close, without waiting."""
        self.venue.now_ms = close_ms(number)
        await self.record.publish(
            "orders.requested",
            OrdersRequested(
                closes_at=instant_of_ms(close_ms(number)),
                timeframe="5m",
                intents=intents,
                marks={s: float(self.venue.prices[s.replace("/", "")]) for s in self.symbols},
            ),
        )

    async def close(self, number: int, *intents: SubmitOrder) -> None:
        """Publish what is wanted at a close, and wait until it is settled and sent."""
        await self.ask(number, *intents)
        await self.is_settled()

    async def is_settled(self) -> None:
        await self.record.is_handled("executor")
        await self.executor.runtime.consumer.do("wait", _nothing)

    async def orders(self) -> list[tuple[Any, ...]]:
        return await self.record.rows(
            "SELECT state, leg, reduce_only, filled_lots FROM orders ORDER BY created_at, leg DESC"
        )

    async def adjustments(self) -> list[tuple[Any, ...]]:
        return await self.record.rows(
            "SELECT kind, symbol, position_id IS NOT NULL, lots, amount_e8::bigint "
            "FROM adjustments ORDER BY adjustment_id"
        )

    async def reconcile(self) -> None:
        """Have book and venue compared as after a failure."""
        passed = await self.passes()
        await self.executor.runtime.consumer.do("reload", lambda u: self.forget(u.connection))

        async def again() -> bool:
            return await self.passes() > passed

        await eventually_async(again)

    async def forget(self, connection: Any) -> None:
        await self.executor.runtime.consumer._routes.reload(connection)

    async def passes(self) -> int:
        return self.venue.calls.count("GET openOrders")


@asynccontextmanager
async def trading_at(
    folder: Path,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    symbols: Sequence[str] = (Y, X),
    settings: Sequence[tuple[str, str]] = (),
) -> AsyncIterator[Trading]:
    async with AsyncExitStack() as stack:
        prices = {symbol.replace("/", ""): Decimal(100) for symbol in symbols}
        venue = await stack.enter_async_context(serving_venue(TradingStub(FIRST_MS, prices)))
        given = [
            ("MNT_VENUE_URL", venue.url),
            ("MNT_VENUE_API_KEY", "key"),
            ("MNT_VENUE_API_SECRET", "secret"),
            *settings,
        ]
        settings_in_environment(monkeypatch, folder, database_url, redis_url, given)
        record = await stack.enter_async_context(recording(database_url, redis_url))
        for symbol in symbols:
            instrument = Instrument(symbol, 2, 3, 5 * 10**8, "perpetual")
            row = {name: getattr(instrument, name) for name in instrument.__slots__}
            await record.put(instruments, {"venue": "binance", **row})
        executor = await stack.enter_async_context(serving("executor"))
        yield Trading(record, venue, executor, symbols)


@pytest.fixture
async def trading(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Trading]:
    async with trading_at(tmp_path, database_url, redis_url, monkeypatch) as found:
        yield found


async def held(trading: Trading) -> None:
    """Open the pair of these tests at close 0 and have it held from close 1 on."""
    await trading.close(0, opening(0))
    trading.venue.trade()
    await trading.close(1)
    assert [row[0] for row in await trading.orders()] == ["filled", "filled"]


# --- what a venue refuses -----------------------------------------------------------------


async def test_a_close_below_the_smallest_notional_is_sent_as_reduce_only(
    trading: Trading,
) -> None:
    await held(trading)
    trading.venue.prices = {name: Decimal(4) for name in trading.venue.prices}
    await trading.close(2, closing(2, 0))
    assert [o.reduce_only for o in trading.venue.open_orders()] == [True, True]
    trading.venue.trade()
    await trading.close(3)
    assert [row[0] for row in await trading.orders()] == ["filled"] * 4
    [(state,)] = await trading.record.rows("SELECT state FROM pair_positions")
    assert state == "closed"


async def test_a_pair_whose_leg_another_pair_offsets_closes_without_the_venues_flag(
    trading: Trading,
) -> None:
    await held(trading)
    await trading.close(2, opening(2, X, Y, lots=900))  # sells Y, buys X
    trading.venue.trade()
    await trading.close(3)
    await trading.close(4, closing(4, 0))
    assert [o.reduce_only for o in trading.venue.open_orders()] == [False, False]
    trading.venue.trade()
    await trading.close(5)
    assert trading.venue.held == {"AAAUSDT": Decimal("-0.9"), "BBBUSDT": Decimal("0.9")}
    states = await trading.record.rows("SELECT state, lots_y FROM pair_positions ORDER BY 1")
    assert states == [("closed", 0), ("open", 900)]


async def test_a_venue_that_counts_otherwise_has_its_account_compared_before_more_is_sent(
    trading: Trading,
) -> None:
    await held(trading)
    trading.venue.take("AAAUSDT", -ONE, Decimal(100))  # somebody sold it beside us
    await trading.close(2, closing(2, 0))
    trading.venue.trade()
    await trading.close(3)
    rows = await trading.record.rows("SELECT reason FROM orders WHERE state = 'rejected'")
    assert "-2022" in rows[0][0]
    assert [row[:4] for row in await trading.adjustments()] == [
        ("baseline", None, False, 0),
        ("position", "AAA/USDT", True, -1_000),
    ]
    await trading.close(4)
    assert trading.venue.held == {"AAAUSDT": 0, "BBBUSDT": 0}
    assert await trading.record.rows("SELECT state FROM pair_positions") == [("closed",)]


# --- what a venue loses -------------------------------------------------------------------


@pytest.mark.parametrize("status", ["CANCELED", "EXPIRED", "FILLED"])
async def test_fills_listed_late_of_an_order_that_has_ended_are_not_lost(
    trading: Trading, status: str
) -> None:
    await trading.close(0, opening(0))
    y, x = trading.venue.open_orders()
    trading.venue.fill(y, ONE / 2)
    if status == "FILLED":
        trading.venue.fill(y, ONE / 2)
    trading.venue.fill(x, ONE / 2)
    y.status, x.status, y.n_listed = status, "CANCELED", 0
    asked = 0

    def list_later(_: web.Request, question: dict[str, str]) -> None:
        nonlocal asked
        asked += question["orderId"] == str(y.order_id)
        if asked == 3:
            y.n_listed = None

    trading.venue.faults["GET userTrades"] = list_later
    await trading.close(1)
    rows = await trading.record.rows("SELECT sum(lots)::int FROM fills WHERE leg = 'y'")
    assert rows == [(1_000 if status == "FILLED" else 500,)]
    assert asked >= 3


async def test_a_close_goes_on_without_fills_that_are_never_listed_and_keeps_asking(
    trading: Trading,
) -> None:
    await trading.close(0, opening(0))
    y, x = trading.venue.open_orders()
    trading.venue.fill(y, ONE / 2)
    y.status, y.n_listed = "CANCELED", 0
    await trading.close(1)
    assert [row[0] for row in await trading.orders()] == ["accepted", "accepted"]
    y.n_listed = None
    await trading.close(2)
    assert ("cancelled", "y", False, 500) in await trading.orders()
    assert x.is_open


async def test_a_cancel_whose_answer_was_lost_is_repeated_until_the_venue_answers(
    trading: Trading,
) -> None:
    await trading.close(0, opening(0))
    lost = 3

    def lose(_: web.Request, __: dict[str, str]) -> web.Response | None:
        nonlocal lost
        lost -= 1
        return web.Response(status=503) if lost >= 0 else None

    trading.venue.faults["DELETE order"] = lose
    await trading.close(1, closing(1, 0))

    async def is_withdrawn() -> bool:
        return not trading.venue.open_orders()

    await eventually_async(is_withdrawn)
    await trading.close(2)
    assert [row[0] for row in await trading.orders()] == ["cancelled", "cancelled"]


async def test_an_order_whose_answer_was_lost_is_never_sent_twice(trading: Trading) -> None:
    venue = trading.venue

    def place_and_lose(_: web.Request, asked: dict[str, str]) -> web.Response:
        venue.submit(asked)
        return web.Response(status=503)

    unseen = 4

    def not_yet(_: web.Request, __: dict[str, str]) -> web.Response | None:
        nonlocal unseen
        unseen -= 1
        return refused(-2013) if unseen >= 0 else None

    venue.faults = {"POST order": place_and_lose, "GET order": not_yet}
    await trading.close(0, opening(0))

    async def is_known() -> bool:
        return {row[0] for row in await trading.orders()} == {"accepted"}

    await eventually_async(is_known)
    assert venue.calls.count("POST order") == 2
    assert unseen < 0


async def test_an_order_that_the_venue_proves_not_to_have_is_sent_under_its_own_id(
    trading: Trading,
) -> None:
    venue = trading.venue
    ids: list[str] = []

    def drop(_: web.Request, asked: dict[str, str]) -> web.Response | None:
        ids.append(asked["newClientOrderId"])
        return web.Response(status=503) if len(ids) <= 2 else None

    venue.faults = {"POST order": drop}
    await trading.close(0, opening(0))
    for _ in range(3):
        await trading.executor.runtime.consumer.do("wait", _nothing)
    assert len(ids) == 2, "within the receive window nothing is proven"
    venue.now_ms += 3_000

    async def is_sent() -> bool:
        return len(venue.open_orders()) == 2

    await eventually_async(is_sent)
    assert sorted(ids[:2]) == sorted(ids[2:])


async def test_an_order_that_the_venue_forgot_ends_after_it_was_asked_for_many_times(
    trading: Trading,
) -> None:
    await trading.close(0, opening(0))
    venue = trading.venue
    venue.trade()
    gone = next(iter(venue.orders.values()))
    venue.faults["GET order"] = lambda _, asked: (
        refused(-2013) if asked["origClientOrderId"] == gone.client_order_id else None
    )
    await trading.close(1)
    assert ("expired", "y", False, 0) in await trading.orders()
    assert venue.calls.count("GET order") >= 8
    # What it filled is at the venue, and so it is in the book, with no pair.
    await trading.reconcile()
    assert ("position", "AAA/USDT", False, 1_000) in [r[:4] for r in await trading.adjustments()]


# --- the book and the venue ---------------------------------------------------------------


async def test_no_order_leaves_before_book_and_venue_have_been_compared(
    trading: Trading,
) -> None:
    venue = trading.venue
    venue.faults["GET account"] = lambda *_: web.Response(status=503)
    await trading.executor.runtime.consumer.do("reload", lambda u: trading.forget(u.connection))
    await trading.ask(0, opening(0))

    async def has_tried() -> bool:
        return venue.calls.count("GET account") >= 3

    await eventually_async(has_tried)
    assert "POST order" not in venue.calls
    assert await trading.adjustments() == [], "a failed query is not an empty account"
    venue.faults.clear()
    await trading.is_settled()
    assert len(venue.open_orders()) == 2


async def test_orders_and_positions_of_others_are_recorded_once_and_left_alone(
    trading: Trading,
) -> None:
    await held(trading)
    stranger = trading.venue.place("somebody", "AAAUSDT", "BUY", Decimal(3))
    trading.venue.take("BBBUSDT", Decimal(2), Decimal(100))
    for _ in range(2):
        await trading.reconcile()
        await trading.is_settled()
        # Two coins at 100 were paid for by somebody, who owns them.
        assert await trading.adjustments() == [
            ("baseline", None, False, 0, 0),
            ("position", "BBB/USDT", True, 1_000, -100 * 10**8),
            ("position", "BBB/USDT", False, 1_000, 0),
            ("cash", None, False, 0, -100 * 10**8),
        ]
        rows = await trading.record.rows(
            "SELECT client_order_id, symbol, side, quantity::int FROM quarantined_orders"
        )
        assert rows == [("somebody", "AAAUSDT", "buy", 3)]
    shown = await trading.executor.get("/adjustments", limit=2)
    assert [(row["kind"], Decimal(row["amount_usdt"]), row["lots"]) for row in shown] == [
        ("cash", Decimal(-100), 0),
        ("position", Decimal(0), 1_000),
    ]
    [order] = await trading.executor.get("/quarantined-orders")
    assert (order["venue_order_id"], order["client_order_id"]) == ("3", "somebody")
    assert stranger.is_open
    assert "DELETE order" not in trading.venue.calls


async def test_a_deposit_is_cash_of_the_book_from_the_next_comparison_on(
    trading: Trading,
) -> None:
    await held(trading)
    [(before,)] = await trading.record.rows(
        "SELECT cash_e8 FROM account ORDER BY closes_at DESC LIMIT 1"
    )
    trading.venue.wallet += 250
    await trading.reconcile()
    await trading.reconcile()
    assert (await trading.adjustments())[1:] == [("cash", None, False, 0, 250 * 10**8)]
    await trading.close(2)
    rows = await trading.record.rows("SELECT cash_e8 FROM account ORDER BY closes_at DESC LIMIT 1")
    assert rows == [(before + 250 * 10**8,)]


async def test_an_undisturbed_venue_leaves_nothing_to_adjust(trading: Trading) -> None:
    await held(trading)
    await trading.close(2, closing(2, 0))
    await trading.reconcile()  # with orders at work
    trading.venue.trade(ONE / 4)
    await trading.reconcile()  # with fills not booked yet
    trading.venue.trade()
    await trading.close(3)
    await trading.reconcile()
    assert [row[0] for row in await trading.adjustments()] == ["baseline"]


async def test_an_order_that_the_book_holds_for_ended_is_withdrawn(trading: Trading) -> None:
    await trading.close(0, opening(0))
    trading.venue.trade(ONE / 2)
    y, _ = trading.venue.open_orders()
    y.status = "CANCELED"
    await trading.close(1)
    y.status = "PARTIALLY_FILLED"
    await trading.reconcile()

    async def is_withdrawn() -> bool:
        return not y.is_open

    await eventually_async(is_withdrawn)


# --- who may write ------------------------------------------------------------------------


async def test_an_executor_that_was_taken_over_writes_nothing_more(trading: Trading) -> None:
    await trading.close(0, opening(0))
    rows = "UPDATE execution_leases SET token = token + 1, holder = 'another' RETURNING account"
    assert await trading.record.rows(rows) == [("paper",)]
    status, detail = await trading.executor.refusal("POST", "/halt", REASON)
    assert status == 409
    assert "is traded by another with token 2, and this executor's token is 1" in detail
    assert await trading.record.rows("SELECT state FROM trading_states") == []
    status, _ = await trading.executor.refusal("POST", "/cancel-all", REASON)
    assert status == 409
    assert len(trading.venue.open_orders()) == 2


async def dies(trading: Trading) -> None:
    """Wait for the end of an executor that was taken over; the tests must not end with it."""
    runtime = trading.executor.runtime
    assert runtime._task is not None
    runtime._task.remove_done_callback(runtime._end_process)
    with pytest.raises(FatalError, match="is traded by another with token 2"):
        await asyncio.wait_for(runtime._task, 10)


async def test_an_executor_that_was_taken_over_settles_no_close(trading: Trading) -> None:
    await trading.close(0)
    rows = "UPDATE execution_leases SET token = token + 1, holder = 'another' RETURNING account"
    await trading.record.rows(rows)
    await trading.ask(1, opening(1))
    await dies(trading)
    assert await trading.orders() == []
    assert await trading.record.rows("SELECT count(*)::int FROM account") == [(1,)]
    assert trading.venue.orders == {}


async def test_an_executor_that_was_taken_over_records_no_answer(trading: Trading) -> None:
    """It is taken over in the moment in which its orders are recorded."""
    async with transaction(trading.record.engine) as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION take_over() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "UPDATE execution_leases SET token = 2, holder = 'another'; RETURN NULL; END $$"
            )
        )
        await connection.execute(
            text("CREATE TRIGGER taken AFTER INSERT ON orders EXECUTE FUNCTION take_over()")
        )
    await trading.ask(0, opening(0))
    await dies(trading)
    assert len(trading.venue.open_orders()) == 2
    assert [row[0] for row in await trading.orders()] == ["submitted", "submitted"]


async def test_every_executor_that_starts_takes_the_account_over(trading: Trading) -> None:
    await trading.close(0)
    await trading.executor.runtime.consumer.stop()
    async with serving("executor") as another:
        await another.send("POST", "/halt", REASON)
    assert await trading.record.rows("SELECT token::int FROM execution_leases") == [(2,)]


# --- limits -------------------------------------------------------------------------------


async def test_a_producer_gone_mad_is_cut_off_until_a_person_resumes(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = [f"{letter}{letter}/USDT" for letter in "ABCDEFGH"]
    settings = [("MNT_LIMITS__MAX_ORDERS_PER_MINUTE", "10")]
    async with trading_at(
        tmp_path, database_url, redis_url, monkeypatch, symbols, settings
    ) as trading:
        pairs = [(y, x) for y in symbols for x in symbols if y != x]
        for start in range(0, 30, 3):
            await trading.ask(0, *(opening(0, *pair) for pair in pairs[start : start + 3]))
        await trading.is_settled()
        assert len(trading.venue.orders) == 10
        shown = (await trading.executor.get("/status"))["trading"]
        assert (shown["state"], shown["decided_by"]) == ("reduce_only", "limits")
        assert "more than the 10 of max_orders_per_minute" in shown["reason"]
        decided = await trading.record.rows("SELECT count(*)::int FROM trading_states")
        assert decided == [(1,)]
        published = await trading.record.rows(
            "SELECT count(*)::int FROM event_log WHERE topic = 'risk.changed'"
        )
        assert published == [(1,)]
        await trading.executor.send("POST", "/resume")
        await trading.close(1, opening(1, *pairs[-1]))
        assert len(trading.venue.orders) == 12


async def test_drift_takes_trading_to_reduce_only_from_the_close_after_its_check(
    trading: Trading,
) -> None:
    async def trip(number: int, action: TripwireAction) -> None:
        closes_at = instant_of_ms(close_ms(number))
        reasons = ("fills cost more", "forecasts are wrong")
        await trading.record.publish(
            "drift.tripped",
            DriftTripped(closes_at=closes_at, sha256=None, action=action, reasons=reasons),
        )
        await trading.is_settled()

    await trading.close(0)
    await trip(0, "rollback")  # the trainer's own business
    assert (await trading.executor.get("/status"))["trading"]["state"] == "active"
    # The trainer was faster than the chain of signals: this close is still settled as before.
    await trip(1, "reduce_only")
    await trading.close(1, opening(1))
    assert len(trading.venue.open_orders()) == 2
    trading.venue.trade()
    await trading.close(2, opening(2, X, Y))
    assert trading.venue.open_orders() == []
    assert (await trading.orders())[-1][0] == "denied"
    await trip(2, "reduce_only")  # which stands already
    await trading.close(3, closing(3, 1))
    assert len(trading.venue.open_orders()) == 2
    trading.venue.trade()
    changes = "SELECT state, decided_by, reason, from_closes_at FROM trading_states"
    assert await trading.record.rows(changes) == [
        (
            "reduce_only",
            "tripwire",
            "fills cost more; forecasts are wrong",
            instant_of_ms(close_ms(1)),
        )
    ]
    published = "SELECT closes_at FROM event_log WHERE topic = 'risk.changed'"
    assert await trading.record.rows(published) == [(instant_of_ms(close_ms(1)),)]
    exposed = (await trading.executor.client.get("/metrics")).text
    assert "mnt_executor_restrictions_total 1.0" in exposed
    await trading.close(4)
    await trading.executor.send("POST", "/resume")
    await trading.close(5, opening(5))
    assert len(trading.venue.open_orders()) == 2


async def test_an_open_loss_beyond_the_limit_takes_trading_to_reduce_only(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [("MNT_LIMITS__MAX_DRAWDOWN", "0.0005")]
    async with trading_at(
        tmp_path, database_url, redis_url, monkeypatch, settings=settings
    ) as trading:
        await held(trading)
        trading.venue.prices["BBBUSDT"] = Decimal(151)  # sold one at 100
        await trading.close(2, opening(2, X, Y))
        assert (await trading.executor.get("/status"))["trading"]["state"] == "reduce_only"
        assert trading.venue.open_orders() == []
        await trading.close(3, closing(3, 0))
        assert len(trading.venue.open_orders()) == 2
        trading.venue.trade()
        await trading.close(4)
        # Resumed, losses count anew.
        await trading.executor.send("POST", "/resume")
        await trading.close(5, opening(5))
        assert len(trading.venue.open_orders()) == 2


async def test_a_flash_crash_takes_trading_to_reduce_only_at_its_own_close(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [("MNT_LIMITS__MAX_DAILY_LOSS", "0.0002")]
    async with trading_at(
        tmp_path, database_url, redis_url, monkeypatch, settings=settings
    ) as trading:
        await held(trading)
        await trading.close(2)
        trading.venue.prices["AAAUSDT"] = Decimal(70)  # bought one at 100
        await trading.close(3)
        decided = await trading.record.rows(
            "SELECT state, decided_by, from_closes_at FROM trading_states"
        )
        assert decided == [("reduce_only", "limits", instant_of_ms(close_ms(3)))]
        settled = await trading.record.rows(
            "SELECT max(closes_at) FROM event_log WHERE topic = 'risk.changed'"
        )
        assert settled == [(instant_of_ms(close_ms(3)),)]


# --- without Redis ------------------------------------------------------------------------


class Wire:
    """A way to a server that can be cut."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"redis://127.0.0.1:{port}{self._target.path or '/0'}"

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(
            self._target.hostname, self._target.port
        )
        self._writers |= {writer, to_writer}
        await asyncio.gather(self._copy(reader, to_writer), self._copy(to_reader, writer))

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


async def test_without_redis_a_halt_withdraws_two_hundred_orders_and_a_flattening_closes(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(redis_url)
    symbols = [f"{a}{b}/USDT" for a in "ABCD" for b in "ABCD"][:15]
    pairs = [(y, x) for n, y in enumerate(symbols) for x in symbols[n + 1 :]][:101]
    url = await wire.open()
    async with trading_at(tmp_path, database_url, url, monkeypatch, symbols) as trading:
        await trading.close(0, opening(0, *pairs[100]))
        trading.venue.trade()
        await trading.close(1, *(opening(1, *pair) for pair in pairs[:100]))
        assert len(trading.venue.open_orders()) == 200
        await wire.cut()
        await trading.executor.send("POST", "/halt", REASON)
        assert trading.venue.open_orders() == []
        await trading.executor.send("POST", "/flatten", REASON)
        # The next close comes from the log in Postgres.
        await trading.close(2)
        assert len(trading.venue.open_orders()) == 2
        withdrawn = await trading.executor.send("POST", "/cancel-all", REASON)
        assert withdrawn == {"n_orders": 2}
        assert trading.venue.open_orders() == []
        await trading.close(3)
        trading.venue.trade()
        await trading.close(4)
        assert set(trading.venue.held.values()) == {Decimal(0)}
        assert (await trading.executor.get("/status"))["trading"]["state"] == "halted"
