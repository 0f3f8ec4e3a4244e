"""Halting, reducing and flattening at a venue that fills when its market moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shared.book.instrument import derive_instrument
from shared.clock import instant_of_ms
from shared.database.tables import instruments
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder
from shared.venues.paper_control import PaperControl
from tests.paper_venue import KEY, SECRET, close_ms, controlled, settings_in
from tests.paper_venue import serving as serving_venue
from tests.serving import Record, Served, recording, serving, settings_in_environment
from tests.support import eventually_async

Y, X = "AAA/USDT", "BBB/USDT"
PAIR = f"{Y}~{X}"
REASON = {"reason": "the venue is odd"}


@dataclass(slots=True)
class Trading:
    """An executor, its venue and what it is asked for."""

    record: Record
    control: PaperControl
    executor: Served

    async def close(self, number: int, *intents: SubmitOrder) -> None:
        """Let a bar pass at the venue and have its close settled."""
        await self.control.advance(close_ms(number))
        requested = OrdersRequested(
            closes_at=instant_of_ms(close_ms(number)),
            timeframe="5m",
            intents=intents,
            marks={Y: 100.0 + number, X: 5000.0},
        )
        await self.record.publish("orders.requested", requested)
        await self.record.is_handled("executor")
        # Also what is done after the commit: orders sent, or withdrawn.
        await self.executor.runtime.consumer.do("wait", _nothing)

    async def order_states(self) -> list[str]:
        orders = await self.executor.get("/orders")
        return sorted(order["state"] for order in orders)

    async def position_states(self) -> list[tuple[str, str]]:
        found = await self.record.rows(
            "SELECT closes_at, payload::jsonb #>> '{positions,0,state}' FROM event_log "
            "WHERE topic = 'positions.changed' ORDER BY seq"
        )
        return [(f"{closes_at:%H:%M}", state) for closes_at, state in found if state]


async def _nothing(_: object) -> None:
    pass


def opening(number: int, y: str = Y, x: str = X) -> SubmitOrder:
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
            OrderLeg(leg="y", symbol=y, side="buy", quantity_lots=1000),
            OrderLeg(leg="x", symbol=x, side="sell", quantity_lots=1000),
        ),
    )


def closing(number: int, opened: int) -> SubmitOrder:
    return opening(opened).model_copy(
        update={"intent_id": f"{close_ms(number)}:{PAIR}:close", "action": "close", "legs": ()}
    )


@asynccontextmanager
async def trading_at(
    folder: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Trading]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving_venue(settings_in(folder)))
        settings = [
            ("MNT_VENUE_URL", url),
            ("MNT_VENUE_API_KEY", KEY),
            ("MNT_VENUE_API_SECRET", SECRET),
        ]
        settings_in_environment(monkeypatch, folder, database_url, redis_url, settings)
        record = await stack.enter_async_context(recording(database_url, redis_url))
        for symbol, price in ((Y, 100.0), (X, 5000.0)):
            instrument = derive_instrument(symbol, price)
            await record.put(
                instruments,
                {
                    "venue": "binance",
                    **{name: getattr(instrument, name) for name in instrument.__slots__},
                },
            )
        control = await stack.enter_async_context(controlled(url))
        executor = await stack.enter_async_context(serving("executor"))
        yield Trading(record, control, executor)


@pytest.fixture
async def trading(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Trading]:
    async with trading_at(tmp_path, database_url, redis_url, monkeypatch) as found:
        yield found


# --- what is recorded ---------------------------------------------------------------------


async def test_orders_fills_and_positions_are_read_back(trading: Trading) -> None:
    await trading.close(0, opening(0))
    await trading.close(1)
    await trading.close(2, closing(2, 0))
    await trading.close(3)
    get = trading.executor.get

    orders = await get("/orders")
    assert [(o["leg"], o["side"], o["reduce_only"]) for o in orders] == [
        ("y", "sell", True),
        ("x", "buy", True),
        ("y", "buy", False),
        ("x", "sell", False),
    ]
    assert {o["state"] for o in orders} == {"filled"}
    assert (orders[2]["quantity_lots"], orders[2]["quantity"]) == (1000, "1.000")
    assert len(await get("/orders", limit=3)) == 3
    assert await get("/orders", state="working") == []
    assert len(await get("/orders", pair="AAA-USDT~BBB-USDT")) == 4
    assert await get("/orders", pair="AAA-USDT~CCC-USDT") == []
    assert len(await get("/orders", since=instant_of_ms(close_ms(2)).isoformat())) == 2
    assert len(await get("/orders", until=instant_of_ms(close_ms(2)).isoformat())) == 2

    fills = await get("/fills", pair=PAIR)
    assert len(fills) == 4
    [bought] = await get("/fills", client_order_id=orders[2]["client_order_id"])
    assert Decimal(bought["price"]) >= 101
    assert Decimal(bought["fee_usdt"]) > 0

    assert (await get("/positions"))["positions"] == []
    [closed] = (await get("/positions", state="closed"))["positions"]
    assert (closed["pair"], closed["state"], closed["lots_y"]) == (PAIR, "closed", 0)
    assert closed["profit_usdt"] == closed["cash_usdt"]
    assert Decimal(closed["value_usdt"]) == 0


async def test_a_held_position_is_valued_at_the_last_marks(trading: Trading) -> None:
    await trading.close(0, opening(0))
    await trading.close(1)
    found = await trading.executor.get("/positions")
    assert found["marked_at"] == "2024-01-01T00:10:00Z"
    [held] = found["positions"]
    assert (held["state"], held["lots_y"], held["lots_x"]) == ("open", 1000, -1000)
    value = Decimal(held["value_usdt"])
    assert value == Decimal(1) * 101 - Decimal("0.1") * 5000
    assert Decimal(held["profit_usdt"]) == Decimal(held["cash_usdt"]) + value


# --- what may be traded -------------------------------------------------------------------


async def test_a_halted_executor_denies_openings_and_frees_their_slots(trading: Trading) -> None:
    halted = await trading.executor.send("POST", "/halt", REASON)
    assert (halted["state"], halted["decided_by"]) == ("halted", "home")
    assert halted["from_closes_at"] is None
    await trading.close(0, opening(0))
    orders = await trading.executor.get("/orders")
    assert {o["state"] for o in orders} == {"denied"}
    assert {o["reason"] for o in orders} == {"trading is halted: the venue is odd"}
    assert await trading.position_states() == [("00:05", "closed")]
    resumed = await trading.executor.send("POST", "/resume", {"reason": "it was nothing"})
    assert (resumed["state"], resumed["trading"]["state"]) == ("running", "active")
    assert resumed["trading"]["from_closes_at"] == "2024-01-01T00:05:00Z"
    await trading.close(1, opening(1))
    assert await trading.order_states() == ["accepted", "accepted", "denied", "denied"]


async def test_a_halt_withdraws_opening_orders_at_the_venue_at_once(trading: Trading) -> None:
    await trading.close(0, opening(0))
    assert await trading.order_states() == ["accepted", "accepted"]
    await trading.executor.send("POST", "/halt", REASON)
    await trading.close(1)  # at whose open they would have filled
    assert await trading.order_states() == ["cancelled", "cancelled"]
    assert await trading.position_states() == [("00:05", "opening"), ("00:10", "closed")]


async def test_a_halt_works_while_the_executor_is_paused(trading: Trading) -> None:
    await trading.close(0, opening(0))
    await trading.executor.send("POST", "/pause")
    await trading.executor.send("POST", "/halt", REASON)
    status = await trading.executor.get("/status")
    assert (status["state"], status["trading"]["state"]) == ("paused", "halted")
    await trading.control.advance(close_ms(1))
    await trading.executor.send("POST", "/resume")
    await trading.close(2)
    assert await trading.order_states() == ["cancelled", "cancelled"]


async def test_a_halt_lets_a_closing_order_work(trading: Trading) -> None:
    await trading.close(0, opening(0))
    await trading.close(1)
    await trading.close(2, closing(2, 0))
    await trading.executor.send("POST", "/halt", REASON)
    await trading.close(3)
    assert await trading.order_states() == ["filled"] * 4


async def test_reduce_only_lets_what_is_ordered_fill_and_opens_nothing(trading: Trading) -> None:
    await trading.close(0, opening(0))
    reduced = await trading.executor.send("POST", "/reduce-only", REASON)
    assert (reduced["state"], reduced["from_closes_at"]) == ("reduce_only", "2024-01-01T00:05:00Z")
    await trading.close(1)
    assert await trading.order_states() == ["filled", "filled"]
    await trading.close(2, opening(2, X, Y))
    assert await trading.order_states() == ["denied", "denied", "filled", "filled"]
    await trading.close(3, closing(3, 0))
    assert await trading.order_states() == ["accepted"] * 2 + ["denied"] * 2 + ["filled"] * 2


async def test_flattening_closes_every_pair_at_the_next_close(trading: Trading) -> None:
    await trading.close(0, opening(0))
    await trading.close(1)
    flattened = await trading.executor.send("POST", "/flatten", REASON)
    assert (flattened["state"], flattened["is_flattening"]) == ("reduce_only", True)
    await trading.close(2)
    await trading.close(3)
    assert await trading.order_states() == ["filled"] * 4
    assert (await trading.executor.get("/positions"))["positions"] == []
    assert await trading.position_states() == [
        ("00:05", "opening"),
        ("00:10", "open"),
        ("00:15", "closing"),
        ("00:20", "closed"),
    ]


async def test_a_flattening_taken_back_before_the_next_close_closes_nothing(
    trading: Trading,
) -> None:
    await trading.close(0, opening(0))
    await trading.close(1)
    await trading.executor.send("POST", "/flatten", REASON)
    await trading.executor.send("POST", "/resume")
    await trading.close(2)
    assert await trading.order_states() == ["filled", "filled"]


async def test_what_may_be_traded_outlives_the_process_and_is_published(
    trading: Trading,
) -> None:
    await trading.close(0)
    await trading.executor.send("POST", "/halt", REASON)
    await trading.executor.send("POST", "/resume")
    await trading.executor.send("POST", "/resume")  # which changes nothing any more
    await trading.executor.send("POST", "/flatten", {"reason": "all out"})
    async with another_executor(trading) as executor:
        shown = (await executor.get("/status"))["trading"]
    assert (shown["state"], shown["is_flattening"]) == ("reduce_only", True)
    assert (shown["reason"], shown["decided_by"]) == ("all out", "home")
    events = await trading.record.rows(
        "SELECT payload::jsonb ->> 'state', payload::jsonb ->> 'reason', closes_at "
        "FROM event_log WHERE topic = 'risk.changed' ORDER BY seq"
    )
    assert [(state, reason) for state, reason, _ in events] == [
        ("halted", "the venue is odd"),
        ("active", "resumed"),
        ("reduce_only", "all out"),
    ]
    assert {at for _, _, at in events} == {instant_of_ms(close_ms(0))}
    changes = "SELECT state, reason, decided_by, source_uri FROM trading_states ORDER BY change_id"
    assert await trading.record.rows(changes) == [
        ("halted", "the venue is odd", "home", "request:halt"),
        ("active", "resumed", "home", "request:resume"),
        ("reduce_only", "all out", "home", "request:flatten"),
    ]


@asynccontextmanager
async def another_executor(trading: Trading) -> AsyncIterator[Served]:
    """Stop the executor as a supervisor does and start a fresh process's worth of it."""
    await trading.executor.runtime.consumer.stop()
    async with serving("executor") as executor:
        yield executor


async def test_a_change_published_by_hand_is_refused(trading: Trading) -> None:
    payload = b'{"closes_at": "2024-01-01T00:05:00Z", "state": "active", "is_flattening": false, '
    payload += b'"reason": "trust me", "decided_by": "nobody"}'
    await trading.record.streams.add_plain("risk.changed", payload)

    async def error() -> str | None:
        found = await trading.record.rows("SELECT error FROM dead_letter")
        return str(found[0][0]) if found else None

    assert "POST /halt" in (await eventually_async(error) or "")
    assert (await trading.executor.get("/status"))["trading"]["state"] == "active"


async def test_an_opening_order_that_never_arrived_is_not_sent_again_by_a_halted_executor(
    trading: Trading,
) -> None:
    await trading.close(0)
    await trading.executor.runtime.consumer.stop()
    created_at = instant_of_ms(close_ms(0)).isoformat()
    await trading.record.rows(
        "INSERT INTO pair_positions (position_id, pair, symbol_y, symbol_x, state, opened_at, "
        "lots_y, lots_x, cash_e8, fees_e8, funding_e8, source_uri, transform_id) VALUES "
        f"('p', '{PAIR}', '{Y}', '{X}', 'opening', '{created_at}', 0, 0, 0, 0, 0, 't', 't') "
        "RETURNING 1"
    )
    await trading.record.rows(
        "INSERT INTO orders (client_order_id, intent_id, pair, leg, attempt, symbol, side, "
        "quantity_lots, filled_lots, reduce_only, created_at, submitted_at, state, reason, "
        f"source_uri, transform_id) VALUES ('{'0' * 32}', 'p', '{PAIR}', 'y', 0, '{Y}', 'buy', "
        f"1000, 0, false, '{created_at}', '{created_at}', 'submitted', '', 't', 't') RETURNING 1"
    )
    await trading.record.rows(
        "INSERT INTO trading_states (state, is_flattening, reason, decided_by, source_uri, "
        "transform_id) VALUES ('halted', false, 'odd', 'x', 't', 't') RETURNING 1"
    )
    await trading.control.advance(close_ms(1))  # the venue's clock passes the receive window
    async with serving("executor") as executor:

        async def order() -> Any:
            [found] = await executor.get("/orders")
            assert found["state"] == "rejected"
            return found

        found = await eventually_async(order)
    assert found["reason"] == (
        "the venue never had it, and it is not sent again: trading is halted: odd"
    )
