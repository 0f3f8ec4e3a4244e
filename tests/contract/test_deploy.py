from __future__ import annotations

import http.server
import importlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import REGISTRY

from cli.fleet.home import FleetHome
from cli.fleet.topology import KEY_HOLDERS, PAPER_EXCHANGE, SERVICES
from cli.up import UpRequest, prepare_environment
from shared.settings import PREFIX, setting_names

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
SERVICE_PORT = 8000


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


COMPOSE = load(PROJECT / "docker-compose.yml")
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
RULES = load(DEPLOY / "prometheus" / "rules.yml")
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "fleet.json").read_text())

each_container = pytest.mark.parametrize("name", CONTAINERS)
each_service = pytest.mark.parametrize("name", SERVICES)


def environment_of(name: str) -> dict[str, str]:
    environment: dict[str, str] = CONTAINERS[name].get("environment", {})
    return environment


def lines_of(env_file: Path) -> dict[str, str]:
    lines = [line for line in env_file.read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


# --- the topology -------------------------------------------------------------------------


@each_service
def test_every_service_of_the_fleet_is_built_and_answers_on_a_port_of_its_own(name: str) -> None:
    assert CONTAINERS[name]["build"]["args"] == {"SERVICE": name}
    [port] = CONTAINERS[name]["ports"]
    assert port.endswith(f":{SERVICE_PORT}")
    everywhere = [port for container in CONTAINERS.values() for port in container.get("ports", ())]
    assert everywhere.count(port) == 1


@each_service
def test_every_service_is_scraped_by_prometheus(name: str) -> None:
    jobs = load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    targets = [target for job in jobs for target in job["static_configs"][0]["targets"]]
    assert f"{name}:{SERVICE_PORT}" in targets


@each_service
def test_a_replay_reaches_every_service(name: str) -> None:
    replayed = load(PROJECT / "docker-compose.replay.yml")["services"]
    assert "MNT_REPLAY__BARS" in replayed[name]["environment"]
    reads_files = any(":/bars:ro" in volume for volume in replayed[name].get("volumes", ()))
    assert reads_files is (name in {"ingest", PAPER_EXCHANGE})


def test_only_what_keeps_the_record_and_the_services_can_reach_it() -> None:
    assert COMPOSE["networks"]["record"] == {"internal": True}
    on_record = {name for name, c in CONTAINERS.items() if "record" in c["networks"]}
    assert on_record == {*SERVICES, "migrate", "postgres", "redis"} - {PAPER_EXCHANGE}
    assert CONTAINERS["postgres"]["networks"] == CONTAINERS["redis"]["networks"] == ["record"]


@each_service
def test_a_service_starts_after_the_schema_is_there(name: str) -> None:
    needed = CONTAINERS[name].get("depends_on", {})
    if name == PAPER_EXCHANGE:
        assert needed == {}
    else:
        assert needed["migrate"] == {"condition": "service_completed_successfully"}
        assert needed["redis"] == {"condition": "service_healthy"}
    if "MNT_VENUE_URL" in environment_of(name):
        assert needed[PAPER_EXCHANGE] == {"condition": "service_healthy"}


@each_container
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["restart"] == ("no" if name in {"migrate", "upload"} else "unless-stopped")
    assert {"mem_limit", "stop_grace_period", "logging"} <= set(container)
    assert {"privileged", "network_mode", "cap_add", "pid"}.isdisjoint(container)


@each_container
def test_ports_are_published_on_loopback_alone(name: str) -> None:
    for port in CONTAINERS[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


def test_the_console_links_to_what_is_published_and_cycles_outlive_the_container() -> None:
    trainer = CONTAINERS["trainer"]
    links = json.loads(trainer["environment"]["MNT_CONSOLE__LINKS"])
    assert {*SERVICES, "mlflow", "prometheus", "grafana"} == links.keys()
    for name, url in links.items():
        [port] = [each.rsplit(":", 1)[0] for each in CONTAINERS[name]["ports"]]
        assert url.removeprefix("http://").removesuffix("/docs") == port
    assert trainer["volumes"] == ["research:/var/lib/mnt"]


def test_the_bucket_is_made_with_the_store_and_only_the_upload_meets_it() -> None:
    store, upload = CONTAINERS["store"], CONTAINERS["upload"]
    assert store["profiles"] == ["store"]
    assert {name for name, c in CONTAINERS.items() if "store" in c["networks"]} == {
        "store",
        "upload",
    }
    assert upload["environment"]["MNT_ARTEFACTS__STORE"] == "s3://research"
    assert "-bucket=research" in store["command"]
    assert upload["environment"]["MNT_ARTEFACTS__ENDPOINT"] == "http://store:8333"
    assert store["ports"] == ["127.0.0.1:8333:8333"]
    assert upload["depends_on"] == {"store": {"condition": "service_healthy"}}
    # What the trainer writes is what is copied.
    [written], [read] = CONTAINERS["trainer"]["volumes"], upload["volumes"]
    assert read == f"{written}:ro"
    keys = ("AWS_ACCESS_KEY_ID=$$(cat /run/secrets/store_access_key)",
            "AWS_SECRET_ACCESS_KEY=$$(cat /run/secrets/store_secret_key)")  # fmt: skip
    for script in (store["entrypoint"][2], upload["command"][2]):
        assert all(key in script for key in keys)


def test_mlflow_keeps_its_files_in_the_bucket_where_that_is_asked_for() -> None:
    moved = load(PROJECT / "docker-compose.store.yml")["services"]
    assert moved.keys() == {"mlflow"}
    mlflow, upload = moved["mlflow"], CONTAINERS["upload"]
    told = mlflow["environment"]
    assert told.keys() & environment_of("mlflow").keys() == {"MLFLOW_ARTIFACTS_DESTINATION"}
    assert not any("artifacts" in word for word in CONTAINERS["mlflow"]["command"])
    bucket = upload["environment"]["MNT_ARTEFACTS__STORE"]
    assert told["MLFLOW_ARTIFACTS_DESTINATION"] == f"{bucket}/mlflow"
    assert told["MLFLOW_S3_ENDPOINT_URL"] == upload["environment"]["MNT_ARTEFACTS__ENDPOINT"]
    assert mlflow["networks"] == [*CONTAINERS["mlflow"]["networks"], *upload["networks"]]
    assert mlflow["depends_on"] == upload["depends_on"]
    keys = [word for word in upload["command"][2].split() if word.startswith("AWS_")]
    assert len(keys) == 2
    assert all(key in mlflow["entrypoint"][2] for key in keys)
    assert mlflow["secrets"] == upload["secrets"]
    # MLflow's client of S3 is the extra.
    assert "--extra s3 " in (DEPLOY / "Dockerfile").read_text()


# --- settings -----------------------------------------------------------------------------


@each_container
def test_every_variable_of_ours_is_a_setting(name: str) -> None:
    given = {*environment_of(name), *lines_of(DEPLOY / "market.env")}
    known = {f"{PREFIX}{path.replace('.', '__').upper()}" for path in setting_names()}
    assert {variable for variable in given if variable.startswith(PREFIX)} <= known


def test_the_market_is_that_of_a_fleet_without_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "environ", {})
    prepare_environment(FleetHome(tmp_path), UpRequest("simulated"))
    assert lines_of(DEPLOY / "market.env") == os.environ


# --- secrets ------------------------------------------------------------------------------


@each_container
def test_a_secret_is_named_by_its_file_and_never_written_down(name: str) -> None:
    container = CONTAINERS[name]
    for variable, value in environment_of(name).items():
        if re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable):
            assert variable.endswith("_FILE")
            folder, _, secret = str(value).rpartition("/")
            assert folder == "/run/secrets"
            assert secret in container["secrets"]
        assert not re.search(r"//[^/@]*:[^/@]*@", str(value)), f"{variable} holds a password"


def test_only_the_executor_and_the_venue_are_given_the_keys() -> None:
    keys = {"venue_api_key", "venue_api_secret"}
    holders = {name for name, c in CONTAINERS.items() if keys & set(c.get("secrets", ()))}
    assert holders == KEY_HOLDERS


def test_every_secret_comes_from_a_folder_that_is_neither_committed_nor_sent_to_a_builder() -> None:
    ignored = (PROJECT / ".gitignore").read_text().splitlines()
    assert "deploy/secrets/" in ignored
    assert (PROJECT / ".dockerignore").read_text().splitlines()[1] == "*"
    for name, source in COMPOSE["secrets"].items():
        assert source == {"file": f"deploy/secrets/{name}"}


def make_secrets(deploy: Path) -> dict[str, str]:
    subprocess.run(["sh", deploy / "make-secrets.sh"], check=True, capture_output=True)
    return {file.name: file.read_text() for file in (deploy / "secrets").iterdir()}


def test_secrets_are_made_once_each_another_and_closed_to_other_users(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "make-secrets.sh", tmp_path)
    made = make_secrets(tmp_path)
    assert set(made) == set(COMPOSE["secrets"])
    assert len(set(made.values())) == len(made)
    assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in made.values())
    folder = tmp_path / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "api_token").unlink()
    again = make_secrets(tmp_path)
    assert again.pop("api_token") != made.pop("api_token")
    assert again == made


# --- health -------------------------------------------------------------------------------


class Service(http.server.BaseHTTPRequestHandler):
    answers: dict[str, int]

    def do_GET(self) -> None:
        self.send_response(self.answers[self.path])
        self.end_headers()
        self.wfile.write(b"the consumer has stopped")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        del format, args


@pytest.fixture
def service() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def check_health(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEPLOY / "healthcheck.py"],
        env={"MNT_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("ready", "health", "code", "words"),
    [
        (200, 200, 0, ""),
        (503, 200, 1, "GET /ready: 503"),
        (200, 503, 1, "GET /health: 503 the consumer has stopped"),
    ],
)
def test_a_container_is_healthy_when_its_service_is_ready_and_well(
    service: http.server.ThreadingHTTPServer, ready: int, health: int, code: int, words: str
) -> None:
    Service.answers = {"/ready": ready, "/health": health}
    checked = check_health(service.server_port)
    assert checked.returncode == code
    assert words in checked.stderr


def test_a_container_whose_service_does_not_listen_is_not_healthy() -> None:
    checked = check_health(port=1)
    assert checked.returncode == 1
    assert checked.stderr.startswith("GET /ready: ")


# --- what is watched ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """Names of all series that the services export."""
    for file in [PROJECT / "shared/bus/metrics.py", *PROJECT.glob("services/*/metrics.py")]:
        importlib.import_module(".".join(file.relative_to(PROJECT).with_suffix("").parts))
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        metric.name + suffix
        for metric in REGISTRY.collect()
        for suffix in suffixes.get(metric.type, ("",))
    }


def expressions() -> list[str]:
    panels = [t["expr"] for panel in DASHBOARD["panels"] for t in panel.get("targets", ())]
    return panels + [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_shown_or_alerted_on_is_exported(expression: str, exported: set[str]) -> None:
    names = set(re.findall(r"\b(?:mnt|process)_[a-z0-9_]+", expression))
    assert names or re.search(r"\bup\b", expression)
    assert names <= exported


def test_the_dashboard_asks_the_data_source_that_is_provided() -> None:
    [source] = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    asked = [panel["datasource"] for panel in panels]
    asked += [target["datasource"] for panel in panels for target in panel["targets"]]
    assert all(each == {"type": "prometheus", "uid": source["uid"]} for each in asked)
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_alert_is_seen_to_fire_in_a_test_of_the_rules() -> None:
    cases = [
        case
        for test in load(DEPLOY / "prometheus" / "rules_test.yml")["tests"]
        for case in test["alert_rule_test"]
    ]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fired == {rule["alert"] for group in RULES["groups"] for rule in group["rules"]}


# --- the tools' own judgement -------------------------------------------------------------


def run_tool(*command: str | Path, **environment: str) -> None:
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    if command[:2] == ("docker", "compose"):
        asked = subprocess.run([program, "compose", "version"], capture_output=True, check=False)
        if asked.returncode != 0:
            pytest.skip("docker has no compose")
    result = subprocess.run(
        [program, *command[1:]],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_accepts_its_configuration() -> None:
    run_tool("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_the_alert_rules_pass_their_tests() -> None:
    run_tool("promtool", "test", "rules", DEPLOY / "prometheus" / "rules_test.yml")


def test_an_image_has_what_lightgbm_takes_from_the_system() -> None:
    last_stage = (DEPLOY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    [installed] = re.findall(r"apt-get install .*", last_stage)
    assert "libgomp1" in installed.split()
    assert "--no-install-recommends" in installed
    assert "rm -rf /var/lib/apt/lists/*" in last_stage


def test_the_dockerfile_has_no_finding() -> None:
    run_tool("hadolint", DEPLOY / "Dockerfile")


@pytest.fixture
def _compose() -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("docker is not installed")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no compose")


@pytest.mark.usefixtures("_compose")
def test_compose_accepts_the_fleet() -> None:
    run_tool(
        *("docker", "compose", "--profile", "grafana", "--profile", "store"),
        *("--profile", "upload", "config", "--quiet"),
    )


@pytest.mark.usefixtures("_compose")
def test_compose_accepts_mlflow_in_the_bucket() -> None:
    run_tool(
        *("docker", "compose", "-f", "docker-compose.yml", "-f", "docker-compose.store.yml"),
        *("--profile", "store", "config", "--quiet"),
    )


@pytest.mark.usefixtures("_compose")
def test_compose_accepts_a_replay() -> None:
    run_tool(
        *("docker", "compose", "-f", "docker-compose.yml", "-f", "docker-compose.replay.yml"),
        *("config", "--quiet"),
        MNT_REPLAY_BARS='["/bars/1h.parquet"]',
        MNT_REPLAY_FOLDER=".",
        MNT_REPLAY_START="2024-03-01",
        MNT_REPLAY_END="2024-03-02",
    )
