"""`mnt ingest`: bars of a venue, or of recorded files, as one checked Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from cli.research.step import find_made, make_once, manifest_beside
from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms, utc_now
from shared.errors import DataError
from shared.quant.bar_checks import BarCheckSettings, check_bars
from shared.quant.bars import BarRow, Bars, RawBars, concatenate_raw
from shared.venues.candles import VenueCandles
from shared.venues.recorded import read_bars

_STEP = "ingest"
_INSTANT = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """Which bars to gather.

    Attributes
    ----------
    symbols
        All that there are, where none is named.
    since_ms, until_ms
        Bars that open at the first or later and close at the last or before; without a last
        one, up to the present.
    limit
        Most bars a symbol, the newest of the period.
    """

    timeframe: str
    symbols: tuple[str, ...]
    since_ms: int
    until_ms: int | None = None
    limit: int | None = None


def ingest_recorded(
    paths: Sequence[Path], request: IngestRequest, checks: BarCheckSettings, out: Path
) -> tuple[dict[str, Any], bool]:
    """Gather the bars of recorded files.

    Parameters
    ----------
    paths
        Parquet files; those of another timeframe are refused.
    request
        Which of their bars.
    checks
        Bounds of good bars.
    out
        Parquet file to write, in the form that every other step reads.

    Returns
    -------
    tuple of dict, bool
        As `make_once`.

    Raises
    ------
    DataError
        If a file is unusable, or none of the bars asked for is good.
    """

    def make() -> dict[str, Any]:
        parts = [read_bars(path) for path in paths]
        for path, part in zip(paths, parts, strict=True):
            if part.timeframe != request.timeframe:
                raise DataError(
                    f"{path} holds bars of {part.timeframe}: name files of {request.timeframe} "
                    "or change --timeframe"
                )
        return _write_checked(concatenate_raw(parts), request, checks, out)

    return make_once(
        _STEP, manifest_beside(out), paths, _document(request, checks), make, lambda: [out]
    )


async def ingest_venue(
    base_url: str,
    venue: str,
    request: IngestRequest,
    checks: BarCheckSettings,
    out: Path,
    progress: Progress,
) -> tuple[dict[str, Any], bool]:
    """Fetch the bars of a venue by REST.

    Parameters
    ----------
    base_url, venue
        Scheme, host and port, and the name that its bars are recorded under.
    request, checks, out
        As `ingest_recorded`.
    progress
        Where the pages are counted.

    Raises
    ------
    DataError
        If a symbol is not listed, or no bar was found.
    VenueError
        If the venue refuses or does not answer.
    """
    candles = await VenueCandles.connect(base_url)
    try:
        # What has closed by the venue's own time has its final values.
        bar_ms = timeframe_ms(request.timeframe)
        until_ms = await candles.venue_time_ms() // bar_ms * bar_ms
        if request.until_ms is not None:
            until_ms = min(until_ms, request.until_ms)
        document = {**_document(request, checks), "url": base_url, "until_ms": until_ms}
        manifest = manifest_beside(out)
        known = find_made(_STEP, manifest, (), document)
        if known is not None:
            return known, False
        after_ms = request.since_ms
        if request.limit is not None:
            after_ms = max(after_ms, until_ms - request.limit * bar_ms)
        rows: list[BarRow] = []
        symbols = _listed(candles, request.symbols)
        for symbol in progress.track(symbols, description=f"fetch {request.timeframe} bars"):
            async for page in candles.history(symbol, request.timeframe, after_ms, until_ms):
                rows += page
    finally:
        await candles.close()
    raw = RawBars.from_rows(venue, request.timeframe, rows)

    def make() -> dict[str, Any]:
        return _write_checked(raw, request, checks, out)

    return make_once(_STEP, manifest, (), document, make, lambda: [out])


def _document(request: IngestRequest, checks: BarCheckSettings) -> dict[str, Any]:
    return {**asdict(request), "symbols": sorted(request.symbols), "checks": checks.model_dump()}


def _listed(candles: VenueCandles, wanted: Sequence[str]) -> list[str]:
    found = {name: candles.find(name) for name in wanted}
    unknown = [name for name, symbol in found.items() if symbol is None]
    if unknown:
        raise DataError(
            f"the venue does not list {', '.join(unknown)}: name some of the "
            f"{len(candles.listings)} symbols that it does"
        )
    return sorted({symbol for symbol in found.values() if symbol} or candles.listings)


def _write_checked(
    raw: RawBars, request: IngestRequest, checks: BarCheckSettings, out: Path
) -> dict[str, Any]:
    """Write the good bars of those asked for, and return what was found."""
    missing = sorted(set(request.symbols) - set(raw.symbols))
    if request.symbols:
        raw = raw.of_symbols(request.symbols)
    checked = check_bars(
        raw, now_ms=ms_of_instant(utc_now()), known=None, settings=checks, prior={}
    )
    # A bar belongs to the period whose first instant it opens at.
    bars = checked.accepted.between(request.since_ms, request.until_ms)
    if request.limit is not None and len(bars):
        bars = bars.between(int(bars.closes()[-request.limit :][0]) - 1, None)
    if not len(bars):
        raise DataError(
            f"no good bar of {request.timeframe} after {instant_of_ms(request.since_ms)}: choose "
            "an earlier --since or other symbols"
        )
    write_bars(bars, out)
    present = np.unique(bars.symbol_code)
    return {
        "venue": bars.venue,
        "timeframe": bars.timeframe,
        "bars": len(bars),
        "quarantined": len(checked.quarantined),
        "symbols": [bars.symbols[code] for code in present.tolist()],
        "without_bars": missing,
        "first_close": instant_of_ms(int(bars.closes_at_ms[0])).isoformat(),
        "last_close": instant_of_ms(int(bars.closes_at_ms[-1])).isoformat(),
    }


def write_bars(bars: Bars, path: Path) -> None:
    """Write bars as Parquet, in the form of every file of recorded bars."""
    names = np.array(bars.symbols, dtype=object)
    opens_at_ms = bars.closes_at_ms - timeframe_ms(bars.timeframe)
    columns = ("open", "high", "low", "close", "volume")
    table = pa.table(
        {
            "ts": pa.array(opens_at_ms).cast(_INSTANT),
            "symbol": pa.array(names[bars.symbol_code], pa.string()),
            "exchange": pa.array([bars.venue] * len(bars), pa.string()),
            **{name: getattr(bars, name) for name in columns},
        }
    )
    pq.write_table(table, path)
