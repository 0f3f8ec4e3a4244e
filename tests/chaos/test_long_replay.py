"""Five days of recorded bars through real processes that are killed, cut off, stopped and starved.

`make chaos` runs them all; `make chaos SEED=7 K=flushes` one of them, under another seed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cli.fleet.supervisor import RestartPolicy
from cli.fleet.topology import SERVICES
from shared.settings import as_utc
from tests.chaos.fleet import (
    PATIENCE_SECONDS,
    SERVERS,
    Expected,
    Recording,
    expect,
    judge,
    moments,
    replaying,
)
from tests.support import eventually

pytestmark = pytest.mark.chaos

SEED = int(os.environ.get("CHAOS_SEED", "1"))
START, END = "2024-03-01T00:00:00Z", "2024-03-06T00:00:00Z"
HISTORY_FROM = "2024-01-25T00:00:00Z"
N_CLOSES = 5 * 288
OVERRIDES = (
    "screener.method=p_value",
    "screener.level=0.01",
    "screener.enter_after_screens=1",
    "signals.entry_z=1.5",
)
_POLICY = RestartPolicy()
LIVENESS_BOUND_SECONDS = _POLICY.liveness_failures * (_POLICY.liveness_interval_seconds + 4.0)
"""After so long has the supervisor killed what does not answer; a question takes four."""
DISK_BYTES = 3 * 2**30


@pytest.fixture(scope="module")
def recording(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The days and the symbols that are needed: ingest reads all files at each of its starts."""
    crypto = data_folder / "crypto"
    trade = pq.read_table(crypto / "binance_spot_5m_2024.parquet")
    screen = pq.read_table(crypto / "binance_spot_1h_2024.parquet")
    symbols = pc.unique(trade["symbol"])
    folder = tmp_path_factory.mktemp("bars")
    for name, table in (("1h", screen), ("5m", trade)):
        is_needed = pc.and_(
            pc.is_in(table["symbol"], symbols),
            pc.and_(
                pc.greater_equal(table["ts"], as_utc(HISTORY_FROM)),
                pc.less_equal(table["ts"], as_utc(END)),
            ),
        )
        pq.write_table(table.filter(is_needed), folder / f"{name}.parquet")
    return Recording((folder / "1h.parquet", folder / "5m.parquet"), START, END, OVERRIDES)


@pytest.fixture(scope="module")
def expected(recording: Recording) -> Expected:
    found = expect(recording)
    assert found.report["counts"]["closes"] == N_CLOSES
    assert found.report["counts"]["pairs"] >= 10
    return found


def test_200_kills_of_services_change_nothing(
    tmp_path: Path, recording: Recording, expected: Expected
) -> None:
    chooser = random.Random(SEED)
    with replaying(tmp_path / "home", recording) as replay:
        for _ in moments(replay, 50, N_CLOSES, chooser):
            for name in chooser.sample(SERVICES, 4):
                replay.kill(name)
                time.sleep(chooser.uniform(0.0, 1.0))  # while those before it start again
        judge(replay, expected)


def test_20_flushes_of_redis_change_nothing(
    tmp_path: Path, recording: Recording, expected: Expected
) -> None:
    chooser = random.Random(SEED)
    with replaying(tmp_path / "home", recording) as replay:
        for _ in moments(replay, 20, N_CLOSES, chooser):
            replay.flush()
        judge(replay, expected)


def test_20_kills_each_of_valkey_and_postgres_change_nothing(
    tmp_path: Path, recording: Recording, expected: Expected
) -> None:
    chooser = random.Random(SEED)
    victims = list(SERVERS * 20)
    chooser.shuffle(victims)
    with replaying(tmp_path / "home", recording) as replay:
        for victim, _ in zip(victims, moments(replay, 40, N_CLOSES, chooser), strict=True):
            replay.kill(victim)
        judge(replay, expected)


def test_20_cuts_of_every_connection_change_nothing(
    tmp_path: Path, recording: Recording, expected: Expected
) -> None:
    chooser = random.Random(SEED)
    with replaying(tmp_path / "home", recording) as replay:
        for _ in moments(replay, 20, N_CLOSES, chooser):
            assert replay.cut_connections() > 0
        judge(replay, expected)


# --- processes that hang -------------------------------------------------------------------


def test_processes_that_hang_are_replaced_and_servers_that_hang_are_waited_for(
    tmp_path: Path, recording: Recording, expected: Expected
) -> None:
    chooser = random.Random(SEED)
    services = list(SERVICES)
    chooser.shuffle(services)
    waves = [*zip(services[::2], services[1::2], strict=True), *((each,) for each in SERVERS)]
    with replaying(tmp_path / "home", recording) as replay:
        for wave, _ in zip(waves, moments(replay, len(waves), N_CLOSES, chooser), strict=True):
            before = {name: replay.pid_of(name) for name in wave}
            for pid in before.values():
                os.kill(pid, signal.SIGSTOP)
            time.sleep(LIVENESS_BOUND_SECONDS)
            for name, pid in before.items():
                if name in SERVERS:
                    os.kill(pid, signal.SIGCONT)
                else:
                    assert replay.pid_of(name) != pid
        judge(replay, expected)


@pytest.mark.parametrize("name", ["executor", "signals"])
def test_one_that_wakes_after_another_has_taken_its_place_changes_nothing(
    tmp_path: Path, recording: Recording, expected: Expected, name: str
) -> None:
    """The supervisor sleeps too, or it would not let the sleeper wake."""
    chooser = random.Random(SEED)
    with replaying(tmp_path / "home", recording) as replay:
        for _ in moments(replay, 2, N_CLOSES, chooser):
            sleeper = replay.pid_of(name)
            for pid in (replay.process.pid, sleeper):
                os.kill(pid, signal.SIGSTOP)
            replay.end_sessions(f"mnt-{name}")
            with replay.another(name):
                replay.wait_for(replay.released() + 30)
                for pid in (sleeper, replay.process.pid):
                    os.kill(pid, signal.SIGCONT)
                replay.wait_for(replay.released() + 10)
        judge(replay, expected)


# --- a full disk ---------------------------------------------------------------------------


def test_a_full_disk_is_named_and_waited_for_and_changes_nothing(
    tmp_path: Path, recording: Recording, expected: Expected
) -> None:
    chooser = random.Random(SEED)
    with small_disk(tmp_path / "disk") as disk, replaying(disk / "home", recording) as replay:
        for _ in moments(replay, 3, N_CLOSES // 2, chooser):
            n_told = len(replay.told())

            def is_named(n_told: int = n_told) -> bool:
                by_supervisor = "make space on the disk" in replay.told()[n_told:]
                return by_supervisor or replay.says("make room on it")

            with filled(disk):
                eventually(is_named, within_seconds=PATIENCE_SECONDS)
                time.sleep(chooser.uniform(0.0, 20.0))
        judge(replay, expected)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of its own, where that is allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"only root may mount a disk to fill: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no room on a disk for a while."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**20))
    try:
        yield
    finally:
        ballast.unlink()
