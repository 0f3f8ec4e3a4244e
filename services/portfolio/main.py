"""Portfolio: intents from signals, within slots and caps.

Consumes
    `signals.raised`, `positions.changed` (a closed position frees its slot).
Publishes
    `orders.requested`: one event per close, with every intent of it; often none.
Owns
    `targets`, `intents`, `slot_memory`, `limit_changes`.
Serves
    `GET /targets`, `/positions`, `/pnl`, `/limits`; `PUT /limits`; the routes every service
    has.
"""

from __future__ import annotations

from fastapi import FastAPI

from services.portfolio.api import portfolio_routes
from services.portfolio.handlers import Portfolio
from shared.service import create_service, serve
from shared.settings import load_settings

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()
    portfolio = Portfolio(settings)
    return create_service(
        "portfolio",
        VERSION,
        settings,
        lambda _: portfolio.routes,
        portfolio_routes(settings, portfolio),
    )


def run() -> None:
    """Serve until told to stop."""
    serve("services.portfolio.main:create_app")
