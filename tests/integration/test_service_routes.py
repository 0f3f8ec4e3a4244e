"""Routes of the services on a record written for the purpose."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from sqlalchemy import text

from services.features.store import COLUMNS
from shared.book.instrument import derive_instrument
from shared.columns import columns_of
from shared.database.engine import transaction
from shared.database.tables import (
    account,
    bars,
    feature_sets,
    features,
    fills,
    instruments,
    orders,
    pair_positions,
    roster,
    screens,
)
from shared.events.executor import PositionsChanged, PositionStatus
from shared.events.features import FeatureRow, FeaturesComputed
from shared.events.signals import Signal, SignalsRaised
from shared.sleeves.pairs.features import FeatureSettings, feature_names
from tests.serving import Record, Served, serving

# MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

NOON = datetime.fromisoformat("2024-03-10T12:00:00+00:00")
Y, X = "AAA/USDT", "BBB/USDT"
PAIR, SAFE_PAIR = "AAA/USDT~BBB/USDT", "AAA-USDT~BBB-USDT"
NAMES = feature_names(FeatureSettings())
REASON = {"reason": "a rehearsal"}


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def spelled(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return [
        ("MNT_SCREENER__WINDOW_BARS", "200"),
        ("MNT_SCREENER__METHOD", "p_value"),
        ("MNT_SCREENER__LEVEL", "0.05"),
        ("MNT_SCREENER__QUOTE_VOLUME_MIN_USDT", "0"),
        ("MNT_SCREENER__CORRELATION_MIN", "-1"),
        ("MNT_SCREENER__HURST_MAX", "1"),
        ("MNT_TRAINER__MIN_SAMPLES", "20"),
        ("MNT_TRAINER__FAMILIES", "logistic_regression"),
        ("MNT_SIGNALS__PROBABILITY_THRESHOLD", "0.0"),
    ]


async def put_instruments(record: Record) -> None:
    for symbol in (Y, X):
        instrument = derive_instrument(symbol, 100.0)
        fields = {name: getattr(instrument, name) for name in instrument.__slots__}
        await record.put(instruments, {"venue": "binance", **fields})


# --- screener -----------------------------------------------------------------------------


def screen_row(hour: int, **changes: Any) -> dict[str, Any]:
    return {
        "timeframe": "1h",
        "closes_at": at(60 * hour),
        "method": "p_value",
        "level": 0.05,
        "n_symbols": 3,
        "n_tests": 6,
        "n_accepted": 2,
        "excluded": {"CCC/USDT": "199 of 200 bars"},
        "symbols_by_bars": {"200": 2, "150": 1},
        "summary": f"the screen of hour {hour}",
        **changes,
    }


def roster_row(hour: int, y: str, status: str, p_value: float) -> dict[str, Any]:
    has_entered = status != "candidate"
    return {
        "closes_at": at(60 * hour),
        "y": y,
        "x": X,
        "status": status,
        "accepted_screens": 1,
        "missed_screens": 0,
        "entered_at": at(60 * hour) if has_entered else None,
        "left_at": at(60 * hour) if status == "closing_only" else None,
        "statistic": -4.0,
        "p_value": p_value,
        "q_value": p_value,
        "lag": 1,
        "hedge_ratio": 1.0,
        "intercept": 0.0,
        "half_life_bars": 9.0,
        "hurst": 0.4,
        "correlation": 0.8,
        "crossings": 30,
        "n_bars": 200,
    }


async def put_hourly_bars(record: Record, n_hours: int) -> None:
    """Record bars of two cointegrated symbols."""
    rng = np.random.default_rng(11)
    common = np.cumsum(rng.normal(0, 0.002, n_hours))
    noise = np.zeros(n_hours)
    for i in range(1, n_hours):
        noise[i] = 0.5 * noise[i - 1] + rng.normal(0, 0.001)
    closes = {Y: np.exp(np.log(100) + common + noise), X: np.exp(np.log(50) + common)}
    await record.put(
        bars,
        *(
            {
                "venue": "binance",
                "timeframe": "1h",
                "closes_at": at(60 * hour),
                "symbol": symbol,
                **dict.fromkeys(("open", "high", "low", "close"), float(close)),
                "volume": 1000.0,
            }
            for symbol, path in closes.items()
            for hour, close in enumerate(path)
        ),
    )


async def test_the_roster_is_shown_as_it_is_and_as_it_was(record: Record) -> None:
    await record.put(screens, screen_row(0), screen_row(1))
    await record.put(
        roster,
        roster_row(0, Y, "candidate", 0.02),
        roster_row(1, "CCC/USDT", "candidate", 0.001),
        roster_row(1, Y, "active", 0.01),
        roster_row(1, "DDD/USDT", "closing_only", 0.03),
    )
    async with serving("screener") as screener:
        present = await screener.get("/pairs")
        assert present["summary"] == "the screen of hour 1"
        assert (present["method"], present["level"], present["n_tests"]) == ("p_value", 0.05, 6)
        assert present["excluded"] == {"CCC/USDT": "199 of 200 bars"}
        assert present["symbols_by_bars"] == {"200": 2, "150": 1}
        last_screen = (await screener.get("/status"))["last_screen"]
        assert last_screen == {name: present[name] for name in last_screen}
        assert {"excluded", "symbols_by_bars", "summary"} <= last_screen.keys()
        assert present["n_pairs"] == {"candidate": 1, "active": 1, "closing_only": 1}
        assert [pair["y"] for pair in present["pairs"]] == [Y, "CCC/USDT", "DDD/USDT"]
        assert present["pairs"][0]["half_life_bars"] == 9.0
        limited = await screener.get("/pairs", limit=1)
        assert (len(limited["pairs"]), limited["n_pairs"]) == (1, present["n_pairs"])
        [leaving] = (await screener.get("/pairs", status="closing_only"))["pairs"]
        assert leaving["y"] == "DDD/USDT"
        earlier = await screener.get("/pairs", closes_at=spelled(at(59)))
        assert (earlier["closes_at"], len(earlier["pairs"])) == (spelled(at(0)), 1)
        status, fault = await screener.refusal("GET", f"/pairs?closes_at={spelled(at(-1))}")
        assert status == 404
        assert "one is made at every 1h close; POST /screen rehearses it" in fault


async def test_a_rehearsed_screen_finds_the_pair_and_leaves_no_trace(record: Record) -> None:
    await put_instruments(record)
    await put_hourly_bars(record, 230)
    async with serving("screener") as screener:
        assert (await screener.get("/status"))["last_screen"] is None
        first = await screener.send("POST", "/screen")
        assert first["closes_at"] == spelled(at(60 * 229))
        assert (first["n_symbols"], first["n_tests"]) == (2, 2)
        assert (first["symbols_by_bars"], first["excluded"]) == ({"200": 2}, {})
        [candidate] = first["candidates"]
        assert {candidate["y"], candidate["x"]} == {Y, X}
        assert candidate["p_value"] < 0.05
        assert await screener.send("POST", "/screen") == first
        assert (await screener.attempt("GET", "/pairs")).status_code == 404
    for table in ("screens", "roster", "event_log"):
        assert await record.rows(f"SELECT 1 FROM {table}") == []


async def test_a_screen_without_bars_says_what_to_wait_for(record: Record) -> None:
    async with serving("screener") as screener:
        status, fault = await screener.refusal("POST", "/screen")
    assert status == 409
    assert fault.startswith("no 1h bars of binance are recorded: wait for ingest")


async def test_a_filter_that_refuses_a_pair_is_named(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNT_SCREENER__QUOTE_VOLUME_MIN_USDT", "1e12")
    await put_instruments(record)
    await put_hourly_bars(record, 200)
    async with serving("screener") as screener:
        rehearsed = await screener.send("POST", "/screen")
    assert rehearsed["candidates"] == []
    [refused] = rehearsed["refused"]
    assert "median USDT per bar" in refused["reason"]


# --- features -----------------------------------------------------------------------------


async def put_features(record: Record, minutes: Iterable[int], y: str = Y, x: str = X) -> None:
    await record.put(feature_sets, {"feature_set": "f", "names": ["beta", "z_score"]})
    await record.put(
        features,
        *(
            {
                "closes_at": at(minute),
                "y": y,
                "x": x,
                "status": "active",
                "roster_closes_at": at(-60),
                "close_y": 100.0,
                "close_x": 50.0,
                "feature_set": "f",
                "feature_values": [1.0, minute / 10],
            }
            for minute in minutes
        ),
    )


async def test_features_of_a_pair_are_found_under_either_spelling(record: Record) -> None:
    await put_features(record, range(5, 30, 5))
    await put_features(record, [5], "CCC/USDT", X)
    async with serving("features") as service:
        found = await service.get(f"/features/{SAFE_PAIR}")
        assert (found["pair"], found["y"], found["x"]) == (PAIR, Y, X)
        assert [row["closes_at"] for row in found["rows"]] == [
            spelled(at(minute)) for minute in (25, 20, 15, 10, 5)
        ]
        assert found["rows"][0]["features"] == {"beta": 1.0, "z_score": 2.5}
        for spelling in (PAIR, quote(PAIR, safe=""), quote(PAIR, safe="~")):
            assert await service.get(f"/features/{spelling}") == found
        page = await service.get(
            f"/features/{SAFE_PAIR}", limit=2, since=spelled(at(10)), until=spelled(at(25))
        )
        assert page["rows"] == found["rows"][1:3]
        status, fault = await service.refusal("GET", "/features/DDD-USDT~BBB-USDT")
        assert status == 404
        assert fault.endswith("there are features of AAA-USDT~BBB-USDT, CCC-USDT~BBB-USDT")


async def test_before_there_are_features_the_refusal_says_what_to_wait_for(record: Record) -> None:
    async with serving("features") as service:
        status, fault = await service.refusal("GET", f"/features/{SAFE_PAIR}")
    assert status == 404
    assert "no pair yet; the screener names pairs" in fault


# --- models: trainer and signals ------------------------------------------------------------


def computed(number: int, rng: np.random.Generator, z_score: float) -> FeaturesComputed:
    """Return the features of a close, close `number` at 5 minutes times it after noon."""
    values = dict(zip(NAMES, rng.normal(size=len(NAMES)).tolist(), strict=True))
    values |= {
        "beta": 1.0,
        "alpha": 0.0,
        "z_score": z_score,
        "spread": 0.01 * z_score,
        "spread_mean": 0.0,
        "spread_std": 0.01,
    }
    row = FeatureRow(
        y=Y,
        x=X,
        status="active",
        close_y=float(np.exp(0.01 * z_score)),
        close_x=1.0,
        values=tuple(values[name] for name in NAMES),
    )
    return FeaturesComputed(
        closes_at=at(5 * number),
        timeframe="5m",
        roster_closes_at=at(-60),
        feature_names=NAMES,
        **columns_of(FeatureRow._fields, [row]),
        warming_up=(),
    )


async def publish_features(record: Record, numbers: range) -> None:
    """Record and publish features of a spread that swings, now for longer, now for less."""
    rng = np.random.default_rng(numbers.start)
    await record.put(feature_sets, {"feature_set": "swings", "names": list(NAMES)})
    for number in numbers:
        event = computed(number, rng, 2.5 * float(np.sin(number * (1 + 0.2 * np.sin(number / 9)))))
        [row] = event.rows
        await record.put(
            features,
            {
                "closes_at": event.closes_at,
                **dict(zip(COLUMNS, row, strict=True)),
                "roster_closes_at": event.roster_closes_at,
                "feature_set": "swings",
            },
        )
        await record.publish("features.computed", event)


async def test_training_promotion_and_rollback_move_the_model_that_decides(
    record: Record,
) -> None:
    async with serving("trainer") as trainer, serving("signals") as signals:
        status, fault = await trainer.refusal("POST", "/train")
        assert (status, fault) == (
            409,
            "no close has been seen yet: wait for features, then ask again",
        )
        await publish_features(record, range(1, 121))
        await record.is_handled("trainer")
        status, fault = await trainer.refusal("POST", "/rollback", REASON)
        assert status == 409
        assert "POST /promote makes a champion" in fault
        assert await trainer.get("/runs") == []

        first = await trainer.send("POST", "/train")
        await publish_features(record, range(121, 181))
        await record.is_handled("trainer")
        second = await trainer.send("POST", "/train")
        assert first["sha256"] != second["sha256"]

        runs = await trainer.get("/runs")
        assert [run["sha256"] for run in runs] == [second["sha256"], first["sha256"]]
        assert runs[0]["mlflow_run_id"] == second["mlflow_run_id"]
        assert runs[0]["dataset"]["n_rows"] == second["n_samples"]
        assert runs[0]["dataset"]["manifest"]["feature_names"] == list(NAMES)
        assert runs[0]["metrics"]["folds"] == second["metrics"]["folds"]
        assert await trainer.get("/runs", until=spelled(at(5 * 180)), limit=1) == runs[1:]

        await record.is_handled("signals")
        info = await signals.get("/model-info")
        assert (info["decides"], info["champion"]) == ("z", None)
        assert info["challenger"]["sha256"] == second["sha256"]
        await _promote_and_roll_back(record, trainer, signals, first, second)


async def _promote_and_roll_back(
    record: Record,
    trainer: Served,
    signals: Served,
    first: dict[str, Any],
    second: dict[str, Any],
) -> None:
    status, fault = await signals.refusal("POST", "/predict", {"features": {}})
    assert status == 409
    assert "no model is champion" in fault
    rng = np.random.default_rng(5)
    decided = []
    steps: list[tuple[str, dict[str, Any]]] = [
        ("/promote", {**REASON, "sha256": first["sha256"]}),
        ("/promote", {**REASON, "sha256": second["sha256"]}),
        ("/rollback", REASON),
        ("/rollback", REASON),
    ]
    for step, (route, body) in enumerate(steps):
        answer = await trainer.send("POST", route, body)
        number = 200 + step
        assert answer["decides_after"] == spelled(at(5 * (180 if step == 0 else number - 1)))
        assert answer["is_rollback"] is (route == "/rollback")
        # Entered afresh at every close: the cool-down of one pair does not bind another.
        event = computed(number, rng, 3.0)
        event = event.model_copy(update={"y": (f"Y{step}/USDT",)})
        await record.publish("features.computed", event)
        await record.is_handled("signals")
        await record.is_handled("trainer")
        [entered] = await signals.get("/signals", pair=f"Y{step}-USDT~BBB-USDT", action="enter")
        assert entered["closes_at"] == spelled(event.closes_at)
        info = await signals.get("/model-info")
        assert info["champion"]["sha256"] == entered["model_sha256"] == answer["sha256"]
        decided.append((entered["model_sha256"], info["decides"], _champion_in_mlflow(trainer)))
    assert decided == [
        (first["sha256"], "model", 1),
        (second["sha256"], "model", 2),
        (first["sha256"], "model", 1),
        (None, "z", None),
    ]
    status, fault = await trainer.refusal("POST", "/rollback", REASON)
    assert status == 409
    assert "no model is champion, so there is none to roll back" in fault
    rows = await record.rows(
        "SELECT sha256, is_rollback, is_override, override_reason, decided_by, gates_passed "
        "FROM promotions WHERE alias = 'champion' ORDER BY promotion_id"
    )
    assert rows == [
        (first["sha256"], False, True, "a rehearsal", "home", False),
        (second["sha256"], False, True, "a rehearsal", "home", False),
        (first["sha256"], True, True, "a rehearsal", "home", False),
        (None, True, True, "a rehearsal", "home", False),
    ]
    models = await trainer.get("/models")
    given = [each["alias"] for model in models for each in model["promotions"]]
    assert sorted(given) == [
        *["candidate"] * 2,
        *["challenger"] * 2,
        *["champion"] * 3,
        *["retired"] * 4,
    ]


def _champion_in_mlflow(trainer: Served) -> int | None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    folder = trainer.runtime.settings.home.resolve() / "mlflow"
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    try:
        return int(client.get_model_version_by_alias("pairs", "champion").version)
    except MlflowException:
        return None


async def test_promotions_and_rollbacks_of_one_close_are_taken_in_their_order(
    record: Record,
) -> None:
    async with serving("trainer") as trainer:
        await publish_features(record, range(1, 121))
        await record.is_handled("trainer")
        first = await trainer.send("POST", "/train")
        await publish_features(record, range(121, 181))
        await record.is_handled("trainer")
        second = await trainer.send("POST", "/train")
        for sha256 in (first["sha256"], second["sha256"]):
            await trainer.send("POST", "/promote", {**REASON, "sha256": sha256})
        await trainer.send("POST", "/rollback", REASON)
        await trainer.send("POST", "/promote", {**REASON, "sha256": second["sha256"]})
    async with serving("signals") as signals:
        await record.is_handled("signals")
        taken = await signals.get("/model-info")
        reloaded = await signals.send("POST", "/reload-model")
    assert taken["champion"]["sha256"] == second["sha256"]
    assert taken["champion"]["is_rollback"] is False
    assert reloaded == taken


async def test_a_model_that_was_changed_after_its_promotion_decides_nothing_and_exits_go_on(
    record: Record,
) -> None:
    rng = np.random.default_rng(5)
    async with serving("trainer") as trainer, serving("signals") as signals:
        await publish_features(record, range(1, 121))
        await record.is_handled("trainer")
        trained = await trainer.send("POST", "/train")
        await trainer.send("POST", "/promote", REASON)
        await record.is_handled("signals")
        await record.publish("features.computed", features_of("Y1/USDT", 121, rng, 3.0))
        await record.is_handled("signals")
        [entered] = await signals.get("/signals", action="enter", pair="Y1-USDT~BBB-USDT")
        assert entered["model_sha256"] == trained["sha256"]
    async with transaction(record.engine) as connection:
        # The record itself refuses such a change, so it takes somebody who may alter tables.
        await connection.execute(text("ALTER TABLE models DROP CONSTRAINT models_identity_check"))
        await connection.exec_driver_sql(
            "UPDATE models SET document = "
            "replace(convert_from(document, 'UTF8'), '\"intercept\":', '\"intercept\":1')::bytea"
        )
    async with serving("signals") as signals:
        info = await signals.get("/model-info")
        assert (info["decides"], info["champion"]["sha256"]) == ("nobody", trained["sha256"])
        assert "it was changed and is refused" in info["champion"]["fault"]
        for method, path, body in (
            ("POST", "/predict", {"features": dict.fromkeys(NAMES, 0.5)}),
            ("POST", "/reload-model", None),
        ):
            status, fault = await signals.refusal(method, path, body)
            assert (status, "it was changed and is refused" in fault) == (409, True)
        held, other = (
            features_of(symbol, 122, rng, z_score)
            for symbol, z_score in (("Y1/USDT", 0.0), ("Y2/USDT", 3.0))
        )
        columns = {name: getattr(held, name) + getattr(other, name) for name in FeatureRow._fields}
        both = held.model_copy(update=columns)
        await record.publish("features.computed", both)
        await record.is_handled("signals")
        newest = await signals.get("/signals", since=spelled(both.closes_at))
    decided = {(each["y"], each["action"]) for each in newest}
    assert ("Y1/USDT", "exit") in decided
    assert "enter" not in {action for _, action in decided}


def features_of(
    symbol: str, number: int, rng: np.random.Generator, z_score: float
) -> FeaturesComputed:
    return computed(number, rng, z_score).model_copy(update={"y": (symbol,)})


async def test_a_prediction_takes_exactly_the_features_of_the_champion(record: Record) -> None:
    async with serving("trainer") as trainer, serving("signals") as signals:
        await publish_features(record, range(1, 121))
        await record.is_handled("trainer")
        trained = await trainer.send("POST", "/train")
        await trainer.send("POST", "/promote", REASON)
        await record.is_handled("signals")
        row = dict.fromkeys(NAMES, 0.5)
        answer = await signals.attempt("POST", "/predict", {"features": row})
        assert answer.status_code == 200
        predicted = answer.json()
        assert predicted["sha256"] == trained["sha256"]
        assert 0 < predicted["probability"] < 1
        assert (predicted["threshold"], predicted["is_enough"]) == (0.0, True)
        backwards = {"features": dict(reversed(row.items()))}
        assert await signals.send("POST", "/predict", backwards) == predicted

        lacking = {name: value for name, value in row.items() if name != "z_score"}
        status, fault = await signals.refusal("POST", "/predict", {"features": lacking})
        assert status == 422
        assert "needs z_score" in fault
        status, fault = await signals.refusal("POST", "/predict", {"features": {**row, "rsi": 1}})
        assert status == 422
        assert "does not know rsi: give exactly beta, alpha" in fault
        status, fault = await signals.refusal(
            "POST", "/predict", {"features": {**row, "beta": "much"}}
        )
        assert status == 422
        assert fault.startswith("body.features.beta: Input should be a valid number")


async def test_a_model_that_was_changed_is_refused_and_the_one_in_use_stays(
    record: Record,
) -> None:
    async with serving("trainer") as trainer, serving("signals") as signals:
        await publish_features(record, range(1, 121))
        await record.is_handled("trainer")
        await trainer.send("POST", "/train")
        await trainer.send("POST", "/promote", REASON)
        await record.is_handled("signals")
        before = await signals.get("/model-info")
        # The record itself refuses such a change, unless somebody takes its rule away.
        async with record.engine.begin() as connection:
            await connection.exec_driver_sql(
                "ALTER TABLE models DROP CONSTRAINT models_identity_check"
            )
            await connection.exec_driver_sql(
                "UPDATE models SET document = replace(convert_from(document, 'UTF8'), "
                "'\"n_samples\":', '\"n_samples\":1')::bytea"
            )
        status, fault = await signals.refusal("POST", "/reload-model")
        assert status == 409
        assert "it was changed and is refused" in fault
        assert await signals.get("/model-info") == before


# --- portfolio ----------------------------------------------------------------------------


def signal(y: str, action: str = "enter", number: int = 1) -> Signal:
    return Signal(
        sleeve="pairs",
        y=y,
        x=X,
        action="enter" if action == "enter" else "exit",
        side=1,
        reason="z_score",
        strength=2.5,
        confidence=None,
        z_score=-2.5,
        hedge_ratio=1.0,
        intercept=0.0,
        spread_mean=0.0,
        spread_std=0.01,
        entered_at=at(5 * number),
        close_y=100.0,
        close_x=100.0,
        model_sha256=None,
    )


def raised(number: int, *signals: Signal) -> SignalsRaised:
    return SignalsRaised.of_rows(
        signals,
        closes_at=at(5 * number),
        timeframe="5m",
        roster_closes_at=None,
        marks={Y: 100.0},
    )


async def lots_requested(record: Record, number: int) -> int:
    """Return the lots of leg y that the portfolio asked for at a close."""
    [(lots,)] = await record.rows(
        "SELECT (legs -> 0 ->> 'quantity_lots')::int FROM intents "
        f"WHERE closes_at = '{at(5 * number).isoformat()}'"
    )
    return int(lots)


async def test_limits_hold_from_the_next_close_on_and_outlive_the_process(record: Record) -> None:
    await put_instruments(record)
    for symbol in ("CCC/USDT", "DDD/USDT", "EEE/USDT"):
        instrument = derive_instrument(symbol, 100.0)
        fields = {name: getattr(instrument, name) for name in instrument.__slots__}
        await record.put(instruments, {"venue": "binance", **fields})
    async with serving("portfolio") as portfolio:
        found = await portfolio.get("/limits")
        assert found["limits"] == found["settings"]
        assert (found["limits"]["top_k"], found["changes"]) == (10, [])
        await record.publish("signals.raised", raised(1, signal(Y)))
        await record.is_handled("portfolio")
        assert await lots_requested(record, 1) == 50_000  # 5,000 of 100 in lots of 0.001

        wanted = {"gross_cap": 0.5, "top_k": 3, "reason": "a thin market"}
        changed = await portfolio.send("PUT", "/limits", wanted)
        assert changed["limits"] == {**found["settings"], "gross_cap": 0.5, "top_k": 3}
        assert (changed["n_slots_taken"], changed["gross_usdt"]) == (1, "10000.00000000")
        [change] = changed["changes"]
        assert (change["from_closes_at"], change["reason"]) == (spelled(at(5)), "a thin market")
        assert (change["decided_by"], change["symbol_cap"]) == ("home", 0.3)

        # A late event of the same close is decided by the limits of its own time.
        await record.publish("signals.raised", raised(1, signal("CCC/USDT")))
        await record.publish("signals.raised", raised(2, signal("DDD/USDT")))
        await record.is_handled("portfolio")
        assert await lots_requested(record, 2) == 83_333  # half of 100,000 * 0.5 / 3
    async with serving("portfolio") as portfolio:
        assert (await portfolio.get("/limits"))["limits"] == changed["limits"]
        await record.publish("signals.raised", raised(3, signal("EEE/USDT")))
        await record.is_handled("portfolio")
    late = await record.rows(
        "SELECT (legs -> 0 ->> 'quantity_lots')::int FROM intents WHERE y = 'CCC/USDT'"
    )
    assert late == [(50_000,)]
    refused = await record.rows("SELECT reason FROM targets WHERE y = 'EEE/USDT'")
    assert refused == [("all 3 slots are taken",)]


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        ({}, "name at least one of capital_usdt, top_k, gross_cap, symbol_cap"),
        ({"gross_cap": 11}, "body.gross_cap: Input should be less than or equal to 10"),
        ({"top_k": 0}, "body.top_k: Input should be greater than 0"),
        ({"top_k": 1.5}, "body.top_k: Input should be a valid integer"),
        ({"leverage": 3}, "body.leverage: Extra inputs are not permitted"),
    ],
)
async def test_limits_out_of_bounds_are_refused(
    record: Record, wanted: dict[str, Any], fault: str
) -> None:
    async with serving("portfolio") as portfolio:
        status, given = await portfolio.refusal("PUT", "/limits", {**REASON, **wanted})
    assert status == 422
    assert fault in given


async def test_targets_and_slots_are_shown_until_the_position_closes(record: Record) -> None:
    await put_instruments(record)
    async with serving("portfolio") as portfolio:
        await record.publish("signals.raised", raised(1, signal(Y), signal("ZZZ/USDT")))
        await record.is_handled("portfolio")
        targets = await portfolio.get("/targets")
        assert [(t["y"], t["is_accepted"], t["reason"]) for t in targets] == [
            (Y, True, "accepted"),
            ("ZZZ/USDT", False, "no instrument ZZZ/USDT"),
        ]
        assert await portfolio.get("/targets", is_accepted=False) == targets[1:]
        assert await portfolio.get("/targets", pair=SAFE_PAIR) == targets[:1]
        [slot] = await portfolio.get("/positions")
        assert (slot["pair"], slot["notional_y_usdt"], slot["state"]) == (
            PAIR,
            "5000.00000000",
            None,
        )
        position_id = slot["position_id"]
        held = position_row(PAIR, 1, None, -1_000 * 10**8, lots=10_000)
        await record.put(pair_positions, {**held, "position_id": position_id})
        await record.put(account, account_row(2, 99_000, 100_090))
        [slot] = await portfolio.get("/positions")
        # 10 of each leg, bought at what the cash says, marked at 110 and sold short at 100.
        assert (slot["state"], slot["value_usdt"]) == ("open", "100.00000000")
        assert slot["profit_usdt"] == "-900.00000000"
        status = PositionStatus(
            position_id=position_id, pair=PAIR, state="closed", lots_y=0, lots_x=0, cash_e8=0
        )
        await record.publish(
            "positions.changed",
            PositionsChanged(
                closes_at=at(10), cash_e8=0, equity_e8=0, gross_e8=0, positions=(status,)
            ),
        )
        await record.is_handled("portfolio")
        assert await portfolio.get("/positions") == []


def position_row(
    pair: str, opened: int, closed: int | None, cash_e8: int, lots: int = 0
) -> dict[str, Any]:
    y, x = pair.split("~")
    return {
        "position_id": f"{pair}:{opened}",
        "pair": pair,
        "symbol_y": y,
        "symbol_x": x,
        "state": "open" if closed is None else "closed",
        "opened_at": at(5 * opened),
        "lots_y": lots,
        "lots_x": -lots,
        "cash_e8": cash_e8,
        "fees_e8": 2 * 10**8,
        "funding_e8": 10**8,
        "closed_at": None if closed is None else at(5 * closed),
    }


def account_row(number: int, cash_usdt: int, equity_usdt: int) -> dict[str, Any]:
    return {
        "closes_at": at(5 * number),
        "cash_e8": cash_usdt * 10**8,
        "equity_e8": equity_usdt * 10**8,
        "gross_e8": 2_100 * 10**8,
        "n_positions": 1,
        "marks_ticks": {Y: 110_000, X: 100_000},
    }


DAY = 24 * 12
"""Closes of a day; noon of one to noon of the next."""


async def test_profit_adds_up_in_total_by_pair_and_by_day(record: Record) -> None:
    await put_instruments(record)
    other = f"{X}~{Y}"
    await record.put(
        pair_positions,
        position_row(PAIR, 1, 10, 300 * 10**8),
        position_row(PAIR, 11, None, -1_010 * 10**8, lots=10_000),
        # Closed by the close at midnight, which ends the first day.
        position_row(other, 2, DAY // 2, -500 * 10**8),
        position_row(other, DAY, DAY + 1, 40 * 10**8),
        # Denied: no cash moved.
        {**position_row(other, 3, 3, 0), "fees_e8": 0, "funding_e8": 0},
    )
    await record.put(
        orders,
        {
            "client_order_id": "0" * 32,
            "intent_id": "i",
            "pair": PAIR,
            "leg": "y",
            "attempt": 0,
            "symbol": Y,
            "side": "buy",
            "quantity_lots": 5,
            "filled_lots": 5,
            "reduce_only": False,
            "created_at": at(5),
            "state": "filled",
            "reason": "",
        },
    )
    fill = {
        "client_order_id": "0" * 32,
        "pair": PAIR,
        "leg": "y",
        "symbol": Y,
        "side": "buy",
        "lots": 1,
        "price_ticks": 1,
        "fee_e8": 10**8,
    }
    # The second is a fill at midnight, which begins the second day.
    for number, minutes in enumerate((5, 12 * 60, 13 * 60)):
        await record.put(fills, {**fill, "fill_number": number, "filled_at": at(minutes)})
    await record.put(
        account,
        account_row(1, 100_000, 100_000),
        account_row(DAY // 2, 98_790, 98_890),
        account_row(DAY + 1, 98_830, 98_930),
    )
    async with serving("portfolio") as portfolio:
        found = await portfolio.get("/pnl")
        last_day = await portfolio.get("/pnl", days=1, limit=1)

    assert found["closes_at"] == spelled(at(5 * (DAY + 1)))
    assert (found["cash_usdt"], found["equity_usdt"]) == ("98830.00000000", "98930.00000000")
    assert Decimal(found["capital_usdt"]) == 100_000
    total = found["total"]
    assert Decimal(total["realised_usdt"]) == 300 - 500 + 40
    assert Decimal(total["open_usdt"]) == -1_010 + 10 * 110 - 10 * 100
    assert Decimal(total["profit_usdt"]) == 98_930 - 100_000
    assert (total["fees_usdt"], total["funding_usdt"]) == ("8.00000000", "4.00000000")
    assert total["n_closed"] == 3
    assert [(p["pair"], p["n_closed"], p["profit_usdt"]) for p in found["pairs"]] == [
        (PAIR, 1, "-610.00000000"),
        (other, 2, "-460.00000000"),
    ]
    assert last_day["pairs"] == found["pairs"][:1]
    days = [
        (
            day["day"],
            *(
                Decimal(day[name])
                for name in ("equity_usdt", "change_usdt", "realised_usdt", "fees_usdt")
            ),
            day["n_closed"],
        )
        for day in found["days"]
    ]
    assert days == [
        ("2024-03-11", 98_930, 40, 40, 2, 1),
        ("2024-03-10", 98_890, -1_110, -200, 1, 2),
    ]
    assert last_day["days"] == found["days"][:1]


async def test_before_the_first_close_nothing_is_earned(record: Record) -> None:
    async with serving("portfolio") as portfolio:
        found = await portfolio.get("/pnl")
    assert (found["closes_at"], found["equity_usdt"]) == (None, "100000.00000000")
    assert (found["pairs"], found["days"]) == ([], [])
