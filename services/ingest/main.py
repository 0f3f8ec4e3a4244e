"""Ingest: checked bars.

Consumes
    Nothing; it is the source. Plain entries on `bars.*` are adopted.
Publishes
    `bars.<timeframe>`: one `BarsClosed` per venue, timeframe and close.
Owns
    `bars`, `bar_quarantine`, `instruments`, `replay_progress`.
Serves
    The routes every service has.

With recorded files it releases one close after another: each only when the whole fleet has
drained the one before and the paper venue's market has reached it.
"""

from __future__ import annotations

from fastapi import FastAPI

from services.ingest.handlers import Ingest
from services.ingest.recorded import RecordedSource
from shared.bus.consumer import Routes
from shared.events.catalogue import owned_topics
from shared.service import Runtime, create_service, serve
from shared.settings import load_settings

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()

    def build(runtime: Runtime) -> Routes:
        ingest = Ingest(settings.ingest)
        source = RecordedSource(settings, runtime) if settings.replay.bars else None
        return Routes(
            handlers={},
            adopters={topic.name: ingest.adopter(topic.name) for topic in owned_topics("ingest")},
            reload=ingest.reload,
            when_idle=None if source is None else source.release_next,
        )

    return create_service("ingest", VERSION, settings, build)


def run() -> None:
    """Serve until told to stop."""
    serve("services.ingest.main:create_app")
