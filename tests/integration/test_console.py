"""The console as a person uses it: a browser, a token, a click."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from services.trainer.main import create_app
from tests.serving import TOKEN, settings_in_environment
from tests.support import eventually_async

# MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

CYCLE = "20240301T000000000000-short"
HOSTILE = "<img src=x onerror=document.title='taken'>"
PORT = re.compile(r"ws://127\.0\.0\.1:(\d+)/")


class Page:
    """A page of a headless browser, spoken to by its debugging protocol.

    Its person answers with the passwords, one after the other, when the browser asks for one, and
    cancels when there is none left.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, passwords: list[str]) -> None:
        self._socket = socket
        self._passwords = passwords
        self._n_sent = 0
        self.complaints: list[str] = []

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; what the page logs meanwhile is kept."""
        sent = await self._post(method, parameters)
        while True:
            message = await self._socket.receive_json(timeout=30)
            event, told = message.get("method"), message.get("params", {})
            if event in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                self.complaints.append(json.dumps(told))
            elif event == "Fetch.requestPaused":
                await self._post("Fetch.continueRequest", {"requestId": told["requestId"]})
            elif event == "Fetch.authRequired":
                assert told["authChallenge"]["realm"] == "mntrading"
                answer = {"requestId": told["requestId"], "authChallengeResponse": self._answer()}
                await self._post("Fetch.continueWithAuth", answer)
            if message.get("id") == sent:
                result: dict[str, Any] = message["result"]
                return result

    async def _post(self, method: str, parameters: dict[str, Any]) -> int:
        self._n_sent += 1
        await self._socket.send_json({"id": self._n_sent, "method": method, "params": parameters})
        return self._n_sent

    def _answer(self) -> dict[str, str]:
        if not self._passwords:
            return {"response": "CancelAuth"}
        password = self._passwords.pop(0)
        return {"response": "ProvideCredentials", "username": "me", "password": password}

    async def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        found = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


@asynccontextmanager
async def browsing(url: str, profile: Path, passwords: list[str]) -> AsyncIterator[Page]:
    """Open a page in a browser of its own, whose person knows passwords."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    process = await asyncio.create_subprocess_exec(
        program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        "--window-size=1100,2200", f"--user-data-dir={profile}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        port = None
        while port is None:
            line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
            assert line, "chromium ended before it could be spoken to"
            found = PORT.search(line)
            port = found and found.group(1)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                [tab] = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as opened:
                page = Page(opened, passwords)
                for domain in ("Page", "Runtime", "Log"):
                    await page.send(f"{domain}.enable")
                await page.send("Fetch.enable", handleAuthRequests=True)
                await page.send("Page.navigate", url=url)
                yield page
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def listening() -> AsyncIterator[str]:
    """Serve the trainer on a port of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(), log_config=None, ws="none"))
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def write_cycle(home: Path) -> None:
    """Write a finished cycle whose words were chosen by somebody who means ill."""
    folder = home / "cycles" / CYCLE
    (folder / "result" / "datasets").mkdir(parents=True)
    started = {
        "cycle_id": CYCLE, "kind": "short", "started_at": "2024-03-01T00:00:00Z",
        "started_by": HOSTILE, "arguments": [f"--set={HOSTILE}"], "pid": 1, "process_started": 1.0,
    }  # fmt: skip
    equity = {HOSTILE: [1e5 + 70 * (n % 9) + 40 * n for n in range(60)], "z rule": [1e5] * 60}
    summary = {
        "verdict": {"decision": "rejected", "reasons": [f"{HOSTILE} is 0.2, needed >= 1"]},
        "daily": {"at_ms": [1_709_251_200_000 + n * 86_400_000 for n in range(60)],
                  "equity": equity},
    }  # fmt: skip
    report = (
        "<!doctype html><style>h1 { color: green }</style><h1>Report of the cycle</h1>"
        "<script>top.document.title = 'taken'</script>"
    )
    files = {
        "datasets/z_threshold.parquet": "rows", "backtest/z_rule/fills.parquet": "fills",
        "summary.json": json.dumps(summary), "report.html": report,
    }  # fmt: skip
    for name, text in files.items():
        path = folder / "result" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    manifest = {"files": dict.fromkeys(files, "0" * 64)}
    (folder / "result" / "manifest.json").write_text(json.dumps(manifest))
    (folder / "started.json").write_text(json.dumps(started))
    (folder / "outcome.json").write_text('{"exit_code": 0}')
    (folder / "log.txt").write_text(f"1/9 screening {HOSTILE}\n")


async def says(page: Page, words: str) -> None:
    """Wait until a page shows some words."""

    async def is_there() -> bool:
        text = await page.evaluate("document.body.innerText")
        assert words in text
        return True

    await eventually_async(is_there)


async def test_a_person_without_a_token_sees_a_refusal_in_place_of_the_page(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_in_environment(monkeypatch, tmp_path, database_url, redis_url)
    async with (
        listening() as url,
        browsing(f"{url}/console", tmp_path / "browser", ["guess", "x" + TOKEN]) as page,
    ):
        await says(page, "the token is not known here")
        assert await page.evaluate("document.getElementById('token')") is None


async def test_a_person_sees_cycles_curve_and_report_and_what_is_hostile_stays_text(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = [("MNT_CONSOLE__LINKS", '{"signals": "http://127.0.0.1:8005/docs"}')]
    settings_in_environment(monkeypatch, tmp_path, database_url, redis_url, links)
    write_cycle(tmp_path)
    async with (
        listening() as url,
        browsing(f"{url}/console", tmp_path / "browser", ["guess", TOKEN]) as page,
    ):
        await says(page, "Paste a token")
        await page.evaluate("document.getElementById('short').click()")
        await says(page, "Paste a token first")
        # What the browser sends by itself starts nothing: any site could make it do so.
        assert await page.evaluate("fetch('/console').then(answer => answer.status)") == 200
        forged = "fetch('/cycles/short', {method: 'POST'}).then(answer => answer.status)"
        assert await page.evaluate(forged) == 401
        await page.evaluate(f"document.getElementById('token').value = {json.dumps('x' + TOKEN)}")
        await page.evaluate("document.getElementById('load').click()")
        await says(page, "401: the token is not known here")
        assert await page.evaluate("document.querySelectorAll('#cycles tr').length") == 0
        await page.evaluate(f"document.getElementById('token').value = {json.dumps(TOKEN)}")
        await page.evaluate("document.getElementById('load').click()")
        await says(page, "Cycles: 1, the newest first")
        await page.evaluate("document.querySelector('#cycles button').click()")
        await says(page, "Equity over the test")
        await says(page, f"{HOSTILE} is 0.2, needed >= 1")
        assert await page.evaluate("document.querySelectorAll('#curve polyline').length") == 2
        await page.evaluate("document.getElementById('full').click()")
        await says(page, "409: the record holds no bar of 1h")
        assert await page.evaluate("document.querySelectorAll('img').length") == 0
        assert await page.evaluate("document.title") == "mntrading console"
        # Nothing else was refused, by the service or by the page's own policy.
        errors = [each for each in page.complaints if '"level": "error"' in each]
        assert [each for each in errors if "401" not in each and "409" not in each] == []
        await page.evaluate("scrollTo(0, 0)")
        shot = base64.b64decode((await page.send("Page.captureScreenshot"))["data"])
        assert shot.startswith(b"\x89PNG")
        await asyncio.to_thread((tmp_path / "console.png").write_bytes, shot)
