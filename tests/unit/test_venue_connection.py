"""The pure parts of the connection to a venue."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from shared.venues.connection import moved_to, verdict_in


def test_every_address_is_moved_to_the_venue_and_keeps_its_path() -> None:
    moved = moved_to(
        {
            "fapiPublic": "https://fapi.binance.com/fapi/v1",
            "sapi": "https://api.binance.com/sapi/v1",
            "ws": {"future": "wss://fstream.binance.com/ws"},
        },
        "http://127.0.0.1:9",
    )
    assert moved == {
        "fapiPublic": "http://127.0.0.1:9/fapi/v1",
        "sapi": "http://127.0.0.1:9/sapi/v1",
        "ws": {"future": "ws://127.0.0.1:9/ws"},
    }
    assert urlsplit(moved["sapi"]).hostname == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('binanceusdm {"code":-4164,"msg":"too small"}', -4164),
        ('binanceusdm order amount {"code":-1013,"msg":"LOT_SIZE {x}"}', -1013),
        ("binanceusdm POST http://127.0.0.1:9/fapi/v1/order", None),
        ('binanceusdm {"code":"-4164"}', None),
        ('binanceusdm {"code":200,"msg":"ok"}', None),
        ("binanceusdm <html>{not json}</html>", None),
        ('binanceusdm {"msg":"no code"}', None),
    ],
)
def test_only_a_code_of_the_venue_is_a_verdict(text: str, code: int | None) -> None:
    assert verdict_in(text)[0] == code
