"""The console: a page without data, whose script shows nothing as markup."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.trainer.console_api import content_policy
from shared.errors import SettingsError
from shared.settings import load_settings

# MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

PAGE = Path(importlib.import_module("services.trainer").__path__[0], "console.html").read_text()
TOKEN = "the token of the test, which is long enough"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
CYCLE = "20240301T000000000000-short"
LINKS = {"mlflow": "http://127.0.0.1:5000/", "grafana": "http://127.0.0.1:3000/"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one finished cycle, which lists one of its two files."""
    folder = tmp_path / "cycles" / CYCLE
    (folder / "result" / "datasets").mkdir(parents=True)
    started = {
        "cycle_id": CYCLE, "kind": "short", "started_at": "2024-03-01T00:00:00Z",
        "started_by": "desk", "arguments": [], "pid": 1, "process_started": 1.0,
    }  # fmt: skip
    (folder / "started.json").write_text(json.dumps(started))
    (folder / "outcome.json").write_text('{"exit_code": 0}')
    (folder / "result" / "datasets" / "a.parquet").write_bytes(b"bytes")
    (folder / "result" / "unlisted.txt").write_text("not of the cycle")
    manifest = {"files": {"datasets/a.parquet": "0" * 64}}
    (folder / "result" / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


@pytest.fixture
def app(home: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    token_file = home / "token"
    token_file.write_text(TOKEN + "\n")
    monkeypatch.setenv("MNT_API_TOKEN_FILE", str(token_file))
    monkeypatch.setenv("MNT_HOME", str(home))
    monkeypatch.setenv("MNT_DATABASE_URL", "postgresql+asyncpg://mnt@127.0.0.1:1/mnt")
    monkeypatch.setenv("MNT_CONSOLE__LINKS", json.dumps(LINKS))
    monkeypatch.setenv("MNT_ARTEFACTS__STORE", "s3://bucket/research")
    served: FastAPI = importlib.import_module("services.trainer.main").create_app()
    return served


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_the_policy_of_the_page_lets_nothing_run_but_its_own_script(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/console", headers=AUTHORISED)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    rules = dict(
        rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";")
    )
    [script] = re.findall("<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["connect-src"] == "'self'"
    assert {rules[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"


def basic(text: bytes) -> str:
    return f"Basic {base64.b64encode(text).decode()}"


@pytest.mark.parametrize("name", [b"", b"anybody", "Größe".encode()])
async def test_the_token_as_a_password_opens_the_page_to_any_name(
    client: httpx.AsyncClient, name: bytes
) -> None:
    headers = {"Authorization": basic(name + b":" + TOKEN.encode())}
    assert (await client.get("/console", headers=headers)).status_code == 200
    for method, path in (("GET", "/console/links"), ("POST", "/cycles/short")):
        assert (await client.request(method, path, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "Basic",
        "Basic !",
        "Basic ä",
        basic(b""),
        basic(b"anybody"),
        basic(b"anybody:"),
        basic(b"\xff:\xff"),
        basic(TOKEN.encode()),
        basic(TOKEN.encode() + b":"),
        f"Basic {TOKEN}",
    ],
)
async def test_whoever_is_refused_the_page_is_asked_for_the_token_by_the_browser(
    client: httpx.AsyncClient, sent: str | None
) -> None:
    headers = {} if sent is None else {"Authorization": sent.encode("latin-1")}
    answer = await client.get("/console", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == [
        'Basic realm="mntrading", charset="UTF-8"'
    ]
    assert "as the password, with any name" in answer.json()["detail"]


def test_a_second_script_of_the_page_has_no_policy() -> None:
    with pytest.raises(ValueError, match="too many values"):
        content_policy("<script>1</script><script>2</script>")


def test_the_page_loads_nothing_from_elsewhere_and_keeps_the_token_nowhere() -> None:
    assert re.findall(r"""(?:src|href)=["']([^"']+)""", PAGE) == ["/docs"]
    assert "url(" not in PAGE.replace("createObjectURL(", "").replace("revokeObjectURL(", "")
    for kept in ("localStorage", "sessionStorage", "cookie", "indexedDB"):
        assert kept not in PAGE


def test_what_others_wrote_is_shown_as_text_alone() -> None:
    for as_markup in (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(",
        "DOMParser", "createContextualFragment",
    ):  # fmt: skip
        assert as_markup not in PAGE
    # A report is markup of ours, and still runs no script: its frame is a sandbox.
    assert re.search(r'<iframe [^>]*sandbox=""', PAGE)
    assert not re.search(r"\son[a-z]+=", PAGE)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/console/links"),
        ("GET", "/cycles"),
        ("GET", "/artifacts"),
        ("GET", f"/artifacts/{CYCLE}/datasets/a.parquet"),
        ("POST", "/cycles/short"),
        ("POST", "/cycles/full"),
    ],
)
async def test_what_the_page_asks_for_is_refused_without_a_token(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 401
    assert "Bearer <token>" in answer.json()["detail"]
    token_in_address = await client.request(method, path, params={"token": TOKEN})
    assert token_in_address.status_code == 401


def test_every_route_that_the_page_asks_for_exists(app: FastAPI) -> None:
    known: dict[str, Any] = app.openapi()["paths"]
    asked = set(re.findall(r"""(?:get|ask|fileUrl.*)\(\s*[`"](/[a-z/]+)""", PAGE))
    asked |= set(re.findall(r"=>\s+`(/[a-z]+)/", PAGE))
    assert asked == {"/cycles", "/cycles/", "/runs", "/console/links", "/artifacts"}
    for path in asked - {"/cycles/"}:
        assert path in known
    assert {"/cycles/short", "/cycles/full", "/cycles/{cycle_id}"} <= known.keys()
    assert "/artifacts/{cycle_id}/{path}" in known


async def test_links_and_store_are_those_of_the_settings(client: httpx.AsyncClient) -> None:
    answer = await client.get("/console/links", headers=AUTHORISED)
    assert answer.json() == {
        "pages": LINKS, "mlflow": LINKS["mlflow"], "store": "s3://bucket/research",
    }  # fmt: skip


def test_a_link_that_would_run_a_script_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNT_CONSOLE__LINKS", '{"a": "javascript:alert(1)"}')
    with pytest.raises(SettingsError, match=r"console\.links\.a: URL scheme should be"):
        load_settings()


async def test_a_file_of_a_cycle_is_saved_and_no_other_can_be_named(
    client: httpx.AsyncClient,
) -> None:
    async def ask(path: str) -> httpx.Response:
        return await client.get(f"/artifacts/{CYCLE}/{path}", headers=AUTHORISED)

    answer = await ask("datasets/a.parquet")
    assert answer.content == b"bytes"
    assert answer.headers["content-disposition"] == 'attachment; filename="a.parquet"'
    assert answer.headers["content-security-policy"] == "sandbox"
    for path in (
        "unlisted.txt", "manifest.json", "..%2Fstarted.json", "datasets/..%2Funlisted.txt",
        "%2Fetc%2Fpasswd",
    ):  # fmt: skip
        assert (await ask(path)).status_code == 404, path
    listed = await client.get("/artifacts", params={"cycle_id": CYCLE}, headers=AUTHORISED)
    assert [file["path"] for file in listed.json()] == ["datasets/a.parquet"]
    other = await client.get("/artifacts", params={"cycle_id": "other"}, headers=AUTHORISED)
    assert other.json() == []
