"""A replay through real processes: equal to the backtest, and untouched by kills and a flush."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.fleet.home import FleetHome
from cli.fleet.status import read_status
from cli.fleet.topology import SERVICES
from tests.chaos.fleet import Expected, Recording, expect, judge, replaying

OVERRIDES = (
    "screener.method=p_value",
    "screener.level=0.01",
    "screener.enter_after_screens=1",
    "signals.entry_z=1.5",
)


@pytest.fixture(scope="module")
def recording(data_folder: Path) -> Recording:
    crypto = data_folder / "crypto"
    bars = (crypto / "binance_spot_1h_2024.parquet", crypto / "binance_spot_5m_2024.parquet")
    return Recording(bars, "2024-03-01T00:00:00Z", "2024-03-01T08:00:00Z", OVERRIDES)


@pytest.fixture(scope="module")
def expected(recording: Recording) -> Expected:
    return expect(recording)


def test_a_replay_gives_the_digests_of_the_backtest(
    tmp_path: Path, recording: Recording, expected: Expected
) -> None:
    assert expected.report["counts"]["fills"] > 0
    with replaying(tmp_path / "home", recording) as replay:
        judge(replay, expected)
    states = {p.name: (str(p.state), p.pid) for p in read_status(FleetHome(tmp_path / "home"))}
    assert set(states.values()) == {("stopped", None)}


def test_kills_of_every_process_and_a_flush_change_no_digest(
    tmp_path: Path, recording: Recording, expected: Expected
) -> None:
    with replaying(tmp_path / "home", recording) as replay:
        for number, name in enumerate(SERVICES):
            replay.wait_for(4 + 9 * number)
            replay.kill(name)
            if number % 3 == 1:
                replay.flush()
        judge(replay, expected)
