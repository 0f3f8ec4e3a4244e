"""Benchmark of a replay through the whole fleet, one close after another."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from cli.bench.figure import Figure
from cli.bench.floor import Floor
from cli.fleet.embedded import postgres_url, redis_url
from cli.fleet.home import FleetError, FleetHome
from cli.fleet.supervisor import Supervisor
from cli.fleet.topology import SERVICES, server_specs, service_specs, take_keys
from shared.clock import instant_of_ms, monotonic_seconds
from shared.database.migrate import upgrade
from shared.quant.typing import Float1D

N_PAIRS = 20
_N_CLOSES = 288
_CLOSES_BEFORE = 24
"""Closes that are not counted: pairs are learnt, and code is compiled or loaded."""
_FLOOR_CLOSES = 150
_N_RELAYS = 4
"""Of features, signals, portfolio and executor, behind the commit of ingest."""
_PATIENCE_SECONDS = 600
_HOUR_MS = 3_600_000
_FIRST_MS = 1_704_067_200_000
_HISTORY_HOURS = 320
_SETTINGS = {
    # Of such pairs as these the test is certain, and of no others: the roster is all of them.
    "MNT_SCREENER__METHOD": "p_value",
    "MNT_SCREENER__LEVEL": "0.00001",
    "MNT_SCREENER__WINDOW_BARS": "300",
    "MNT_SCREENER__ENTER_AFTER_SCREENS": "1",
    "MNT_SCREENER__LEAVE_AFTER_SCREENS": "1000",
    "MNT_SCREENER__HURST_MAX": "1",
    "MNT_SCREENER__HALF_LIFE_MIN_BARS": "0",
    "MNT_SCREENER__QUOTE_VOLUME_MIN_USDT": "0",
    "MNT_SIGNALS__SIGNALS_FROM": "z",
}


@dataclass(frozen=True, slots=True)
class Replayed:
    """Closes a second of the fleet and of the floor, and what the fleet did meanwhile."""

    closes_per_second: float
    floor_per_second: float
    n_closes: int
    n_feature_rows: int
    n_fills: int


def lockstep_replay() -> Figure:
    """Time a replay of twenty pairs against a bare chain of as many hops and commits."""
    return figure(replay(N_PAIRS, _N_CLOSES, _CLOSES_BEFORE, _FLOOR_CLOSES))


def figure(replayed: Replayed) -> Figure:
    """Return closes a second; the ratio is the share of the floor's."""
    pairs = replayed.n_feature_rows / replayed.n_closes
    data = (
        f"{replayed.n_closes} closes of {pairs:.0f} pairs, {replayed.n_fills} fills, "
        f"{_N_RELAYS + 1} commits and hops"
    )
    rate, floor = replayed.closes_per_second, replayed.floor_per_second
    return Figure("lockstep_replay", rate, "closes a second", floor, rate / floor, data)


def replay(n_pairs: int, n_closes: int, closes_before: int, floor_closes: int) -> Replayed:
    """Replay simulated bars through every service, with bare crossings before and after.

    Parameters
    ----------
    n_pairs
        Pairs of the market, which are all there is to find in it.
    n_closes, closes_before
        Closes to replay, and how many of them are not counted.
    floor_closes
        Bare crossings before, and as many after.
    """
    with tempfile.TemporaryDirectory(prefix="mnt-bench-") as folder:
        home = FleetHome(Path(folder) / "home")
        files = write_market(Path(folder), n_pairs, n_closes)
        return asyncio.run(_replay(home, files, closes_before, floor_closes))


async def _replay(
    home: FleetHome, files: list[Path], closes_before: int, floor_closes: int
) -> Replayed:
    settings = {
        **_SETTINGS,
        "MNT_REPLAY__BARS": orjson.dumps([str(path) for path in files]).decode(),
        "MNT_REPLAY__START": instant_of_ms(_FIRST_MS + _HISTORY_HOURS * _HOUR_MS).isoformat(),
        "MNT_VENUE_NAME": "binance",
        **take_keys(home),
    }
    async with Supervisor(home) as fleet:
        await fleet.start(server_specs(home, {}))
        await asyncio.to_thread(upgrade, postgres_url(home))
        database_url = postgres_url(home, driver="")
        with Floor(redis_url(home), database_url, _N_RELAYS) as floor:
            await asyncio.to_thread(floor.seconds_with_commit, 20)
            bare = await asyncio.to_thread(floor.seconds_with_commit, floor_closes)
            await fleet.start(service_specs(home, settings, SERVICES))
            await _finish(database_url)
            bare += await asyncio.to_thread(floor.seconds_with_commit, floor_closes)
        return await asyncio.to_thread(_summary, database_url, closes_before, bare)
    # A signal leaves the supervisor's context quietly, before the return above.
    raise FleetError("the benchmark was stopped before its end; run it again")


async def _finish(database_url: str) -> None:
    deadline = monotonic_seconds() + _PATIENCE_SECONDS
    while monotonic_seconds() < deadline:
        with psycopg.connect(database_url) as connection:
            found = connection.execute("SELECT is_finished FROM replay_progress").fetchone()
        if found is not None and found[0]:
            return
        await asyncio.sleep(0.5)
    raise FleetError(f"the replay took more than {_PATIENCE_SECONDS} s: see the services' logs")


def _summary(database_url: str, closes_before: int, bare: list[float]) -> Replayed:
    """Return the rate between two releases: a close is released when the last has drained."""
    with psycopg.connect(database_url) as connection:
        times = connection.execute(
            "SELECT ingested_at, closes_at FROM event_log WHERE topic = 'bars.5m' "
            "ORDER BY seq OFFSET %s",
            [closes_before],
        ).fetchall()
        since, first_close = times[0]
        # Rows of a close may be recorded after the next is released; its fills never are.
        [(n_rows, n_fills)] = connection.execute(
            "SELECT (SELECT count(*) FROM features WHERE closes_at >= %s), "
            "(SELECT count(*) FROM fills WHERE ingested_at >= %s)",
            [first_close, since],
        ).fetchall()
    seconds = (times[-1][0] - since).total_seconds()
    return Replayed((len(times) - 1) / seconds, len(bare) / sum(bare), len(times), n_rows, n_fills)


def write_market(folder: Path, n_pairs: int, n_closes: int) -> list[Path]:
    """Write bars of pairs that each have a walk of their own, and a spread that reverts."""
    rng = np.random.default_rng(11)
    n_bars = _HISTORY_HOURS * 12 + n_closes + 1
    log_close: dict[str, Float1D] = {}
    for pair in range(n_pairs):
        walk = rng.normal(0, 0.002, n_bars).cumsum()
        spread = rng.normal(0, 0.001, n_bars)
        for bar in range(1, n_bars):
            spread[bar] += 0.8 * spread[bar - 1]
        log_close[f"X{pair:02}/USDT"] = np.log(50.0 + pair) + walk
        log_close[f"Y{pair:02}/USDT"] = np.log(20.0 + pair) + walk + spread
    return [
        _write_bars(folder / f"{timeframe}.parquet", log_close, n_minutes)
        for timeframe, n_minutes in (("1h", 60), ("5m", 5))
    ]


def _write_bars(path: Path, log_close: dict[str, Float1D], n_minutes: int) -> Path:
    step = n_minutes // 5
    parts = []
    for symbol, log_price in log_close.items():
        price = np.round(np.exp(log_price[::step]), 4)
        opened, close = price[:-1], price[1:]
        opens_at = _FIRST_MS + n_minutes * 60_000 * np.arange(len(close))
        parts.append(
            pa.table(
                {
                    "ts": pa.array(opens_at, type=pa.timestamp("ms", "UTC")),
                    "symbol": [symbol] * len(close),
                    "exchange": ["binance"] * len(close),
                    "open": opened,
                    "high": np.maximum(opened, close),
                    "low": np.minimum(opened, close),
                    "close": close,
                    "volume": np.full(len(close), 10_000.0),
                }
            )
        )
    pq.write_table(pa.concat_tables(parts), path)
    return path
