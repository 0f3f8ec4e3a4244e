"""Jobs: applied from files, idempotent, run again by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli import control, job_commands
from cli.fleet.home import FleetHome
from services.trainer.jobs import JobDefinition, Jobs
from shared.errors import DataError
from tests.serving import Served, serving, settings_in_environment

# MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

NIGHTLY = {"name": "nightly", "kind": "full", "options": {"settings": ["portfolio.top_k=5"]}}
HOURLY = {"name": "hourly", "kind": "short"}


def answering(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line reach a service that listens on no port."""

    async def put(_: FleetHome, service: str, route: str, body: dict[str, Any]) -> Any:
        assert service == "trainer"
        return await served.send("PUT", route, body)

    monkeypatch.setattr(control, "put", put)


async def test_definitions_are_applied_once_and_what_changed_again(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_in_environment(monkeypatch, tmp_path, database_url, redis_url)
    home = FleetHome(tmp_path)

    async def outcomes(*definitions: dict[str, Any]) -> dict[str, str]:
        found = await job_commands.apply_all(home, list(definitions))
        assert all(len(job["sha256"]) == 64 for job in found)
        return {job["name"]: job["outcome"] for job in found}

    async with serving("trainer") as trainer:
        answering(trainer, monkeypatch)
        assert await outcomes(NIGHTLY, HOURLY) == {"nightly": "created", "hourly": "created"}
        assert await outcomes(NIGHTLY, HOURLY) == {"nightly": "unchanged", "hourly": "unchanged"}
        changed = {**NIGHTLY, "options": {"settings": ["portfolio.top_k=6"]}}
        assert await outcomes(changed, HOURLY) == {"nightly": "updated", "hourly": "unchanged"}
        status, fault = await trainer.refusal(
            "PUT", "/jobs/bad", {"kind": "short", "options": {"settings": ["portfolio.top=6"]}}
        )
        assert (status, "did you mean portfolio.top_k" in fault) == (409, True)
        assert (await trainer.refusal("PUT", "/jobs/bad", {"kind": "weekly"}))[0] == 422
        assert (await trainer.refusal("PUT", "/jobs/Bad", {"kind": "short"}))[0] == 422
    # A service that was restarted knows of them.
    async with serving("trainer") as trainer:
        found = await trainer.get("/jobs")
        assert [job["name"] for job in found] == ["hourly", "nightly"]
        assert found[1]["definition"]["options"]["settings"] == ["portfolio.top_k=6"]
        status, fault = await trainer.refusal("POST", "/jobs/nightly/run")
        assert (status, "holds no bar of 1h" in fault) == (409, True)
        status, fault = await trainer.refusal("POST", "/jobs/weekly/run")
        assert (status, "GET /jobs" in fault) == (404, True)
        # A job starts what it defines.
        started: list[tuple[str, list[str]]] = []

        def start(_: object, kind: str, options: list[str], by: str) -> Any:
            started.append((kind, options))
            raise DataError(f"not today, {by}")

        async def has_bars(*_: object) -> bool:
            return True

        monkeypatch.setattr("services.trainer.cycles.Cycles.start", start)
        monkeypatch.setattr("services.trainer.cycle_api.has_bars", has_bars)
        status, fault = await trainer.refusal("POST", "/jobs/nightly/run")
        assert (status, fault) == (409, "not today, home")
        assert started == [("full", ["--screen-every-days=7", "--set=portfolio.top_k=6"])]


def test_a_file_that_defines_no_job_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    for document in ({"kind": "short"}, {"name": 7}, {"name": "../x"}):
        file.write_text(json.dumps(document))
        with pytest.raises(DataError, match="name"):
            job_commands.read_definition(file)
    file.write_text(json.dumps(HOURLY))
    assert job_commands.read_definition(file) == HOURLY


def test_a_job_that_somebody_broke_is_named(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    assert jobs.find_all() == []
    jobs.apply("hourly", JobDefinition(kind="short"))
    (tmp_path / "jobs" / "hourly.json").write_text("{}")
    with pytest.raises(DataError, match=r"hourly\.json holds no job"):
        jobs.find("hourly")
