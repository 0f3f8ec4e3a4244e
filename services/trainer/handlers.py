"""Use cases of the trainer."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.trainer import metrics, store
from services.trainer.occasions import (
    Occasion,
    Pair,
    TrainingProgress,
    is_rested,
    occasion_to_train,
)
from services.trainer.promotion import Promoted, Promotion
from services.trainer.stages import Stages
from services.trainer.store import Progress
from services.trainer.training import Trained, Training
from services.trainer.tripwires import Tripwires
from shared.bus.consumer import UnitOfWork
from shared.clock import timeframe_ms
from shared.errors import ContractError, DataError, PermanentError
from shared.events.base import Event
from shared.events.features import FeaturesComputed
from shared.registry import open_registry
from shared.settings import Settings

logger = structlog.get_logger()


class Trainer:
    """Trains models of every family, judges them, and lets them rise by stages.

    Parameters
    ----------
    settings
        Of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._progress = Progress()
        registry = open_registry(settings.home, settings.mlflow_url, settings.mlflow_artifacts)
        self._stages = Stages(settings, registry)
        self._training = Training(settings, self._stages, registry)
        self._promotion = Promotion(settings, self._stages)
        self._tripwires = Tripwires(settings, self._promotion)

    async def reload(self, connection: AsyncConnection) -> None:
        """Take the last close, and what has passed since trainings and checks, from the record."""
        self._progress = await store.load_progress(connection)
        self._stages.forget()

    async def refuse_foreign(self, event: Event, unit: UnitOfWork) -> None:
        """Refuse a promotion that did not come through the gates or an operator.

        Raises
        ------
        ContractError
            Always.
        """
        raise ContractError(
            f"{type(event).__name__} from {unit.source_uri}: a model is promoted with "
            "POST /promote, which records who decided and why"
        )

    async def refuse_foreign_check(self, event: Event, unit: UnitOfWork) -> None:
        """Refuse a tripped wire that is not ours.

        Raises
        ------
        ContractError
            Always.
        """
        raise ContractError(
            f"{type(event).__name__} from {unit.source_uri}: drift is found by the trainer's own "
            "checks; take trading back with POST /reduce-only of the executor"
        )

    async def observe(self, computed: FeaturesComputed, unit: UnitOfWork) -> None:
        """Count a close; judge the shadow, look for drift and train when that is due."""
        before_ms, close_ms = self._progress.last_close_ms, computed.closes_at_ms
        if not computed.y or close_ms <= (before_ms or 0):
            # A close without features, or more of one that was counted.
            progress = replace(self._progress, last_close_ms=max(close_ms, before_ms or 0))
        else:
            followed = zip(computed.y, computed.x, computed.status, strict=True)
            pairs = frozenset((y, x) for y, x, status in followed if status == "active")
            progress = await self._observe_close(unit, close_ms, pairs)

        def keep() -> None:
            self._progress = progress

        unit.after_commit(keep)

    async def _observe_close(
        self, unit: UnitOfWork, close_ms: int, pairs: frozenset[Pair]
    ) -> Progress:
        """Do what is due at a new close, and return how far the trainer is then."""
        settings = self._settings.trainer
        if settings.auto_promote:
            await self._promotion.judge_shadow(unit, close_ms)
        training = self._progress.training
        training = replace(training, closes=training.closes + 1)
        closes_since_check = self._progress.closes_since_check + 1
        drift = None
        if settings.drift.every_closes and closes_since_check >= settings.drift.every_closes:
            closes_since_check = 0
            await self._tripwires.check_fills(unit, close_ms)
            may_train = is_rested(settings, training)
            drift = await self._tripwires.check_champion(unit, close_ms, may_train=may_train)
        occasion = occasion_to_train(
            settings,
            training,
            pairs=pairs,
            champion_age_closes=await self._champion_age(unit, close_ms, training),
            drift=drift,
        )
        if occasion is not None:
            _, training = await self._train(unit, close_ms, occasion, pairs)
        return Progress(close_ms, pairs, training, closes_since_check)

    async def _champion_age(
        self, unit: UnitOfWork, close_ms: int, training: TrainingProgress
    ) -> int | None:
        """Return how many closes ago the champion was trained, where that may matter."""
        settings = self._settings.trainer
        if not settings.train_every_closes or not is_rested(settings, training):
            return None
        champion = await store.model_at(unit.connection, "champion")
        bar_ms = timeframe_ms(self._settings.trade_timeframe)
        return None if champion is None else (close_ms - champion.trained_at_ms) // bar_ms

    async def train_on_request(self, unit: UnitOfWork, operator: str) -> Trained | DataError:
        """Train on everything up to the last close seen.

        Returns
        -------
        Trained or DataError
            What was made, or why nothing was; not raised, for what was tried must be committed.

        Raises
        ------
        PermanentError
            If no close has been seen.
        """
        occasion = Occasion("request", f"asked for by {operator}")
        pairs = self._progress.pairs
        outcome, training = await self._train(unit, self._require_close(), occasion, pairs)

        def keep() -> None:
            self._progress = replace(self._progress, training=training)

        unit.after_commit(keep)
        return outcome

    async def _train(
        self, unit: UnitOfWork, close_ms: int, occasion: Occasion, pairs: frozenset[Pair]
    ) -> tuple[Trained | DataError, TrainingProgress]:
        """Train, and record what came of it: that there is nothing to learn is an outcome."""
        outcome: Trained | DataError
        try:
            outcome = await self._training.train(unit, close_ms)
            sha256, fault = outcome.sha256, None
        except DataError as error:
            outcome, sha256, fault = error, None, str(error)
            logger.info("not trained", occasion=occasion.kind, reason=fault)
        await store.insert_training(
            unit.connection, close_ms, occasion, unit.lineage, sha256=sha256, fault=fault
        )
        counted = metrics.TRAININGS.labels(occasion.kind, "model" if sha256 else "no_model")
        unit.after_commit(counted.inc)
        has_model = sha256 is not None or self._progress.training.has_model
        return outcome, TrainingProgress(0, has_model, pairs)

    async def promote(
        self,
        unit: UnitOfWork,
        sha256: str | None,
        reason: str,
        operator: str,
        *,
        to: Literal["shadow", "champion"] = "champion",
        is_override: bool = True,
    ) -> Promoted:
        """Give a model a stage from the next close on, as `Promotion.promote`.

        Raises
        ------
        PermanentError
            If no close has been seen, or as there.
        """
        return await self._promotion.promote(
            unit, self._require_close(), sha256, reason, operator, to=to, is_override=is_override
        )

    async def roll_back(self, unit: UnitOfWork, reason: str, operator: str) -> Promoted:
        """Bring the champion before the present one back, as `Promotion.roll_back`.

        Raises
        ------
        PermanentError
            If no close has been seen, or as there.
        """
        return await self._promotion.roll_back(unit, self._require_close(), reason, operator)

    def _require_close(self) -> int:
        if self._progress.last_close_ms is None:
            raise PermanentError("no close has been seen yet: wait for features, then ask again")
        return self._progress.last_close_ms
