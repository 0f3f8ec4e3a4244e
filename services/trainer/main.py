"""Trainer."""

from __future__ import annotations

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.bus.consumer import Routes, UnitOfWork
from shared.events.base import Event
from shared.service import Runtime, create_service, serve
from shared.settings import load_settings


async def _nothing(event: Event, unit: UnitOfWork) -> None:
    """Do nothing."""


async def _reload(connection: AsyncConnection) -> None:
    """Do nothing."""


def create_app() -> FastAPI:
    """Build."""

    def build(_: Runtime) -> Routes:
        return Routes({"features.computed": _nothing}, {"models.promoted": _nothing}, _reload)

    return create_service("trainer", "1", load_settings(), build)


def run() -> None:
    """Serve."""
    serve("services.trainer.main:create_app", load_settings())
