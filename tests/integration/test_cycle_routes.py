"""Cycles that the trainer starts, in processes of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.trainer.cycles import CycleRunningError, Cycles
from shared.database.tables import bars
from tests.serving import recording, serving, settings_in_environment
from tests.support import eventually, eventually_async

# MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

BAR = {
    "venue": "binance", "symbol": "AAA/USDT", "open": 2.0, "high": 3.0, "low": 1.0, "close": 2.5,
    "volume": 1.0,
}  # fmt: skip


def at(n: int) -> datetime:
    return datetime(2024, 3, 1, tzinfo=UTC) + n * timedelta(hours=1)


PROJECT = Path(__file__).resolve().parents[2]


async def test_a_cycle_runs_beside_the_service_and_is_known_after_its_restart(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_in_environment(monkeypatch, tmp_path, database_url, redis_url)
    monkeypatch.chdir(PROJECT)
    async with serving("trainer") as trainer:
        assert await trainer.get("/cycles") == []
        status, fault = await trainer.refusal(
            "POST", "/cycles/short", {"settings": ["screener.methods=x"]}
        )
        assert (status, "did you mean screener.method" in fault) == (409, True)
        status, fault = await trainer.refusal("POST", "/cycles/short", {})
        assert (status, "holds no bar of 1h" in fault) == (409, True)
        async with recording(database_url, redis_url) as record:
            for timeframe in ("1h", "5m"):
                await record.put(bars, *({**BAR, "closes_at": at(n), "timeframe": timeframe}
                                         for n in range(3)))  # fmt: skip
        started = await trainer.send(
            "POST", "/cycles/short", {"start": "2024-03-01T00:00:00Z", "settings": []}
        )
        assert started["state"] == "running"
        assert "--start=2024-03-01T00:00:00+00:00" in started["arguments"]
        status, fault = await trainer.refusal("POST", "/cycles/full", {})
        assert (status, started["cycle_id"] in fault) == (409, True)
        # The service goes on while the cycle works.
        assert (await trainer.get("/models")) == []
    async with serving("trainer") as trainer:

        async def has_ended() -> bool:
            found = await trainer.get(f"/cycles/{started['cycle_id']}")
            assert found["state"] != "running"
            return True

        await eventually_async(has_ended, within_seconds=120)
        (found,) = await trainer.get("/cycles")
        # Three bars are no market: the process says so and ends with 1.
        assert (found["state"], found["exit_code"]) == ("failed", 1)
        assert "error:" in found["log"]
        assert await trainer.get("/artifacts") == []
        status, fault = await trainer.refusal("GET", "/cycles/none")
        assert (status, "GET /cycles" in fault) == (404, True)


def write_cycle(home: Path, cycle_id: str, outcome: dict[str, Any] | None, pid: int) -> Path:
    folder = home / "cycles" / cycle_id
    (folder / "result").mkdir(parents=True)
    started = {
        "cycle_id": cycle_id, "kind": "short", "started_at": "2024-03-01T00:00:00Z",
        "started_by": "desk", "arguments": [], "pid": pid, "process_started": 1.0,
    }  # fmt: skip
    (folder / "started.json").write_text(json.dumps(started))
    if outcome is not None:
        (folder / "outcome.json").write_text(json.dumps(outcome))
    return folder / "result"


def test_a_finished_cycle_has_its_verdict_and_files_and_a_lost_one_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = write_cycle(tmp_path, "1", {"exit_code": 0}, pid=1)
    verdict = {"decision": "rejected", "reasons": ["a gate"]}
    (result / "summary.json").write_text(json.dumps({"verdict": verdict}))
    (result / "manifest.json").write_text(json.dumps({"files": {"summary.json": "0" * 64}}))
    # The number of its process belongs to another one by now.
    write_cycle(tmp_path, "2", None, pid=1)
    cycles = Cycles(tmp_path)
    assert {run.cycle_id: run.state for run in cycles.find_all()} == {"1": "finished", "2": "lost"}
    found = cycles.find("1")
    assert found is not None
    assert found.verdict == verdict
    (artefact,) = cycles.artefacts()
    assert (artefact.path, artefact.n_bytes) == (
        "summary.json", (result / "summary.json").stat().st_size,
    )  # fmt: skip
    monkeypatch.chdir(PROJECT)
    started = cycles.start("short", ["--no-such-option"], "desk")
    with pytest.raises(CycleRunningError, match=started.cycle_id):
        cycles.start("short", [], "desk")

    def has_failed() -> bool:
        run = cycles.find(started.cycle_id)
        assert run is not None
        assert run.state == "failed"
        assert run.exit_code == 2
        return True

    eventually(has_failed, within_seconds=120)
