"""Use cases of the portfolio."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from services.portfolio import store
from services.portfolio.domain import LimitChange, limits_at
from shared.book.instrument import Instrument
from shared.book.sizing import SizingSettings
from shared.book.targets import LiveTarget, plan_intents, release_closed
from shared.bus import log
from shared.bus.consumer import Routes, UnitOfWork
from shared.clock import ms_of_instant
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
        self._limit_changes: list[LimitChange] = []
        self._last_closes_at: datetime | None = None

    @property
    def routes(self) -> Routes:
        """What the portfolio does with what it reads."""
        return Routes(
            handlers={"signals.raised": self.plan, "positions.changed": self.release},
            adopters={"orders.requested": self.adopt},
            reload=self.reload,
            at_once=frozenset({"signals.raised", "positions.changed"}),
            recorders={"orders.requested": store.plan_rows},
        )

    @property
    def limits(self) -> SizingSettings:
        """The limits of the next close."""
        changes = self._limit_changes
        return changes[-1].limits if changes else self._settings.portfolio

    async def reload(self, connection: AsyncConnection) -> None:
        """Take the slots, the instruments and the limits from the record."""
        self._live = await store.load_live(connection)
        self._instruments = await load_instruments(connection, self._settings.venue_name)
        self._limit_changes = await store.load_limit_changes(connection)
        self._last_closes_at = await log.newest_consumed_close(
            connection, "portfolio", "signals.raised"
        )

    async def plan(self, raised: SignalsRaised, unit: UnitOfWork) -> None:
        """Plan and publish the intents of a close, and record the slots they take."""
        symbols = {*raised.y, *raised.x}
        if not symbols <= self._instruments.keys():
            venue = self._settings.venue_name
            self._instruments = await load_instruments(unit.connection, venue)
        plan = plan_intents(
            self._live,
            raised,
            self._instruments,
            limits_at(self._limit_changes, raised.closes_at_ms, self._settings.portfolio),
            self._settings.features.spread_space,
        )
        unit.record(*store.slot_rows(self._live, plan.live))
        unit.publish("orders.requested", plan.requested)
        self._keep_after_commit(plan.live, unit)
        last_closes_at = max(raised.closes_at, self._last_closes_at or raised.closes_at)

        def remember() -> None:
            self._last_closes_at = last_closes_at

        unit.after_commit(remember)

    async def release(self, changed: PositionsChanged, unit: UnitOfWork) -> None:
        """Free the slots of closed positions."""
        live = release_closed(self._live, changed)
        unit.record(*store.slot_rows(self._live, live))
        self._keep_after_commit(live, unit)

    async def change_limits(
        self, unit: UnitOfWork, wanted: Mapping[str, float], reason: str, operator: str
    ) -> None:
        """Change some of the limits; they are in force from the next close on.

        The change is stamped with the last close that was handled, so that every close has
        the limits it had, whatever is handled again or comes late.

        Parameters
        ----------
        unit
            The transaction.
        wanted
            Fields of `SizingSettings`; the others stay as they are.
        reason, operator
            Why, and who says so; recorded.
        """
        limits = SizingSettings(**(self.limits.model_dump() | dict(wanted)))
        from_closes_at = self._last_closes_at
        await store.insert_limit_change(
            unit.connection,
            limits,
            from_closes_at=from_closes_at,
            reason=reason,
            decided_by=operator,
            lineage=unit.lineage,
        )
        from_ms = None if from_closes_at is None else ms_of_instant(from_closes_at)

        def keep() -> None:
            self._limit_changes = [*self._limit_changes, LimitChange(from_ms, limits)]

        unit.after_commit(keep)

    async def adopt(self, requested: OrdersRequested, unit: UnitOfWork) -> None:
        """Take in intents that somebody published by hand."""
        unit.publish("orders.requested", requested)

    def _keep_after_commit(self, live: dict[tuple[str, str], LiveTarget], unit: UnitOfWork) -> None:
        def keep() -> None:
            self._live = live

        unit.after_commit(keep)
