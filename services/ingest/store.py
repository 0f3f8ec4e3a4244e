"""SQL of ingest."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.book.instrument import Instrument
from shared.clock import instant_of_ms, ms_of_instant
from shared.database.engine import copy_csv, insert_rows
from shared.database.tables import bar_quarantine, bars, instruments, replay_progress
from shared.quant.bar_checks import PriorBar, QuarantinedBar
from shared.quant.bars import Bars

_BAR_COLUMNS = (
    "venue",
    "timeframe",
    "closes_at",
    "symbol",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "source_uri",
    "transform_id",
)
_COPY_ROWS = 200_000


async def insert_bars(
    connection: AsyncConnection, accepted: Bars, lineage: Mapping[str, str]
) -> None:
    """Record the bars of one close."""
    rows = [
        {
            "venue": accepted.venue,
            "timeframe": accepted.timeframe,
            "closes_at": instant_of_ms(closes_at_ms),
            "symbol": accepted.symbols[code],
            "open": open_,
            "high": high,
            "low": low,
            "close": close,
            "volume": volume,
            **lineage,
        }
        for code, closes_at_ms, open_, high, low, close, volume in zip(
            *(column.tolist() for column in accepted.columns()), strict=True
        )
    ]
    await insert_rows(connection, bars, rows)


async def copy_bars(
    connection: AsyncConnection, accepted: Bars, lineage: Mapping[str, str]
) -> None:
    """Record any number of bars with COPY; none of them may be recorded already."""
    code, closes_at_ms, *values = accepted.columns()
    for first in range(0, len(accepted), _COPY_ROWS):
        part = slice(first, first + _COPY_ROWS)
        n_rows = len(closes_at_ms[part])
        symbols = pa.DictionaryArray.from_arrays(pa.array(code[part]), list(accepted.symbols))
        table = pa.table(
            [
                pa.repeat(accepted.venue, n_rows),
                pa.repeat(accepted.timeframe, n_rows),
                # Written without a zone, for which Arrow wants the system's zone files: the
                # session's is UTC.
                pa.array(closes_at_ms[part]).cast(pa.timestamp("ms")),
                symbols.cast(pa.string()),
                *(pa.array(column[part]) for column in values),
                pa.repeat(lineage["source_uri"], n_rows),
                pa.repeat(lineage["transform_id"], n_rows),
            ],
            names=list(_BAR_COLUMNS),
        )
        buffer = io.BytesIO()
        pa_csv.write_csv(table, buffer, pa_csv.WriteOptions(include_header=False))
        buffer.seek(0)
        await copy_csv(connection, bars, _BAR_COLUMNS, buffer)


async def analyse_bars(connection: AsyncConnection) -> None:
    """Tell the planner what a bulk load brought; it would guess wrongly until autovacuum does."""
    await connection.execute(text("ANALYZE bars"))


async def insert_quarantined(
    connection: AsyncConnection,
    venue: str,
    timeframe: str,
    quarantined: Iterable[QuarantinedBar],
    lineage: Mapping[str, str],
) -> None:
    """Record refused bars with the reason."""
    rows = [
        {
            "venue": venue,
            "timeframe": timeframe,
            "symbol": bar.symbol,
            "closes_at": _instant_or_none(bar.closes_at_ms),
            "open": bar.open,
            "high": bar.high,
            "low": bar.low,
            "close": bar.close,
            "volume": bar.volume,
            "reason": bar.reason.value,
            "message": bar.message,
            **lineage,
        }
        for bar in quarantined
    ]
    if rows:
        await connection.execute(bar_quarantine.insert(), rows)


def _instant_or_none(closes_at_ms: int | None) -> object:
    """Return the instant, or `None` for one beyond the calendar; the message has the number."""
    if closes_at_ms is None:
        return None
    try:
        return instant_of_ms(closes_at_ms)
    except (OverflowError, ValueError, OSError):
        return None


async def insert_instruments(
    connection: AsyncConnection,
    venue: str,
    found: Mapping[str, Instrument],
    lineage: Mapping[str, str],
) -> None:
    """Record instruments; one that is known keeps its units."""
    rows = [
        {
            "venue": venue,
            "symbol": instrument.symbol,
            "price_decimals": instrument.price_decimals,
            "lot_decimals": instrument.lot_decimals,
            "min_notional_e8": instrument.min_notional_e8,
            "price_source": instrument.price_source,
            **lineage,
        }
        for instrument in found.values()
    ]
    await insert_rows(connection, instruments, rows)


async def known_symbols(connection: AsyncConnection, venue: str, timeframe: str) -> frozenset[str]:
    """Return the symbols of which the venue has instruments or bars of the timeframe."""
    listed = await connection.execute(
        select(instruments.c.symbol).where(instruments.c.venue == venue)
    )
    # A loose index scan: one probe per symbol instead of a pass over millions of bars.
    recent = await connection.execute(
        text(
            "SELECT DISTINCT symbol FROM bars WHERE venue = :venue AND timeframe = :timeframe "
            "AND closes_at >= (SELECT max(closes_at) - interval '2 days' FROM bars "
            "WHERE venue = :venue AND timeframe = :timeframe)"
        ),
        {"venue": venue, "timeframe": timeframe},
    )
    return frozenset(listed.scalars()) | frozenset(recent.scalars())


async def prior_bars(
    connection: AsyncConnection, venue: str, timeframe: str, symbols: Sequence[str]
) -> dict[str, PriorBar]:
    """Return each symbol's last accepted bar, and the last spike refused after it."""
    rows = await connection.execute(
        text(
            """
            SELECT s.symbol, bar.closes_at, bar.close, spike.closes_at AS spike_at,
                   spike.close AS spike_close
            FROM unnest(CAST(:symbols AS text[])) AS s(symbol)
            CROSS JOIN LATERAL (
                SELECT closes_at, close FROM bars
                WHERE venue = :venue AND timeframe = :timeframe AND bars.symbol = s.symbol
                ORDER BY closes_at DESC LIMIT 1
            ) AS bar
            LEFT JOIN LATERAL (
                SELECT closes_at, close FROM bar_quarantine AS q
                WHERE q.symbol = s.symbol AND q.timeframe = :timeframe AND q.venue = :venue
                  AND q.reason = 'spike' AND q.closes_at > bar.closes_at
                ORDER BY closes_at DESC LIMIT 1
            ) AS spike ON TRUE
            """
        ),
        {"venue": venue, "timeframe": timeframe, "symbols": sorted(symbols)},
    )
    return {
        row.symbol: PriorBar(
            ms_of_instant(row.closes_at),
            row.close,
            None if row.spike_at is None else ms_of_instant(row.spike_at),
            row.spike_close,
        )
        for row in rows
    }


async def has_bars(
    connection: AsyncConnection, venue: str, timeframe: str, closes_at_ms: int
) -> bool:
    """Whether any bar of a close is recorded."""
    found = await connection.execute(
        select(bars.c.symbol)
        .where(bars.c.venue == venue)
        .where(bars.c.timeframe == timeframe)
        .where(bars.c.closes_at == instant_of_ms(closes_at_ms))
        .limit(1)
    )
    return found.scalar_one_or_none() is not None


async def bars_at_keys(
    connection: AsyncConnection, venue: str, timeframe: str, keys: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], tuple[float, float, float, float, float]]:
    """Return the recorded values of some bars, by (symbol, close)."""
    if not keys:
        return {}
    rows = await connection.execute(
        text(
            """
            SELECT symbol, closes_at, open, high, low, close, volume FROM bars
            JOIN unnest(CAST(:symbols AS text[]), CAST(:closes AS timestamptz[]))
              AS wanted(symbol, closes_at) USING (symbol, closes_at)
            WHERE venue = :venue AND timeframe = :timeframe
            """
        ),
        {
            "venue": venue,
            "timeframe": timeframe,
            "symbols": [symbol for symbol, _ in keys],
            "closes": [instant_of_ms(closes_at_ms) for _, closes_at_ms in keys],
        },
    )
    return {
        (row.symbol, ms_of_instant(row.closes_at)): (
            row.open,
            row.high,
            row.low,
            row.close,
            row.volume,
        )
        for row in rows
    }


async def load_progress(connection: AsyncConnection, replay: str) -> tuple[bool, int | None, int]:
    """Return whether the history is loaded, the last released close, and how many were."""
    row = (
        await connection.execute(select(replay_progress).where(replay_progress.c.replay == replay))
    ).one_or_none()
    if row is None:
        return False, None, 0
    closes_at_ms = None if row.closes_at is None else ms_of_instant(row.closes_at)
    return row.is_history_loaded, closes_at_ms, row.n_closes


async def save_progress(
    connection: AsyncConnection,
    replay: str,
    *,
    closes_at_ms: int | None,
    n_closes: int,
    is_finished: bool,
) -> None:
    """Record how far a replay has come, in the transaction of what it released."""
    row = {
        "replay": replay,
        "is_history_loaded": True,
        "closes_at": None if closes_at_ms is None else instant_of_ms(closes_at_ms),
        "n_closes": n_closes,
        "is_finished": is_finished,
    }
    await insert_rows(
        connection, replay_progress, [row], update=("closes_at", "n_closes", "is_finished")
    )
