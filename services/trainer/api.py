"""REST routes of the trainer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, Field

from services.trainer import store
from services.trainer.handlers import Trainer
from services.trainer.requests import RequestQueue
from shared.database.engine import transaction
from shared.errors import MntError, RetryableError
from shared.service import TokenGuard
from shared.settings import Settings


class PromotionRequest(BaseModel, extra="forbid"):
    """Which model becomes champion, and why its gates are overridden."""

    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    reason: Annotated[str, Field(min_length=1, max_length=500)]


def trainer_routes(settings: Settings, trainer: Trainer, requests: RequestQueue) -> APIRouter:
    """Return the routes of the trainer."""
    router = APIRouter()
    guard = Depends(TokenGuard(settings))

    @router.post("/train", dependencies=[guard], summary="Train now, up to the last close")
    async def train() -> dict[str, Any]:
        return await _answer(requests, "train", trainer.train_on_request)

    @router.post("/promote", dependencies=[guard], summary="Make a model champion (an override)")
    async def promote(body: PromotionRequest) -> dict[str, Any]:
        return await _answer(
            requests, "promote", lambda unit: trainer.promote(unit, body.sha256, body.reason)
        )

    @router.get("/models", summary="Every model, newest first")
    async def models(request: Request) -> list[dict[str, Any]]:
        try:
            async with transaction(request.app.state.runtime.engine) as connection:
                return await store.list_models(connection)
        except RetryableError as error:
            raise HTTPException(503, str(error)) from error

    return router


async def _answer(requests: RequestQueue, name: str, job: Any) -> dict[str, Any]:
    try:
        return await requests.do(name, job)
    except RetryableError as error:
        raise HTTPException(503, str(error)) from error
    except MntError as error:
        raise HTTPException(409, str(error)) from error
