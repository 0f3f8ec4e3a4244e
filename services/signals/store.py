"""SQL of signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import instant_of_ms, ms_of_instant
from shared.database.engine import Insertion, PairDeletion, Write
from shared.database.filters import of_pair, within
from shared.database.tables import models, pair_trades, shadow_closes, signals
from shared.events.signals import SignalsRaised
from shared.events.trainer import ModelPromoted
from shared.sleeves.pairs.rules import PairTrade

Trades = Mapping[tuple[str, str], PairTrade]
_MUTABLE = tuple(c.name for c in pair_trades.columns if not c.primary_key)


async def load_trades(connection: AsyncConnection) -> dict[tuple[str, str], PairTrade]:
    """Return what the rule remembers of every pair."""
    trades = {}
    for row in await connection.execute(select(pair_trades)):
        fields = dict(row._mapping)
        fields["entered_at_ms"] = ms_of_instant(fields.pop("entered_at"))
        trades[(row.y, row.x)] = PairTrade(**fields)
    return trades


def decision_rows(
    raised: SignalsRaised, before: Trades, after: Trades, lineage: Mapping[str, str]
) -> tuple[Write, ...]:
    """Return the rows that record the signals of a close, and what changed in the rule's memory."""
    changed = [trade for key, trade in after.items() if before.get(key) != trade]
    return (
        signal_rows(raised, lineage),
        Insertion(pair_trades, [_trade_row(trade) for trade in changed], _MUTABLE),
        PairDeletion(pair_trades, [key for key in before if key not in after]),
    )


def _trade_row(trade: PairTrade) -> dict[str, Any]:
    row = trade._asdict()
    row["entered_at"] = instant_of_ms(row.pop("entered_at_ms"))
    return row


def signal_rows(raised: SignalsRaised, lineage: Mapping[str, str]) -> Insertion:
    """Return the rows that record the signals of a close."""
    rows = [vars(signal) for signal in raised.signals]
    return Insertion(signals, rows, common={"closes_at": raised.closes_at, **lineage})


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
    await connection.execute(
        _SAVE_SHADOW,
        {
            "sha256": sha256,
            "closes_at": raised.closes_at,
            "n_rows": n_rows,
            "signals": orjson.dumps(
                [signal.model_dump(mode="json") for signal in raised.signals]
            ).decode(),
            "trades": orjson.dumps([trade._asdict() for trade in trades.values()]).decode(),
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
    trades = [PairTrade(**fields) for fields in newest.scalar_one_or_none() or ()]
    return {(trade.y, trade.x): trade for trade in trades}


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
