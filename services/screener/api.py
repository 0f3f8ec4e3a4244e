"""REST routes of the screener."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query
from pydantic import AwareDatetime, BaseModel

from services.screener import store
from services.screener.handlers import Screening
from shared.access.guard import CONTROL, READ
from shared.database.engine import snapshot
from shared.events.screener import RosterPair
from shared.rest import Limit, refusals
from shared.service import ServedBy, Status
from shared.settings import Settings
from shared.sleeves.pairs.screening import PairStatistics
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME


class ScreenFacts(BaseModel):
    """What one screen tested, and how.

    Attributes
    ----------
    n_accepted
        Tests the method accepted, before every filter.
    excluded
        Symbols that were not tested, each with the reason.
    symbols_by_bars
        How many symbols were tested on how many bars; a pair is tested on those of the leg
        that has fewer.
    """

    closes_at: datetime
    timeframe: str
    method: str
    level: float
    n_symbols: int
    n_tests: int
    n_accepted: int
    summary: str
    excluded: dict[str, str]
    symbols_by_bars: dict[int, int]


class ScreenerStatus(Status):
    """How far the screener is, and what its last screen tested; `None` before the first."""

    last_screen: ScreenFacts | None


class Roster(ScreenFacts):
    """The roster after a screen; it applies from the first trade close after it.

    Attributes
    ----------
    n_pairs
        Pairs by status, also those beyond the limit.
    """

    n_pairs: dict[Literal["candidate", "active", "closing_only"], int]
    pairs: list[RosterPair]


class RefusedPair(BaseModel):
    """An accepted pair that a filter refused."""

    y: str
    x: str
    reason: str


class Rehearsal(ScreenFacts):
    """A screen without effect.

    Attributes
    ----------
    candidates
        Accepted pairs that pass every filter; whether one is on the roster is a matter of how
        often it was, which a rehearsal does not count.
    refused
        Accepted pairs that a filter refused.
    """

    candidates: list[PairStatistics]
    refused: list[RefusedPair]


def screener_routes(settings: Settings, screening: Screening) -> APIRouter:
    """Return the routes of the screener."""
    router = APIRouter()

    @router.get(
        "/pairs",
        dependencies=[READ],
        summary="The roster with the statistics of each pair",
        responses=refusals(404),
    )
    async def pairs(
        runtime: ServedBy,
        closes_at: Annotated[
            AwareDatetime | None,
            Query(
                description="The roster as of this instant; without it the present one",
                examples=["2024-03-10T13:00:00Z"],
            ),
        ] = None,
        status: Annotated[
            Literal["candidate", "active", "closing_only"] | None,
            Query(description="Only pairs of this status"),
        ] = None,
        limit: Limit = 100,
    ) -> Roster:
        """Return the last screen and its roster: active pairs first, then by p-value."""
        async with snapshot(runtime.engine) as connection:
            screen = await store.find_screen(connection, SCREEN_TIMEFRAME, closes_at)
            if screen is None:
                raise HTTPException(
                    404,
                    "no screen has been made"
                    + (f" up to {closes_at.isoformat()}" if closes_at else " yet")
                    + f": one is made at every {SCREEN_TIMEFRAME} close; POST /screen rehearses it",
                )
            counts = await store.roster_counts(connection, screen.closes_at)
            found = await store.find_roster(
                connection, screen.closes_at, status=status, limit=limit
            )
        return Roster(**screen._mapping, n_pairs=counts, pairs=found)

    @router.post(
        "/screen",
        dependencies=[CONTROL],
        summary="Screen the last window now, without effect",
        responses=refusals(409),
    )
    async def screen(runtime: ServedBy) -> Rehearsal:
        """Rehearse a screen of the last recorded window and answer with what it accepts.

        The roster stays as it is: the screen of a close counts towards the stability of its
        pairs once, and is made when the close comes.
        """
        rehearsed = await runtime.do("screen", screening.rehearse)
        found = rehearsed.screen
        return Rehearsal(
            **rehearsed.event.model_dump(exclude={"pairs", "version"}),
            excluded=rehearsed.excluded,
            symbols_by_bars=rehearsed.symbols_by_bars,
            candidates=[] if found is None else list(found.candidates),
            refused=[]
            if found is None
            else [RefusedPair(y=y, x=x, reason=reason) for y, x, reason in found.refused],
        )

    @router.get(
        "/status",
        dependencies=[READ],
        summary="Lag, last close, state, and what the last screen tested",
    )
    async def status(runtime: ServedBy) -> ScreenerStatus:
        """Answer like every service, with the facts of the last screen beside it."""
        async with snapshot(runtime.engine) as connection:
            screen = await store.find_screen(connection, SCREEN_TIMEFRAME, None)
        common = await runtime.status()
        facts = None if screen is None else ScreenFacts.model_validate(dict(screen._mapping))
        return ScreenerStatus(**common.model_dump(), last_screen=facts)

    return router
