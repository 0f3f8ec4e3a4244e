"""A replay through real processes of its own, what can be done to it, and what must come of it."""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import orjson
import psycopg
import redis

from cli.backtest import backtest
from cli.fleet.embedded import POSTGRES, VALKEY, postgres_url, redis_url
from cli.fleet.home import FleetHome
from cli.fleet.status import read_status
from cli.fleet.topology import SERVICES
from shared.book.instrument import venue_id
from shared.book.orders import OrderState
from shared.clock import ms_of_instant
from shared.settings import as_utc
from tests.support import eventually

SERVERS = (VALKEY, POSTGRES)
REPLAY_SECONDS = 1_200.0
"""Longest time that the end of a replay is waited for after its last fault."""
PATIENCE_SECONDS = 400.0
"""Longest time without a close, while processes are begun again one after another."""
NOTHING_AT_THE_VENUE = (OrderState.DENIED, OrderState.REJECTED)

TradedOrder = tuple[str, str, int, int]
"""The venue's symbol, side, lots ordered and lots filled of an order."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Recorded bars to replay, from the first close after the start to the end."""

    bars: tuple[Path, ...]
    start: str
    end: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What an undisturbed backtest of a recording says; the orders by client order id."""

    report: dict[str, Any]
    orders: dict[str, TradedOrder]


def expect(recording: Recording) -> Expected:
    """Run the backtest of a recording."""
    start_ms, end_ms = (ms_of_instant(as_utc(at)) for at in (recording.start, recording.end))
    result, report = backtest(recording.bars, start_ms, end_ms, recording.overrides)
    return Expected(
        report,
        {
            client_order_id: (
                venue_id(order.symbol),
                order.side.value,
                order.quantity_lots,
                order.filled_lots,
            )
            for client_order_id, order in result.orders.items()
            if order.state not in NOTHING_AT_THE_VENUE
        },
    )


class Replay:
    """A running replay."""

    def __init__(self, home: FleetHome, process: subprocess.Popen[bytes], told: IO[bytes]) -> None:
        self.home = home
        self.process = process
        self._told = told
        self._connection: psycopg.Connection[tuple[int]] | None = None

    def released(self) -> int:
        """Return how many closes have been released; 0 while Postgres does not say."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(
                    postgres_url(self.home, ""), autocommit=True, connect_timeout=3
                )
            row = self._connection.execute("SELECT n_closes FROM replay_progress").fetchone()
        except (psycopg.Error, OSError):
            self.close()
            return 0
        return 0 if row is None else row[0]

    def close(self) -> None:
        """Close the connection that progress is asked over."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def wait_for(self, n_closes: int) -> None:
        """Wait until so many closes have been released."""

        def reached() -> bool:
            assert self.process.poll() is None, "the replay ended before the fault was planted"
            return self.released() >= n_closes

        eventually(reached, within_seconds=PATIENCE_SECONDS)

    def pid_of(self, name: str) -> int:
        """Return the number of a process, once it runs."""

        def find() -> int | None:
            return next((p.pid for p in read_status(self.home) if p.name == name), None)

        pid = eventually(find, within_seconds=60)
        assert pid is not None
        return pid

    def kill(self, name: str) -> None:
        """Kill a process as the kernel does when memory is short."""
        with suppress(ProcessLookupError):  # another fault was faster
            os.kill(self.pid_of(name), signal.SIGKILL)

    def cut_connections(self) -> int:
        """Cut every connection to Postgres and to Valkey; return how many of Postgres."""
        with redis.Redis.from_url(redis_url(self.home)) as transport:
            for kind in ("normal", "pubsub"):
                transport.client_kill_filter(_type=kind, skipme=True)
        return self.end_sessions("%")

    def end_sessions(self, application: str) -> int:
        """End the sessions on Postgres whose application has a name like this."""
        with psycopg.connect(postgres_url(self.home, "")) as connection:
            row = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' "
                "AND application_name LIKE %s",
                (application,),
            ).fetchone()
        return 0 if row is None else int(row[0])

    @contextmanager
    def another(self, name: str) -> Iterator[None]:
        """Run a second instance of a service, told what the first was told but its port."""
        told = Path(f"/proc/{self.pid_of(name)}/environ").read_bytes().decode()
        environment = dict(each.split("=", 1) for each in told.split("\0") if each)
        with socket.create_server(("127.0.0.1", 0)) as free:
            environment["MNT_PORT"] = str(free.getsockname()[1])
        with (self.home.logs / f"another-{name}.log").open("ab") as output:
            rival = subprocess.Popen(
                [sys.executable, "-m", f"services.{name}"],
                env=environment,
                stdout=output,
                stderr=output,
            )
        try:
            yield
        finally:
            rival.kill()
            rival.wait()

    def says(self, what: str) -> bool:
        """Tell whether a service names something as its last error."""
        headers = {"Authorization": f"Bearer {self.home.token()}"}
        for name in SERVICES:
            url = f"http://127.0.0.1:{self.home.port(name)}/status"
            try:
                answer = httpx.get(url, headers=headers, timeout=3.0)
            except httpx.HTTPError:
                continue
            if what in answer.text:
                return True
        return False

    def flush(self) -> None:
        """Empty Redis of everything."""
        eventually(lambda: self._flushed())

    def _flushed(self) -> bool:
        try:
            with redis.Redis.from_url(redis_url(self.home)) as transport:
                return bool(transport.flushall())
        except redis.RedisError:
            return False

    def report(self) -> dict[str, Any]:
        """Wait for the end of the replay and return its report."""
        output, _ = self.process.communicate(timeout=REPLAY_SECONDS)
        assert self.process.returncode == 0, self.told()[-4_000:]
        report: dict[str, Any] = orjson.loads(output)
        return report

    def told(self) -> str:
        """Return what the supervisor has told so far."""
        descriptor = self._told.fileno()  # the supervisor writes where a seek would lead to
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


@contextmanager
def replaying(home: Path, recording: Recording) -> Iterator[Replay]:
    """Replay a recording in a home of its own; what still runs at the end is stopped."""
    arguments = ["--start", recording.start, "--end", recording.end, "--home", str(home), "--json"]
    for path in recording.bars:
        arguments += ["--bars", str(path)]
    for override in recording.overrides:
        arguments += ["--set", override]
    command = [sys.executable, "-c", "from cli.main import run; run()", "replay", *arguments]
    # To a file: a pipe that nobody reads is full after some hundred restarts.
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told)
        replay = Replay(FleetHome(home), process, told)
        try:
            yield replay
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=90)
            replay.close()


def moments(replay: Replay, n_faults: int, n_closes: int, chooser: random.Random) -> Iterator[None]:
    """Wait for one random moment after another, and let a fault strike at each.

    Between a close and its fault lies a random part of a second: a close passes through eight
    processes in less than a tenth of one.
    """
    for n_released in sorted(chooser.sample(range(3, n_closes - 20), n_faults)):
        replay.wait_for(n_released)
        time.sleep(chooser.uniform(0.0, 0.3))
        yield


def orders_at_the_venue(home: FleetHome) -> list[tuple[str, TradedOrder]]:
    """Return every order of the venue's own store, with what its trades add up to."""
    store = home.path / "data" / "paper_exchange" / "venue.sqlite3"
    with sqlite3.connect(store) as connection:
        rows = connection.execute(
            "SELECT client_order_id, symbol, lower(side), quantity_lots, "
            "(SELECT coalesce(sum(lots), 0) FROM trades WHERE trades.order_id = orders.order_id) "
            "FROM orders ORDER BY order_id"
        ).fetchall()
    return [(client_order_id, (*order,)) for client_order_id, *order in rows]


def judge(replay: Replay, expected: Expected) -> dict[str, Any]:
    """Wait for the end and judge it: nothing lost, nothing twice, here and at the venue."""
    report = replay.report()
    for what in ("counts", "digests", "positions", "cash_e8", "equity_e8"):
        assert report[what] == expected.report[what], what
    assert report["counts"]["dead_letters"] == 0
    at_venue = orders_at_the_venue(replay.home)
    times_placed = Counter(client_order_id for client_order_id, _ in at_venue)
    assert {each: n for each, n in times_placed.items() if n > 1} == {}, "placed twice"
    assert dict(at_venue) == expected.orders
    return report
