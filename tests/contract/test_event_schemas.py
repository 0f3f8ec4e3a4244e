"""The vocabulary of the bus: committed schemas, and what is refused."""

from __future__ import annotations

import pytest

from shared.errors import ContractError
from shared.events.base import MAX_EVENT_BYTES
from shared.events.ingest import BarsClosed
from shared.events.schemas import FOLDER, schemas

BAR = '{"symbol":"BTC/USDT","open":1.0,"high":1.0,"low":1.0,"close":1.0,"volume":1.0}'
HEAD = '"venue":"binance","timeframe":"5m","closes_at":"2024-03-01T00:05:00Z"'


def test_committed_schemas_are_those_of_the_code() -> None:
    committed = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert committed == schemas(), "run `make schemas` and review the difference"


def test_an_event_survives_the_round_trip() -> None:
    event = BarsClosed.from_bytes(f'{{{HEAD},"bars":[{BAR}]}}'.encode())
    assert BarsClosed.from_bytes(event.to_bytes()) == event
    assert event.closes_at_ms == 1_709_251_500_000


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (f'{{"version":2,{HEAD},"bars":[{BAR}]}}', "version"),
        (f'{{{HEAD},"bars":[{BAR}],"extra":1}}', "extra"),
        (f'{{{HEAD},"bars":[]}}', "bars"),
        (f'{{{HEAD.replace("5m", "7m")},"bars":[{BAR}]}}', "timeframe"),
        (f'{{{HEAD.replace("Z", "")},"bars":[{BAR}]}}', "closes_at"),
        ("not json", "Invalid JSON"),
        ("", "Invalid JSON"),
    ],
)
def test_what_is_no_event_is_refused_by_name(payload: str, named: str) -> None:
    with pytest.raises(ContractError, match=named):
        BarsClosed.from_bytes(payload.encode())


def test_an_oversized_payload_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ContractError, match=str(MAX_EVENT_BYTES)):
        BarsClosed.from_bytes(b" " * (MAX_EVENT_BYTES + 1))


def test_a_missing_field_is_named_without_what_surrounds_it() -> None:
    with pytest.raises(ContractError) as refused:
        BarsClosed.from_bytes(b'{"venue":"secret-surroundings"}')
    assert "closes_at" in str(refused.value)
    assert "secret-surroundings" not in str(refused.value)
