"""Adoption of bars that any client published."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest import store
from services.ingest.intake import take_in
from shared.bus.consumer import Handler, UnitOfWork
from shared.errors import ContractError
from shared.events.ingest import BarsClosed
from shared.quant.bar_checks import BarCheckSettings
from shared.quant.bars import RawBars
from shared.venues.market import bars_closed


class Ingest:
    """Checks and records published bars, and publishes what passed under its number.

    Parameters
    ----------
    settings
        Bounds of the checks.
    now_ms
        Returns the present instant at a venue: no bar of it closes later.
    """

    def __init__(self, settings: BarCheckSettings, now_ms: Callable[[str], int]) -> None:
        self._settings = settings
        self._now_ms = now_ms

    async def reload(self, connection: AsyncConnection) -> None:
        """Nothing is kept in memory: the state of the checks is read with every entry."""

    def adopter(self, topic: str) -> Handler:
        """Return the handler of plain entries on one stream."""

        async def adopt(closed: BarsClosed, unit: UnitOfWork) -> None:
            await self.adopt_bars(topic, closed, unit)

        return adopt

    async def adopt_bars(self, topic: str, closed: BarsClosed, unit: UnitOfWork) -> None:
        """Take in the bars of an entry: the good are recorded and published, the bad quarantined.

        Raises
        ------
        ContractError
            If the event's timeframe is not that of the stream.
        """
        if topic != f"bars.{closed.timeframe}":
            raise ContractError(
                f"bars of {closed.timeframe} on stream {topic}: "
                f"publish them on bars.{closed.timeframe}"
            )
        raw = RawBars.from_rows(
            closed.venue,
            closed.timeframe,
            [
                (
                    bar.symbol,
                    closed.closes_at_ms,
                    bar.open,
                    bar.high,
                    bar.low,
                    bar.close,
                    bar.volume,
                )
                for bar in closed.bars
            ],
        )
        known = await store.known_symbols(unit.connection, closed.venue, closed.timeframe)
        accepted = await take_in(
            unit,
            raw,
            now_ms=self._now_ms(closed.venue),
            known=known,
            settings=self._settings,
            source="stream",
        )
        if len(accepted):
            unit.publish(topic, bars_closed(accepted))
