"""The one table of instruments that sizing, execution and the venue's model read."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.book.instrument import Instrument
from shared.database.tables import instruments


async def load_instruments(connection: AsyncConnection, venue: str) -> dict[str, Instrument]:
    """Return the instruments of a venue by symbol."""
    rows = await connection.execute(select(instruments).where(instruments.c.venue == venue))
    return {
        row.symbol: Instrument(
            symbol=row.symbol,
            price_decimals=row.price_decimals,
            lot_decimals=row.lot_decimals,
            min_notional_e8=row.min_notional_e8,
            price_source=row.price_source,
        )
        for row in rows
    }
