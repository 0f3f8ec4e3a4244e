"""Adoption of bars that any client published."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest import store
from shared.bus.consumer import Handler, UnitOfWork
from shared.clock import ms_of_instant, utc_now
from shared.errors import ContractError
from shared.events.ingest import BarsClosed
from shared.quant.bar_checks import BarCheckSettings, check_bars, keys_to_look_up
from shared.quant.bars import RawBars
from shared.venues.market import bars_closed


class Ingest:
    """Checks and records published bars, and publishes what passed under its number.

    Parameters
    ----------
    settings
        Bounds of the checks.
    """

    def __init__(self, settings: BarCheckSettings) -> None:
        self._settings = settings

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
        place = (unit.connection, closed.venue, closed.timeframe)
        known = await store.known_symbols(*place)
        prior = await store.prior_bars(*place, sorted(set(raw.symbols) & known))
        existing = await store.bars_at_keys(*place, keys_to_look_up(raw, prior))
        checked = check_bars(
            raw,
            now_ms=ms_of_instant(utc_now()),
            known=known,
            settings=self._settings,
            prior=prior,
            existing=existing,
        )
        await store.insert_quarantined(*place, checked.quarantined, unit.lineage)
        if len(checked.accepted):
            await store.insert_bars(unit.connection, checked.accepted, unit.lineage)
            unit.publish(topic, bars_closed(checked.accepted))
