"""Ingest: checked bars.

Consumes
    `pairs.screened` when it follows a venue: which symbols to follow in the trade timeframe.
    Plain entries on `bars.*` are adopted.
Publishes
    `bars.<timeframe>`: one `BarsClosed` per venue, timeframe and close, and a further one
    for bars that are late.
Owns
    `bars`, `bar_quarantine`, `instruments`, `replay_progress`.
Serves
    `GET /coverage`, `POST /backfill`, and the routes every service has.

With recorded files it releases one close after another: each only when the whole fleet has
drained the one before and the paper venue's market has reached it. Without them it follows
the venue, and what "now" is, is the venue's time.
"""

from __future__ import annotations

from fastapi import FastAPI

from services.ingest.api import ingest_routes
from services.ingest.following import VenueSource
from services.ingest.handlers import Ingest
from services.ingest.recorded import RecordedSource
from shared.bus.consumer import Routes
from shared.clock import ms_of_instant, utc_now
from shared.events.catalogue import owned_topics
from shared.service import Runtime, create_service, serve
from shared.settings import load_settings

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()

    def build(runtime: Runtime) -> Routes:
        topics = owned_topics("ingest")
        if settings.replay.bars or not settings.follow.enabled:
            ingest = Ingest(settings.ingest, lambda _: ms_of_instant(utc_now()))
            recorded = RecordedSource(settings, runtime) if settings.replay.bars else None
            return Routes(
                # Nothing: a replay waits until all that is consumed has been handled.
                handlers={},
                adopters={topic.name: ingest.adopter(topic.name) for topic in topics},
                reload=ingest.reload,
                when_idle=None if recorded is None else recorded.release_next,
            )
        source = VenueSource(settings, runtime)
        ingest = Ingest(settings.ingest, source.now_ms)
        app.state.venue_source = source
        return Routes(
            handlers={"pairs.screened": source.follow_roster},
            adopters={topic.name: ingest.adopter(topic.name) for topic in topics},
            reload=source.reload,
            when_idle=source.serve,
            close=source.close,
        )

    app = create_service("ingest", VERSION, settings, build, ingest_routes(settings))
    app.state.venue_source = None
    return app


def run() -> None:
    """Serve until told to stop."""
    serve("services.ingest.main:create_app")
