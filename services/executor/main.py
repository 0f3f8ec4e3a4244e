"""Executor: orders, fills and positions at the venue.

Consumes
    `orders.requested`.
Publishes
    `positions.changed`: one event per close; `orders.updated` and `fills.booked` when there
    are any.
Owns
    `orders`, `fills`, `pair_positions`, `account`.
Serves
    The routes every service has.

The only service that holds the venue's keys.
"""

from __future__ import annotations

from fastapi import FastAPI

from services.executor.handlers import Executor
from shared.bus.consumer import Routes
from shared.service import Runtime, create_service, serve
from shared.settings import load_settings

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()

    def build(runtime: Runtime) -> Routes:
        executor = Executor(settings, runtime)
        return Routes(
            handlers={"orders.requested": executor.settle},
            adopters={
                "orders.updated": executor.refuse_foreign,
                "fills.booked": executor.refuse_foreign,
                "positions.changed": executor.refuse_foreign,
            },
            reload=executor.reload,
            when_idle=executor.resolve_in_flight,
            close=executor.close,
        )

    return create_service("executor", VERSION, settings, build)


def run() -> None:
    """Serve until told to stop."""
    serve("services.executor.main:create_app")
