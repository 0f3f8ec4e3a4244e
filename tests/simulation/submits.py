"""Thousands of orders to a venue that drops requests and answers, and takes a used id again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

from pydantic import SecretStr
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import shared.bus.consumer
import shared.clock
import shared.venues.gateway
from services.executor.handlers import Executor
from services.paper_exchange.candles import Candle, Candles
from services.paper_exchange.in_process import InProcessVenue
from services.paper_exchange.market import Listing, Market
from shared.book.execution import FillTerms
from shared.book.ledger import in_flight
from shared.book.limits import RiskLimits
from shared.book.orders import IN_FLIGHT, OrderState
from shared.bus import log
from shared.bus.consumer import Consumer
from shared.bus.log import LogEntry
from shared.bus.streams import Streams
from shared.clock import instant_of_ms
from shared.database.tables import instruments
from shared.errors import RetryableError
from shared.events.executor import OrdersUpdated
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder
from shared.service import Runtime
from shared.settings import Settings
from shared.venues.faults import FaultSettings, OrderFaults
from tests.simulation.bus import Bus, Port
from tests.simulation.database import Database, Driver, forget
from tests.simulation.portfolio import LINEAGE, TOPIC
from tests.simulation.rules import Rules
from tests.simulation.run import _PUBLISHED, VirtualAsyncio
from tests.simulation.wire import Client, Wire
from tests.simulation.world import (
    BAR_MS,
    FIRST_OPEN_MS,
    INSTRUMENTS,
    World,
    close_ms,
)

PRICE = 100.0
LOTS = 1_000
PAIRS = (("AAA", "BBB"), ("CCC", "DDD"), ("AAA", "CCC"))
CYCLE = 4
"""Closes from one opening of the pairs to the next: an order trades two closes after its own."""
ORDERS_A_CYCLE = 4 * len(PAIRS)
N_QUIET = 3
"""Closes after the last one that asks for anything."""
LATE_SECONDS = 1.5
"""Of an answer. The calls of one close wait one after another here, so that longer waits would
use up the receive window of those behind them."""
DROPPED = OrderFaults(
    disconnect=0.15,  # it never arrives
    lost_answer=0.15 / 0.85,  # of the others: it was done, and nobody hears of it
    late_answer=0.10 / 0.70,  # of the others again
)


class BusyWorld(World):
    """A market that stands still, and a process that never crashes."""

    def __init__(self, seed: int, terms: FillTerms, capital_e8: int, n_closes: int) -> None:
        self._last_ms = close_ms(n_closes)
        super().__init__(seed, terms, capital_e8)
        self.venue.close()
        self._standing_at_ms = FIRST_OPEN_MS
        self._crash_every = 10**15
        self._breaks = 0.0
        self.has_stranger = False
        faults = FaultSettings(seed=seed, orders=DROPPED, late_seconds=LATE_SECONDS)
        self.venue = InProcessVenue(_still_market(n_closes), terms, capital_e8, faults)
        self.pass_time(BAR_MS)

    def pass_time(self, ms: int) -> None:
        """Let time go by, and the market with it."""
        until_ms = self.now_ms + ms
        while self._standing_at_ms + BAR_MS <= min(until_ms, self._last_ms):
            self._standing_at_ms += BAR_MS
            self.venue.advance(self._standing_at_ms)
        self.venue.wait_until(until_ms)


class _Listener(Port):
    """Streams that note when the fate of an order became known."""

    def __init__(self, bus: Bus, world: World) -> None:
        bus.of("executor")
        super().__init__(bus, world, "executor")
        self.first_sent_at_ms: dict[str, int] = {}
        self.blocked_ms: dict[str, int] = {}

    async def publish(
        self, *entries: LogEntry, adopted_up_to: Mapping[str, str] | None = None
    ) -> bool:
        updated = [entry for entry in entries if entry.topic == "orders.updated"]
        for entry in updated:
            for order in OrdersUpdated.from_bytes(entry.payload).orders:
                sent_at_ms = self.first_sent_at_ms.get(order.client_order_id)
                if sent_at_ms is not None and OrderState(order.state) not in IN_FLIGHT:
                    blocked_ms = self._world.now_ms - sent_at_ms
                    self.blocked_ms.setdefault(order.client_order_id, blocked_ms)
        return await super().publish(*entries, adopted_up_to=adopted_up_to)


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of the orders.

    Attributes
    ----------
    n_orders, n_sent, n_at_venue
        Orders of the book, requests by which they were sent, and orders that the venue took.
    blocked_ms
        For how long each order kept its instrument waiting: from its first sending until the
        record knew what had become of it.
    faults
        How often each fault struck.
    """

    n_orders: int
    n_sent: int
    n_at_venue: int
    blocked_ms: dict[str, int]
    faults: dict[str, int]


async def submit_many(
    engine: AsyncEngine, connection: AsyncConnection, seed: int, n_orders: int
) -> Submitted:
    """Open and close pairs, close after close, until so many orders were asked for.

    Raises
    ------
    InvariantError
        If a rule of the simulation is broken.
    """
    await forget(connection)
    n_busy = CYCLE * -(-n_orders // ORDERS_A_CYCLE)
    settings = Settings(
        venue_api_key=SecretStr("key"),
        venue_api_secret=SecretStr("secret"),
        limits=RiskLimits(max_daily_loss=10.0, max_drawdown=10.0),
        execution=FillTerms(funding_ppm=0),
    )
    world = BusyWorld(seed, settings.execution, settings.portfolio.capital_e8, n_busy + N_QUIET)
    bus = Bus(world)
    port = _Listener(bus, world)
    rules = Rules(world, connection, settings)
    n_sent = 0

    async def inspect(asked: dict[str, str], is_taken: bool) -> None:
        nonlocal n_sent
        if not is_taken:
            n_sent += 1
            port.first_sent_at_ms.setdefault(asked["newClientOrderId"], world.now_ms)
        await rules.judge_order(asked, is_taken)

    wire = Wire(world, inspect)
    wire._stalls = 0.0
    client = Client()
    client.connect(world, wire)

    async def sleep(seconds: float) -> None:
        world.pass_time(round(seconds * 1_000) + 1)

    try:
        with (
            patch.object(shared.clock, "time", SimpleNamespace(monotonic=world.seconds)),
            patch.object(shared.bus.consumer, "asyncio", VirtualAsyncio(sleep)),
            patch.object(shared.venues.gateway, "open_exchange", client.open),
        ):
            await _prepare(connection, settings)
            await _trade(engine, connection, settings, world, bus, port, n_busy)
            await rules.judge_cursor()
            await rules.judge_end()
    finally:
        client.disconnect()
        n_at_venue = world.venue.exchange.store.counts()["orders"]
        faults = world.venue.faults.injected
        world.venue.close()
    return Submitted(len(port.first_sent_at_ms), n_sent, n_at_venue, port.blocked_ms, faults)


async def _prepare(connection: AsyncConnection, settings: Settings) -> None:
    rows = [
        {
            "venue": settings.venue_name,
            **{name: getattr(each, name) for name in each.__slots__},
            **LINEAGE,
        }
        for each in INSTRUMENTS
    ]
    await connection.execute(insert(instruments), rows)
    await log.ensure_topics(connection, [TOPIC, *_PUBLISHED])


async def _trade(
    engine: AsyncEngine,
    connection: AsyncConnection,
    settings: Settings,
    world: BusyWorld,
    bus: Bus,
    port: Port,
    n_busy: int,
) -> None:
    """Run the executor as it is served until every close is settled."""
    world.begin_process("executor")
    executor = Executor(settings)
    database = cast("AsyncEngine", Database(engine, world))
    consumer = Consumer(
        "executor",
        "1",
        database,
        cast("Streams", port),
        replace(executor.routes, handlers={TOPIC: executor.settle}, adopters={}),
    )
    executor.attach(cast("Runtime", SimpleNamespace(consumer=consumer)))
    await consumer._patiently(consumer._prepare)
    await consumer._patiently(consumer._start_reading)
    real = (await connection.get_raw_connection()).driver_connection
    consumer._lock_driver = Driver(real, world)
    consumer.is_started.set()
    for number in range(n_busy + N_QUIET):
        world.pass_time(max(0, close_ms(number) - world.now_ms))
        bus.add(await log.append(connection, TOPIC, _asked(number, n_busy), **LINEAGE))
        while consumer.offsets[TOPIC] <= number or in_flight(executor._ledger):
            bus.deliver()
            try:
                async with consumer._turn:
                    has_done = await consumer._do_next()
            except RetryableError:
                has_done = False
            if not has_done:
                await consumer._look_into_log()
                world.pass_time(round(1_000 * shared.bus.consumer.IDLE_SECONDS))


def _asked(number: int, n_busy: int) -> OrdersRequested:
    """Return what is wanted at a close: pairs are opened at one, and closed two later."""
    intents = []
    is_asking = number < n_busy and number % 2 == 0
    for y, x in PAIRS if is_asking else ():
        opened_at_ms = close_ms(number - number % CYCLE)
        position_id = f"{opened_at_ms}:pairs:{y}/USDT~{x}/USDT:open"
        is_opening = number % CYCLE == 0
        intents.append(
            SubmitOrder(
                intent_id=position_id if is_opening else f"{position_id}:left",
                sleeve="pairs",
                y=f"{y}/USDT",
                x=f"{x}/USDT",
                action="open" if is_opening else "close",
                position_id=position_id,
                reason="z_score",
                hedge_ratio=1.0,
                legs=(
                    OrderLeg(leg="y", symbol=f"{y}/USDT", side="buy", quantity_lots=LOTS),
                    OrderLeg(leg="x", symbol=f"{x}/USDT", side="sell", quantity_lots=LOTS),
                )
                if is_opening
                else (),
            )
        )
    return OrdersRequested(
        closes_at=instant_of_ms(close_ms(number)),
        timeframe="5m",
        intents=tuple(intents),
        marks={each.symbol: PRICE for each in INSTRUMENTS},
    )


def _still_market(n_closes: int) -> Market:
    listings = {}
    for instrument in INSTRUMENTS:
        name = instrument.symbol.replace("/", "")
        candles = [
            Candle(close_ms(n) - BAR_MS, close_ms(n), PRICE, PRICE, PRICE, PRICE, 1e6)
            for n in range(n_closes + 1)
        ]
        listings[name] = Listing(name, instrument, BAR_MS, Candles.of(candles))
    return Market(listings, listings["AAAUSDT"].bars.closes_at_ms, BAR_MS)
