"""Features: the features of every followed pair at every trade close.

Consumes
    `bars.<trade timeframe>`, `pairs.screened`.
Publishes
    `features.computed`: one event per close, also when no pair is followed.
Owns
    `features`, `feature_sets`.
Serves
    `GET /features/{pair}`, and the routes every service has.
"""

from __future__ import annotations

from fastapi import FastAPI

from services.features.api import features_routes
from services.features.handlers import Features
from shared.bus.consumer import Routes
from shared.service import Runtime, create_service, serve
from shared.settings import load_settings

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()

    def build(_: Runtime) -> Routes:
        features = Features(settings)
        return Routes(
            handlers={
                "pairs.screened": features.follow_roster,
                f"bars.{settings.trade_timeframe}": features.compute_close,
            },
            adopters={"features.computed": features.adopt},
            reload=features.reload,
            at_once=frozenset({f"bars.{settings.trade_timeframe}"}),
        )

    return create_service("features", VERSION, settings, build, features_routes())


def run() -> None:
    """Serve until told to stop."""
    serve("services.features.main:create_app")
