"""Screener: the roster of tradable pairs.

Consumes
    `bars.1h`.
Publishes
    `pairs.screened`: the roster after every screen, also an unchanged or empty one.
Owns
    `screens`, `roster`.
Serves
    `GET /pairs`; `POST /screen`, a rehearsal; the routes every service has.
"""

from __future__ import annotations

from fastapi import FastAPI

from services.screener.api import screener_routes
from services.screener.handlers import Screening
from shared.bus.consumer import Routes
from shared.service import Runtime, create_service, serve
from shared.settings import load_settings
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()
    screening = Screening(settings)

    def build(_: Runtime) -> Routes:
        return Routes(
            handlers={f"bars.{SCREEN_TIMEFRAME}": screening.screen_close},
            adopters={"pairs.screened": screening.adopt_roster},
            reload=screening.reload,
        )

    return create_service(
        "screener", VERSION, settings, build, screener_routes(settings, screening)
    )


def run() -> None:
    """Serve until told to stop."""
    serve("services.screener.main:create_app")
