"""REST routes of the trainer."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from services.trainer import store
from services.trainer.cycle_api import add_cycle_routes
from services.trainer.handlers import Promoted, Trained, Trainer
from shared.access.guard import CONTROL, READ, TRADE, Operator
from shared.database.engine import snapshot
from shared.rest import Limit, Reasoned, Since, Until, refusals
from shared.service import ServedBy
from shared.settings import Settings


class PromotionRequest(Reasoned):
    """Which model becomes champion, and why its gates are overridden.

    Attributes
    ----------
    sha256
        The model; the newest challenger when left out.
    """

    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")


class AliasGiven(BaseModel):
    """When and why a model was given an alias."""

    alias: Literal["challenger", "champion"]
    from_: datetime = Field(alias="from")
    override: bool
    rollback: bool
    reason: str | None
    decided_by: str


class RecordedModel(BaseModel):
    """A model and the aliases it was given, oldest first."""

    name: str
    model_version: int
    sha256: str
    trained_at_close: datetime
    metrics: dict[str, Any]
    mlflow_run_id: str
    promotions: list[AliasGiven]


class TrainingSet(BaseModel):
    """What a model was trained on.

    Attributes
    ----------
    manifest
        Features, label and whether the samples took part in choosing the pairs.
    """

    dataset_id: str
    from_closes_at: datetime
    to_closes_at: datetime
    n_rows: int
    n_positive: int
    manifest: dict[str, Any]


class TrainingRun(BaseModel):
    """A training: its data, its scores, the model it made and where MLflow has it."""

    trained_at_close: datetime
    recorded_at: datetime
    name: str
    model_version: int
    sha256: str
    mlflow_run_id: str
    metrics: dict[str, Any]
    dataset: TrainingSet


def trainer_routes(settings: Settings, trainer: Trainer) -> APIRouter:
    """Return the routes of the trainer."""
    router = APIRouter()
    add_cycle_routes(router, settings)

    @router.post(
        "/train",
        dependencies=[CONTROL],
        summary="Train now, up to the last close",
        responses=refusals(409),
    )
    async def train(runtime: ServedBy) -> Trained:
        """Train a challenger and answer when it is recorded; it may take minutes.

        The same rows give the same model, which is then recorded only once.
        """
        return await runtime.do("train", trainer.train_on_request)

    @router.post(
        "/promote",
        dependencies=[TRADE],
        summary="Make a model champion (an override)",
        responses=refusals(409),
    )
    async def promote(runtime: ServedBy, body: PromotionRequest, operator: Operator) -> Promoted:
        """Let a model decide from the next close on although it has passed no gates."""
        return await runtime.do(
            "promote",
            lambda unit: trainer.promote(unit, body.sha256, body.reason, operator),
        )

    @router.post(
        "/rollback",
        dependencies=[TRADE],
        summary="Make the champion before the present one champion again",
        responses=refusals(409),
    )
    async def rollback(runtime: ServedBy, body: Reasoned, operator: Operator) -> Promoted:
        """Take the present champion back; where it was the first, the z rule decides again.

        Rolling back twice goes back two champions. Positions that the champion opened are
        held and left as before: exits never ask a model.
        """
        return await runtime.do(
            "rollback", lambda unit: trainer.roll_back(unit, body.reason, operator)
        )

    @router.get("/models", dependencies=[READ], summary="Models and their aliases, newest first")
    async def models(runtime: ServedBy, limit: Limit = 100) -> list[RecordedModel]:
        """Return models with every alias they were given."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.list_models(connection, limit)
        return [RecordedModel.model_validate(dict(row._mapping)) for row in rows]

    @router.get(
        "/runs",
        dependencies=[READ],
        summary="Trainings with data, scores and MLflow run, newest first",
    )
    async def runs(
        runtime: ServedBy, since: Since = None, until: Until = None, limit: Limit = 100
    ) -> list[TrainingRun]:
        """Return trainings by the last close they were trained on."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.list_runs(connection, since=since, until=until, limit=limit)
        return [TrainingRun(**row._mapping, dataset=TrainingSet(**row._mapping)) for row in rows]

    return router
