"""A replay through real processes: equal to the backtest, and untouched by kills and a flush."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import redis

from cli.backtest import backtest
from cli.fleet.embedded import postgres_url, redis_url
from cli.fleet.home import FleetHome
from cli.fleet.status import read_status
from shared.clock import ms_of_instant
from shared.settings import as_utc
from tests.support import eventually

START, END = "2024-03-01T00:00:00Z", "2024-03-01T08:00:00Z"
OVERRIDES = (
    "screener.method=p_value",
    "screener.level=0.01",
    "screener.enter_after_screens=1",
    "signals.entry_z=1.5",
)
VICTIMS = (
    "ingest",
    "screener",
    "features",
    "trainer",
    "signals",
    "portfolio",
    "executor",
    "paper_exchange",
)


@pytest.fixture(scope="module")
def bar_files(data_folder: Path) -> list[Path]:
    crypto = data_folder / "crypto"
    return [crypto / "binance_spot_1h_2024.parquet", crypto / "binance_spot_5m_2024.parquet"]


@pytest.fixture(scope="module")
def expected(bar_files: list[Path]) -> dict[str, Any]:
    start_ms, end_ms = (ms_of_instant(as_utc(instant)) for instant in (START, END))
    _, report = backtest(bar_files, start_ms, end_ms, OVERRIDES)
    return report


@contextmanager
def replaying(home: Path, bar_files: list[Path]) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["--start", START, "--end", END, "--home", str(home), "--json"]
    for path in bar_files:
        arguments += ["--bars", str(path)]
    for override in OVERRIDES:
        arguments += ["--set", override]
    command = [sys.executable, "-c", "from cli.main import run; run()", "replay", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def report_of(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors.decode()[-2000:]
    report: dict[str, Any] = orjson.loads(output)
    return report


def released(home: FleetHome) -> int:
    try:
        with psycopg.connect(postgres_url(home, "")) as connection:
            row = connection.execute("SELECT n_closes FROM replay_progress").fetchone()
    except (psycopg.Error, OSError, KeyError):
        return 0
    return 0 if row is None else int(row[0])


def kill(home: FleetHome, name: str) -> None:
    pid = eventually(
        lambda: next((p.pid for p in read_status(home) if p.name == name and p.pid), None)
    )
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_replay_gives_the_digests_of_the_backtest(
    tmp_path: Path, bar_files: list[Path], expected: dict[str, Any]
) -> None:
    with replaying(tmp_path / "home", bar_files) as process:
        report = report_of(process)
    assert expected["counts"]["fills"] > 0
    assert report["counts"] == expected["counts"]
    assert report["digests"] == expected["digests"]
    assert report["positions"] == expected["positions"]
    assert (report["cash_e8"], report["equity_e8"]) == (
        expected["cash_e8"],
        expected["equity_e8"],
    )
    states = {p.name: (str(p.state), p.pid) for p in read_status(FleetHome(tmp_path / "home"))}
    assert set(states.values()) == {("stopped", None)}


def test_kills_of_every_process_and_a_flush_change_no_digest(
    tmp_path: Path, bar_files: list[Path], expected: dict[str, Any]
) -> None:
    home = FleetHome(tmp_path / "home")
    with replaying(home.path, bar_files) as process:
        for number, name in enumerate(VICTIMS):
            threshold = 4 + 9 * number

            def reached(threshold: int = threshold) -> bool:
                assert process.poll() is None, "the replay ended before the fault was planted"
                return released(home) >= threshold

            eventually(reached, within_seconds=120)
            kill(home, name)
            if number % 3 == 1:
                redis.Redis.from_url(redis_url(home)).flushall()
        report = report_of(process)
    assert report["digests"] == expected["digests"]
    assert report["counts"] == expected["counts"]
