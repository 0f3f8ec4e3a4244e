"""Reading the executor's book, for the services that look at it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.book.positions import PairPosition, PairState
from shared.clock import ms_of_instant
from shared.database.tables import account, pair_positions


async def last_account(connection: AsyncConnection) -> Any | None:
    """Return the newest row of the account, or `None` before the first settled close."""
    newest = select(account).order_by(account.c.closes_at.desc()).limit(1)
    return (await connection.execute(newest)).one_or_none()


async def live_positions(connection: AsyncConnection) -> dict[str, PairPosition]:
    """Return the positions that are not closed, by id."""
    rows = await connection.execute(
        select(pair_positions).where(pair_positions.c.state != PairState.CLOSED.value)
    )
    return {row.position_id: position_of(row) for row in rows}


def position_of(row: Any) -> PairPosition:
    """Return a row of `pair_positions` as the position it was."""
    return PairPosition(
        position_id=row.position_id,
        pair=row.pair,
        symbol_y=row.symbol_y,
        symbol_x=row.symbol_x,
        state=PairState(row.state),
        opened_at_ms=ms_of_instant(row.opened_at),
        lots_y=row.lots_y,
        lots_x=row.lots_x,
        cash_e8=int(row.cash_e8),
        fees_e8=int(row.fees_e8),
        funding_e8=int(row.funding_e8),
        closed_at_ms=None if row.closed_at is None else ms_of_instant(row.closed_at),
        target_lots_y=row.target_lots_y,
        target_lots_x=row.target_lots_x,
        is_residue=row.is_residue,
        exposed_since_ms=None if row.exposed_since is None else ms_of_instant(row.exposed_since),
        exposed_ms=row.exposed_ms,
    )
