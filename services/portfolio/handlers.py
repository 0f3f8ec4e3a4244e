"""Use cases of the portfolio."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from services.portfolio import store
from shared.book.instrument import Instrument
from shared.book.targets import LiveTarget, plan_intents, release_closed
from shared.bus.consumer import UnitOfWork
from shared.database.instruments import load_instruments
from shared.events.executor import PositionsChanged
from shared.events.portfolio import OrdersRequested
from shared.events.signals import SignalsRaised
from shared.settings import Settings


class Portfolio:
    """Turns signals into intents and keeps the slots.

    Parameters
    ----------
    settings
        Of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._live: dict[tuple[str, str], LiveTarget] = {}
        self._instruments: dict[str, Instrument] = {}

    async def reload(self, connection: AsyncConnection) -> None:
        """Take the slots and the instruments from the record."""
        self._live = await store.load_live(connection)
        self._instruments = await load_instruments(connection, self._settings.venue_name)

    async def plan(self, raised: SignalsRaised, unit: UnitOfWork) -> None:
        """Plan, record and publish the intents of a close."""
        symbols = {s for signal in raised.signals for s in (signal.y, signal.x)}
        if not symbols <= self._instruments.keys():
            venue = self._settings.venue_name
            self._instruments = await load_instruments(unit.connection, venue)
        plan = plan_intents(
            self._live,
            raised,
            self._instruments,
            self._settings.portfolio,
            self._settings.features.spread_space,
        )
        await store.insert_targets(unit.connection, raised.closes_at, plan, unit.lineage)
        await store.insert_intents(unit.connection, plan.requested, unit.lineage)
        await store.save_live(unit.connection, self._live, plan.live)
        unit.publish("orders.requested", plan.requested)
        self._keep_after_commit(plan.live, unit)

    async def release(self, changed: PositionsChanged, unit: UnitOfWork) -> None:
        """Free the slots of closed positions."""
        live = release_closed(self._live, changed)
        await store.save_live(unit.connection, self._live, live)
        self._keep_after_commit(live, unit)

    async def adopt(self, requested: OrdersRequested, unit: UnitOfWork) -> None:
        """Take in intents that somebody published by hand."""
        await store.insert_intents(unit.connection, requested, unit.lineage)
        unit.publish("orders.requested", requested)

    def _keep_after_commit(self, live: dict[tuple[str, str], LiveTarget], unit: UnitOfWork) -> None:
        def keep() -> None:
            self._live = live

        unit.after_commit(keep)
