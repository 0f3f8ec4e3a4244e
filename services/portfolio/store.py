"""SQL of the portfolio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.book.targets import IntentPlan, LiveTarget
from shared.database.engine import insert_rows
from shared.database.tables import intents, live_targets, targets
from shared.events.portfolio import OrdersRequested

Live = Mapping[tuple[str, str], LiveTarget]
_MUTABLE = tuple(c.name for c in live_targets.columns if not c.primary_key)


async def load_live(connection: AsyncConnection) -> dict[tuple[str, str], LiveTarget]:
    """Return the slots taken."""
    rows = await connection.execute(select(live_targets))
    return {(row.y, row.x): LiveTarget(**row._mapping) for row in rows}


async def save_live(connection: AsyncConnection, before: Live, after: Live) -> None:
    """Record which slots were taken, changed and freed."""
    changed = [asdict(target) for key, target in after.items() if before.get(key) != target]
    await insert_rows(connection, live_targets, changed, update=_MUTABLE)
    freed = [key for key in before if key not in after]
    if freed:
        await connection.execute(
            delete(live_targets).where(tuple_(live_targets.c.y, live_targets.c.x).in_(freed))
        )


async def insert_targets(
    connection: AsyncConnection, closes_at: datetime, plan: IntentPlan, lineage: Mapping[str, str]
) -> None:
    """Record what became of every signal."""
    rows = [
        {
            "closes_at": closes_at,
            "y": decision.signal.y,
            "x": decision.signal.x,
            "action": decision.signal.action,
            "is_accepted": decision.intent is not None,
            "reason": decision.reason,
            "intent_id": None if decision.intent is None else decision.intent.intent_id,
            **lineage,
        }
        for decision in plan.decisions
    ]
    await insert_rows(connection, targets, rows)


async def insert_intents(
    connection: AsyncConnection, requested: OrdersRequested, lineage: Mapping[str, str]
) -> None:
    """Record the intents of a close."""
    rows = [
        {"closes_at": requested.closes_at, **intent.model_dump(mode="json"), **lineage}
        for intent in requested.intents
    ]
    await insert_rows(connection, intents, rows)
