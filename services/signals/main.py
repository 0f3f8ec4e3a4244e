"""Signals: entries and exits.

Consumes
    `features.computed`, `models.promoted`.
Publishes
    `signals.raised`: one event per close, with every signal of it; often none.
Owns
    `signals`, `rule_memory`, `shadow_closes`.
Serves
    `GET /signals`, `/model-info`; `POST /predict`, `/reload-model`; the routes every service
    has.
"""

from __future__ import annotations

from fastapi import FastAPI

from services.signals.api import signals_routes
from services.signals.handlers import Signals
from shared.service import create_service, serve
from shared.settings import load_settings

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()
    signals = Signals(settings)
    return create_service(
        "signals", VERSION, settings, lambda _: signals.routes, signals_routes(settings, signals)
    )


def run() -> None:
    """Serve until told to stop."""
    serve("services.signals.main:create_app")
