"""REST routes of signals."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, Field

from services.signals import store
from services.signals.handlers import Prediction, Promotion, Signals
from shared.access.guard import CONTROL, READ
from shared.clock import instant_of_ms
from shared.database.engine import snapshot
from shared.errors import ContractError
from shared.events.base import Finite
from shared.events.signals import SignalFact
from shared.rest import Limit, PairName, Since, Until, refusals
from shared.service import ServedBy
from shared.settings import Settings


class RecordedSignal(SignalFact):
    """A signal and its close."""

    closes_at: datetime


class AliasHolder(BaseModel):
    """The model that has an alias.

    Attributes
    ----------
    since
        It has the alias for closes after this one.
    version, sha256
        Empty where a rollback left the alias without a model; the other facts are then, too.
    override_reason
        Why an operator overrode the gates, if one did.
    fault
        Why the model was refused, if it was; entries wait then.
    """

    since: datetime
    version: int | None
    sha256: str | None
    is_rollback: bool
    override_reason: str | None
    fault: str | None
    features: list[str]
    label: str | None
    trained_from: datetime | None
    trained_to: datetime | None
    n_samples: int | None


class ModelInfo(BaseModel):
    """Who decides on entries, and the models there are.

    Attributes
    ----------
    decides
        On entries at the next close: the champion, the z rule, or nobody, because entries
        are to come from a champion and there is none. Exits come from the z rule always.
    signals_from
        The setting behind it.
    """

    decides: Literal["model", "z", "nobody"]
    signals_from: Literal["z", "model", "auto"]
    probability_threshold: float
    entry_z: float
    champion: AliasHolder | None
    challenger: AliasHolder | None
    shadow: AliasHolder | None


class FeatureRowGiven(BaseModel, extra="forbid"):
    """A feature row: exactly the features of the champion, which `GET /model-info` names."""

    features: dict[str, Finite] = Field(
        max_length=1_000, examples=[{"z_score": 2.3, "half_life_bars": 14.0}]
    )


def signals_routes(settings: Settings, signals: Signals) -> APIRouter:
    """Return the routes of signals."""
    router = APIRouter()

    @router.get("/signals", dependencies=[READ], summary="Signals, newest first")
    async def recorded_signals(
        runtime: ServedBy,
        pair: PairName = None,
        action: Annotated[
            Literal["enter", "exit"] | None, Query(description="Only entries, or only exits")
        ] = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
    ) -> list[RecordedSignal]:
        """Return signals by their close, also those that the portfolio refused."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.find_signals(
                connection, pair=pair, action=action, since=since, until=until, limit=limit
            )
        names = RecordedSignal.model_fields
        return [RecordedSignal(**{name: getattr(row, name) for name in names}) for row in rows]

    @router.get(
        "/model-info", dependencies=[READ], summary="Who decides now: the champion or the z rule"
    )
    async def model_info() -> ModelInfo:
        """Return the models as this service has loaded them, and who decides."""
        return _model_info(settings, signals)

    @router.post(
        "/reload-model",
        dependencies=[CONTROL],
        summary="Load the models anew, each by its recorded hash",
        responses=refusals(409),
    )
    async def reload_model(runtime: ServedBy) -> ModelInfo:
        """Read the promoted models from the record again; a changed one is refused.

        Promotions are followed by themselves; this is for a record that was repaired.
        """
        await runtime.do("reload-model", signals.reload_models)
        return _model_info(settings, signals)

    @router.post(
        "/predict",
        dependencies=[READ],
        summary="What the champion says of a feature row",
        responses=refusals(409),
    )
    async def predict(body: FeatureRowGiven) -> Prediction:
        """Return the champion's probability; nothing changes, so a token that reads is enough."""
        try:
            return signals.predict(body.features)
        except ContractError as error:
            raise HTTPException(422, str(error)) from error

    return router


def _model_info(settings: Settings, signals: Signals) -> ModelInfo:
    thresholds = settings.signals
    champion = signals.champion
    has_model = champion is not None and champion.model is not None
    decides: Literal["model", "z", "nobody"] = "z"
    if thresholds.signals_from != "z" and has_model:
        decides = "model"
    elif thresholds.signals_from == "model" or (
        thresholds.signals_from == "auto" and champion is not None and champion.fault is not None
    ):
        decides = "nobody"
    return ModelInfo(
        decides=decides,
        signals_from=thresholds.signals_from,
        probability_threshold=thresholds.probability_threshold,
        entry_z=thresholds.entry_z,
        champion=_holder(champion),
        challenger=_holder(signals.challenger),
        shadow=_holder(signals.shadow),
    )


def _holder(promotion: Promotion | None) -> AliasHolder | None:
    if promotion is None:
        return None
    promoted, model = promotion.promoted, promotion.model
    return AliasHolder(
        since=promoted.closes_at,
        version=promoted.model_version,
        sha256=promoted.sha256,
        is_rollback=promoted.is_rollback,
        override_reason=promoted.override_reason,
        fault=promotion.fault,
        features=[] if model is None else list(model.feature_names),
        label=None if model is None else model.label.kind,
        trained_from=None if model is None else instant_of_ms(max(0, model.trained_from_ms)),
        trained_to=None if model is None else instant_of_ms(model.trained_to_ms),
        n_samples=None if model is None else model.n_samples,
    )
