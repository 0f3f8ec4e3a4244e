from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import structlog
from redis.asyncio import Redis

from shared.book.instrument import derive_instrument
from shared.clock import instant_of_ms
from shared.database.tables import instruments
from shared.errors import ContractError
from shared.events.ingest import Bar, BarsClosed
from tests.corruption import corrupted
from tests.serving import recording, serving, settings_in_environment
from tests.support import eventually_async

N_BAD = 20_000
GOOD_EVERY = 100
BATCH = 1_000
STREAM = "bars.5m"
SYMBOLS = ("AAA/USDT", "BBB/USDT", "CCC/USDT")


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Keep twenty thousand tracebacks out of the log."""
    yield
    structlog.reset_defaults()


def closed(number: int) -> BarsClosed:
    closes_at = instant_of_ms(1_704_067_200_000) + timedelta(minutes=5 * number)
    return BarsClosed(
        closes_at=closes_at,
        venue="binance",
        timeframe="5m",
        bars=tuple(
            Bar(symbol=symbol, open=10.0, high=11.0, low=9.0, close=10.5, volume=1.0)
            for symbol in SYMBOLS
        ),
    )


def bad_payloads(seed: int) -> Iterator[bytes]:
    """Yield payloads that are no event of the stream."""
    for payload in corrupted(np.random.default_rng(seed), [closed(number) for number in range(9)]):
        try:
            BarsClosed.from_bytes(payload)
        except ContractError:
            yield payload


@pytest.mark.usefixtures("_quiet")
async def test_twenty_thousand_corrupted_messages_are_dead_letters_and_every_good_one_is_taken(
    tmp_path: Path,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [("MNT_FOLLOW__ENABLED", "false")]
    settings_in_environment(monkeypatch, tmp_path, database_url, redis_url, settings)
    payloads = itertools.islice(bad_payloads(8), N_BAD)
    n_sent = n_good = 0
    async with (
        recording(database_url, redis_url) as record,
        serving("ingest") as ingest,
        Redis.from_url(redis_url) as redis,
    ):
        for symbol in SYMBOLS:
            listed = derive_instrument(symbol, 10.0)
            fields = {name: getattr(listed, name) for name in listed.__slots__}
            await record.put(instruments, {"venue": "binance", **fields})
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

        async def is_taken() -> bool:
            [(n_letters, n_events)] = await record.rows(
                "SELECT (SELECT count(*) FROM dead_letter), (SELECT count(*) FROM event_log)"
            )
            assert (n_letters, n_events) == (n_sent, n_good)
            return True

        while batch := list(itertools.islice(payloads, BATCH)):
            async with redis.pipeline(transaction=False) as pipeline:
                for number, payload in enumerate(batch):
                    if number % GOOD_EVERY == 0:
                        pipeline.xadd(STREAM, {"data": closed(n_good).to_bytes()})
                        n_good += 1
                    pipeline.xadd(STREAM, {"data": payload})
                await pipeline.execute()
            n_sent += len(batch)
            await eventually_async(is_taken, within_seconds=120)
        assert ingest.runtime.is_running
        assert await ingest.runtime.faults() == []
    assert (n_sent, n_good) == (N_BAD, N_BAD // GOOD_EVERY)
