"""Who gets in, who does not, and what is kept of those who did."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.access import authentication, lock_out, tokens
from shared.access.guard import CONTROL, HALT, READ, TRADE, Operator
from shared.access.tokens import SCOPES, Scope
from shared.bus.consumer import Routes, UnitOfWork
from shared.database.engine import transaction
from shared.errors import PermanentError
from shared.service import ServedBy, create_service
from shared.settings import load_settings
from tests.serving import (
    AUTHORISED,
    TOKEN,
    Record,
    serving,
)
from tests.support import eventually_async

FLEET = ("ingest", "screener", "features", "trainer", "signals", "portfolio", "executor")
OPEN = {"/health", "/ready", "/metrics"}
PAGES = {"/console"}
YEAR = timedelta(days=365)


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def as_password(token: str) -> dict[str, str]:
    sent = base64.b64encode(f"anybody:{token}".encode()).decode()
    return {"Authorization": f"Basic {sent}"}


CARRIERS = {"token": bearing, "password": as_password}
"""Ways to send a token, by the names that documents give them."""


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return [("MNT_FOLLOW__ENABLED", "false")]


async def token_with(record: Record, *scopes: Scope, label: str | None = None) -> str:
    async with transaction(record.engine) as connection:
        name = label or "-".join(scopes)
        _, secret = await tokens.create(connection, name, scopes, YEAR)
    return secret


async def change_tokens(record: Record, assignment: str, label: str) -> None:
    async with transaction(record.engine) as connection:
        await connection.execute(
            text(f"UPDATE api_tokens SET {assignment} WHERE label = :label"), {"label": label}
        )


# --- every route of every service ---------------------------------------------------------


@pytest.mark.parametrize("service", FLEET)
async def test_every_route_refuses_whoever_has_no_token_in_force_with_its_scope(
    record: Record, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_out, "FAILURES", 10_000)
    alone = {scope: await token_with(record, scope) for scope in SCOPES}
    expired = await token_with(record, *SCOPES, label="expired")
    await change_tokens(
        record,
        "created_at = now() - interval '2 d', expires_at = now() - interval '1 s'",
        "expired",
    )
    revoked = await token_with(record, *SCOPES, label="revoked")
    await change_tokens(record, "revoked_at = now()", "revoked")
    async with serving(service) as served:
        app: FastAPI = served.client._transport.app  # type: ignore[attr-defined]
        operations = [
            (method.upper(), path, facts)
            for path, methods in app.openapi()["paths"].items()
            for method, facts in methods.items()
        ]
        assert len(operations) >= 7

        async def status(method: str, path: str, headers: Mapping[str, str]) -> int:
            answer = await served.client.request(method, path, headers=headers, content=b"{")
            if answer.is_error:
                assert answer.json()["detail"]
            return answer.status_code

        ours = alone["read"]
        not_ours = [
            expired,
            revoked,
            ours[:-1] + ("a" if ours[-1] != "a" else "b"),
            ours.swapcase(),
            "",
        ]
        for method, path, facts in operations:
            if path in OPEN:
                assert (await served.client.request(method, path)).status_code == 200
                continue
            refused = [{}, {"Authorization": f"Basic {ours}"}, {"Authorization": ours}]
            carriers = {name for each in facts["security"] for name in each}
            assert carriers == (CARRIERS.keys() if path in PAGES else {"token"}), path
            for name, carried in CARRIERS.items():
                if name not in carriers:
                    refused += [carried(token) for token in (*alone.values(), *not_ours)]
                    continue
                refused += [carried(token) for token in not_ours]
                # Each route opens to one scope alone, whichever it declares.
                statuses = {
                    scope: await status(method, path, carried(alone[scope])) for scope in SCOPES
                }
                assert 401 not in statuses.values(), (method, path, name)
                allowing = [scope for scope, code in statuses.items() if code != 403]
                assert len(allowing) == 1, (method, path, name, allowing)
                is_look = method == "GET" or path == "/predict"
                assert (allowing[0] == "read") is is_look, (method, path, name)
            for headers in refused:
                assert await status(method, path, headers) == 401, (method, path, headers)


async def test_wrong_passwords_lock_an_address_out_like_wrong_tokens(record: Record) -> None:
    async with serving("trainer") as served:
        for number in range(lock_out.FAILURES):
            answer = await served.client.get("/console", headers=as_password(f"guess {number}"))
            assert answer.status_code == 401
        answer = await served.client.get("/console", headers=as_password(TOKEN))
        assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)


# --- a service made for the purpose -------------------------------------------------------


class Bench:
    """A service whose routes count what they did."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fault: Exception | None = None
        self.gate: asyncio.Event | None = None

    def application(self) -> FastAPI:
        router = APIRouter()

        @router.get("/look", dependencies=[READ])
        async def look(operator: Operator) -> dict[str, str]:
            return {"operator": operator}

        @router.post("/change", dependencies=[CONTROL])
        async def change(
            runtime: ServedBy, operator: Operator, body: dict[str, Any]
        ) -> dict[str, Any]:
            async def job(_: UnitOfWork) -> None:
                if self.gate is not None:
                    await self.gate.wait()
                self.done.append(operator)

            await runtime.do("change", job)
            if self.fault is not None:
                raise self.fault
            return {"n": len(self.done), "body": body}

        @router.post("/trade", dependencies=[TRADE])
        async def trade() -> dict[str, int]:
            raise HTTPException(409, "not now")

        @router.post("/calm", dependencies=[HALT])
        async def calm() -> dict[str, int]:
            return {}

        async def nothing(_: AsyncConnection) -> None:
            pass

        return create_service(
            "bench",
            "1",
            load_settings(),
            lambda _: Routes(handlers={}, adopters={}, reload=nothing),
            router,
        )


@pytest.fixture
async def bench(record: Record) -> AsyncIterator[tuple[Bench, httpx.AsyncClient]]:
    made = Bench()
    app = made.application()
    async with app.router.lifespan_context(app):
        await app.state.runtime.consumer.is_started.wait()
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield made, client


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The clock of caches and lock-outs, which moves when a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(authentication, "monotonic_seconds", lambda: now[0])
    return iter([now])


async def audited(record: Record) -> list[tuple[Any, ...]]:
    return await record.rows(
        "SELECT service, method, path, operator, client, body, idempotency_key, is_done, status, "
        "attempts FROM audit_log ORDER BY request_id"
    )


async def test_who_decides_is_the_label_of_the_token(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    _, client = bench
    token = await token_with(record, "read", label="desk-3")
    assert (await client.get("/look", headers=bearing(token))).json() == {"operator": "desk-3"}
    assert (await client.get("/look", headers=AUTHORISED)).json() == {"operator": "home"}
    assert await record.rows(
        "SELECT label, last_used_at IS NOT NULL FROM api_tokens ORDER BY label"
    ) == [("desk-3", True), ("home", True)]


async def test_a_token_is_nowhere_in_the_record(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    _, client = bench
    token = await token_with(record, "control", label="writer")
    body = {"note": f"my token is {token}"}
    assert (await client.post("/change", json=body, headers=bearing(token))).status_code == 200
    for table in ("api_tokens", "audit_log"):
        for row in await record.rows(f"SELECT to_jsonb({table})::text FROM {table}"):
            assert token not in row[0]


async def test_a_revocation_is_noticed_when_the_memory_of_the_token_ends(
    record: Record, bench: tuple[Bench, httpx.AsyncClient], clock: Iterator[list[float]]
) -> None:
    _, client = bench
    now = next(clock)
    token = await token_with(record, "read", label="leaver")
    assert (await client.get("/look", headers=bearing(token))).status_code == 200
    async with transaction(record.engine) as connection:
        await tokens.revoke(connection, "leaver")
    now[0] += authentication.REMEMBERED_SECONDS + 0.1
    answer = await client.get("/look", headers=bearing(token))
    assert answer.status_code == 401
    assert "'leaver' was revoked" in answer.json()["detail"]


async def test_a_new_token_in_the_file_of_the_home_replaces_the_one_before(
    record: Record, bench: tuple[Bench, httpx.AsyncClient], tmp_path: Path, clock: Iterator[Any]
) -> None:
    _, client = bench
    now = next(clock)
    assert (await client.get("/look", headers=AUTHORISED)).status_code == 200
    other = "another token of the home, long enough"
    (tmp_path / "service-token").write_text(other)
    assert (await client.get("/look", headers=bearing(other))).status_code == 200
    now[0] += 60
    answer = await client.get("/look", headers=AUTHORISED)
    assert (answer.status_code, "'home' was revoked" in answer.text) == (401, True)


async def test_many_wrong_tokens_lock_an_address_out_for_a_while(
    record: Record, bench: tuple[Bench, httpx.AsyncClient], clock: Iterator[list[float]]
) -> None:
    _, client = bench
    now = next(clock)
    for number in range(lock_out.FAILURES):
        answer = await client.get("/look", headers=bearing(f"guess {number}"))
        assert answer.status_code == 401
        now[0] += 1
    for headers in (bearing("guess"), AUTHORISED, {}):
        answer = await client.get("/look", headers=headers)
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) == 59
    # What can only reduce risk stays open to a right token, and to no other.
    assert (await client.post("/calm", headers=AUTHORISED)).status_code == 200
    assert (await client.post("/calm", headers=bearing("guess"))).status_code == 429
    assert (await client.get("/health")).status_code == 200
    now[0] += 60
    assert (await client.get("/look", headers=AUTHORISED)).status_code == 200


async def test_a_token_that_is_out_of_force_locks_nobody_out(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    _, client = bench
    token = await token_with(record, "read", label="forgotten")
    await change_tokens(record, "revoked_at = now()", "forgotten")
    for _ in range(2 * lock_out.FAILURES):
        assert (await client.get("/look", headers=bearing(token))).status_code == 401
    assert (await client.get("/look", headers=AUTHORISED)).status_code == 200


async def test_without_the_record_only_the_token_of_the_home_is_known(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNT_DATABASE_URL", "postgresql+asyncpg://mnt@127.0.0.1:1/mnt")
    transport = httpx.ASGITransport(app=Bench().application())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/look", headers=AUTHORISED)).status_code == 200
        unknown = await client.get("/look", headers=bearing("any other"))
        change = await client.post("/change", json={}, headers=AUTHORISED)
    assert unknown.status_code == 503
    assert "use the token of the fleet's home" in unknown.json()["detail"]
    assert (change.status_code, "did not answer" in change.text) == (503, True)


async def test_a_halt_works_while_redis_is_down(record: Record) -> None:
    async with serving("executor") as executor:
        streams: Any = executor.runtime.streams
        alive, streams._redis = streams._redis, Redis.from_url("redis://127.0.0.1:1")
        for route in ("/halt", "/flatten"):
            decided = await executor.send("POST", route, {"reason": "no transport"})
            assert (decided["state"], decided["decided_by"]) == ("halted", "home")
        await streams._redis.aclose()
        streams._redis = alive
    assert [row[-3:] for row in await audited(record)] == [(True, 200, 1)] * 2


# --- the trail ----------------------------------------------------------------------------


async def test_every_change_leaves_a_row_and_a_look_leaves_none(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    _, client = bench
    await client.get("/look", headers=AUTHORISED)
    await client.post("/change?loud=1", json={"a": "\0", "secret": "hush"}, headers=AUTHORISED)
    await client.post("/trade", headers=AUTHORISED)
    await client.post("/change", json=[], headers=AUTHORISED)
    await client.post("/change", json={})
    place = ("bench", "POST")
    who = ("home", "127.0.0.1")
    assert await audited(record) == [
        (
            *place,
            "/change?loud=1",
            *who,
            '{"a":"\\u0000","secret":"[redacted]"}',
            None,
            True,
            200,
            1,
        ),
        (*place, "/trade", *who, "", None, False, 409, 1),
        (*place, "/change", *who, "[]", None, False, 422, 1),
    ]


async def test_a_request_that_breaks_the_service_is_in_the_trail(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    made, client = bench
    made.fault = ZeroDivisionError()
    assert (await client.post("/change", json={}, headers=AUTHORISED)).status_code == 500
    assert [row[-3:] for row in await audited(record)] == [(True, 500, 1)]


KEYED = {**AUTHORISED, "Idempotency-Key": "key-1"}


async def test_a_repeat_with_the_same_key_is_done_once_and_answered_alike(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    made, client = bench
    first = await client.post("/change", json={"a": 1}, headers=KEYED)
    again = await client.post("/change", json={"a": 1}, headers=KEYED)
    assert (first.status_code, first.json()) == (200, {"n": 1, "body": {"a": 1}})
    assert (again.status_code, again.json()) == (200, first.json())
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    refused = await client.post("/trade", headers={**KEYED, "Idempotency-Key": "key-2"})
    repeated = await client.post("/trade", headers={**KEYED, "Idempotency-Key": "key-2"})
    assert (refused.status_code, refused.json()) == (409, repeated.json())
    assert made.done == ["home"]
    assert len(await audited(record)) == 2


async def test_another_request_under_a_used_key_is_refused(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    made, client = bench
    await client.post("/change", json={"a": 1}, headers=KEYED)
    for path, body in (("/change", {"a": 2}), ("/trade", {"a": 1}), ("/change?b", {"a": 1})):
        answer = await client.post(path, json=body, headers=KEYED)
        assert answer.status_code == 422
        assert "'key-1' was used for another request" in answer.json()["detail"]
    assert made.done == ["home"]
    # The keys of another token are its own.
    other = {**KEYED, **bearing(await token_with(record, "control"))}
    assert (await client.post("/change", json={"a": 2}, headers=other)).status_code == 200


async def test_a_repeat_while_the_first_is_being_done_waits_its_turn(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    made, client = bench
    made.gate = asyncio.Event()
    first = asyncio.create_task(client.post("/change", json={}, headers=KEYED))
    await eventually_async(lambda: audited(record))
    second = await client.post("/change", json={}, headers=KEYED)
    made.gate.set()
    assert (second.status_code, "is being done" in second.text) == (409, True)
    assert (await first).status_code == 200
    assert made.done == ["home"]


async def test_what_was_done_without_its_answer_being_known_is_not_done_again(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    made, client = bench
    await client.post("/change", json={}, headers=KEYED)
    async with transaction(record.engine) as connection:  # as if the process had died here
        await connection.execute(text("UPDATE audit_log SET status = NULL, answer = NULL"))
    answer = await client.post("/change", json={}, headers=KEYED)
    assert (answer.status_code, "its answer was lost" in answer.text) == (409, True)
    assert made.done == ["home"]


async def test_what_was_begun_and_not_done_is_done_by_the_repeat(
    record: Record, bench: tuple[Bench, httpx.AsyncClient]
) -> None:
    _, client = bench
    await client.post("/change", json={}, headers=KEYED)
    async with transaction(record.engine) as connection:  # as if it had died before
        await connection.execute(
            text("UPDATE audit_log SET status = NULL, answer = NULL, is_done = false")
        )
    assert (await client.post("/change", json={}, headers=KEYED)).json()["n"] == 2
    assert [row[-3:] for row in await audited(record)] == [(True, 200, 2)]


@pytest.mark.parametrize("key", ["", "two words", "x" * 201, "ä"])
async def test_a_key_that_is_none_is_refused(
    bench: tuple[Bench, httpx.AsyncClient], key: str
) -> None:
    made, client = bench
    headers = {**AUTHORISED, "Idempotency-Key": key.encode()}
    answer = await client.post("/change", json={}, headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["detail"][:15]) == (422, "Idempotency-Key")
    assert made.done == []


# --- tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["", "home", "two words", "-x", "x" * 61])
async def test_a_label_that_is_none_is_refused(record: Record, label: str) -> None:
    async with transaction(record.engine) as connection:
        with pytest.raises(PermanentError, match="label"):
            await tokens.create(connection, label, ["read"], YEAR)


async def test_a_label_is_free_again_when_its_token_is_revoked(record: Record) -> None:
    first = await token_with(record, "read", label="desk")
    async with transaction(record.engine) as connection:
        with pytest.raises(PermanentError, match="'desk' is in use"):
            await tokens.create(connection, "desk", ["read"], YEAR)
        await tokens.revoke(connection, "desk")
        with pytest.raises(PermanentError, match="no token in use has the label 'desk'"):
            await tokens.revoke(connection, "desk")
    assert await token_with(record, "trade", label="desk") != first


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({}, "body.reason: Field required"),
        ({"reason": "   "}, "body.reason: String should have at least 1 character"),
        ({"reason": "so\x00so"}, "body.reason: String should match pattern"),
        ({"reason": "so", "state": "active"}, "body.state: Extra inputs are not permitted"),
        ({"reason": "so", "operator": "me"}, "body.operator: Extra inputs are not permitted"),
    ],
)
async def test_a_decision_needs_a_reason(record: Record, body: dict[str, str], fault: str) -> None:
    async with serving("executor") as executor:
        status, detail = await executor.refusal("POST", "/halt", body)
    assert status == 422
    assert detail.startswith(fault)
