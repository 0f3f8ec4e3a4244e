"""Models rise by stages while closes go on: by their gates, by a person, and back again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from services.trainer.store import evidence_document
from shared.database.tables import model_evidence
from shared.events.trainer import ModelPromoted
from shared.quant.bootstrap import SharpeInterval
from shared.quant.gates import BacktestEvidence
from shared.quant.performance import performance
from tests.feature_history import at, computed, publish_history
from tests.serving import Record, Served, serving
from tests.support import eventually_async

# MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

REASON = {"reason": "a rehearsal"}
N_SHADOW_CLOSES = 4


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return [
        ("MNT_TRAINER__MIN_SAMPLES", "20"),
        ("MNT_TRAINER__FAMILIES", "logistic_regression,lightgbm"),
        ("MNT_TRAINER__GATES__SHADOW_CLOSES_MIN", str(N_SHADOW_CLOSES)),
        ("MNT_SIGNALS__PROBABILITY_THRESHOLD", "0.0"),
    ]


async def close(record: Record, number: int) -> None:
    """Publish a close at which a pair may be entered, and wait until both have handled it."""
    rng = np.random.default_rng(number)
    await record.publish("features.computed", computed(number, rng, 3.0))
    await record.is_handled("signals")
    await record.is_handled("trainer")


async def deciders(signals: Served) -> dict[int, str | None]:
    """Return which model entered at each close of `close`."""
    found = await signals.get("/signals", action="enter", limit=500)
    return {
        int(each["y"][1:-6]): each["model_sha256"] for each in found if each["y"].startswith("Y")
    }


def good_evidence() -> dict[str, Any]:
    days = np.random.default_rng(1).normal(0.004, 0.01, 120)
    equity = np.concatenate([[1.0], (1 + days).cumprod()])
    evidence = BacktestEvidence(
        is_out_of_sample=True,
        performance=performance(equity, periods_per_year=365.0),
        probabilistic_sharpe=0.99,
        deflated_sharpe=0.97,
        n_trials=12,
        overfitting_probability=0.01,
        sharpe_interval=SharpeInterval(1.0, 4.0, 3),
        sharpe_over_z_rule=0.8,
        minimum_backtest_years=0.2,
        minimum_track_record_periods=60.0,
    )
    return evidence_document(evidence)


async def trained(record: Record, trainer: Served, numbers: range) -> dict[str, Any]:
    await publish_history(record, numbers)
    await record.is_handled("trainer")
    answer: dict[str, Any] = await trainer.send("POST", "/train")
    return answer


async def checks_of(trainer: Served, sha256: str) -> list[dict[str, Any]]:
    """Return the checks of drift of a model, newest first."""
    return [check for check in await trainer.get("/drift") if check["sha256"] == sha256]


async def stages(record: Record, sha256: str) -> list[str]:
    rows = await record.rows(
        f"SELECT alias FROM promotions WHERE sha256 = '{sha256}' ORDER BY promotion_id"
    )
    return [row[0] for row in rows]


async def test_a_challenger_rises_through_the_shadow_by_its_gates_and_every_gate_is_recorded(
    record: Record,
) -> None:
    async with serving("trainer") as trainer, serving("signals") as signals:
        answer = await trained(record, trainer, range(1, 121))
        sha256 = answer["sha256"]
        assert set(answer["families"]) == {"logistic_regression", "lightgbm"}
        assert answer["stage"] == "challenger"
        assert "no roster is recorded" in answer["not_judged"]
        assert answer["gates"][1] == "sharpe_net: nothing >= 1: missing"
        by_the_gates = {**REASON, "to": "shadow", "override": False}
        status, fault = await trainer.refusal("POST", "/promote", by_the_gates)
        assert status == 409
        assert "deflated_sharpe: nothing >= 0.95: missing" in fault

        await record.put(
            model_evidence,
            {"sha256": sha256, "measured_to": at(120), "evidence": good_evidence()},
        )
        shadowed = await trainer.send("POST", "/promote", by_the_gates)
        assert (shadowed["alias"], shadowed["is_override"]) == ("shadow", False)
        status, fault = await trainer.refusal(
            "POST", "/promote", {**REASON, "sha256": sha256, "override": False}
        )
        assert status == 409
        assert f"shadow_closes: 0 >= {N_SHADOW_CLOSES}: failed" in fault

        # The last of these closes is the first before which the shadow has lasted long enough.
        for number in range(200, 200 + N_SHADOW_CLOSES + 1):
            await close(record, number)
        assert set((await deciders(signals)).values()) == {None}
        await close(record, 300)
        info = await signals.get("/model-info")
        decided = await deciders(signals)
    assert decided[300] == sha256
    assert (info["champion"]["sha256"], info["shadow"]) == (sha256, None)
    assert info["champion"]["override_reason"] is None
    assert await stages(record, sha256) == ["candidate", "challenger", "shadow", "champion"]
    [(gates, passed, by, since)] = await record.rows(
        "SELECT gates, gates_passed, decided_by, from_closes_at FROM promotions "
        "WHERE alias = 'champion'"
    )
    assert (passed, by, since) == (True, "trainer", at(200 + N_SHADOW_CLOSES))
    assert {gate["verdict"] for gate in gates} == {"passed"}
    assert gates[-2] == {
        "gate": "shadow_closes",
        "value": float(N_SHADOW_CLOSES),
        "comparison": ">=",
        "threshold": float(N_SHADOW_CLOSES),
        "verdict": "passed",
    }
    rows = await record.rows("SELECT sha256, closes_at, n_rows FROM shadow_closes ORDER BY 2")
    assert rows == [(sha256, at(200 + n), 1) for n in range(N_SHADOW_CLOSES + 1)]
    [(n_trials,)] = await record.rows("SELECT count(*) FROM trials")
    assert n_trials == 2  # one of each family: nothing could be backtested
    folder = trainer.runtime.settings.home / "models"
    production = json.loads((folder / "production_map.json").read_text())["pairs"]
    assert production["champion"]["sha256"] == sha256
    assert len(production["champion"]["gates"]) == 8
    assert len(json.loads((folder / "registry.json").read_text())["models"]) == 2


async def test_a_shadow_that_is_worse_than_what_decides_is_retired_with_its_reasons(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving("trainer") as trainer, serving("signals") as signals:
        answer = await trained(record, trainer, range(1, 121))
        await trainer.send("POST", "/promote", {**REASON, "to": "shadow"})
        for number in range(200, 200 + N_SHADOW_CLOSES + 1):
            await close(record, number)
        # Without a backtest the gates cannot be passed, however the shadow did.
        await close(record, 300)
        info = await signals.get("/model-info")
    assert (info["champion"], info["shadow"]["sha256"]) == (None, None)
    assert (await stages(record, answer["sha256"]))[-1] == "retired"
    [(reason,)] = await record.rows(
        "SELECT reason FROM promotions WHERE alias = 'retired' AND gates <> '[]'"
    )
    assert reason.startswith("its shadow ended: out_of_sample: nothing >= 1: missing")


async def test_signals_switch_on_the_stated_close_without_a_gap_and_refuse_what_is_not_right(
    record: Record,
) -> None:
    async with serving("trainer") as trainer, serving("signals") as signals:
        first = (await trained(record, trainer, range(1, 121)))["sha256"]
        second = (await trained(record, trainer, range(121, 181)))["sha256"]
        expected: dict[int, str | None] = {}
        steps: list[tuple[str, dict[str, Any] | None, str | None]] = [
            ("/promote", {**REASON, "sha256": first}, first),
            ("/promote", {**REASON, "sha256": second}, second),
            ("/rollback", REASON, first),
            ("/reload-model", None, first),
        ]
        number = 200
        for path, body, decider in steps:
            service = signals if path == "/reload-model" else trainer
            answer = await service.send("POST", path, body)
            if service is trainer:
                last = max(expected, default=180)
                assert answer["decides_after"] == at(last).isoformat().replace("+00:00", "Z")
            for _ in range(3):
                expected[number] = decider
                await close(record, number)
                number += 1

        # Nobody but the trainer promotes: an event by hand goes to the dead letters.
        forged = ModelPromoted(
            closes_at=at(number - 1), name="pairs", alias="champion", model_version=1, sha256=second
        )
        await record.streams.add_plain("models.promoted", forged.to_bytes())
        async with record.engine.begin() as connection:
            # The record itself refuses such a change, unless somebody takes its rule away.
            await connection.exec_driver_sql(
                "ALTER TABLE models DROP CONSTRAINT models_identity_check"
            )
            await connection.exec_driver_sql(
                "UPDATE models SET document = replace(convert_from(document, 'UTF8'), "
                f"'\"n_samples\":', '\"n_samples\":1')::bytea WHERE sha256 = '{second}'"
            )
        await trainer.send("POST", "/promote", {**REASON, "sha256": second})

        async def is_refused() -> bool:
            rows = await record.rows("SELECT consumer, error FROM dead_letter ORDER BY consumer")
            assert [consumer for consumer, _ in rows] == ["signals", "trainer"]
            assert "it was changed and is refused" in rows[0][1]
            assert "a model is promoted with POST /promote" in rows[1][1]
            return True

        await eventually_async(is_refused)
        for _ in range(2):
            expected[number] = first
            rng = np.random.default_rng(number)
            await record.publish("features.computed", computed(number, rng, 3.0))
            number += 1

        async def has_decided() -> bool:
            assert (number - 1) in await deciders(signals)
            return True

        await eventually_async(has_decided)
        assert await deciders(signals) == expected
    closes = await record.rows(
        "SELECT closes_at, count(*) FROM event_log WHERE topic = 'signals.raised' "
        f"AND closes_at >= '{at(200).isoformat()}' GROUP BY closes_at"
    )
    assert dict(closes) == {at(each): 1 for each in expected}


async def test_a_tripwire_takes_a_champion_back_whose_features_have_moved(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("EVERY_CLOSES", "30"),
        ("WINDOW_CLOSES", "30"),
        ("FEWEST_ROWS", "30"),
        ("CALIBRATION_GAP_MAX", "1"),
        ("ACTION", "rollback"),
    ):
        monkeypatch.setenv(f"MNT_TRAINER__DRIFT__{name}", value)
    monkeypatch.setenv("MNT_TRAINER__DRIFT__STABILITY_INDEX_MAX", "2")
    async with serving("trainer") as trainer:
        sha256 = (await trained(record, trainer, range(1, 121)))["sha256"]
        await trainer.send("POST", "/promote", REASON)
        await publish_history(record, range(121, 151))
        await record.is_handled("trainer")
        [calm] = await checks_of(trainer, sha256)
        assert (calm["is_tripped"], calm["action"], calm["reasons"]) == (False, "none", [])
        await publish_history(record, range(151, 181), shift=9.0)
        await record.is_handled("trainer")
        moved, _ = await checks_of(trainer, sha256)
        exposed = (await trainer.client.get("/metrics")).text
    assert (moved["is_tripped"], moved["action"], moved["sha256"]) == (True, "rollback", sha256)
    assert "features have a stability index above 2" in moved["reasons"][0]
    assert 'mnt_trainer_tripwires_total{action="rollback"} 1.0' in exposed
    [last] = await record.rows(
        "SELECT sha256, is_rollback, is_override, decided_by, reason, from_closes_at "
        "FROM promotions WHERE alias = 'champion' ORDER BY promotion_id DESC LIMIT 1"
    )
    assert last == (None, True, False, "tripwire", moved["reasons"][0], at(180))
