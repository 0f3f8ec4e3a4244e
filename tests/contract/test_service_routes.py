"""What holds for every REST route of every service, whatever it does."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from shared.access.guard import PAGE
from shared.bus.consumer import Routes
from shared.errors import FatalError
from shared.service import Runtime, create_service
from shared.settings import load_settings

SERVICES = ("ingest", "screener", "features", "trainer", "signals", "portfolio", "executor")
TOKEN = "the token of the test, which is long enough"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
OPEN_TO_ALL = {"/health", "/ready", "/metrics"}
EXPECTED = {
    "ingest": {"GET /coverage", "POST /backfill"},
    "screener": {"GET /pairs", "POST /screen"},
    "features": {"GET /features/{pair}"},
    "trainer": {
        "POST /train",
        "POST /promote",
        "POST /rollback",
        "GET /models",
        "GET /runs",
        "GET /trainings",
        "GET /drift",
        "POST /cycles/short",
        "POST /cycles/full",
        "GET /cycles",
        "GET /cycles/{cycle_id}",
        "GET /artifacts",
        "GET /artifacts/{cycle_id}/{path}",
        "GET /console",
        "GET /console/links",
        "GET /jobs",
        "PUT /jobs/{name}",
        "POST /jobs/{name}/run",
    },
    "signals": {"GET /signals", "GET /model-info", "POST /reload-model", "POST /predict"},
    "portfolio": {"GET /targets", "GET /positions", "GET /pnl", "GET /limits", "PUT /limits"},
    "executor": {
        "GET /orders",
        "GET /fills",
        "GET /positions",
        "POST /halt",
        "POST /reduce-only",
        "POST /flatten",
        "POST /cancel-all",
        "GET /adjustments",
        "GET /quarantined-orders",
    },
}
COMMON = {
    "GET /health",
    "GET /ready",
    "GET /metrics",
    "GET /status",
    "POST /pause",
    "POST /resume",
}


class Operation(NamedTuple):
    service: str
    app: FastAPI
    method: str
    path: str
    facts: dict[str, Any]

    @property
    def is_open(self) -> bool:
        return self.path in OPEN_TO_ALL

    @property
    def answer(self) -> dict[str, Any]:
        """What is documented of its answer when all is well."""
        responses = self.facts["responses"]
        [success] = [responses[status] for status in responses if status.startswith("2")]
        [content] = success["content"].values()
        return dict(content)


def application(service: str) -> FastAPI:
    app: FastAPI = importlib.import_module(f"services.{service}.main").create_app()
    return app


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[Operation]:
    """Every operation of every service, as its OpenAPI document has it."""
    home = tmp_path_factory.mktemp("home")
    token_file = home / "token"
    token_file.write_text(TOKEN + "\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MNT_API_TOKEN_FILE", str(token_file))
        environment.setenv("MNT_HOME", str(home))
        environment.setenv("MNT_DATABASE_URL", "postgresql+asyncpg://mnt@127.0.0.1:1/mnt")
        apps = [(service, application(service)) for service in SERVICES]
    return [
        Operation(service, app, method.upper(), path, facts)
        for service, app in apps
        for path, methods in app.openapi()["paths"].items()
        for method, facts in methods.items()
    ]


def executor(operations: list[Operation]) -> FastAPI:
    return next(operation.app for operation in operations if operation.service == "executor")


def test_every_service_has_its_routes(operations: list[Operation]) -> None:
    found: dict[str, set[str]] = {}
    for operation in operations:
        found.setdefault(operation.service, set()).add(f"{operation.method} {operation.path}")
    for service in SERVICES:
        assert found[service] == COMMON | EXPECTED[service]


async def test_every_route_but_those_of_health_refuses_without_a_token(
    operations: list[Operation],
) -> None:
    guarded = [operation for operation in operations if not operation.is_open]
    assert len(guarded) == len(operations) - len(OPEN_TO_ALL) * len(SERVICES)
    for operation in guarded:
        transport = httpx.ASGITransport(app=operation.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for headers in ({}, {"Authorization": TOKEN}, {"Authorization": "Bearer "}):
                answer = await client.request(operation.method, operation.path, headers=headers)
                assert answer.status_code == 401, operation[2:4]
                assert "Authorization: Bearer <token>" in answer.json()["detail"]


def test_guarded_routes_say_so(operations: list[Operation]) -> None:
    for operation in operations:
        says = "security" in operation.facts
        assert says is not operation.is_open, operation[2:4]
        assert ({"401", "403", "429"} <= set(operation.facts["responses"])) is says, operation[2:4]


def refuse_to_serve(router: APIRouter, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_: Runtime) -> Routes:
        raise AssertionError("it must not come to that")

    monkeypatch.setenv("MNT_DATABASE_URL", "postgresql+asyncpg://mnt@127.0.0.1:1/mnt")
    with pytest.raises(FatalError, match=fault):
        create_service("signals", "1", load_settings(), build, router)


def test_a_route_that_names_no_scope_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter()

    @router.get("/forgotten")
    async def forgotten() -> None:
        pass

    refuse_to_serve(router, "route /forgotten names no scope", monkeypatch)


def test_a_route_that_changes_state_takes_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter()

    @router.post("/forged", dependencies=[PAGE])
    async def forged() -> None:
        pass

    refuse_to_serve(router, "route /forged takes a password and changes state", monkeypatch)


def test_every_route_has_a_summary_a_description_and_a_documented_answer(
    operations: list[Operation],
) -> None:
    for operation in operations:
        assert operation.facts["summary"], operation[2:4]
        assert operation.facts["description"], operation[2:4]
        content = operation.answer
        schema = content.get("schema", {})
        is_modelled = "$ref" in schema or "$ref" in schema.get("items", {})
        assert is_modelled or "example" in content, operation[2:4]


def test_every_list_is_bounded(operations: list[Operation]) -> None:
    for operation in operations:
        parameters = {each["name"]: each for each in operation.facts.get("parameters", ())}
        if "limit" in parameters:
            assert parameters["limit"]["schema"]["maximum"] <= 5000, operation[2:4]
        if operation.answer.get("schema", {}).get("type") == "array":
            assert "limit" in parameters, operation[2:4]


def test_no_operation_is_documented_twice(operations: list[Operation]) -> None:
    for service in SERVICES:
        ids = [each.facts["operationId"] for each in operations if each.service == service]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/orders?limit=5000", "query.limit: Input should be less than or equal to 1000"),
        ("/orders?since=noon", "query.since: Input should be a valid datetime"),
        ("/orders?since=2024-03-10T13:00:00", "query.since: Input should have timezone info"),
        ("/orders?pair=%00", "query.pair: String should match pattern"),
        ("/orders?state=lost", "query.state"),
    ],
)
async def test_a_faulty_request_is_refused_in_one_line(
    operations: list[Operation], path: str, fault: str
) -> None:
    transport = httpx.ASGITransport(app=executor(operations))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get(path, headers=AUTHORISED)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(fault)


async def test_without_its_database_a_route_says_so(operations: list[Operation]) -> None:
    transport = httpx.ASGITransport(app=executor(operations))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/orders", headers=AUTHORISED)
    assert answer.status_code == 503
    assert "the database did not answer" in answer.json()["detail"]
