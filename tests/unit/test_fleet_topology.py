from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cli.fleet.embedded import postgres_url, redis_url
from cli.fleet.home import FleetHome
from cli.fleet.supervisor import RestartPolicy
from cli.fleet.topology import MLFLOW, SERVICES, server_specs, service_specs
from shared.errors import SettingsError


@pytest.fixture
def home(tmp_path: Path) -> FleetHome:
    return FleetHome(tmp_path / "home")


def test_every_service_is_a_process_with_its_own_port_and_name(home: FleetHome) -> None:
    specs = service_specs(home, {})
    assert [spec.name for spec in specs] == list(SERVICES)
    assert len({spec.port for spec in specs}) == len(SERVICES)
    for spec in specs:
        assert spec.argv == (sys.executable, "-m", f"services.{spec.name}")
        assert spec.env["MNT_PORT"] == str(spec.port)
        assert spec.env["MNT_SERVICE_NAME"] == spec.name
        assert spec.env["MNT_HOME"] == str(home.path)
        assert spec.env["MNT_DATABASE_URL"] == postgres_url(home)
        assert spec.env["MNT_REDIS_URL"] == redis_url(home)
        assert Path(spec.env["MNT_API_TOKEN_FILE"]).read_text().strip() == home.token()
        assert spec.env["OPENBLAS_NUM_THREADS"] == spec.env["OMP_NUM_THREADS"] == "1"


def test_only_the_executor_waits_for_the_venue_and_all_wait_for_the_servers(
    home: FleetHome,
) -> None:
    depends_on = {spec.name: set(spec.depends_on) for spec in service_specs(home, {})}
    servers = {"postgres", "valkey"}
    assert depends_on.pop("executor") == servers | {"paper_exchange"}
    assert all(names == servers for names in depends_on.values())


def test_venue_address_goes_to_those_who_call_the_venue(home: FleetHome) -> None:
    specs = {spec.name: spec for spec in service_specs(home, {})}
    url = f"http://127.0.0.1:{specs['paper_exchange'].port}"
    told = {name: spec.env.get("MNT_VENUE_URL") for name, spec in specs.items()}
    assert {name for name, value in told.items() if value == url} == {"ingest", "executor"}
    assert {value for value in told.values() if value != url} == {None}


def test_without_the_paper_exchange_no_venue_is_assumed(home: FleetHome) -> None:
    [executor] = service_specs(home, {}, ["executor"])
    assert "MNT_VENUE_URL" not in executor.env
    assert set(executor.depends_on) == {"postgres", "valkey"}


def test_servers_named_by_the_settings_are_used_instead_of_our_own(home: FleetHome) -> None:
    settings = {
        "MNT_DATABASE_URL": "postgresql+asyncpg://someone@db.example/mnt",
        "MNT_REDIS_URL": "redis://cache.example:6379/0",
    }
    assert server_specs(home, settings) == []
    for spec in service_specs(home, settings, ["ingest", "signals"]):
        assert spec.depends_on == ()
        assert settings.items() <= spec.env.items()


def test_settings_reach_every_service_and_go_before_our_defaults(home: FleetHome) -> None:
    settings = {"MNT_LOG_LEVEL": "DEBUG", "OMP_NUM_THREADS": "2", "MNT_REDIS_URL": ""}
    for spec in service_specs(home, settings):
        assert spec.env["MNT_LOG_LEVEL"] == "DEBUG"
        assert spec.env["OMP_NUM_THREADS"] == "2"
        assert spec.env["MNT_REDIS_URL"] == redis_url(home)  # an empty address names no server


def test_unknown_service_is_refused_with_the_known_ones(home: FleetHome) -> None:
    with pytest.raises(SettingsError, match=r"\['oracle'\].*ingest"):
        service_specs(home, {}, ["ingest", "oracle"])


def test_pause_doubles_up_to_the_longest() -> None:
    policy = RestartPolicy(first_pause_seconds=0.5, longest_pause_seconds=3.0)
    assert [policy.pause_seconds(n) for n in (1, 2, 3, 4, 5, 10_000)] == [0.5, 1, 2, 3, 3, 3]


def test_the_trainer_is_told_the_pages_of_all_that_runs_here(home: FleetHome) -> None:
    specs = {spec.name: spec for spec in service_specs(home, {}, (*SERVICES, MLFLOW))}
    told = {name: spec.env.get("MNT_CONSOLE__LINKS") for name, spec in specs.items()}
    assert {name for name, links in told.items() if links is not None} == {"trainer"}
    links = json.loads(told["trainer"] or "")
    assert links.keys() == specs.keys()
    assert links["signals"] == f"http://127.0.0.1:{specs['signals'].port}/docs"
    assert links["mlflow"] == f"http://127.0.0.1:{specs['mlflow'].port}"
    given = {"MNT_CONSOLE__LINKS": '{"grafana": "http://127.0.0.1:3000"}'}
    [trainer] = service_specs(home, given, ["trainer"])
    assert trainer.env["MNT_CONSOLE__LINKS"] == given["MNT_CONSOLE__LINKS"]
