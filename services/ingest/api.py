"""REST routes of ingest."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import AwareDatetime, BaseModel, Field

from services.ingest import store
from services.ingest.backfill import Backfill
from services.ingest.following import VenueSource
from shared.access.guard import CONTROL, READ
from shared.clock import TIMEFRAME_MS, instant_of_ms, ms_of_instant
from shared.database.engine import transaction
from shared.events.base import Symbol
from shared.rest import refusals
from shared.service import ServedBy
from shared.settings import Settings

MOST_SYMBOLS = 1_000
MOST_ROWS = 5_000

Timeframe = Literal["1m", "5m", "15m", "1h", "4h", "1d"]


class BackfillRequest(BaseModel, extra="forbid"):
    """Which bars to fetch where the record lacks them.

    Attributes
    ----------
    since, until
        Opening of the first and close of the last bar; without `until` the last close that
        has been published.
    """

    symbols: Annotated[
        tuple[Symbol, ...],
        Field(min_length=1, max_length=MOST_SYMBOLS, examples=[["BTC/USDT", "ETH/USDT"]]),
    ]
    timeframe: Annotated[Timeframe, Field(examples=["1h"])]
    since: Annotated[AwareDatetime, Field(examples=["2025-01-01T00:00:00Z"])]
    until: Annotated[AwareDatetime | None, Field(examples=["2025-02-01T00:00:00Z"])] = None


class BackfillProgress(BaseModel):
    """How far a backfill has come.

    Attributes
    ----------
    error
        Why it failed, or why the venue refused some symbol.
    """

    backfill_id: str = Field(examples=["request-7"])
    state: Literal["waiting", "running", "done", "failed"]
    timeframe: str
    symbols: int
    symbols_done: int
    bars: int = Field(description="Bars recorded")
    percent: float
    eta_seconds: float | None
    error: str | None


class SymbolCoverage(BaseModel):
    """What is recorded of a symbol in a timeframe.

    Attributes
    ----------
    first_bar, last_bar
        Closes.
    gaps, largest_gap_bars
        Stretches without bars between them, and how many bars the longest lacks.
    quarantined
        Closes of which a bar was refused.
    """

    symbol: str = Field(examples=["BTC/USDT"])
    timeframe: str = Field(examples=["1h"])
    first_bar: datetime | None
    last_bar: datetime | None
    bars: int = Field(examples=[7_991])
    gaps: int = Field(examples=[1])
    largest_gap_bars: int = Field(examples=[3])
    quarantined: int = Field(examples=[0])


class FollowerState(BaseModel):
    """How the venue is followed.

    Attributes
    ----------
    enabled
        Whether a venue is followed at all: not by a replay.
    connected, streaming
        Whether the venue answers, and whether its websocket brings candles.
    venue_time
        The venue's clock as last heard.
    last_close
        The last close that was published.
    streams
        Symbols followed, by timeframe.
    last_error, last_error_at
        What went wrong last; it may be over.
    """

    enabled: bool
    connected: bool = False
    streaming: bool = False
    venue_time: datetime | None = None
    last_close: datetime | None = None
    streams: dict[str, int] = {}
    last_error: str | None = None
    last_error_at: datetime | None = None


class Coverage(BaseModel):
    """What ingest has, and what it is doing."""

    venue: str
    follower: FollowerState
    backfills: list[BackfillProgress]
    coverage: list[SymbolCoverage]


def ingest_routes(settings: Settings) -> APIRouter:
    """Return the routes of ingest."""
    router = APIRouter()

    @router.get(
        "/coverage",
        dependencies=[READ],
        summary="Recorded bars, gaps, backfills and the state of following",
    )
    async def coverage(
        request: Request,
        runtime: ServedBy,
        timeframe: Annotated[Timeframe | None, Query(description="Only this timeframe")] = None,
        symbol: Annotated[list[str] | None, Query(description="Only these symbols")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS, description="Most rows")] = MOST_ROWS,
    ) -> Coverage:
        """Count what is recorded of every symbol of the venue, by timeframe."""
        async with transaction(runtime.engine) as connection:
            rows = await store.read_coverage(
                connection, settings.venue_name, timeframe, symbol, limit
            )
        source: VenueSource | None = request.app.state.venue_source
        return Coverage(
            venue=settings.venue_name,
            follower=_state_of(source),
            backfills=[] if source is None else [_progress_of(each) for each in source.backfills],
            coverage=[SymbolCoverage(**row) for row in rows],
        )

    @router.post(
        "/backfill",
        dependencies=[CONTROL],
        status_code=202,
        summary="Fetch the bars that the record lacks",
        responses=refusals(409),
    )
    async def backfill(request: Request, body: BackfillRequest) -> BackfillProgress:
        """Queue a backfill; how far it has come is shown by `GET /coverage`."""
        source: VenueSource | None = request.app.state.venue_source
        if source is None:
            raise HTTPException(
                409,
                "no venue is followed: this fleet replays files, or MNT_FOLLOW__ENABLED is false",
            )
        listed = source.listed_symbols()
        if unknown := sorted(set(body.symbols) - listed):
            some = ", ".join(sorted(listed)[:5])
            raise HTTPException(
                422, f"{', '.join(unknown[:10])} do not trade at the venue: it lists {some}, ..."
            )
        since_ms, until_ms = _span_of(body, source)
        return _progress_of(source.request(set(body.symbols), body.timeframe, since_ms, until_ms))

    return router


def _span_of(body: BackfillRequest, source: VenueSource) -> tuple[int, int | None]:
    """Return the span of a request, which must lie in the venue's past."""
    now_ms = source.venue_ms or 0
    since_ms = ms_of_instant(body.since)
    until_ms = None if body.until is None else ms_of_instant(body.until)
    for name, at_ms in (("since", since_ms), ("until", until_ms)):
        if at_ms is not None and at_ms > now_ms:
            raise HTTPException(
                409,
                f"{name} {instant_of_ms(at_ms).isoformat()} is in the future of the venue, whose "
                f"time is {instant_of_ms(now_ms).isoformat()}: give an earlier instant",
            )
    if since_ms < 0 or (
        until_ms is not None and until_ms - since_ms < TIMEFRAME_MS[body.timeframe]
    ):
        raise HTTPException(
            409,
            f"no {body.timeframe} bar fits between since and until: give a longer span after 1970",
        )
    return since_ms, until_ms


def _progress_of(backfill: Backfill) -> BackfillProgress:
    return BackfillProgress(
        backfill_id=backfill.backfill_id,
        state=backfill.state,
        timeframe=backfill.timeframe,
        symbols=len(backfill.symbols),
        symbols_done=backfill.symbols_done,
        bars=backfill.bars,
        percent=round(100 * backfill.ratio, 1),
        eta_seconds=backfill.eta_seconds,
        error=backfill.error,
    )


def _state_of(source: VenueSource | None) -> FollowerState:
    if source is None:
        return FollowerState(enabled=False)
    streams: dict[str, int] = {}
    for timeframe, _ in source.streams:
        streams[timeframe] = streams.get(timeframe, 0) + 1
    return FollowerState(
        enabled=True,
        connected=source.is_connected,
        streaming=source.is_streaming,
        venue_time=_instant(source.venue_ms),
        last_close=_instant(source.through_ms),
        streams=streams,
        last_error=None if source.last_fault is None else source.last_fault.message,
        last_error_at=None if source.last_fault is None else source.last_fault.at,
    )


def _instant(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else instant_of_ms(at_ms)
