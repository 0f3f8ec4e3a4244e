"""REST routes of research cycles."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi import Path as PathParameter
from pydantic import AwareDatetime, BaseModel, Field

from services.trainer.cycles import Artefact, CycleRun, Cycles, Kind
from services.trainer.store import has_bars
from shared.access.guard import CONTROL, READ, Operator
from shared.bus.consumer import UnitOfWork
from shared.errors import DataError
from shared.rest import Limit, refusals
from shared.service import ServedBy
from shared.settings import Settings, strategy_of
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME

_FEWEST_SCREEN_DAYS, _MOST_SCREEN_DAYS = 1, 365


class CycleOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of a cycle; the bars are those of the record.

    Attributes
    ----------
    start, test_start, end
        Bounds of training and test.
    settings
        As `key=value`, such as `screener.method=p_value`.
    """

    start: AwareDatetime | None = None
    test_start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    screen_every_days: int = Field(7, ge=_FEWEST_SCREEN_DAYS, le=_MOST_SCREEN_DAYS)
    settings: tuple[Annotated[str, Field(max_length=200)], ...] = Field((), max_length=50)

    def arguments(self) -> list[str]:
        """Return them as options of `mnt cycle`."""
        instants = {"start": self.start, "test-start": self.test_start, "end": self.end}
        return [
            *(f"--{name}={at.isoformat()}" for name, at in instants.items() if at is not None),
            f"--screen-every-days={self.screen_every_days}",
            *(f"--set={each}" for each in self.settings),
        ]


def add_cycle_routes(router: APIRouter, settings: Settings) -> None:
    """Add the routes of cycles to those of the trainer."""
    cycles = Cycles(settings.home)

    async def start(
        runtime: ServedBy, kind: Kind, options: CycleOptions, operator: str
    ) -> CycleRun:
        strategy_of(options.settings)  # refused here rather than in the log of a process

        async def begin(unit: UnitOfWork) -> CycleRun:
            for timeframe in (SCREEN_TIMEFRAME, settings.trade_timeframe):
                if not await has_bars(unit.connection, settings.venue_name, timeframe):
                    raise DataError(
                        f"the record holds no bar of {timeframe}: let the fleet gather bars first"
                    )
            return await asyncio.to_thread(cycles.start, kind, options.arguments(), operator)

        return await runtime.do(f"start a {kind} cycle", begin)

    @router.post(
        "/cycles/short",
        dependencies=[CONTROL],
        summary="Start a short cycle on the bars of the record",
        responses=refusals(409),
    )
    async def short(runtime: ServedBy, options: CycleOptions, operator: Operator) -> CycleRun:
        """Start one family with one label in a process of its own and answer at once."""
        return await start(runtime, "short", options, operator)

    @router.post(
        "/cycles/full",
        dependencies=[CONTROL],
        summary="Start a full cycle on the bars of the record",
        responses=refusals(409),
    )
    async def full(runtime: ServedBy, options: CycleOptions, operator: Operator) -> CycleRun:
        """Start several families and labels in a process of its own and answer at once."""
        return await start(runtime, "full", options, operator)

    @router.get("/cycles", dependencies=[READ], summary="Cycles, newest first")
    async def listed(limit: Limit = 100) -> list[CycleRun]:
        """Return cycles with their states, those of before a restart too."""
        return (await asyncio.to_thread(cycles.find_all))[:limit]

    @router.get(
        "/cycles/{cycle_id}",
        dependencies=[READ],
        summary="One cycle: its state, verdict and log",
        responses=refusals(404),
    )
    async def one(cycle_id: Annotated[str, PathParameter(max_length=100)]) -> CycleRun:
        """Return a cycle that was started here, before a restart too."""
        found = await asyncio.to_thread(cycles.find, cycle_id)
        if found is None:
            raise HTTPException(404, f"no cycle {cycle_id}: see GET /cycles for those there are")
        return found

    @router.get(
        "/artifacts",
        dependencies=[READ],
        summary="Files of finished cycles, newest cycle first",
        responses=refusals(409),
    )
    async def artifacts(
        limit: Limit = 100,
        cycle_id: Annotated[
            str | None, Query(max_length=100, description="Only the files of this cycle")
        ] = None,
    ) -> list[Artefact]:
        """Return the files of finished cycles with their hashes."""
        return (await asyncio.to_thread(cycles.artefacts, cycle_id))[:limit]
