"""SQL of signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.columns import columns_of, rows_of
from shared.database.engine import Insertion
from shared.database.filters import of_pair, within
from shared.database.tables import models, rule_memory, shadow_closes, signals
from shared.events.signals import SignalFact, SignalsRaised
from shared.events.trainer import ModelPromoted
from shared.sleeves.pairs.rules import PairTrade

Trades = Mapping[tuple[str, str], PairTrade]
_SERVICE = "signals"


async def load_trades(connection: AsyncConnection) -> dict[tuple[str, str], PairTrade]:
    """Return what the rule remembers of every pair."""
    found = await connection.execute(
        select(rule_memory.c.trades).where(rule_memory.c.service == _SERVICE)
    )
    return _by_pair(found.scalar_one_or_none() or {})


def _by_pair(recorded: Mapping[str, Sequence[Any]]) -> dict[tuple[str, str], PairTrade]:
    trades = [PairTrade(**row) for row in rows_of(recorded)]
    return {(trade.y, trade.x): trade for trade in trades}


def memory_rows(before: Trades, after: Trades) -> tuple[Insertion, ...]:
    """Return what records what the rule remembers, where that has changed."""
    if after == before:
        return ()
    memory = {"service": _SERVICE, "trades": _json_of(after)}
    return (Insertion.of_rows(rule_memory, [memory], ("trades",)),)


def _json_of(trades: Trades) -> str:
    return orjson.dumps(columns_of(PairTrade._fields, trades.values())).decode()


def signal_rows(raised: SignalsRaised, lineage: Mapping[str, str]) -> tuple[Insertion, ...]:
    """Return the rows that record the signals of a close."""
    common = {"closes_at": raised.closes_at, "roster_closes_at": raised.roster_closes_at}
    return (Insertion(signals, raised.columns, common={**common, **lineage}),)


_SAVE_SHADOW = text(
    """
    INSERT INTO shadow_closes (sha256, closes_at, n_rows, signals, trades, source_uri,
                               transform_id)
    VALUES (:sha256, :closes_at, :n_rows, CAST(:signals AS jsonb), CAST(:trades AS jsonb),
            :source_uri, :transform_id)
    ON CONFLICT (sha256, closes_at) DO UPDATE
    SET n_rows = shadow_closes.n_rows + excluded.n_rows,
        signals = shadow_closes.signals || excluded.signals, trades = excluded.trades
    """
)


async def save_shadow(
    connection: AsyncConnection,
    sha256: str,
    raised: SignalsRaised,
    n_rows: int,
    trades: Trades,
    lineage: Mapping[str, str],
) -> None:
    """Record what a shadow would have decided at a close, and what it remembers after it.

    More features of the same close, from a symbol whose bar came late, add to its row.
    """
    decided = [SignalFact.of(signal, raised.roster_closes_at) for signal in raised.rows]
    await connection.execute(
        _SAVE_SHADOW,
        {
            "sha256": sha256,
            "closes_at": raised.closes_at,
            "n_rows": n_rows,
            "signals": orjson.dumps([fact.model_dump(mode="json") for fact in decided]).decode(),
            "trades": _json_of(trades),
            **lineage,
        },
    )


async def load_shadow_trades(
    connection: AsyncConnection, sha256: str, after: datetime
) -> dict[tuple[str, str], PairTrade]:
    """Return what a shadow remembers, of those closes only that came after it became one."""
    newest = await connection.execute(
        select(shadow_closes.c.trades)
        .where(shadow_closes.c.sha256 == sha256, shadow_closes.c.closes_at > after)
        .order_by(shadow_closes.c.closes_at.desc())
        .limit(1)
    )
    return _by_pair(newest.scalar_one_or_none() or {})


async def consumed_promotions(connection: AsyncConnection) -> Sequence[ModelPromoted]:
    """Return every promotion this service has consumed, by close."""
    rows = await connection.execute(
        text(
            """
            SELECT payload FROM event_log JOIN consumer_offset
              ON consumer_offset.topic = event_log.topic AND consumer = 'signals'
            WHERE event_log.topic = 'models.promoted' AND event_log.seq <= consumer_offset.seq
              AND NOT EXISTS (SELECT FROM dead_letter WHERE consumer = 'signals'
                              AND topic = 'models.promoted' AND seq = event_log.seq)
            ORDER BY event_log.seq
            """
        )
    )
    promotions = [ModelPromoted.from_bytes(row.payload.encode()) for row in rows]
    return sorted(promotions, key=lambda promoted: promoted.closes_at)


async def model_document(connection: AsyncConnection, sha256: str) -> bytes | None:
    """Return the bytes of a model, or `None`."""
    found = await connection.execute(select(models.c.document).where(models.c.sha256 == sha256))
    return found.scalar_one_or_none()


async def find_signals(
    connection: AsyncConnection,
    *,
    pair: str | None,
    action: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> Sequence[Any]:
    """Return signals by their close, newest first."""
    key = signals.c.y.concat("~").concat(signals.c.x)
    query = (
        select(signals)
        .where(*of_pair(key, pair), *within(signals.c.closes_at, since, until))
        .order_by(signals.c.closes_at.desc(), signals.c.y, signals.c.x, signals.c.action)
        .limit(limit)
    )
    if action is not None:
        query = query.where(signals.c.action == action)
    return (await connection.execute(query)).all()
