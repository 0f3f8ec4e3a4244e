"""REST routes of research cycles and of the jobs that start them."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi import Path as PathParameter

from services.trainer.cycles import Artefact, CycleRun, Cycles, Kind
from services.trainer.jobs import NAME, AppliedJob, CycleOptions, Job, JobDefinition, Jobs
from services.trainer.store import has_bars
from shared.access.guard import CONTROL, READ, Operator
from shared.bus.consumer import UnitOfWork
from shared.errors import DataError
from shared.rest import Limit, refusals
from shared.service import ServedBy
from shared.settings import Settings, strategy_of
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME

JobName = Annotated[
    str, PathParameter(max_length=63, pattern=NAME, description="Small letters, digits, - and _")
]


def add_cycle_routes(router: APIRouter, settings: Settings) -> None:
    """Add the routes of cycles to those of the trainer."""
    cycles, jobs = Cycles(settings.home), Jobs(settings.home)

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

    @router.put(
        "/jobs/{name}",
        dependencies=[CONTROL],
        summary="Create a job or change it to a definition",
        responses=refusals(409),
    )
    async def apply(runtime: ServedBy, name: JobName, definition: JobDefinition) -> AppliedJob:
        """Keep a cycle's kind and options under a name; the same definition changes nothing."""
        strategy_of(definition.options.settings)

        async def keep(_: UnitOfWork) -> AppliedJob:
            return await asyncio.to_thread(jobs.apply, name, definition)

        return await runtime.do(f"apply job {name}", keep)

    @router.get("/jobs", dependencies=[READ], summary="Jobs by name", responses=refusals(409))
    async def defined(limit: Limit = 100) -> list[Job]:
        """Return the jobs that were applied."""
        return (await asyncio.to_thread(jobs.find_all))[:limit]

    @router.post(
        "/jobs/{name}/run",
        dependencies=[CONTROL],
        summary="Start the cycle of a job on the bars of the record",
        responses=refusals(404, 409),
    )
    async def run(runtime: ServedBy, name: JobName, operator: Operator) -> CycleRun:
        """Start what the job defines, in a process of its own, and answer at once."""
        job = await asyncio.to_thread(jobs.find, name)
        if job is None:
            raise HTTPException(404, f"no job {name}: see GET /jobs for those there are")
        return await start(runtime, job.definition.kind, job.definition.options, operator)

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
