"""`mnt replay`: recorded bars through the whole running fleet, in lockstep."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import orjson
import psycopg
import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.fleet.embedded import postgres_url, redis_url
from cli.fleet.home import FleetError, FleetHome
from cli.fleet.supervisor import Supervisor
from cli.fleet.topology import server_specs, service_specs, take_keys
from cli.record import Connection, connect, read_report
from shared.clock import monotonic_seconds, ms_of_instant, utc_now
from shared.database.migrate import upgrade
from shared.errors import DataError
from shared.settings import environment_of, strategy_of
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME
from shared.venues.market import RecordedMarket, load_market

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay.

    Attributes
    ----------
    start, end
        Bars up to the start are history; the last close released is at or before the end.
    is_staying
        Keep the fleet running after the last close, until it is told to stop.
    """

    bars: tuple[Path, ...]
    start: datetime | None
    end: datetime | None
    overrides: tuple[str, ...]
    is_staying: bool = False


async def run_replay(
    home: FleetHome,
    request: ReplayRequest,
    progress: Progress,
    deliver: Callable[[dict[str, object]], None],
) -> None:
    """Replay through real processes and deliver the report.

    Raises
    ------
    DataError
        If the files are unusable or no close lies between start and end.
    FleetError
        If the home is in use, holds the record of something other than a replay, or the
        replay is stopped before its end.
    """
    strategy = strategy_of(request.overrides)
    market = await asyncio.to_thread(
        load_market,
        request.bars,
        (SCREEN_TIMEFRAME,),
        strategy.trade_timeframe,
        strategy.ingest,
        ms_of_instant(utc_now()),
    )
    n_closes = _number_of_closes(market, request)
    environment = {
        **environment_of(request.overrides),
        **_replay_environment(home, request, market),
    }
    async with Supervisor(home) as fleet:
        await fleet.start(server_specs(home, {}))
        database_url = postgres_url(home)
        await asyncio.to_thread(_start_afresh, home, database_url)
        await asyncio.to_thread(upgrade, database_url)
        await fleet.start(service_specs(home, environment))
        seconds = await _watch(database_url, n_closes, progress)
        report = await asyncio.to_thread(_report, database_url)
        report["seconds"] = round(seconds, 3)
        report["closes_per_second"] = round(n_closes / seconds, 2) if seconds else None
        deliver(report)
        if request.is_staying:
            progress.console.print("every close is released; the fleet stays up until Ctrl-C")
            await fleet.run_until_signalled()
        return
    # A signal leaves the supervisor's context quietly, before the return above.
    raise FleetError("the replay was stopped before its end; run it again to repeat it")


def _number_of_closes(market: RecordedMarket, request: ReplayRequest) -> int:
    start_ms = None if request.start is None else ms_of_instant(request.start)
    end_ms = None if request.end is None else ms_of_instant(request.end)
    n_closes = len(market.closes(start_ms, end_ms))
    if n_closes == 0:
        first, last = market.closes(None, None)[0], market.closes(None, None)[-1]
        raise DataError(
            f"no bar closes after {request.start} and up to {request.end}: the files hold closes "
            f"from {first} to {last} (milliseconds since 1970)"
        )
    return n_closes


def _replay_environment(
    home: FleetHome, request: ReplayRequest, market: RecordedMarket
) -> Mapping[str, str]:
    environment = {
        "MNT_REPLAY__BARS": orjson.dumps([str(path.resolve()) for path in request.bars]).decode(),
        "MNT_VENUE_NAME": market.venue,
        **take_keys(home),
    }
    if request.start is not None:
        environment["MNT_REPLAY__START"] = request.start.isoformat()
    if request.end is not None:
        environment["MNT_REPLAY__END"] = request.end.isoformat()
    return environment


def _start_afresh(home: FleetHome, database_url: str) -> None:
    """Drop what an earlier replay left in this home: record, streams, the paper venue's store.

    Raises
    ------
    FleetError
        If the record is not that of a replay.
    """
    with connect(database_url) as connection:
        if not _is_replay_or_empty(connection):
            raise FleetError(
                f"{home.path} holds the record of a fleet that is not a replay: "
                "replay in a home of its own with --home"
            )
    url = database_url.replace("+asyncpg", "")
    base, _, name = url.rpartition("/")
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection_:
        connection_.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection_.execute(f'CREATE DATABASE "{name}"')
    # Old entries would be adopted by the new record as if somebody had just published them.
    with redis.Redis.from_url(redis_url(home)) as transport:
        transport.flushall()
    shutil.rmtree(home.path / "data" / "paper_exchange", ignore_errors=True)


def _is_replay_or_empty(connection: Connection) -> bool:
    has_log = connection.execute("SELECT to_regclass('event_log') IS NOT NULL AS is_there")
    row = has_log.fetchone()
    if row is None or not row["is_there"]:
        return True
    found = connection.execute(
        "SELECT EXISTS (SELECT FROM replay_progress) OR NOT EXISTS (SELECT FROM event_log) AS ok"
    ).fetchone()
    return found is not None and bool(found["ok"])


async def _watch(database_url: str, n_closes: int, progress: Progress) -> float:
    """Show how far the replay is until ingest says it has finished; return the seconds taken."""
    task = progress.add_task("waiting for the fleet", total=n_closes)
    started_at = None
    while True:
        released, is_finished = await asyncio.to_thread(_progress, database_url)
        if released and started_at is None:
            started_at = monotonic_seconds()
        progress.update(
            task, completed=released, description="closes" if released else "waiting for the fleet"
        )
        if is_finished:
            return monotonic_seconds() - (started_at or monotonic_seconds())
        await asyncio.sleep(_POLL_SECONDS)


def _progress(database_url: str) -> tuple[int, bool]:
    try:
        with connect(database_url) as connection:
            row = connection.execute("SELECT n_closes, is_finished FROM replay_progress").fetchone()
    except psycopg.OperationalError:
        return 0, False  # the database is being restarted; the supervisor sees to it
    return (0, False) if row is None else (row["n_closes"], row["is_finished"])


def _report(database_url: str) -> dict[str, object]:
    with connect(database_url) as connection:
        return read_report(connection)


def progress_bar() -> Progress:
    """Return the progress display of long commands, on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
