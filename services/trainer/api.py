"""REST routes of the trainer."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from services.trainer import store
from services.trainer.console_api import add_console_routes
from services.trainer.cycle_api import add_cycle_routes
from services.trainer.domain import Stage
from services.trainer.handlers import Trainer
from services.trainer.occasions import OccasionKind
from services.trainer.promotion import Promoted
from services.trainer.training import Trained
from shared.access.guard import CONTROL, READ, TRADE, Operator
from shared.database.engine import snapshot
from shared.errors import DataError
from shared.events.trainer import TripwireAction
from shared.rest import Limit, Reasoned, Since, Until, refusals
from shared.service import ServedBy
from shared.settings import Settings


class PromotionRequest(Reasoned):
    """Which model rises, how far, and why.

    Attributes
    ----------
    sha256
        The model; when left out the challenger, or the shadow if there is no challenger.
    to
        `shadow` decides beside the champion without effect; `champion` decides.
    override
        Promote it also where a gate is failed or missing; `false` refuses then and names them.
    """

    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    to: Literal["shadow", "champion"] = "champion"
    override: bool = True


class Gate(BaseModel):
    """One gate as it was judged; what has no value is missing and passes nothing."""

    gate: str
    value: float | None
    comparison: Literal[">=", "<=", ">"]
    threshold: float
    verdict: Literal["passed", "failed", "missing"]


class StageGiven(BaseModel):
    """When and why a model was given a stage."""

    alias: Stage
    from_: datetime = Field(alias="from")
    override: bool
    rollback: bool
    reason: str | None
    decided_by: str
    gates_passed: bool
    gates: list[Gate]


class RecordedModel(BaseModel):
    """A model and the stages it was given, oldest first.

    Attributes
    ----------
    family
        Empty where it is a logistic regression from before there were families.
    stage
        The one it is at.
    n_shadow_closes
        Trade closes it has decided at without effect.
    """

    name: str
    family: str | None
    stage: Stage | None
    n_shadow_closes: int
    model_version: int
    sha256: str
    trained_at_close: datetime
    metrics: dict[str, Any]
    mlflow_run_id: str
    promotions: list[StageGiven]


class FeatureMoved(BaseModel):
    """How far a feature has moved: PSI, Kullback-Leibler, Kolmogorov-Smirnov."""

    name: str
    stability_index: float
    divergence: float
    ks_statistic: float
    ks_p_value: float


class FillsMeasured(BaseModel):
    """How far fills were from the opens of their bars, against us, and by the model."""

    n_fills: int
    realised_ppm: float
    modelled_ppm: float


class DriftCheck(BaseModel):
    """A check of the champion against its training, or of the fills against the model.

    Attributes
    ----------
    sha256
        The champion; empty where the fills were checked.
    slippage
        Of the fills; empty without any.
    calibration_gap
        Mean forecast less share of outcomes; empty without an outcome.
    walk_log_odds
        Natural logarithm of how much likelier the steps of the spreads are if they wander than
        if they come home as in training; empty where either side is too short.
    action
        What a tripped wire did beside this row.
    """

    sha256: str | None
    closes_at: datetime
    features: list[FeatureMoved]
    calibration_gap: float | None
    walk_log_odds: float | None
    slippage: FillsMeasured | None
    is_tripped: bool
    action: TripwireAction | Literal["none"]
    reasons: list[str]


class RecordedTraining(BaseModel):
    """A training: what it was for, and what came of it.

    Attributes
    ----------
    sha256
        The best model it made; empty where it made none.
    fault
        Why it made none.
    """

    closes_at: datetime
    occasion: OccasionKind
    reason: str
    sha256: str | None
    fault: str | None


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
    add_console_routes(router, settings)

    @router.post(
        "/train",
        dependencies=[CONTROL],
        summary="Train now, up to the last close",
        responses=refusals(409),
    )
    async def train(runtime: ServedBy, operator: Operator) -> Trained:
        """Train every family and answer when the models are recorded; it may take minutes.

        The best becomes challenger, and goes into the shadow if it passed the backtest's gates.
        The same rows give the same models, which are then recorded only once. A training that
        makes none is recorded as well, with every trial of it.
        """
        outcome = await runtime.do("train", lambda unit: trainer.train_on_request(unit, operator))
        if isinstance(outcome, DataError):
            raise outcome
        return outcome

    @router.post(
        "/promote",
        dependencies=[TRADE],
        summary="Make a model champion or shadow, by its gates or by override",
        responses=refusals(409),
    )
    async def promote(runtime: ServedBy, body: PromotionRequest, operator: Operator) -> Promoted:
        """Let a model decide, or decide in the shadow, from the next close on."""
        return await runtime.do(
            "promote",
            lambda unit: trainer.promote(
                unit, body.sha256, body.reason, operator, to=body.to, is_override=body.override
            ),
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

    @router.get("/models", dependencies=[READ], summary="Models and their stages, newest first")
    async def models(runtime: ServedBy, limit: Limit = 100) -> list[RecordedModel]:
        """Return models with every stage they were given, and the gates behind it."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.list_models(connection, limit)
        return [RecordedModel.model_validate(dict(row._mapping)) for row in rows]

    @router.get("/drift", dependencies=[READ], summary="Checks of drift, newest first")
    async def drift(runtime: ServedBy, limit: Limit = 100) -> list[DriftCheck]:
        """Return what was measured of champions and of fills, and what tripped."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.list_drift(connection, limit)
        return [DriftCheck.model_validate(dict(row._mapping)) for row in rows]

    @router.get("/trainings", dependencies=[READ], summary="What was trained for, tries included")
    async def trainings(runtime: ServedBy, limit: Limit = 100) -> list[RecordedTraining]:
        """Return trainings, newest first."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.list_trainings(connection, limit)
        return [RecordedTraining.model_validate(dict(row._mapping)) for row in rows]

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
