"""`mnt up` as a person uses it: one command, a trading fleet, Ctrl-C, and once more."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import psutil
import psycopg
import pytest

from cli.fleet.embedded import postgres_url
from cli.fleet.home import FleetHome
from cli.fleet.status import stop_fleet
from cli.fleet.topology import SERVICES
from tests.support import eventually, is_gone

MNT = [sys.executable, "-c", "from cli.main import run; run()"]
TRADED = ("roster", "features", "models", "signals", "orders", "fills", "pair_positions")
SPEED = "market.speed=1500"  # five bars of 5m a second


@contextmanager
def fleet_up(home: FleetHome, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        command = [*MNT, "up", "--home", str(home.path), "--no-mlflow", "--set", SPEED]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        stop_fleet(home)
        process.wait(timeout=60)


def counts(home: FleetHome) -> dict[str, int]:
    with psycopg.connect(postgres_url(home, "")) as connection:
        found = {}
        for table in (*TRADED, "dead_letter"):
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert row is not None
            found[table] = row[0]
        return found


def has_traded(home: FleetHome, process: subprocess.Popen[bytes], log: Path) -> dict[str, int]:
    assert process.poll() is None, log.read_text()
    try:
        found = counts(home)
    except psycopg.OperationalError:
        return {}
    except psycopg.errors.UndefinedTable:
        return {}
    assert all(found[table] for table in TRADED), found
    return found


def processes_of(home: FleetHome) -> list[dict[str, object]]:
    done = subprocess.run(
        [*MNT, "status", "--json", "--home", str(home.path)], capture_output=True, check=True
    )
    table: list[dict[str, object]] = orjson.loads(done.stdout)
    return table


@pytest.mark.timeout(1_200)
def test_one_command_trades_stops_cleanly_and_goes_on(tmp_path: Path) -> None:
    home, log = FleetHome(tmp_path / "home"), tmp_path / "up.log"
    with fleet_up(home, log) as process:
        first = eventually(lambda: has_traded(home, process, log), within_seconds=480)
        table = {str(row["name"]): row for row in processes_of(home)}
        assert set(table) == {*SERVICES, "postgres", "valkey"}
        assert {row["state"] for row in table.values()} == {"ready"}
        children = [psutil.Process(int(str(row["pid"]))) for row in table.values()]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0, log.read_text()
        assert all(is_gone(child) for child in children)
    assert first["dead_letter"] == 0
    assert "simulated market" in log.read_text()

    with fleet_up(home, log) as process:

        def has_gone_on() -> bool:
            found = has_traded(home, process, log)
            return bool(found) and all(found[t] > first[t] for t in ("features", "fills"))

        eventually(has_gone_on, within_seconds=480)
        stopped = subprocess.run(
            [*MNT, "stop", "--home", str(home.path)], capture_output=True, check=True
        )
        assert "stopped" in stopped.stdout.decode()
        assert process.wait(timeout=60) == 0, log.read_text()
    assert {row["state"] for row in processes_of(home)} == {"stopped"}
