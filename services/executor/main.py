"""Executor: orders, fills and positions at the venue.

Consumes
    `orders.requested`; `drift.tripped`, which may take trading to reduce-only.
Publishes
    `positions.changed`: one event per close; `orders.updated` and `fills.booked` when there
    are any; `risk.changed` when a person, a limit or drift changes what may be traded.
Owns
    `orders`, `fills`, `pair_positions`, `account`, `trading_states`, `adjustments`,
    `quarantined_orders`, `execution_leases`.
Serves
    `GET /orders`, `/fills`, `/positions`, `/adjustments`, `/quarantined-orders`; `POST /halt`,
    `/reduce-only`, `/flatten`, `/cancel-all`; the routes every service has, of which `/status`
    tells what may be traded and `/resume` lifts it all.

The only service that holds the venue's keys.
"""

from __future__ import annotations

from fastapi import FastAPI

from services.executor.api import executor_routes
from services.executor.handlers import Executor
from shared.bus.consumer import Routes
from shared.service import Runtime, create_service, serve
from shared.settings import load_settings

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()
    executor = Executor(settings)

    def build(runtime: Runtime) -> Routes:
        executor.attach(runtime)
        return executor.routes

    return create_service("executor", VERSION, settings, build, executor_routes(settings, executor))


def run() -> None:
    """Serve until told to stop."""
    serve("services.executor.main:create_app")
