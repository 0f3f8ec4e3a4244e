"""The trainer looks for drift at closes, and trains when there is a reason to."""

from __future__ import annotations

from typing import Any

import pytest

from services.trainer import training
from shared.backtest.candidates import Candidate, search_candidate
from shared.database.tables import bars, fills, instruments, orders, trading_states
from shared.errors import DataError
from tests.feature_history import at, publish_history
from tests.serving import Record, serving

# MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

SYMBOL = "S/USDT"


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return [
        ("MNT_TRAINER__MIN_SAMPLES", "20"),
        ("MNT_TRAINER__FAMILIES", "logistic_regression"),
    ]


async def fill(record: Record, number: int, price_ticks: int) -> None:
    """Record what was bought on the decision of a close, at the open of 100 of the next bar."""
    order_id = f"order-{number}"
    await record.put(
        bars,
        {
            "venue": "binance", "timeframe": "5m", "closes_at": at(number + 1), "symbol": SYMBOL,
            "open": 100.0, "high": 110.0, "low": 90.0, "close": 101.0, "volume": 1_000.0,
        },
    )  # fmt: skip
    common = {"pair": "S/USDT~X/USDT", "leg": "y", "symbol": SYMBOL, "side": "buy"}
    await record.put(
        orders,
        {
            **common, "client_order_id": order_id, "intent_id": order_id, "attempt": 0,
            "quantity_lots": 5, "filled_lots": 5, "reduce_only": False, "created_at": at(number),
            "state": "filled", "reason": "",
        },
    )  # fmt: skip
    await record.put(
        fills,
        {
            **common, "client_order_id": order_id, "fill_number": 0, "lots": 5,
            "price_ticks": price_ticks, "fee_e8": 0, "filled_at": at(number),
        },
    )  # fmt: skip


async def test_fills_worse_than_the_model_trip_a_wire_of_their_own_until_a_person_has_seen_them(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("EVERY_CLOSES", "10"), ("FEWEST_FILLS", "3")):
        monkeypatch.setenv(f"MNT_TRAINER__DRIFT__{name}", value)
    monkeypatch.setenv("MNT_TRAINER__DRIFT__SLIPPAGE_ACTION", "reduce_only")
    await record.put(
        instruments,
        {
            "venue": "binance", "symbol": SYMBOL, "price_decimals": 2, "lot_decimals": 3,
            "min_notional_e8": 0, "price_source": "perpetual",
        },
    )  # fmt: skip
    for number in (2, 3):
        await fill(record, number, 10_301)  # 3.01 % worse than the open, 0.01 % by the model
    # What trades at the open after close 8 may not be booked yet when close 10 is checked.
    await fill(record, 9, 10_301)
    async with serving("trainer") as trainer:
        await publish_history(record, range(1, 11))
        await record.is_handled("trainer")
        [calm] = await trainer.get("/drift")
        # The counts outlive the process.
        await publish_history(record, range(11, 16))
        await record.is_handled("trainer")
    async with serving("trainer") as trainer:
        await publish_history(record, range(16, 21))
        await record.is_handled("trainer")
        tripped, _ = await trainer.get("/drift")
        exposed = (await trainer.client.get("/metrics")).text
        await record.put(
            trading_states,
            {
                "from_closes_at": at(20), "state": "active", "is_flattening": False,
                "reason": "seen", "decided_by": "test",
            },
        )  # fmt: skip
        await publish_history(record, range(21, 31))
        await record.is_handled("trainer")
        seen = (await trainer.get("/drift"))[0]
    assert (calm["sha256"], calm["is_tripped"], calm["slippage"]["n_fills"]) == (None, False, 2)
    assert (tripped["closes_at"], tripped["action"]) == (stamp(20), "reduce_only")
    assert tripped["slippage"] == {
        "n_fills": 3, "realised_ppm": pytest.approx(30_100), "modelled_ppm": pytest.approx(100),
    }  # fmt: skip
    assert tripped["reasons"][0].startswith("3 fills were 30100 ppm worse than the opens")
    assert (seen["closes_at"], seen["is_tripped"], seen["slippage"]) == (stamp(30), False, None)
    assert 'mnt_trainer_slippage_ratio{kind="realised"} 0.0301' in exposed
    assert 'mnt_trainer_tripwires_total{action="reduce_only"} 1.0' in exposed
    events = await record.rows(
        "SELECT closes_at, payload::jsonb ->> 'action', payload::jsonb -> 'sha256' "
        "FROM event_log WHERE topic = 'drift.tripped'"
    )
    assert events == [(at(20), "reduce_only", None)]


def stamp(number: int) -> str:
    return at(number).isoformat().replace("+00:00", "Z")


async def test_trainings_follow_the_roster_drift_and_the_age_of_the_champion_but_not_in_a_row(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("TRAIN_EVERY_CLOSES", "1000"),
        ("GAP_BARS", "0"),
        ("N_SPLITS", "2"),
        ("RETRAIN_COOLDOWN_CLOSES", "10"),
        ("RETRAIN_AGE_CLOSES", "60"),
        ("DRIFT__EVERY_CLOSES", "31"),
        ("DRIFT__WINDOW_CLOSES", "10"),
        ("DRIFT__FEWEST_ROWS", "10"),
        ("DRIFT__STABILITY_INDEX_MAX", "1.5"),
        ("DRIFT__CALIBRATION_GAP_MAX", "1"),
        ("DRIFT__ACTION", "retrain"),
    ):
        monkeypatch.setenv(f"MNT_TRAINER__{name}", value)
    async with serving("trainer") as trainer:
        await publish_history(record, range(1, 73))
        await record.is_handled("trainer")
        await trainer.send("POST", "/promote", {"reason": "a rehearsal"})
        await publish_history(record, range(73, 80))
        await record.is_handled("trainer")
    # Counts and pairs outlive the process.
    async with serving("trainer") as trainer:
        await publish_history(record, range(80, 84))
        await publish_history(record, range(84, 128), y="T/USDT", shift=9.0)
        await record.is_handled("trainer")
    async with serving("trainer") as trainer:
        await publish_history(record, range(128, 140), y="T/USDT", shift=9.0)
        await record.is_handled("trainer")
        found = await trainer.get("/trainings")
        checks = [check for check in await trainer.get("/drift") if check["sha256"]]
        exposed = (await trainer.client.get("/metrics")).text
    assert [(each["closes_at"], each["occasion"], each["reason"]) for each in found[:3]] == [
        # Due at 132, and put off by the training before.
        (stamp(134), "age", "the champion was trained 62 closes ago"),
        (stamp(124), "drift", checks[0]["reasons"][0]),
        (stamp(84), "roster", "1 of 1 pairs are new since the last training"),
    ]
    assert len({each["sha256"] for each in found[:4]} - {None}) == 4
    # The first model was tried for every hour until there was enough to learn.
    assert {(each["occasion"], each["fault"] is None) for each in found[4:]} == {("first", False)}
    assert [each["closes_at"] for each in found[3:]] == [stamp(n) for n in range(72, 0, -12)]
    assert [(each["closes_at"], each["action"]) for each in checks] == [
        (stamp(124), "retrain"),
        (stamp(93), "record"),  # nine closes after a training
    ]
    assert 'mnt_trainer_trainings_total{occasion="age",outcome="model"} 1.0' in exposed


async def test_what_was_tried_stays_on_the_ledger_where_a_training_asked_for_makes_no_model(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "model family 'lightgbm' cannot be loaded"

    def search(family: str, *given: Any, **named: Any) -> Candidate:
        if family == "lightgbm":
            raise DataError(fault)
        return search_candidate(family, *given, **named)

    monkeypatch.setattr(training, "search_candidate", search)
    monkeypatch.setenv("MNT_TRAINER__FAMILIES", "logistic_regression,lightgbm")
    async with serving("trainer") as trainer:
        await publish_history(record, range(1, 101))
        await record.is_handled("trainer")
        assert await trainer.refusal("POST", "/train") == (409, fault)
        [found] = await trainer.get("/trainings")
        exposed = (await trainer.client.get("/metrics")).text
    assert (found["closes_at"], found["occasion"]) == (stamp(100), "request")
    assert (found["sha256"], found["fault"]) == (None, fault)
    assert 'mnt_trainer_trainings_total{occasion="request",outcome="no_model"} 1.0' in exposed
    assert await record.rows("SELECT subject, count(*) FROM trials GROUP BY 1") == [
        ("logistic_regression/z_threshold", 1)
    ]
    assert await record.rows("SELECT sha256 FROM models") == []
