"""One run: the real executor and consumer through faults and crashes, until all is quiet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import asyncpg
from pydantic import SecretStr
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import shared.bus.consumer
import shared.clock
import shared.venues.gateway
from services.executor import store
from services.executor.handlers import Executor
from shared.book.control import TradingCommand
from shared.book.execution import FillTerms
from shared.book.limits import RiskLimits
from shared.bus import log
from shared.bus.consumer import Consumer, UnitOfWork
from shared.bus.retry import RetryPolicy
from shared.bus.streams import Streams
from shared.database.tables import instruments
from shared.errors import MntError, RetryableError
from shared.service import Runtime
from shared.settings import Settings
from tests.simulation.bus import Bus
from tests.simulation.database import Database, Driver, forget, simulated_database
from tests.simulation.portfolio import LINEAGE, TOPIC, Portfolio
from tests.simulation.rules import Rules
from tests.simulation.wire import Client, Wire
from tests.simulation.world import (
    INSTRUMENTS,
    N_CLOSES,
    CrashError,
    InvariantError,
    World,
)

MAX_STEPS = 2_000
"""A run that is not quiet by then never will be."""
QUIET_MS = 600_000
"""Time given after the last close: book and venue are compared once more within it."""
_PUBLISHED = ("positions.changed", "orders.updated", "fills.booked", "risk.changed")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Attributes
    ----------
    broken
        The rule that was broken and what by, `None` where all held.
    events, digest
        Everything that happened, and its fingerprint.
    """

    seed: int
    broken: str | None
    events: tuple[str, ...]
    digest: str
    n_crashes: int
    n_orders: int

    def told(self, last: int = 60) -> str:
        """Return what a person needs in order to look into it."""
        return "\n".join(
            (*self.events[-last:], f"{self.broken}; again with: make sim SEED={self.seed}")
        )


def _settings_of(seed: int) -> Settings:
    """Return what the executor is told; without funding, money must agree to the last unit."""
    return Settings(
        venue_api_key=SecretStr("key"),
        venue_api_secret=SecretStr("secret"),
        limits=RiskLimits(gross_cap=0.11),
        execution=FillTerms(funding_ppm=0 if seed % 2 else 100),
    )


class VirtualAsyncio:
    """asyncio as a service sees it, but that sleeping takes no time of ours."""

    def __init__(self, sleep: Callable[[float], Any]) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


class _Run:
    """The parts of a run that outlive a process of the executor."""

    def __init__(
        self, seed: int, engine: AsyncEngine, connection: AsyncConnection, client: Client
    ) -> None:
        self.engine, self.connection = engine, connection
        self.settings = settings = _settings_of(seed)
        self.world = World(seed, settings.execution, settings.portfolio.capital_e8)
        self.bus = Bus(self.world)
        self.rules = Rules(self.world, connection, settings)
        self.portfolio = Portfolio(self.world, connection)
        self._random = self.world.chance("operator")
        self._sessions = self.world.chance("session")
        self._intervenes = self._random.choice((0.0, 0.0, 0.01, 0.05))
        client.connect(self.world, Wire(self.world, self.rules.judge_order))
        self.consumer: Consumer | None = None
        self.executor: Executor | None = None
        self.n_steps = 0

    async def prepare(self) -> None:
        """Make the record that a fleet begins with."""
        rows = [
            {
                "venue": self.settings.venue_name,
                **{name: getattr(each, name) for name in each.__slots__},
                **LINEAGE,
            }
            for each in INSTRUMENTS
        ]
        await self.connection.execute(insert(instruments), rows)
        await log.ensure_topics(self.connection, [TOPIC, *_PUBLISHED])

    async def until_quiet(self) -> None:
        """Live through crashes until the last close is settled and nothing happens any more."""
        while True:
            try:
                await self._live()
            except CrashError:
                self.consumer = self.executor = None
                self.world.pass_time(self._random.choice((500, 5_000, 20_000, 400_000)))
            else:
                return

    async def _live(self) -> None:
        """Run one process of the executor until it crashes or the run is over."""
        self.world.begin_process()
        self.world.note("start")
        executor = Executor(self.settings)
        database = cast("AsyncEngine", Database(self.engine, self.world))
        consumer = Consumer(
            "executor",
            "1",
            database,
            cast("Streams", self.bus.of("executor")),
            replace(executor.routes, handlers={TOPIC: executor.settle}, adopters={}),
            RetryPolicy(first_wait_seconds=0.5, longest_wait_seconds=30.0),
        )
        executor.attach(cast("Runtime", SimpleNamespace(consumer=consumer)))
        await consumer._patiently(consumer._prepare)
        await consumer._patiently(consumer._start_reading)
        # A process whose session of the lock is lost settles with transactions instead.
        if self._sessions.random() < 0.6:
            real = (await self.connection.get_raw_connection()).driver_connection
            consumer._lock_driver = Driver(real, self.world)
        consumer.is_started.set()
        self.consumer, self.executor = consumer, executor
        while not self._is_over():
            await self._step(consumer)

    def _is_over(self) -> bool:
        return self.world.n_closed >= N_CLOSES + QUIET_MS // 300_000

    async def _step(self, consumer: Consumer) -> None:
        """Let the fleet publish, the consumer do what is next, and time pass if that is nothing."""
        self.n_steps += 1
        self.world.require(self.n_steps < MAX_STEPS, "a run comes to its end", self.n_steps)
        for entry in await self.portfolio.publish_due():
            self.bus.add(entry)
        self.bus.deliver()
        has_done = False
        try:
            async with consumer._turn:
                has_done = await consumer._do_next()
        except RetryableError as error:
            self.world.note(f"retry: {error}"[:150])
        if has_done:
            await self.rules.judge_cursor()
        else:
            await consumer._look_into_log()
            await self._intervene()
            pauses_ms = (100_000,) if self.world.is_healed else (1_000, 5_000, 60_000, 100_000)
            self.world.pass_time(self._random.choice(pauses_ms))

    async def sleep(self, seconds: float) -> None:
        """Let time pass for a consumer that waits between two tries."""
        self.n_steps += 1
        self.world.require(self.n_steps < MAX_STEPS, "a try comes to its end", self.n_steps)
        if self.consumer is not None:
            self.world.note(f"retry: {self.consumer.last_error}"[:250])
        self.world.pass_time(round(seconds * 1_000) + 1)
        if self.consumer is not None and not self.consumer._turn.locked():
            await self._intervene()

    async def _intervene(self) -> None:
        """Be the person who changes what may be traded, now and then; all is lifted at the end."""
        consumer, executor, random = self.consumer, self.executor, self._random
        if consumer is None or executor is None:
            return
        if self.world.is_healed:
            command = TradingCommand.RESUME
            if executor._control.denial is None:
                return
        elif random.random() < self._intervenes:
            command = random.choice((*TradingCommand, TradingCommand.RESUME))
        else:
            return
        self.world.note(f"asked to {command}")

        async def change(unit: UnitOfWork) -> None:
            if command is TradingCommand.RESUME:
                await executor.resume_trading(unit, "simulated", "operator")
            else:
                await executor.change_trading(unit, command, "simulated", "operator")

        try:
            await consumer.do(command.value, change)
        except RetryableError as error:
            self.world.note(f"refused: {error}"[:150])

    async def judge_end(self) -> None:
        """Judge the record, and the book in memory by it."""
        await self.rules.judge_end()
        assert self.executor is not None
        recorded, _ = await store.load_ledger(
            self.connection, self.settings.portfolio.capital_e8, self.settings.account
        )
        self.rules.judge_memory(self.executor._ledger, recorded)


class Simulator:
    """Runs seeds, one after another.

    Parameters
    ----------
    engine
        Of a migrated database that nobody else uses.
    connection
        To it, every statement a transaction: what others than the executor read and write.
    """

    def __init__(self, engine: AsyncEngine, connection: AsyncConnection) -> None:
        self._engine = engine
        self._connection = connection
        self._client = Client()

    async def run(self, seed: int) -> Outcome:
        """Run a seed on an empty record."""
        broken = None
        await forget(self._connection)
        run = _Run(seed, self._engine, self._connection, self._client)
        world = run.world
        try:
            with (
                patch.object(shared.clock, "time", SimpleNamespace(monotonic=world.seconds)),
                patch.object(shared.bus.consumer, "asyncio", VirtualAsyncio(run.sleep)),
                patch.object(shared.venues.gateway, "open_exchange", self._client.open),
            ):
                await run.prepare()
                await run.until_quiet()
                await run.judge_end()
        except InvariantError as error:
            broken = str(error)
        except (MntError, DBAPIError, asyncpg.PostgresError) as error:
            broken = f"no process ends by itself: {type(error).__name__}: {error}"
        finally:
            self._client.disconnect()
            n_orders = world.venue.exchange.store.counts()["orders"]
            world.venue.close()
        return Outcome(seed, broken, tuple(world.events), world.digest, world.n_crashes, n_orders)


@asynccontextmanager
async def simulator(database_url: str) -> AsyncIterator[Simulator]:
    """Open a simulator on a migrated database that nobody else uses."""
    async with simulated_database(database_url) as (engine, connection):
        yield Simulator(engine, connection)
