"""One run of the whole fleet: every service in one process, through faults and crashes.

The market stands still until the fleet has drained a close, as in a replay, so whatever goes
wrong on the way may delay the record and must not change it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import services.ingest.recorded as recorded
import shared.bus.consumer
import shared.clock
import shared.venues.gateway
from services.executor.handlers import Executor
from services.ingest.recorded import RecordedSource
from shared.book.control import TradingCommand
from shared.bus.consumer import Consumer, UnitOfWork
from shared.bus.retry import RetryPolicy
from shared.bus.streams import Streams
from shared.clock import instant_of_ms
from shared.errors import MntError, RetryableError
from shared.events.ingest import Bar, BarsClosed
from shared.service import Runtime
from shared.settings import Settings
from shared.venues.faults import FaultSettings
from tests.simulation.bus import Bus
from tests.simulation.database import Database, Driver, forget, simulated_database
from tests.simulation.fleet_market import (
    BAR_MS,
    N_FAULTY,
    N_MARKETS,
    VENUE,
    FleetMarket,
    fleet_market,
)
from tests.simulation.fleet_rules import FleetRules, Record
from tests.simulation.fleet_services import BUILDS, Service, fleet_settings
from tests.simulation.run import Outcome, VirtualAsyncio
from tests.simulation.wire import Client, Wire
from tests.simulation.world import FIRST_OPEN_MS, CrashError, InvariantError, Process, World

MAX_STEPS = 3_000
N_TRADED = 16
"""Closes after which a person has everything closed."""
UNTIL_RECONCILED_MS = 310_000
_CRASHES = {"screener": 5.0}
"""So much likelier is a side effect to be the last of a service that has few of them."""
_RECORDED = 0.5
"""How often a service at rest records rows of an event before anything else happens."""


class FleetWorld(World):
    """A world whose market stands still until ingest moves it.

    Parameters
    ----------
    seed, settings, market
        What goes wrong, the venue's terms, and its bars.
    is_calm
        Nothing goes wrong.
    """

    def __init__(self, seed: int, settings: Settings, market: FleetMarket, is_calm: bool) -> None:
        self.is_venue_honest = is_calm or seed % 2 == 1
        capital_e8 = settings.portfolio.capital_e8
        super().__init__(seed, settings.execution, capital_e8, market.listed, (80, 200, 500))
        self.has_stranger = False
        if is_calm:
            self.heal()

    def _begin(self) -> None:
        self.n_released = 0

    @property
    def n_closed(self) -> int:
        return self.n_released

    def pass_time(self, ms: int) -> None:
        self.venue.wait_until(self.now_ms + ms)

    def release(self, closes_at_ms: int) -> int:
        """Let the market reach a close."""
        self.side_effect("advance, before it")
        n_fills = self.venue.advance(closes_at_ms)
        number = (closes_at_ms - FIRST_OPEN_MS) // BAR_MS
        if number > self.n_released:
            self.n_released = number
            self.note(f"close {number}, {n_fills} fills")
            if number >= N_FAULTY and not self.is_healed:
                self.heal()
        self.side_effect("advance, after it")
        return n_fills

    def _faults(self) -> FaultSettings:
        """Return faults; an honest venue loses requests and answers, and refuses nothing."""
        faults = super()._faults()
        if not self.is_venue_honest:
            return faults
        orders = faults.orders.model_copy(update={"reject": 0.0, "min_notional": 0.0})
        return faults.model_copy(update={"orders": orders, "partial_fill": 0.0})


class _PaperControl:
    """What ingest moves the venue's market with."""

    def __init__(self, world: FleetWorld) -> None:
        self._world = world

    async def advance(self, closes_at_ms: int) -> int:
        return self._world.release(closes_at_ms)

    async def close(self) -> None:
        """There is no connection."""


@dataclass(slots=True)
class _Alive:
    """A process of a service, or the time at which there will be one again."""

    name: str
    process: Process
    consumer: Consumer | None = None
    service: Service | None = None
    back_at_ms: int = 0

    @property
    def has_work(self) -> bool:
        consumer = self.consumer
        return consumer is not None and bool(
            consumer._foreign
            or consumer._must_reload
            or any(consumer._buffers[topic] for topic in consumer._routes.handlers)
        )


class _FleetRun:
    """The parts of a run that outlive the processes."""

    def __init__(
        self,
        seed: int,
        is_calm: bool,
        engine: AsyncEngine,
        connection: AsyncConnection,
        client: Client,
    ) -> None:
        self.settings = fleet_settings()
        self.market = fleet_market(seed % N_MARKETS)
        self.world = FleetWorld(seed, self.settings, self.market, is_calm)
        self.bus = Bus(self.world)
        self.rules = FleetRules(self.world, connection, self.settings)
        self.database = cast("AsyncEngine", Database(engine, self.world))
        self._connection = connection
        client.connect(self.world, Wire(self.world, self.rules.executor.judge_order))
        self._random = self.world.chance("schedule")
        self._resting = self.world.chance("rest")
        self._strangers = _foreign_entries(seed % N_MARKETS, self.market)
        self.fleet = {name: _Alive(name, Process(name, 0)) for name in BUILDS}
        for name in BUILDS:
            self.bus.of(name)
        self.current = self.fleet["ingest"]
        self.has_flattened = False
        self.n_steps = 0

    # --- processes ------------------------------------------------------------------------

    async def _start(self, alive: _Alive) -> None:
        """Start a process of a service as its main does."""
        alive.process = self.world.begin_process(alive.name, _CRASHES.get(alive.name, 1.0))
        self.current = alive
        self.world.note(f"start {alive.name}")
        runtime = SimpleNamespace(consumer=None, engine=self.database)
        alive.service, routes = BUILDS[alive.name](self.settings, cast("Runtime", runtime))
        consumer = Consumer(
            alive.name,
            "1",
            self.database,
            cast("Streams", self.bus.of(alive.name)),
            routes,
            RetryPolicy(first_wait_seconds=0.5, longest_wait_seconds=10.0),
        )
        runtime.consumer = consumer
        await consumer._patiently(consumer._prepare)
        await consumer._patiently(consumer._start_reading)
        # A process whose session of the lock is lost settles with transactions instead.
        if self._random.random() < 0.6:
            real = (await self._connection.get_raw_connection()).driver_connection
            consumer._lock_driver = Driver(real, self.world)
        consumer.is_started.set()
        alive.consumer = consumer

    def _bury(self, alive: _Alive) -> None:
        alive.consumer = alive.service = None
        self.bus.detach(alive.name)
        alive.back_at_ms = self.world.now_ms + self._random.choice((500, 2_000, 8_000))

    async def _do(self, alive: _Alive, task: Callable[[], Any]) -> bool:
        """Let a process do something, of which it may die; False when it did nothing."""
        self.current = alive
        self.world.running = alive.process
        try:
            return bool(await task())
        except CrashError:
            self._bury(alive)
        except RetryableError as error:
            self.world.note(f"{alive.name} retries: {error}"[:150])
        return False

    # --- steps ----------------------------------------------------------------------------

    async def until_quiet(self) -> None:
        """Live until the last close is drained and nothing happens any more."""
        while not await self._step():
            self.n_steps += 1
            self.world.require(self.n_steps < MAX_STEPS, "a run comes to its end", self.n_steps)
        self.world.pass_time(UNTIL_RECONCILED_MS)
        await self._next_of(self.fleet["executor"])

    async def _step(self) -> bool:
        """Let one service do one thing; True when nothing is left to be done."""
        self.bus.deliver()
        for alive in self.fleet.values():
            if alive.consumer is None and alive.back_at_ms <= self.world.now_ms:
                await self._do(alive, partial(self._start, alive))
        busy = [alive for alive in self.fleet.values() if alive.has_work]
        if busy:
            await self._next_of(self._random.choice(busy))
            return False
        return await self._be_idle()

    async def _next_of(self, alive: _Alive) -> bool:
        consumer = alive.consumer
        if consumer is None:
            return False

        async def do_next() -> bool:
            async with consumer._turn:
                is_done = await consumer._do_next()
            if is_done:
                self.world.note(f"{alive.name} at {sorted(consumer.offsets.values())}")
            return is_done

        return await self._do(alive, do_next)

    async def _be_idle(self) -> bool:
        """Let who is behind look into the log, or else ingest release what is next."""
        world = self.world
        await self._next_of(self.fleet["executor"])
        await self._record_some()
        behind, without_rows = await self.rules.judge_cursors()
        if not behind and self._is_complete():
            await self._intervene()
            n_before = world.n_released
            await self._next_of(self.fleet["ingest"])
            if world.n_released > n_before:
                self._publish_foreign()
                return False
            source = self.fleet["ingest"].service
            if isinstance(source, RecordedSource) and source._is_finished:
                return not any(alive.has_work for alive in self.fleet.values())
        for name in sorted(behind | without_rows):
            consumer = self.fleet[name].consumer
            if consumer is not None:
                await self._do(self.fleet[name], consumer._look_into_log)
        world.pass_time(self._random.choice((300, 1_000, 3_000)))
        return False

    async def _record_some(self) -> None:
        """Let services that are at rest record rows of what they have published."""
        for alive in self.fleet.values():
            if alive.consumer is not None and self._resting.random() < _RECORDED:
                await self._do(alive, partial(self._record_next, alive.consumer))

    @staticmethod
    async def _record_next(consumer: Consumer) -> bool:
        async with consumer._turn:
            return await consumer._record_next()

    def _is_complete(self) -> bool:
        return all(alive.consumer is not None for alive in self.fleet.values())

    async def _intervene(self) -> None:
        """Be the person who has everything closed before the market ends."""
        executor = self.fleet["executor"].service
        consumer = self.fleet["executor"].consumer
        if self.has_flattened or self.world.n_released < N_TRADED or consumer is None:
            return
        assert isinstance(executor, Executor)
        if consumer.offsets["orders.requested"] < N_TRADED:
            return
        await self.rules.judge_held()

        async def change(unit: UnitOfWork) -> None:
            await executor.change_trading(unit, TradingCommand.FLATTEN, "the end", "operator")

        async def do() -> bool:
            await consumer.do("flatten", change)
            return True

        self.has_flattened = await self._do(self.fleet["executor"], do)

    def _publish_foreign(self) -> None:
        for topic, payload in self._strangers.get(self.world.n_released, ()):
            self.bus.add_foreign(topic, payload)

    async def sleep(self, seconds: float) -> None:
        """Let time pass for a consumer that waits between two tries."""
        self.n_steps += 1
        self.world.require(self.n_steps < MAX_STEPS, "a try comes to its end", self.n_steps)
        consumer = self.current.consumer
        if consumer is not None and consumer.last_error is not None:
            self.world.note(f"{self.current.name} waits: {consumer.last_error}"[:250])
        self.world.pass_time(round(seconds * 1_000) + 1)


Foreign = Mapping[int, list[tuple[str, bytes]]]
"""What others add to which stream, by the close after which they do."""


def _foreign_entries(shift: int, market: FleetMarket) -> Foreign:
    """Return entries of which none may have an effect but a record of its refusal."""
    bars = market.recorded.checked["15m"].accepted

    def closed(number: int, *, timeframe: str = "15m", **values: float) -> bytes:
        at_ms = FIRST_OPEN_MS + number * BAR_MS
        rows = bars.at(at_ms)
        bar = Bar(
            symbol=rows.symbols[int(rows.symbol_code[0])],
            open=float(rows.open[0]),
            high=float(rows.high[0]),
            low=float(rows.low[0]),
            close=float(rows.close[0]),
            volume=float(rows.volume[0]),
        ).model_copy(update=values)
        event = BarsClosed(
            closes_at=instant_of_ms(at_ms), venue=VENUE, timeframe=timeframe, bars=(bar,)
        )
        return event.to_bytes()

    return {
        2 + shift % 3: [("bars.15m", closed(1)), ("bars.15m", b"{not json")],
        5: [("bars.15m", closed(4, close=1.0)), ("pairs.screened", b"[]")],
        6 + shift % 3: [
            ("bars.15m", closed(5, timeframe="1h")),
            ("positions.changed", b'{"closes_at": 1}'),
            ("bars.15m", closed(2)),
        ],
        9: [("signals.raised", b""), ("orders.requested", b'"buy"')],
    }


class FleetSimulator:
    """Runs seeds of the whole fleet, one after another.

    Parameters
    ----------
    engine
        Of a migrated database that nobody else uses.
    connection
        To it, every statement a transaction.
    """

    def __init__(self, engine: AsyncEngine, connection: AsyncConnection) -> None:
        self._engine = engine
        self._connection = connection
        self._client = Client()
        self._undisturbed: dict[int, Record] = {}

    async def run(self, seed: int) -> Outcome:
        """Run a seed, and compare its record with that of the same market undisturbed."""
        await self.remember(seed)
        outcome, _ = await self._run(seed, is_calm=False)
        return outcome

    async def remember(self, seed: int) -> None:
        """Keep what an undisturbed fleet makes of the market of a seed.

        Raises
        ------
        InvariantError
            If a rule is broken where nothing goes wrong.
        """
        number = seed % N_MARKETS
        if number not in self._undisturbed:
            outcome, run = await self._run(number, is_calm=True)
            if outcome.broken is not None:
                raise InvariantError(f"undisturbed: {outcome.told()}")
            self._undisturbed[number] = run.rules.record

    async def _run(self, seed: int, *, is_calm: bool) -> tuple[Outcome, _FleetRun]:
        broken = None
        await forget(self._connection)
        run = _FleetRun(seed, is_calm, self._engine, self._connection, self._client)
        world = run.world
        virtual = VirtualAsyncio(run.sleep)
        with ExitStack() as stack:
            for target, name, value in (
                (shared.clock, "time", SimpleNamespace(monotonic=world.seconds)),
                (shared.bus.consumer, "asyncio", virtual),
                (shared.venues.gateway, "open_exchange", self._client.open),
                (recorded, "asyncio", virtual),
                (recorded, "load_market", lambda *_: run.market.recorded),
                (recorded, "PaperControl", lambda *_: _PaperControl(world)),
                (recorded, "CONSUMERS", tuple(name for name in BUILDS if name != "ingest")),
                (recorded, "_POLLS_PER_TURN", 1),
            ):
                stack.enter_context(patch.object(target, name, value))
            try:
                await run.until_quiet()
                await run.rules.judge_end(None if is_calm else self._undisturbed[seed % N_MARKETS])
            except InvariantError as error:
                broken = str(error)
            except (MntError, DBAPIError, asyncpg.PostgresError) as error:
                broken = f"no process ends by itself: {type(error).__name__}: {error}"
            finally:
                self._client.disconnect()
                n_orders = world.venue.exchange.store.counts()["orders"]
                world.venue.close()
        events = tuple(world.events)
        return Outcome(seed, broken, events, world.digest, world.n_crashes, n_orders), run


@asynccontextmanager
async def fleet_simulator(database_url: str) -> AsyncIterator[FleetSimulator]:
    """Open a simulator on a migrated database that nobody else uses."""
    async with simulated_database(database_url) as (engine, connection):
        yield FleetSimulator(engine, connection)
