"""SQL of the portfolio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import func, insert, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.portfolio.domain import LimitChange
from services.portfolio.profit import Profit
from shared.book.positions import PairState
from shared.book.sizing import SizingSettings
from shared.book.targets import LiveTarget
from shared.clock import ms_of_instant
from shared.columns import columns_of, rows_of
from shared.database.engine import Insertion
from shared.database.filters import of_pair, within
from shared.database.tables import (
    account,
    intents,
    limit_changes,
    pair_positions,
    slot_memory,
    targets,
)
from shared.events.portfolio import OrdersRequested, SubmitOrder

Live = Mapping[tuple[str, str], LiveTarget]
_SERVICE = "portfolio"
_WISHED = {"open": "enter", "close": "exit"}
"""The action of the signal that an intent fulfils."""


async def load_live(connection: AsyncConnection) -> dict[tuple[str, str], LiveTarget]:
    """Return the slots taken."""
    found = await connection.execute(
        select(slot_memory.c.targets).where(slot_memory.c.service == _SERVICE)
    )
    targets = [LiveTarget(**row) for row in rows_of(found.scalar_one_or_none() or {})]
    return {(target.y, target.x): target for target in targets}


def slot_rows(before: Live, after: Live) -> tuple[Insertion, ...]:
    """Return what records which slots are taken, where that has changed."""
    if after == before:
        return ()
    recorded = columns_of(LiveTarget._fields, (after[key] for key in sorted(after)))
    memory = {"service": _SERVICE, "targets": orjson.dumps(recorded).decode()}
    return (Insertion.of_rows(slot_memory, [memory], ("targets",)),)


def plan_rows(requested: OrdersRequested, lineage: Mapping[str, str]) -> tuple[Insertion, ...]:
    """Return the rows that record what became of the signals of a close, and the intents."""
    common = {"closes_at": requested.closes_at, **lineage}
    fates: list[tuple[str | None, ...]] = [
        (intent.y, intent.x, _WISHED[intent.action], "accepted", intent.intent_id)
        for intent in requested.intents
    ]
    fates += [(each.y, each.x, each.action, each.reason, None) for each in requested.refused]
    decided = columns_of(("y", "x", "action", "reason", "intent_id"), fates)
    decided["is_accepted"] = tuple(intent_id is not None for intent_id in decided["intent_id"])
    asked: dict[str, list[Any]] = {
        name: [getattr(intent, name) for intent in requested.intents]
        for name in SubmitOrder.model_fields
    }
    asked["legs"] = [[vars(leg) for leg in legs] for legs in asked["legs"]]
    return (Insertion(targets, decided, common=common), Insertion(intents, asked, common=common))


# --- limits ---------------------------------------------------------------------------------


async def load_limit_changes(connection: AsyncConnection) -> list[LimitChange]:
    """Return every change of the limits in the order in which it was decided."""
    rows = await connection.execute(select(limit_changes).order_by(limit_changes.c.change_id))
    return [
        LimitChange(
            None if row.from_closes_at is None else ms_of_instant(row.from_closes_at),
            SizingSettings(**{name: getattr(row, name) for name in SizingSettings.model_fields}),
        )
        for row in rows
    ]


async def insert_limit_change(
    connection: AsyncConnection,
    limits: SizingSettings,
    *,
    from_closes_at: datetime | None,
    reason: str,
    decided_by: str,
    lineage: Mapping[str, str],
) -> None:
    """Record a change of the limits; earlier ones stay, for whoever asks what was in force."""
    row = {
        **limits.model_dump(),
        "from_closes_at": from_closes_at,
        "reason": reason,
        "decided_by": decided_by,
        **lineage,
    }
    await connection.execute(insert(limit_changes).values(row))


# --- what people ask for --------------------------------------------------------------------


async def find_limit_changes(connection: AsyncConnection, limit: int) -> Sequence[Any]:
    """Return changes of the limits, newest first."""
    newest = select(limit_changes).order_by(limit_changes.c.change_id.desc()).limit(limit)
    return (await connection.execute(newest)).all()


async def find_targets(
    connection: AsyncConnection,
    *,
    pair: str | None,
    is_accepted: bool | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> Sequence[Any]:
    """Return what became of signals, newest first."""
    key = targets.c.y.concat("~").concat(targets.c.x)
    query = (
        select(targets)
        .where(*of_pair(key, pair), *within(targets.c.closes_at, since, until))
        .order_by(targets.c.closes_at.desc(), targets.c.y, targets.c.x, targets.c.action)
        .limit(limit)
    )
    if is_accepted is not None:
        query = query.where(targets.c.is_accepted == is_accepted)
    return (await connection.execute(query)).all()


async def closed_profits(connection: AsyncConnection) -> dict[str, Profit]:
    """Return the profit of every pair's closed positions.

    An intent that was denied or never filled left a closed position without cash, which
    counts as none.
    """
    held = pair_positions.c
    rows = await connection.execute(
        select(
            held.pair,
            func.count().filter(or_(held.cash_e8 != 0, held.fees_e8 != 0)),
            func.sum(held.cash_e8),
            func.sum(held.fees_e8),
            func.sum(held.funding_e8),
        )
        .where(held.state == PairState.CLOSED.value)
        .group_by(held.pair)
        .order_by(held.pair)
    )
    return {
        pair: Profit(n_closed, int(cash), 0, int(fees), int(funding))
        for pair, n_closed, cash, fees, funding in rows
    }


async def equity_at(connection: AsyncConnection, instant: datetime) -> int | None:
    """Return the equity of the last close up to an instant, if there was one."""
    found = await connection.execute(
        select(account.c.equity_e8)
        .where(account.c.closes_at <= instant)
        .order_by(account.c.closes_at.desc())
        .limit(1)
    )
    equity_e8 = found.scalar_one_or_none()
    return None if equity_e8 is None else int(equity_e8)


async def daily_account(connection: AsyncConnection, since: datetime) -> Sequence[Any]:
    """Return the last account of every UTC day from a midnight on, newest day first.

    The close at midnight ends the day before it; a fill at midnight begins the day.
    """
    rows = await connection.execute(
        text(
            """
            WITH ends AS (
                SELECT DISTINCT ON (day) day, equity_e8, gross_e8
                FROM (SELECT CAST(closes_at - interval '1 millisecond' AS date) AS day,
                             closes_at, equity_e8, gross_e8
                      FROM account WHERE closes_at > :since) AS closes
                ORDER BY day, closes_at DESC
            ), closed AS (
                SELECT CAST(closed_at - interval '1 millisecond' AS date) AS day,
                       sum(cash_e8) AS realised_e8,
                       count(*) FILTER (WHERE cash_e8 <> 0 OR fees_e8 <> 0) AS n_closed
                FROM pair_positions WHERE closed_at > :since GROUP BY day
            ), paid AS (
                SELECT CAST(filled_at AS date) AS day, sum(fee_e8) AS fees_e8
                FROM fills WHERE filled_at >= :since GROUP BY day
            )
            SELECT day, equity_e8, gross_e8, coalesce(realised_e8, 0) AS realised_e8,
                   coalesce(n_closed, 0) AS n_closed, coalesce(fees_e8, 0) AS fees_e8
            FROM ends LEFT JOIN closed USING (day) LEFT JOIN paid USING (day)
            ORDER BY day DESC
            """
        ),
        {"since": since},
    )
    return rows.all()
