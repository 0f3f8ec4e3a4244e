"""Benchmark of the trading path: from a close on its stream to the intents of all pairs."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cli.bench.figure import Figure
from cli.bench.floor import Floor, connect, cross
from cli.fleet.embedded import postgres_url, redis_url
from cli.fleet.home import FleetError, FleetHome
from cli.fleet.supervisor import Supervisor
from cli.fleet.topology import server_specs, service_specs
from shared.bus import log
from shared.clock import instant_of_ms, monotonic_seconds
from shared.database.engine import create_engine, insert_rows, transaction
from shared.database.migrate import upgrade
from shared.database.tables import bars, instruments
from shared.events.base import Event
from shared.events.executor import PositionsChanged, PositionStatus
from shared.events.ingest import Bar, BarsClosed
from shared.events.portfolio import OrdersRequested
from shared.events.screener import PairsScreened, RosterPair
from shared.quant.typing import Float2D
from shared.sleeves.pairs.features import FeatureSettings, warmup_bars

N_PAIRS = 100
_N_SYMBOLS = 40
_N_ROUNDS = 6
_CLOSES_A_ROUND = 50
_CLOSES_BEFORE = 20
"""Closes that are not counted: the pairs are learnt, and code and plans are warm after them."""
_PATH = ("features", "signals", "portfolio")
_VENUE = "bench"
_BAR_MS = 300_000
_FIRST_MS = 1_704_067_200_000
_LINEAGE = {"source_uri": "bench:bar_to_order", "transform_id": "bench/1"}
_SETTINGS = {
    "MNT_VENUE_NAME": _VENUE,
    # Every pair trades every few closes, so that intents are many.
    "MNT_SIGNALS__SIGNALS_FROM": "z",
    "MNT_SIGNALS__ENTRY_Z": "0.7",
    "MNT_SIGNALS__EXIT_Z": "0.5",
    "MNT_SIGNALS__STOP_Z": "100",
    "MNT_SIGNALS__COOLDOWN_BARS": "0",
    "MNT_PORTFOLIO__TOP_K": str(N_PAIRS),
    "MNT_PORTFOLIO__SYMBOL_CAP": "10",
}


@dataclass(frozen=True, slots=True)
class Crossings:
    """How long closes and bare crossings took, in seconds, and the intents of those closes."""

    closes: list[float]
    floor: list[float]
    n_intents: int


def bar_to_order() -> tuple[Figure, Figure]:
    """Time closes of a hundred pairs against bare crossings of as many hops and commits."""
    measured = measure(N_PAIRS, _N_ROUNDS, _CLOSES_A_ROUND)
    return figures(measured, N_PAIRS)


def figures(measured: Crossings, n_pairs: int) -> tuple[Figure, Figure]:
    """Return median and 99th percentile; their ratio is how many times the floor they are."""
    n_closes = len(measured.closes)
    data = (
        f"{n_closes} closes of {n_pairs} pairs, {measured.n_intents / n_closes:.0f} intents each, "
        f"{len(_PATH)} commits and {len(_PATH) + 1} hops"
    )
    rows = []
    for name, percentile in (("bar_to_order", 50), ("bar_to_order_p99", 99)):
        figure = float(np.percentile(measured.closes, percentile)) * 1e3
        floor = float(np.percentile(measured.floor, percentile)) * 1e3
        rows.append(Figure(name, figure, "ms a close", floor, figure / floor, data))
    return rows[0], rows[1]


def measure(n_pairs: int, n_rounds: int, closes_a_round: int) -> Crossings:
    """Measure closes through the real services, in turn with bare crossings.

    Parameters
    ----------
    n_pairs
        Pairs on the roster.
    n_rounds, closes_a_round
        A round is so many bare crossings and then as many closes, because the speed of a
        shared machine drifts.
    """
    with tempfile.TemporaryDirectory(prefix="mnt-bench-") as folder:
        return asyncio.run(_measure(FleetHome(Path(folder)), n_pairs, n_rounds, closes_a_round))


async def _measure(home: FleetHome, n_pairs: int, n_rounds: int, closes_a_round: int) -> Crossings:
    async with Supervisor(home) as fleet:
        await fleet.start(server_specs(home, {}))
        await asyncio.to_thread(upgrade, postgres_url(home))
        market = _Market(n_pairs, _CLOSES_BEFORE + n_rounds * closes_a_round)
        engine = create_engine(postgres_url(home), application="mnt-bench")
        try:
            await market.record(engine)
            await fleet.start(service_specs(home, _SETTINGS, _PATH))
            with (
                connect(redis_url(home)) as client,
                Floor(redis_url(home), postgres_url(home, driver=""), len(_PATH)) as floor,
            ):
                driver = _Driver(engine, client, market)
                await driver.publish_roster()
                await driver.closes(_CLOSES_BEFORE)
                await asyncio.to_thread(floor.seconds, _CLOSES_BEFORE)
                driver.n_intents = 0
                bare: list[float] = []
                closes: list[float] = []
                for _ in range(n_rounds):
                    bare += await asyncio.to_thread(floor.seconds, closes_a_round)
                    closes += await driver.closes(closes_a_round)
                return Crossings(closes, bare, driver.n_intents)
        finally:
            await engine.dispose()
    # A signal leaves the supervisor's context quietly, before the return above.
    raise FleetError("the benchmark was stopped before its end; run it again")


class _Market:
    """Bars of symbols whose prices differ by noise that reverts at once.

    Parameters
    ----------
    n_pairs
        Different pairs of the symbols.
    n_closes
        Closes to come after the history.
    """

    def __init__(self, n_pairs: int, n_closes: int) -> None:
        rng = np.random.default_rng(7)
        self._n_history = warmup_bars(FeatureSettings())
        n_bars = self._n_history + n_closes
        common = rng.normal(0, 0.002, n_bars).cumsum()
        noise = rng.normal(0, 0.001, (n_bars, _N_SYMBOLS))
        level = np.log(rng.uniform(10, 1_000, _N_SYMBOLS))
        self._close: Float2D = np.round(np.exp(level + common[:, None] + noise), 4)
        self._volume: Float2D = np.round(rng.lognormal(8, 1, self._close.shape), 3)
        self._symbols = [f"C{n:02}/USDT" for n in range(_N_SYMBOLS)]
        every_pair = [(y, x) for y in self._symbols for x in self._symbols if y < x]
        self.pairs = [every_pair[n] for n in rng.permutation(len(every_pair))[:n_pairs]]
        self._n_shown = self._n_history

    def next_close(self) -> BarsClosed:
        """Return the bars of the next close."""
        closed = self._at(self._n_shown)
        self._n_shown += 1
        return closed

    def roster(self) -> PairsScreened:
        """Return the roster of all pairs, screened before the first close to come."""
        entered_at = instant_of_ms(_FIRST_MS)
        pairs = tuple(
            RosterPair(
                y=y,
                x=x,
                status="active",
                accepted_screens=3,
                missed_screens=0,
                entered_at=entered_at,
                left_at=None,
                statistic=-10.0,
                p_value=1e-6,
                q_value=1e-6,
                lag=0,
                hedge_ratio=1.0,
                intercept=0.0,
                half_life_bars=1.0,
                hurst=0.1,
                correlation=0.9,
                crossings=300,
                n_bars=720,
            )
            for y, x in self.pairs
        )
        return PairsScreened(
            closes_at=entered_at,
            timeframe="1h",
            method="by hand",
            level=0.05,
            n_symbols=_N_SYMBOLS,
            n_tests=len(pairs),
            n_accepted=len(pairs),
            summary="",
            pairs=pairs,
        )

    async def record(self, engine: AsyncEngine) -> None:
        """Write the instruments and the history, as ingest does before the first close."""
        listed = [
            {
                "venue": _VENUE,
                "symbol": symbol,
                "price_decimals": 4,
                "lot_decimals": 3,
                "min_notional_e8": 5 * 10**8,
                "price_source": "simulated",
                **_LINEAGE,
            }
            for symbol in self._symbols
        ]
        async with transaction(engine) as connection:
            await insert_rows(connection, instruments, listed)
            for bar in range(self._n_history):
                await insert_bars(connection, self._at(bar))

    def _at(self, bar: int) -> BarsClosed:
        return BarsClosed(
            closes_at=instant_of_ms(_FIRST_MS + (bar + 1) * _BAR_MS),
            venue=_VENUE,
            timeframe="5m",
            bars=tuple(
                Bar(symbol=symbol, open=close, high=close, low=close, close=close, volume=volume)
                for symbol, close, volume in zip(
                    self._symbols,
                    self._close[bar].tolist(),
                    self._volume[bar].tolist(),
                    strict=True,
                )
            ),
        )


async def insert_bars(connection: AsyncConnection, closed: BarsClosed) -> None:
    """Write the bars of a close, as ingest does."""
    key = {"venue": closed.venue, "timeframe": closed.timeframe, "closes_at": closed.closes_at}
    rows = [{**key, **bar.model_dump(), **_LINEAGE} for bar in closed.bars]
    await insert_rows(connection, bars, rows)


class _Driver:
    """Stands at both ends of the path: as ingest before it, as the executor behind it.

    Parameters
    ----------
    engine, client
        The servers.
    market
        Whose closes to publish.
    """

    def __init__(self, engine: AsyncEngine, client: redis.Redis, market: _Market) -> None:
        self._engine = engine
        self._client = client
        self._market = market
        self.n_intents = 0

    async def publish_roster(self) -> None:
        """Publish the roster as the screener does."""
        fields = await self._append("pairs.screened", self._market.roster())
        self._client.xadd("pairs.screened", fields)  # type: ignore[arg-type]  # as in `cross`
        await self._drain()

    async def closes(self, n_closes: int) -> list[float]:
        """Return how long each of the next closes took from its stream to its intents.

        Every close finds the path at rest, and every position closed whose end was asked for.
        """
        seconds = []
        for _ in range(n_closes):
            closed = self._market.next_close()
            fields = await self._append("bars.5m", closed)
            taken, arrived = await asyncio.to_thread(
                cross, self._client, "bars.5m", fields, "orders.requested"
            )
            seconds.append(taken)
            requested = OrdersRequested.from_bytes(arrived[b"data"])
            if requested.closes_at != closed.closes_at:
                raise FleetError(
                    f"the intents of {requested.closes_at} followed the close of "
                    f"{closed.closes_at}: something else publishes on these streams"
                )
            self.n_intents += len(requested.intents)
            await self._confirm(requested)
        return seconds

    async def _confirm(self, requested: OrdersRequested) -> None:
        """Report the positions closed that were to be, as the executor does a close later."""
        changed = PositionsChanged(
            closes_at=requested.closes_at,
            cash_e8=0,
            equity_e8=0,
            gross_e8=0,
            positions=tuple(
                PositionStatus(
                    position_id=intent.position_id,
                    pair=f"{intent.y}~{intent.x}",
                    state="closed",
                    lots_y=0,
                    lots_x=0,
                    cash_e8=0,
                )
                for intent in requested.intents
                if intent.action == "close"
            ),
        )
        fields = await self._append("positions.changed", changed)
        self._client.xadd("positions.changed", fields)  # type: ignore[arg-type]  # as in `cross`
        await self._drain()

    async def _append(self, topic: str, event: Event) -> dict[bytes, bytes]:
        """Record an event, with its bars where it has any, and return it as Redis carries it."""
        async with transaction(self._engine) as connection:
            if isinstance(event, BarsClosed):
                await insert_bars(connection, event)
            await log.ensure_topics(connection, [topic])
            entry = await log.append(connection, topic, event, **_LINEAGE)
        return {b"seq": str(entry.seq).encode(), b"data": entry.payload}

    async def _drain(self) -> None:
        deadline = monotonic_seconds() + 60
        while monotonic_seconds() < deadline:
            async with transaction(self._engine) as connection:
                if await log.is_drained(connection, with_rows=True):
                    return
            await asyncio.sleep(0.002)
        raise FleetError("the path did not come to rest within 60 s: see the services' logs")
