"""Bars of a venue as a file, through the client of public candles."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.progress import Progress

from cli.research.bars import IngestRequest, ingest_venue
from shared.errors import DataError
from shared.quant.bar_checks import BarCheckSettings
from tests.stub_venue import HOUR_MS, StubVenue, serving, values_at

START_MS = 1_704_067_200_000  # 2024-01-01T00:00Z
CHECKS = BarCheckSettings(max_log_change=5.0)
QUIET = Progress(disable=True)


async def test_bars_of_a_venue_are_fetched_once_for_one_last_close(tmp_path: Path) -> None:
    out = tmp_path / "stage" / "ohlcv_1h.parquet"
    venue = StubVenue(START_MS + 1_500 * HOUR_MS, {"AAAUSDT": START_MS, "BBBUSDT": START_MS})
    request = IngestRequest("1h", ("AAA/USDT",), START_MS)
    async with serving(venue):
        manifest, is_new = await ingest_venue(venue.url, "binance", request, CHECKS, out, QUIET)
        assert is_new
        table = pq.read_table(out)
        assert table.num_rows == manifest["found"]["bars"] == 1_500
        assert set(table["symbol"].to_pylist()) == {"AAA/USDT"}
        assert table["ts"][0].as_py().timestamp() * 1000 == START_MS
        first = [table[name][0].as_py() for name in ("open", "high", "low", "close", "volume")]
        assert first == list(values_at("AAAUSDT", START_MS))
        n_calls = len(venue.calls)
        _, is_new = await ingest_venue(venue.url, "binance", request, CHECKS, out, QUIET)
        assert (is_new, len(venue.calls)) == (False, n_calls)
        await venue.step(venue.now_ms + HOUR_MS)
        manifest, is_new = await ingest_venue(venue.url, "binance", request, CHECKS, out, QUIET)
        assert (is_new, manifest["found"]["bars"]) == (True, 1_501)
        limited = IngestRequest("1h", (), START_MS, limit=7)
        manifest, _ = await ingest_venue(venue.url, "binance", limited, CHECKS, out, QUIET)
        assert (manifest["found"]["bars"], manifest["found"]["symbols"]) == (
            14, ["AAA/USDT", "BBB/USDT"],
        )  # fmt: skip
        unknown = IngestRequest("1h", ("ZZZ/USDT",), START_MS)
        with pytest.raises(DataError, match="does not list ZZZ/USDT"):
            await ingest_venue(venue.url, "binance", unknown, CHECKS, out, QUIET)
