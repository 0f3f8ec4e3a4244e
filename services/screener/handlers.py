"""Use cases of the screener."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from services.screener import store
from shared.bus.consumer import UnitOfWork
from shared.clock import instant_of_ms
from shared.errors import PermanentError
from shared.events.ingest import BarsClosed
from shared.events.screener import PairsScreened
from shared.settings import Settings
from shared.sleeves.pairs.screener import PairScreener, ScreenedClose, roster_member
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME


class Screening:
    """Screens every close of the screen timeframe.

    Parameters
    ----------
    settings
        Of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._screener = PairScreener(settings.screener, SCREEN_TIMEFRAME)
        self._screened_closes_at_ms: int | None = None

    async def reload(self, connection: AsyncConnection) -> None:
        """Forget the window; it is read again, up to the close in hand, with the next event."""
        roster, last_closes_at_ms = await store.last_roster(connection, SCREEN_TIMEFRAME)
        self._screener = PairScreener(
            self._settings.screener,
            SCREEN_TIMEFRAME,
            [roster_member(pair) for pair in roster],
            last_closes_at_ms,
        )

    async def screen_close(self, closed: BarsClosed, unit: UnitOfWork) -> None:
        """Screen a close and publish the roster, from the first trade close after it."""
        screener = self._screener
        last_ms = screener.last_closes_at_ms
        is_new = last_ms is None or closed.closes_at_ms > last_ms
        if screener.window.last_closes_at_ms is None or not is_new:
            # A late bar may be all that is told of a backfill, so the window is read again.
            before_ms = closed.closes_at_ms if is_new or last_ms is None else last_ms + 1
            async for earlier in store.window_before(
                unit.connection,
                closed.venue,
                SCREEN_TIMEFRAME,
                instant_of_ms(before_ms),
                screener.window.history_bars,
            ):
                screener.push(earlier)
        tradable = await store.tradable_symbols(unit.connection, closed.venue)
        screened = await asyncio.to_thread(screener.screen, closed, tradable)
        if is_new:
            await store.insert_screen(unit.connection, screened, unit.lineage)
        unit.publish("pairs.screened", screened.event)

    async def rehearse(self, unit: UnitOfWork) -> ScreenedClose:
        """Screen the last recorded window without any effect.

        It is the screen of that close once more, or the one that is to come: it knows no
        roster, so nothing counts towards stability, and nothing is recorded or published.

        Raises
        ------
        PermanentError
            If no bars are recorded.
        """
        venue = self._settings.venue_name
        last = await store.last_bars_at(unit.connection, venue, SCREEN_TIMEFRAME)
        if last is None:
            raise PermanentError(
                f"no {SCREEN_TIMEFRAME} bars of {venue} are recorded: wait for ingest, or publish "
                f"some on bars.{SCREEN_TIMEFRAME}"
            )
        screener = PairScreener(self._settings.screener, SCREEN_TIMEFRAME)
        async for closed in store.window_before(
            unit.connection, venue, SCREEN_TIMEFRAME, last, screener.window.history_bars
        ):
            screener.push(closed)
        newest = [
            closed
            async for closed in store.window_before(
                unit.connection, venue, SCREEN_TIMEFRAME, last + timedelta(milliseconds=1), 1
            )
        ]
        tradable = await store.tradable_symbols(unit.connection, venue)
        return await asyncio.to_thread(screener.screen, newest[0], tradable)

    async def adopt_roster(self, roster: PairsScreened, unit: UnitOfWork) -> None:
        """Take a roster that somebody published by hand; the next screen goes on from it."""
        await store.insert_roster(unit.connection, roster, unit.lineage)
        unit.publish("pairs.screened", roster)
        self._screener.roster = tuple(roster_member(pair) for pair in roster.pairs)
