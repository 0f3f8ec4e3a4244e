"""A fleet that stays up after a replay: events by hand, dead letters, routes, a promotion."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import orjson
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from cli.fleet.embedded import postgres_url, redis_url
from cli.fleet.home import FleetHome
from cli.fleet.status import read_status, stop_fleet
from tests.support import eventually

HOUR_MS, BAR_MS = 3_600_000, 300_000
FIRST_MS = 1_709_251_200_000  # 2024-03-01T00:00:00Z
N_HOURS = 230
START = "2024-03-10T07:00:00Z"
END = "2024-03-10T13:00:00Z"
MNT = [sys.executable, "-c", "from cli.main import run; run()"]
OVERRIDES = (
    "screener.method=p_value",
    "screener.level=0.05",
    "screener.window_bars=200",
    "screener.enter_after_screens=1",
    "screener.correlation_min=-1",
    "screener.hurst_max=1",
    "screener.half_life_max_bars=100000",
    "screener.half_life_min_bars=0.01",
    "screener.hedge_ratio_min=0.01",
    "features.beta_window=50",
    "features.z_window=30",
    "signals.entry_z=0.8",
    "signals.exit_z=0.1",
    "trainer.min_samples=20",
    "trainer.families=logistic_regression",
    "trainer.labels.threshold=0.5",
)


def write_market(folder: Path) -> list[Path]:
    """Write bars of two cointegrated symbols in both timeframes."""
    rng = np.random.default_rng(11)
    n_bars = N_HOURS * 12 + 1
    common = np.cumsum(rng.normal(0, 0.002, n_bars))
    noise = np.zeros(n_bars)
    for i in range(1, n_bars):
        noise[i] = 0.9 * noise[i - 1] + rng.normal(0, 0.001)
    log_close = {"AAA/USDT": np.log(100) + common + noise, "BBB/USDT": np.log(50) + common}
    files = []
    for step, bar_ms, name in ((12, HOUR_MS, "1h"), (1, BAR_MS, "5m")):
        parts = []
        for symbol, path in log_close.items():
            close = np.round(np.exp(path[step::step]), 4)
            opened = np.round(np.exp(path[:-1:step]), 4)[: len(close)]
            parts.append(
                pa.table(
                    {
                        "ts": pa.array(
                            FIRST_MS + bar_ms * np.arange(len(close)),
                            type=pa.timestamp("ms", "UTC"),
                        ),
                        "symbol": [symbol] * len(close),
                        "exchange": ["binance"] * len(close),
                        "open": opened,
                        "high": np.maximum(opened, close),
                        "low": np.minimum(opened, close),
                        "close": close,
                        "volume": np.full(len(close), 10_000.0),
                    }
                )
            )
        files.append(folder / f"{name}.parquet")
        pq.write_table(pa.concat_tables(parts), files[-1])
    return files


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetHome]:
    folder = tmp_path_factory.mktemp("fleet")
    files = write_market(folder)
    arguments = ["--start", START, "--end", END, "--home", str(folder / "home"), "--stay", "--json"]
    for path in files:
        arguments += ["--bars", str(path)]
    for override in OVERRIDES:
        arguments += ["--set", override]
    report = folder / "report.json"
    with report.open("wb") as out, (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen([*MNT, "replay", *arguments], stdout=out, stderr=errors)
    fleet = FleetHome(folder / "home")

    def is_reported() -> bool:
        assert process.poll() is None or report.stat().st_size, (folder / "errors.txt").read_text()
        return report.stat().st_size > 0

    try:
        eventually(is_reported, within_seconds=180)
        yield fleet
    finally:
        stop_fleet(fleet)
        process.wait(timeout=60)


def mnt(home: FleetHome, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [*MNT, *arguments, "--home", str(home.path)]
    return subprocess.run(command, capture_output=True, check=False)


def rows(home: FleetHome, query: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(postgres_url(home, "")) as connection:
        return connection.execute(query, values).fetchall()


def bearing(home: FleetHome) -> dict[str, str]:
    return {"Authorization": f"Bearer {home.token()}"}


def url(home: FleetHome, service: str) -> str:
    return f"http://127.0.0.1:{home.port(service)}"


def bars_event(minute: int, close: float) -> bytes:
    bar = {"open": close, "high": close, "low": close, "close": close, "volume": 5.0}
    return orjson.dumps(
        {
            "venue": "binance",
            "timeframe": "5m",
            "closes_at": f"2024-03-10T13:{minute:02d}:00Z",
            "bars": [{"symbol": "AAA/USDT", **bar}],
        }
    )


def test_the_replay_traded(home: FleetHome) -> None:
    report = orjson.loads((home.path.parent / "report.json").read_bytes())
    assert report["counts"]["closes"] == 72
    assert report["counts"]["dead_letters"] == 0
    assert report["counts"]["fills"] > 0


def test_the_routes_show_what_the_replay_did(home: FleetHome) -> None:
    report = orjson.loads((home.path.parent / "report.json").read_bytes())
    counts = report["counts"]

    def shown(service: str, route: str) -> Any:
        answer = httpx.get(f"{url(home, service)}{route}", headers=bearing(home))
        assert answer.status_code == 200, answer.text
        return answer.json()

    [pair] = [p for p in shown("screener", "/pairs")["pairs"] if p["status"] == "active"]
    name = quote(f"{pair['y']}~{pair['x']}", safe="")
    rows = shown("features", f"/features/{name}?limit=1000")["rows"]
    assert 0 < len(rows) <= counts["features"]
    for service, route, kind in (
        ("signals", "/signals", "signals"),
        ("executor", "/orders", "orders"),
        ("executor", "/fills", "fills"),
    ):
        assert len(shown(service, f"{route}?limit=1000")) == counts[kind]
    earned = shown("portfolio", "/pnl")
    assert Decimal(earned["equity_usdt"]).scaleb(8) == report["equity_e8"]
    assert Decimal(earned["capital_usdt"]) == 100_000
    assert sum(Decimal(day["change_usdt"]) for day in earned["days"]) == Decimal(
        earned["total"]["profit_usdt"]
    )


def test_status_lists_every_process(home: FleetHome) -> None:
    found = {row["name"]: row for row in orjson.loads(mnt(home, "status", "--json").stdout)}
    assert {"valkey", "postgres", "ingest", "executor", "paper_exchange"} <= found.keys()
    assert all(row["state"] == "ready" and row["pid"] for row in found.values())
    assert found["features"]["lag"] == 0


@pytest.mark.parametrize(
    "service", ["ingest", "screener", "features", "trainer", "signals", "portfolio", "executor"]
)
def test_every_service_serves_the_common_routes(home: FleetHome, service: str) -> None:
    for route in ("health", "ready", "metrics", "docs", "openapi.json"):
        assert httpx.get(f"{url(home, service)}/{route}").status_code == 200, route
    status = f"{url(home, service)}/status"
    assert httpx.get(status).status_code == 401
    assert httpx.get(status, headers=bearing(home)).status_code == 200


def test_a_route_that_changes_state_needs_the_token(home: FleetHome) -> None:
    assert (home.token_file.stat().st_mode & 0o777) == 0o600
    route = f"{url(home, 'signals')}/pause"
    assert httpx.post(route).status_code == 401
    assert httpx.post(route, headers={"Authorization": "Bearer wrong"}).status_code == 401
    authorised = bearing(home)
    assert httpx.post(route, headers=authorised).json()["state"] == "paused"
    status = f"{url(home, 'signals')}/status"
    assert httpx.get(status, headers=authorised).json()["state"] == "paused"
    resume = f"{url(home, 'signals')}/resume"
    assert httpx.post(resume, headers=authorised).json()["state"] == "running"


def test_an_event_by_hand_flows_through_the_fleet(home: FleetHome) -> None:
    client: Any = redis.Redis.from_url(redis_url(home))
    entry_id = client.xadd("bars.5m", {"data": bars_event(5, 101.0)})
    adopted = eventually(
        lambda: rows(
            home, "SELECT seq FROM event_log WHERE foreign_entry_id = %s", entry_id.decode()
        )
    )
    assert adopted
    at = "2024-03-10T13:05:00Z"
    for topic in ("features.computed", "signals.raised", "orders.requested", "positions.changed"):
        query = "SELECT seq FROM event_log WHERE topic = %s AND closes_at = %s"
        eventually(lambda topic=topic, query=query: rows(home, query, topic, at))  # type: ignore[misc]
    assert rows(home, "SELECT close FROM bars WHERE closes_at = %s AND timeframe = '5m'", at) == [
        (101.0,)
    ]


def test_a_malformed_event_is_kept_and_a_corrected_one_processed(home: FleetHome) -> None:
    client: Any = redis.Redis.from_url(redis_url(home))
    entry_id = client.xadd("bars.5m", {"data": b'{"version": 2, "venue": "binance"}'}).decode()

    def letter() -> dict[str, Any] | None:
        found = orjson.loads(mnt(home, "dead", "list", "--json").stdout)
        return next((row for row in found if row["entry_id"] == entry_id), None)

    found = eventually(letter)
    assert found is not None
    assert "version" in found["error"]
    assert client.xlen("bars.5m.dead") >= 1
    letter_id = str(found["dead_letter_id"])
    shown = orjson.loads(mnt(home, "dead", "show", letter_id, "--json").stdout)
    assert '"version": 2' in shown["payload"]
    again = mnt(home, "dead", "replay", letter_id)
    assert again.returncode == 1
    assert b"version" in again.stderr
    corrected = bars_event(10, 102.0).decode()
    sent = mnt(home, "dead", "replay", letter_id, "--data", corrected)
    assert sent.returncode == 0, sent.stderr
    eventually(lambda: rows(home, "SELECT 1 FROM bars WHERE closes_at = '2024-03-10T13:10:00Z'"))


def test_a_bad_bar_is_quarantined_with_a_reason(home: FleetHome) -> None:
    client: Any = redis.Redis.from_url(redis_url(home))
    event = orjson.loads(bars_event(15, 103.0))
    event["bars"][0]["high"] = 1.0
    event["bars"].append({**event["bars"][0], "symbol": "NOPE/USDT"})
    entry_id = client.xadd("bars.5m", {"data": orjson.dumps(event)}).decode()
    query = "SELECT symbol, reason FROM bar_quarantine WHERE source_uri = %s ORDER BY symbol"
    found = eventually(lambda: rows(home, query, f"stream:bars.5m/{entry_id}"))
    assert found == [("AAA/USDT", "inverted"), ("NOPE/USDT", "unknown_symbol")]


def test_an_operator_promotes_a_challenger_and_the_override_is_recorded(home: FleetHome) -> None:
    authorised = bearing(home)
    trained = httpx.post(f"{url(home, 'trainer')}/train", headers=authorised, timeout=120)
    assert trained.status_code == 200, trained.text
    sha256 = trained.json()["sha256"]
    promoted = httpx.post(
        f"{url(home, 'trainer')}/promote",
        headers=authorised,
        json={"sha256": sha256, "reason": "a rehearsal"},
        timeout=60,
    )
    assert promoted.status_code == 200, promoted.text
    query = (
        "SELECT gates_passed, is_override, override_reason, mode FROM promotions "
        "WHERE alias = 'champion'"
    )
    assert rows(home, query) == [(False, True, "a rehearsal", "paper")]
    eventually(
        lambda: rows(
            home,
            "SELECT 1 FROM consumer_offset JOIN stream_head USING (topic) "
            "WHERE consumer = 'signals' AND topic = 'models.promoted' "
            "AND consumer_offset.seq = stream_head.seq AND stream_head.seq > 0",
        )
    )
    assert (
        httpx.get(f"{url(home, 'signals')}/status", headers=authorised).json()["last_error"] is None
    )
    refused = httpx.post(
        f"{url(home, 'trainer')}/promote",
        headers=authorised,
        json={"sha256": "0" * 64, "reason": "none such"},
        timeout=60,
    )
    assert refused.status_code == 409


def test_models_change_hands_while_closes_go_on_and_a_tampered_one_is_refused(
    home: FleetHome,
) -> None:
    client: Any = redis.Redis.from_url(redis_url(home))
    trainer, signals = url(home, "trainer"), url(home, "signals")

    def closes(*minutes: int) -> None:
        """Publish closes of both symbols by hand, and wait until the last is settled."""
        for minute in minutes:
            event = orjson.loads(bars_event(minute, 101.0))
            event["bars"] += [{**event["bars"][0], "symbol": "BBB/USDT"}]
            for name in ("open", "high", "low", "close"):
                event["bars"][1][name] = 50.0 + minute / 100
            client.xadd("bars.5m", {"data": orjson.dumps(event)})
        query = "SELECT 1 FROM event_log WHERE topic = 'positions.changed' AND closes_at = %s"
        eventually(lambda: rows(home, query, f"2024-03-10T13:{minutes[-1]}:00Z"))

    def post(address: str, **body: Any) -> httpx.Response:
        return httpx.post(address, headers=bearing(home), json=body or None, timeout=120)

    def champion() -> str:
        info = httpx.get(f"{signals}/model-info", headers=bearing(home)).json()
        return str(info["champion"]["sha256"])

    first = champion()
    closes(20, 25)
    second = post(f"{trainer}/train").json()["sha256"]
    assert second != first
    promoted = post(f"{trainer}/promote", sha256=second, reason="newer").json()
    assert promoted["decides_after"] == "2024-03-10T13:25:00Z"
    closes(30)
    assert champion() == second
    undone = mnt(home, "rollback", "--reason", "it lost")
    assert undone.returncode == 0, undone.stderr
    closes(35)
    assert champion() == first
    with psycopg.connect(postgres_url(home, "")) as connection:
        # The record itself refuses such a change, unless somebody takes its rule away.
        connection.execute("ALTER TABLE models DROP CONSTRAINT models_identity_check")
        connection.execute(
            "UPDATE models SET document = document || ' '::bytea WHERE sha256 = %s", [second]
        )
    assert post(f"{trainer}/promote", sha256=second, reason="tampered with").status_code == 200
    query = "SELECT error FROM dead_letter WHERE consumer = 'signals' AND topic = 'models.promoted'"
    [(error,)] = eventually(lambda: rows(home, query)) or []
    assert "it was changed and is refused" in error
    closes(40, 45)
    refused = post(f"{signals}/reload-model")
    assert (refused.status_code, champion()) == (409, first)
    handled = rows(
        home,
        "SELECT count(*), count(DISTINCT closes_at) FROM event_log "
        "WHERE topic = 'signals.raised' AND closes_at >= '2024-03-10T13:20:00Z'",
    )
    assert handled == [(6, 6)]


def test_stopping_leaves_no_process(home: FleetHome) -> None:
    stop_fleet(home)
    assert all(process.pid is None for process in read_status(home))
