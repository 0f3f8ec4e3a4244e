"""SQL of ingest."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
from sqlalchemy import Row, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.book.instrument import Instrument
from shared.clock import TIMEFRAME_MS, instant_of_ms, ms_of_instant, timeframe_ms
from shared.database.engine import Insertion, copy_csv, insert_rows, write_together
from shared.database.tables import bar_quarantine, bars, instruments, replay_progress
from shared.events.catalogue import owned_topics
from shared.events.screener import PairsScreened
from shared.quant.bar_checks import PriorBar, QuarantinedBar
from shared.quant.bars import BarRow, Bars, RawBars

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
    """Record bars."""
    await write_together(connection, bar_rows([accepted], lineage))


def bar_rows(accepted: Iterable[Bars], lineage: Mapping[str, str]) -> Insertion:
    """Return the rows that record bars."""
    rows = [
        {
            "venue": each.venue,
            "timeframe": each.timeframe,
            "closes_at": instant_of_ms(closes_at_ms),
            "symbol": each.symbols[code],
            "open": open_,
            "high": high,
            "low": low,
            "close": close,
            "volume": volume,
        }
        for each in accepted
        for code, closes_at_ms, open_, high, low, close, volume in zip(
            *(column.tolist() for column in each.columns()), strict=True
        )
    ]
    return Insertion.of_rows(bars, rows, common=lineage)


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
    return _prior_by_symbol(rows)


def _prior_by_symbol(rows: Iterable[Row[Any]]) -> dict[str, PriorBar]:
    return {
        row.symbol: PriorBar(
            ms_of_instant(row.closes_at), row.close, _ms_or_none(row.spike_at), row.spike_close
        )
        for row in rows
    }


async def recorded_timeframes(
    connection: AsyncConnection, venue: str, timeframes: Iterable[str], closes_at_ms: int
) -> frozenset[str]:
    """Return the timeframes of which any bar of a close is recorded."""
    found = await connection.execute(
        text(
            """
            SELECT timeframe FROM unnest(CAST(:timeframes AS text[])) AS of (timeframe)
            WHERE EXISTS (SELECT FROM bars WHERE venue = :venue
                          AND bars.timeframe = of.timeframe AND closes_at = :closes_at)
            """
        ),
        {
            "venue": venue,
            "timeframes": list(timeframes),
            "closes_at": instant_of_ms(closes_at_ms),
        },
    )
    return frozenset(found.scalars())


async def bars_at_keys(
    connection: AsyncConnection, venue: str, timeframe: str, keys: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], tuple[float, float, float, float, float]]:
    """Return the recorded values of some bars, by (symbol, close)."""
    if not keys:
        return {}
    rows = await connection.execute(
        text(
            """
            SELECT wanted.symbol, wanted.closes_at, open, high, low, close, volume
            FROM unnest(CAST(:symbols AS text[]), CAST(:closes AS timestamptz[]))
              AS wanted(symbol, closes_at)
            CROSS JOIN LATERAL (  -- one probe a key: a plan made while the table was small scans
                SELECT open, high, low, close, volume FROM bars
                WHERE venue = :venue AND timeframe = :timeframe
                  AND bars.closes_at = wanted.closes_at AND bars.symbol = wanted.symbol
                LIMIT 1
            ) AS bar
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


async def last_bars(
    connection: AsyncConnection, venue: str, timeframe: str, symbols: Iterable[str]
) -> dict[str, PriorBar]:
    """Return what `prior_bars` does, also of symbols whose last bar is old.

    It reads the whole timeframe once, where the other goes back bar by bar and is fast for
    symbols that are up to date.
    """
    rows = await connection.execute(
        text(
            """
            WITH newest AS (
                SELECT symbol, max(closes_at) AS closes_at FROM bars
                WHERE venue = :venue AND timeframe = :timeframe AND symbol = ANY(:symbols)
                GROUP BY symbol
            )
            SELECT symbol, newest.closes_at, bars.close, spike.closes_at AS spike_at,
                   spike.close AS spike_close
            FROM newest JOIN bars USING (symbol, closes_at)
            LEFT JOIN LATERAL (
                SELECT q.closes_at, q.close FROM bar_quarantine AS q
                WHERE q.symbol = newest.symbol AND q.timeframe = :timeframe AND q.venue = :venue
                  AND q.reason = 'spike' AND q.closes_at > newest.closes_at
                ORDER BY q.closes_at DESC LIMIT 1
            ) AS spike ON TRUE
            WHERE bars.venue = :venue AND bars.timeframe = :timeframe
            """
        ),
        {"venue": venue, "timeframe": timeframe, "symbols": sorted(symbols)},
    )
    return _prior_by_symbol(rows)


async def bars_of_close(
    connection: AsyncConnection, venue: str, timeframe: str, closes_at_ms: int
) -> Bars:
    """Return every recorded bar of a close."""
    rows = await connection.execute(
        select(bars.c.symbol, bars.c.open, bars.c.high, bars.c.low, bars.c.close, bars.c.volume)
        .where(bars.c.venue == venue)
        .where(bars.c.timeframe == timeframe)
        .where(bars.c.closes_at == instant_of_ms(closes_at_ms))
    )
    return _bars_of(venue, timeframe, ((row[0], closes_at_ms, *row[1:]) for row in rows))


async def newest_bars(
    connection: AsyncConnection,
    venue: str,
    timeframe: str,
    symbols: Iterable[str],
    before_ms: int,
    within_bars: int,
) -> Bars:
    """Return the newest bar of each symbol before an instant, of those that have a recent one."""
    rows = await connection.execute(
        text(
            """
            SELECT DISTINCT ON (symbol) symbol, closes_at, open, high, low, close, volume
            FROM bars
            WHERE venue = :venue AND timeframe = :timeframe AND symbol = ANY(:symbols)
              AND closes_at >= :since AND closes_at < :before
            ORDER BY symbol, closes_at DESC
            """
        ),
        {
            "venue": venue,
            "timeframe": timeframe,
            "symbols": sorted(symbols),
            "since": instant_of_ms(before_ms - within_bars * timeframe_ms(timeframe)),
            "before": instant_of_ms(before_ms),
        },
    )
    return _bars_of(venue, timeframe, ((row[0], ms_of_instant(row[1]), *row[2:]) for row in rows))


async def newest_close(
    connection: AsyncConnection, venue: str, timeframe: str, up_to_ms: int
) -> int | None:
    """Return the last close up to an instant of which a bar is recorded."""
    newest = await connection.execute(
        select(func.max(bars.c.closes_at))
        .where(bars.c.venue == venue)
        .where(bars.c.timeframe == timeframe)
        .where(bars.c.closes_at <= instant_of_ms(up_to_ms))
    )
    return _ms_or_none(newest.scalar_one())


async def recorded_closes(
    connection: AsyncConnection,
    venue: str,
    timeframe: str,
    symbol: str,
    after_ms: int,
    until_ms: int,
) -> list[int]:
    """Return the closes in (after, until] of which a symbol has a bar, in order."""
    found = await connection.execute(
        select(bars.c.closes_at)
        .where(bars.c.venue == venue)
        .where(bars.c.timeframe == timeframe)
        .where(bars.c.symbol == symbol)
        .where(bars.c.closes_at > instant_of_ms(after_ms))
        .where(bars.c.closes_at <= instant_of_ms(until_ms))
        .order_by(bars.c.closes_at)
    )
    return [ms_of_instant(closes_at) for closes_at in found.scalars()]


async def last_close_from(connection: AsyncConnection, source: str) -> int | None:
    """Return the last close published with a source that begins with some words.

    Late bars come from another source, so the newest entry of each stream is its last close.
    """
    rows = await connection.execute(
        text(
            """
            SELECT max(last.closes_at) FROM unnest(CAST(:topics AS text[])) AS of(topic)
            CROSS JOIN LATERAL (
                SELECT closes_at FROM event_log
                WHERE topic = of.topic AND starts_with(source_uri, :source)
                ORDER BY seq DESC LIMIT 1
            ) AS last
            """
        ),
        {"topics": [topic.name for topic in owned_topics("ingest")], "source": source},
    )
    return _ms_or_none(rows.scalar_one())


async def last_published_close(connection: AsyncConnection, topic: str) -> int | None:
    """Return the latest close among the last events of a stream, from whomever they came."""
    rows = await connection.execute(
        text(
            """
            SELECT max(closes_at) FROM (
                SELECT closes_at FROM event_log WHERE topic = :topic ORDER BY seq DESC LIMIT 1000
            ) AS recent
            """
        ),
        {"topic": topic},
    )
    return _ms_or_none(rows.scalar_one())


async def consumed_roster(connection: AsyncConnection) -> PairsScreened | None:
    """Return the newest roster this service has consumed."""
    payload = await connection.execute(
        text(
            """
            SELECT payload FROM (
                SELECT payload, closes_at, event_log.seq FROM event_log JOIN consumer_offset
                  ON consumer_offset.topic = event_log.topic AND consumer = 'ingest'
                WHERE event_log.topic = 'pairs.screened' AND event_log.seq <= consumer_offset.seq
                ORDER BY event_log.seq DESC LIMIT 100
            ) AS recent
            ORDER BY closes_at DESC, seq DESC LIMIT 1
            """
        )
    )
    document = payload.scalar_one_or_none()
    return None if document is None else PairsScreened.from_bytes(document.encode())


async def read_coverage(
    connection: AsyncConnection,
    venue: str,
    timeframe: str | None,
    symbols: Sequence[str] | None,
    most: int,
) -> list[dict[str, Any]]:
    """Return what is recorded and what was refused of each symbol and timeframe."""
    rows = await connection.execute(
        text(
            """
            WITH bar AS (
                SELECT * FROM unnest(CAST(:timeframes AS text[]), CAST(:lengths AS interval[]))
                  AS bar(timeframe, length)
            ), held AS (
                SELECT timeframe, symbol, min(closes_at) AS first_bar, max(closes_at) AS last_bar,
                       count(*) AS bars
                FROM bars
                WHERE venue = :venue
                  AND (CAST(:timeframe AS text) IS NULL OR timeframe = :timeframe)
                  AND (CAST(:symbols AS text[]) IS NULL OR symbol = ANY(:symbols))
                GROUP BY timeframe, symbol
            ), incomplete AS (
                SELECT timeframe, symbol, length FROM held JOIN bar USING (timeframe)
                WHERE last_bar - first_bar > CAST(bars - 1 AS float8) * length
            ), steps AS (
                SELECT timeframe, symbol, length, closes_at - lag(closes_at)
                  OVER (PARTITION BY timeframe, symbol ORDER BY closes_at) AS step
                FROM bars JOIN incomplete USING (timeframe, symbol) WHERE venue = :venue
            ), missing AS (
                SELECT timeframe, symbol, count(*) AS gaps,
                       CAST(max(extract(epoch FROM step) / extract(epoch FROM length)) AS bigint)
                         - 1 AS largest_gap_bars
                FROM steps WHERE step > length GROUP BY timeframe, symbol
            ), refused AS (
                SELECT timeframe, symbol, count(DISTINCT closes_at) AS quarantined
                FROM bar_quarantine
                WHERE venue = :venue AND symbol IS NOT NULL
                  AND (CAST(:timeframe AS text) IS NULL OR timeframe = :timeframe)
                  AND (CAST(:symbols AS text[]) IS NULL OR symbol = ANY(:symbols))
                GROUP BY timeframe, symbol
            )
            SELECT symbol, timeframe, first_bar, last_bar, coalesce(bars, 0) AS bars,
                   coalesce(gaps, 0) AS gaps, coalesce(largest_gap_bars, 0) AS largest_gap_bars,
                   coalesce(quarantined, 0) AS quarantined
            FROM held FULL JOIN refused USING (timeframe, symbol)
            LEFT JOIN missing USING (timeframe, symbol)
            ORDER BY timeframe, symbol LIMIT :most
            """
        ),
        {
            "venue": venue,
            "timeframe": timeframe,
            "symbols": None if symbols is None else sorted(symbols),
            "timeframes": list(TIMEFRAME_MS),
            "lengths": [timedelta(milliseconds=ms) for ms in TIMEFRAME_MS.values()],
            "most": most,
        },
    )
    return [dict(row._mapping) for row in rows]


def _bars_of(venue: str, timeframe: str, rows: Iterable[BarRow]) -> Bars:
    return Bars.from_raw(RawBars.from_rows(venue, timeframe, rows))


def _ms_or_none(instant: datetime | None) -> int | None:
    return None if instant is None else ms_of_instant(instant)


async def load_progress(connection: AsyncConnection, replay: str) -> tuple[bool, int | None, int]:
    """Return whether the history is loaded, the last released close, and how many were."""
    row = (
        await connection.execute(select(replay_progress).where(replay_progress.c.replay == replay))
    ).one_or_none()
    if row is None:
        return False, None, 0
    closes_at_ms = None if row.closes_at is None else ms_of_instant(row.closes_at)
    return row.is_history_loaded, closes_at_ms, row.n_closes


def progress_row(
    replay: str, *, closes_at_ms: int | None, n_closes: int, is_finished: bool
) -> Insertion:
    """Return the row that records how far a replay has come, for the transaction that brings it."""
    row = {
        "replay": replay,
        "is_history_loaded": True,
        "closes_at": None if closes_at_ms is None else instant_of_ms(closes_at_ms),
        "n_closes": n_closes,
        "is_finished": is_finished,
    }
    return Insertion.of_rows(replay_progress, [row], ("closes_at", "n_closes", "is_finished"))
