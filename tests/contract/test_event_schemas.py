from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.clock import instant_of_ms
from shared.columns import columns_of
from shared.errors import ContractError
from shared.events.base import MAX_EVENT_BYTES, Event
from shared.events.catalogue import TOPICS, owned_topics, topic_named
from shared.events.executor import (
    BookedFill,
    FillsBooked,
    OrderStatus,
    OrdersUpdated,
    PositionsChanged,
    PositionStatus,
    RiskChanged,
)
from shared.events.features import FeatureRow, FeaturesComputed
from shared.events.ingest import Bar, BarsClosed
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder
from shared.events.schemas import FOLDER, schema_documents, write_schemas
from shared.events.screener import PairsScreened, RosterPair
from shared.events.signals import Signal, SignalFact, SignalsRaised
from shared.events.trainer import DriftTripped, ModelPromoted

CLOSE = instant_of_ms(1_704_110_400_250)
BEFORE = CLOSE - timedelta(hours=1)
SHA256 = "0f" * 32
MARKS = {"AAA": 0.1 + 0.2}  # no short decimal: it must survive to the bit

SAMPLES: tuple[Event, ...] = (
    BarsClosed(
        closes_at=CLOSE,
        venue="binance",
        timeframe="5m",
        bars=(Bar(symbol="AAA", open=0.1 + 0.2, high=5e300, low=5e-324, close=1.0, volume=0.0),),
    ),
    PairsScreened(
        closes_at=CLOSE,
        timeframe="1h",
        method="p_value",
        level=0.05,
        n_symbols=2,
        n_tests=2,
        n_accepted=1,
        summary="2 tests",
        pairs=(
            RosterPair(
                y="AAA",
                x="BBB",
                status="active",
                accepted_screens=2,
                missed_screens=0,
                entered_at=BEFORE,
                left_at=None,
                statistic=-4.2,
                p_value=0.001,
                q_value=0.01,
                lag=1,
                hedge_ratio=0.9,
                intercept=-0.1,
                half_life_bars=12.5,
                hurst=0.4,
                correlation=0.8,
                crossings=30,
                n_bars=720,
            ),
        ),
    ),
    FeaturesComputed(
        closes_at=CLOSE,
        timeframe="5m",
        roster_closes_at=None,
        feature_names=("z_score",),
        **columns_of(
            FeatureRow._fields,
            [FeatureRow(y="A", x="B", status="active", close_y=1.0, close_x=2.0, values=(-2.1,))],
        ),
        warming_up=("C~D",),
    ),
    ModelPromoted(closes_at=CLOSE, name="pairs", alias="champion", model_version=3, sha256=SHA256),
    SignalsRaised.of_rows(
        (
            Signal(
                sleeve="pairs",
                y="AAA",
                x="BBB",
                action="enter",
                side=-1,
                reason="z above entry",
                strength=2.1,
                confidence=None,
                z_score=2.1,
                hedge_ratio=0.9,
                intercept=-0.1,
                spread_mean=0.0,
                spread_std=0.01,
                entered_at=CLOSE,
                close_y=1.0,
                close_x=2.0,
                model_sha256=SHA256,
            ),
        ),
        closes_at=CLOSE,
        timeframe="5m",
        roster_closes_at=BEFORE,
        marks=MARKS,
    ),
    OrdersRequested(
        closes_at=CLOSE,
        timeframe="5m",
        intents=(
            SubmitOrder(
                intent_id="i",
                sleeve="pairs",
                y="AAA",
                x="BBB",
                action="open",
                position_id="p",
                reason="entry",
                hedge_ratio=0.9,
                legs=(OrderLeg(leg="y", symbol="AAA", side="buy", quantity_lots=2**60),),
            ),
        ),
        marks=MARKS,
    ),
    OrdersUpdated(
        closes_at=CLOSE,
        orders=(
            OrderStatus(
                client_order_id="o",
                intent_id="i",
                pair="AAA~BBB",
                leg="y",
                symbol="AAA",
                side="buy",
                quantity_lots=5,
                filled_lots=0,
                reduce_only=False,
                state="accepted",
                reason="",
            ),
        ),
    ),
    FillsBooked(
        closes_at=CLOSE,
        fills=(
            BookedFill(
                client_order_id="o",
                fill_number=1,
                pair="AAA~BBB",
                leg="y",
                symbol="AAA",
                side="sell",
                lots=5,
                price_ticks=2**53 + 1,
                fee_e8=0,
                filled_at=CLOSE,
            ),
        ),
    ),
    PositionsChanged(
        closes_at=CLOSE,
        cash_e8=-(2**70),
        equity_e8=2**70 + 1,
        gross_e8=0,
        positions=(
            PositionStatus(
                position_id="p", pair="AAA~BBB", state="open", lots_y=5, lots_x=-5, cash_e8=1
            ),
        ),
    ),
    RiskChanged(
        closes_at=CLOSE,
        state="reduce_only",
        is_flattening=True,
        reason="the venue announced maintenance",
        decided_by="operator",
    ),
    DriftTripped(closes_at=CLOSE, sha256=None, action="reduce_only", reasons=("fills cost more",)),
)
each_sample = pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)


def changed(event: Event, **changes: Any) -> bytes:
    return json.dumps(json.loads(event.to_bytes()) | changes).encode()


def fault_of(event: Event, payload: bytes) -> str:
    with pytest.raises(ContractError) as caught:
        type(event).from_bytes(payload)
    return str(caught.value)


# --- schemas ------------------------------------------------------------------------------


def test_the_committed_schemas_are_those_of_the_code() -> None:
    committed = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert committed == schema_documents(), "run `python -m shared.events.schemas` and commit"


def test_writing_schemas_removes_those_of_events_that_are_no_more(tmp_path: Path) -> None:
    (tmp_path / "Forgotten.v1.json").write_text("{}")
    write_schemas(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(schema_documents())


def test_every_schema_refuses_unknown_fields_and_other_versions() -> None:
    for name, document in schema_documents().items():
        schema = json.loads(document)
        objects = [schema, *(schema.get("$defs") or {}).values()]
        assert all(found["additionalProperties"] is False for found in objects)
        assert schema["properties"]["version"]["const"] == int(name.split(".v")[1][0])
        assert "closes_at" in schema["required"]


def test_a_schema_names_the_streams_that_carry_the_event() -> None:
    schema = json.loads(schema_documents()["BarsClosed.v1.json"])
    assert schema["x-streams"] == [f"bars.{name}" for name in ("1m", "5m", "15m", "1h", "4h", "1d")]


# --- payloads -----------------------------------------------------------------------------


def test_every_event_of_the_catalogue_has_a_sample() -> None:
    assert {type(event) for event in SAMPLES} == {topic.event for topic in TOPICS.values()}


@each_sample
def test_an_event_survives_its_bytes(event: Event) -> None:
    again = type(event).from_bytes(event.to_bytes())
    assert again == event
    assert again.to_bytes() == event.to_bytes()
    assert again.closes_at_ms == 1_704_110_400_250


@each_sample
def test_another_version_is_refused(event: Event) -> None:
    known = event.version
    fault = fault_of(event, changed(event, version=known + 1))
    assert fault == f"{type(event).__name__}: version: Input should be {known} (got {known + 1})"


@each_sample
def test_an_unknown_field_is_refused(event: Event) -> None:
    fault = fault_of(event, changed(event, colour="red"))
    assert fault == f"{type(event).__name__}: colour: Extra inputs are not permitted (got 'red')"


@each_sample
def test_a_missing_close_is_refused_without_quoting_the_rest(event: Event) -> None:
    document = json.loads(event.to_bytes())
    del document["closes_at"]
    fault = fault_of(event, json.dumps(document).encode())
    assert fault == f"{type(event).__name__}: closes_at: Field required"


@each_sample
def test_an_oversized_payload_is_refused_before_it_is_decoded(event: Event) -> None:
    payload = event.to_bytes()
    largest = payload + b" " * (MAX_EVENT_BYTES - len(payload))
    assert type(event).from_bytes(largest) == event
    fault = fault_of(event, largest + b" ")
    assert f"payload of {MAX_EVENT_BYTES + 1} bytes exceeds {MAX_EVENT_BYTES}; split it" in fault


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff\xfe", b"\x00", b"null", b"[]", b"1" * 9999])
def test_what_is_no_event_at_all_is_refused(payload: bytes) -> None:
    assert fault_of(SAMPLES[0], payload).startswith("BarsClosed: payload: ")


@pytest.mark.parametrize(
    "closes_at", ["2024-01-01T12:00:00", "2024-01-01T12:00:00.0001Z", "noon", None]
)
def test_an_instant_without_zone_or_finer_than_a_millisecond_is_refused(closes_at: object) -> None:
    assert "BarsClosed: closes_at: " in fault_of(
        SAMPLES[0], changed(SAMPLES[0], closes_at=closes_at)
    )


def test_bars_of_no_symbol_are_refused() -> None:
    assert "BarsClosed: bars: Tuple should have at least 1 item" in fault_of(
        SAMPLES[0], changed(SAMPLES[0], bars=[])
    )


def test_a_bar_that_is_no_number_is_taken_as_it_comes() -> None:
    payload = SAMPLES[0].to_bytes().replace(b'"close":1.0', b'"close":NaN')
    assert math.isnan(BarsClosed.from_bytes(payload).bars[0].close)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity"])
def test_a_mark_that_is_no_number_is_refused(value: bytes) -> None:
    sample = SAMPLES[4]
    payload = sample.to_bytes().replace(b'"AAA":0.30000000000000004', b'"AAA":' + value)
    assert payload != sample.to_bytes()
    assert "marks.AAA: " in fault_of(sample, payload)


def test_signals_of_the_first_form_are_refused_by_their_version() -> None:
    first_form = {"version": 1, "closes_at": "2024-01-01T12:00:00Z", "timeframe": "5m"}
    payload = json.dumps({**first_form, "signals": [], "marks": []}).encode()
    assert "SignalsRaised: version: Input should be 2 (got 1)" in fault_of(SAMPLES[4], payload)


def test_a_column_of_another_length_is_refused_with_all_lengths() -> None:
    fault = fault_of(SAMPLES[4], changed(SAMPLES[4], reason=["reverted", "stopped"]))
    assert "the columns have different lengths: sleeve 1, y 1, x 1, action 1" in fault
    assert "reason 2" in fault


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("side", 0),
        ("action", "hold"),
        ("y", ""),
        ("size_ppm", 0),
        ("size_ppm", 1_000_001),
        ("model_sha256", "champion"),
        ("entered_at", "2024-01-01T12:00:00"),
        ("strength", None),
    ],
)
def test_a_value_of_a_column_out_of_its_bounds_is_refused(column: str, value: object) -> None:
    fault = fault_of(SAMPLES[4], changed(SAMPLES[4], **{column: [value]}))
    assert fault.startswith(f"SignalsRaised: {column}.0: ")


def test_signals_by_themselves_are_those_of_the_event() -> None:
    raised = SAMPLES[4]
    assert isinstance(raised, SignalsRaised)
    (row,) = raised.rows
    fact = SignalFact.of(row, raised.roster_closes_at)
    assert fact.roster_closes_at == BEFORE
    again = SignalFact.model_validate_json(fact.model_dump_json())
    assert again == fact
    assert again.signal == row


def test_a_close_without_signals_has_empty_columns() -> None:
    nothing = SignalsRaised.of_rows(
        (), closes_at=CLOSE, timeframe="5m", roster_closes_at=None, marks={}
    )
    assert nothing.rows == ()
    assert SignalsRaised.from_bytes(nothing.to_bytes()) == nothing


def test_a_feature_row_of_another_length_than_the_names_is_refused() -> None:
    fault = fault_of(SAMPLES[2], changed(SAMPLES[2], feature_names=["z_score", "hurst"]))
    assert "A~B has 1 values for 2 features" in fault


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"sha256": None, "model_version": None}, "a promotion names a model"),
        ({"sha256": None, "is_rollback": True}, "give both or neither"),
    ],
)
def test_a_promotion_without_a_model_is_refused(changes: dict[str, Any], fault: str) -> None:
    assert fault in fault_of(SAMPLES[3], changed(SAMPLES[3], **changes))


def test_a_rollback_may_leave_no_model() -> None:
    payload = changed(SAMPLES[3], sha256=None, model_version=None, is_rollback=True)
    assert ModelPromoted.from_bytes(payload).sha256 is None


# --- catalogue ----------------------------------------------------------------------------


def test_an_unknown_stream_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ContractError, match=r"unknown stream 'bars.2h': use one of bars.1m, "):
        topic_named("bars.2h")


def test_every_stream_has_one_owner() -> None:
    owners = {topic.publisher for topic in TOPICS.values()}
    owned = [topic.name for owner in sorted(owners) for topic in owned_topics(owner)]
    assert sorted(owned) == sorted(TOPICS)
