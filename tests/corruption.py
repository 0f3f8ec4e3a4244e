"""Messages as a broken disk, a careless program or an enemy would make them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from shared.events.base import Event

WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**400,
    1e308,
    "",
    "\0",
    "NaN",
    "2024-99-99T00:00:00Z",
    "x" * 5_000,
    [],
    {},
    [[[[]]]],
    {"": {"": None}},
)


def corrupted(rng: np.random.Generator, events: Sequence[Event]) -> Iterator[bytes]:
    """Yield payloads without end, each one event spoilt in one way, or nothing but noise."""
    payloads = [event.to_bytes() for event in events]
    spoil: tuple[Callable[[np.random.Generator, bytes], bytes], ...] = (
        _noise,
        _cut,
        _flipped,
        _inserted,
        _replaced,
        _without,
        _with_more,
        _nested,
        _doubled,
        _other_encoding,
    )
    while True:
        payload = payloads[rng.integers(len(payloads))]
        yield spoil[rng.integers(len(spoil))](rng, payload)


def _noise(rng: np.random.Generator, _: bytes) -> bytes:
    return rng.bytes(int(rng.integers(0, 400)))


def _cut(rng: np.random.Generator, payload: bytes) -> bytes:
    return payload[: rng.integers(len(payload))]


def _flipped(rng: np.random.Generator, payload: bytes) -> bytes:
    spoilt = bytearray(payload)
    for place in rng.integers(len(payload), size=int(rng.integers(1, 8))):
        spoilt[place] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


def _inserted(rng: np.random.Generator, payload: bytes) -> bytes:
    place = int(rng.integers(len(payload)))
    return payload[:place] + rng.bytes(int(rng.integers(1, 6))) + payload[place:]


def _replaced(rng: np.random.Generator, payload: bytes) -> bytes:
    document = json.loads(payload)
    holder, key = _some_place(rng, document)
    holder[key] = WRONG[rng.integers(len(WRONG))]
    return json.dumps(document).encode()


def _without(rng: np.random.Generator, payload: bytes) -> bytes:
    document = json.loads(payload)
    holder, key = _some_place(rng, document)
    del holder[key]
    return json.dumps(document).encode()


def _with_more(rng: np.random.Generator, payload: bytes) -> bytes:
    document = json.loads(payload)
    document[f"field_{rng.integers(100)}"] = WRONG[rng.integers(len(WRONG))]
    return json.dumps(document).encode()


def _nested(rng: np.random.Generator, _: bytes) -> bytes:
    depth = int(rng.integers(1, 20_000))
    return b"[" * depth + b"]" * int(rng.integers(0, depth + 1))


def _doubled(_: np.random.Generator, payload: bytes) -> bytes:
    return payload + payload


def _other_encoding(_: np.random.Generator, payload: bytes) -> bytes:
    return payload.decode().encode("utf-16")


def _some_place(rng: np.random.Generator, document: Any) -> tuple[Any, Any]:
    """Return some object or list of a document and a key in it, deep or not."""
    holder: Any = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = keys[rng.integers(len(keys))]
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            return holder, key
        holder = inner
