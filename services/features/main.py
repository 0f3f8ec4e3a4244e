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
from shared.service import create_service, serve
from shared.settings import load_settings

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()
    features = Features(settings)
    return create_service(
        "features", VERSION, settings, lambda _: features.routes, features_routes()
    )


def run() -> None:
    """Serve until told to stop."""
    serve("services.features.main:create_app")
