"""How a model is given a stage: in the record, as an event, in MLflow and in files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.trainer import artefacts, store
from services.trainer.domain import ALIAS_OF_STAGE, MODEL_NAME, Stage, net_return
from services.trainer.store import StagedModel
from shared.bus.consumer import UnitOfWork
from shared.clock import instant_of_ms, timeframe_ms
from shared.errors import PermanentError
from shared.events.trainer import ModelPromoted
from shared.quant.gates import GateResult, ShadowEvidence, judge
from shared.registry import ModelRegistry
from shared.settings import Settings

_DAY_MS = timeframe_ms("1d")

logger = structlog.get_logger()


class Stages:
    """Gives models stages and takes them away.

    Parameters
    ----------
    settings
        Of the process.
    registry
        MLflow, which shows the stages to people.
    """

    def __init__(self, settings: Settings, registry: ModelRegistry) -> None:
        self._settings = settings
        self._registry = registry
        self._is_without_shadow = False

    def forget(self) -> None:
        """Believe nothing that is remembered of the record."""
        self._is_without_shadow = False

    async def find_shadow(self, unit: UnitOfWork) -> StagedModel | None:
        """Return the shadow; that there is none is remembered, so that not every close asks."""
        if self._is_without_shadow:
            return None
        shadow = await store.model_at(unit.connection, "shadow")
        if shadow is None:

            def remember() -> None:
                self._is_without_shadow = True

            unit.after_commit(remember)
        return shadow

    async def gates_of(
        self, connection: AsyncConnection, model: StagedModel, close_ms: int
    ) -> tuple[GateResult, ...]:
        """Hold what the record knows of a model against every gate."""
        backtest = await store.load_evidence(connection, model.sha256)
        shadow = await self._shadow_evidence(connection, model, close_ms)
        return judge(backtest, shadow, self._settings.trainer.gates)

    async def _shadow_evidence(
        self, connection: AsyncConnection, model: StagedModel, close_ms: int
    ) -> ShadowEvidence | None:
        """Compare what a shadow would have earned with what was earned meanwhile."""
        if model.stage != "shadow":
            return None
        # Without the present close, which signals may not have decided yet: what is counted
        # must not depend on who is faster.
        period = (model.since_ms, close_ms)
        n_closes = await store.count_shadow_closes(connection, model.sha256, *period)
        costs = self._settings.execution
        cost = (costs.fee_ppm + costs.slippage_ppm) / 1e6
        own = await store.shadow_signals(connection, model.sha256, *period)
        real = await store.real_signals(connection, *period)
        return ShadowEvidence(n_closes, net_return(own, cost) - net_return(real, cost))

    async def place(
        self,
        unit: UnitOfWork,
        model: StagedModel,
        stage: Literal["challenger", "shadow", "champion"],
        close_ms: int,
        *,
        reason: str,
        decided_by: str,
        gates: Sequence[GateResult] = (),
        gates_passed: bool = False,
        is_override: bool = False,
        is_rollback: bool = False,
    ) -> StagedModel:
        """Give a model a stage: record it, publish it, show it in MLflow; retire the holder."""
        connection = unit.connection
        unit.after_commit(self.forget)
        holder = await store.model_at(connection, stage)
        if holder is not None and holder.sha256 != model.sha256:
            await self.retire(unit, holder, close_ms, f"{model.sha256[:12]} became {stage}")
        evidence = await store.load_evidence(connection, model.sha256)
        shadow = await self._shadow_evidence(connection, model, close_ms)
        await store.insert_promotion(
            connection,
            name=model.name,
            stage=stage,
            sha256=model.sha256,
            from_ms=close_ms,
            reason=reason,
            decided_by=decided_by,
            lineage=unit.lineage,
            gates=gates,
            gates_passed=gates_passed,
            evidence=evidence,
            shadow=shadow,
            shadow_days=(close_ms - model.since_ms) // _DAY_MS,
            is_override=is_override,
            is_rollback=is_rollback,
        )
        unit.publish(
            "models.promoted",
            ModelPromoted(
                closes_at=instant_of_ms(close_ms),
                name=model.name,
                alias=ALIAS_OF_STAGE[stage],
                model_version=model.version,
                sha256=model.sha256,
                override_reason=reason if is_override else None,
                is_rollback=is_rollback,
            ),
        )
        tags = {
            "stage": stage,
            "decided_by": decided_by,
            "reason": reason,
            "gates": "\n".join(str(gate) for gate in gates) or "none judged",
        }
        await asyncio.to_thread(self._show_in_mlflow, model, stage, tags)
        await self._write_artefacts(unit)
        return await self.require_model(connection, model.sha256)

    async def retire(
        self,
        unit: UnitOfWork,
        model: StagedModel,
        close_ms: int,
        reason: str,
        gates: Sequence[GateResult] = (),
    ) -> None:
        """Take the stage from a model, and from MLflow its alias; gates as they failed, if so."""
        await store.insert_promotion(
            unit.connection,
            name=model.name,
            stage="retired",
            sha256=model.sha256,
            from_ms=close_ms,
            reason=reason,
            decided_by="trainer",
            lineage=unit.lineage,
            gates=gates,
        )
        await asyncio.to_thread(
            self._show_in_mlflow, model, "retired", {"stage": "retired", "reason": reason}
        )

    async def leave_no_champion(
        self, unit: UnitOfWork, close_ms: int, reason: str, operator: str, *, is_override: bool
    ) -> None:
        """Retire the champion without another in its place, so that the z rule decides."""
        present = await store.model_at(unit.connection, "champion")
        if present is not None:
            await self.retire(unit, present, close_ms, reason)
        await store.insert_promotion(
            unit.connection,
            name=MODEL_NAME,
            stage="champion",
            sha256=None,
            from_ms=close_ms,
            reason=reason,
            decided_by=operator,
            lineage=unit.lineage,
            is_override=is_override,
            is_rollback=True,
        )
        unit.publish(
            "models.promoted",
            ModelPromoted(
                closes_at=instant_of_ms(close_ms),
                name=MODEL_NAME,
                alias="champion",
                model_version=None,
                sha256=None,
                override_reason=reason if is_override else None,
                is_rollback=True,
            ),
        )
        await self._write_artefacts(unit)

    async def require_model(self, connection: AsyncConnection, sha256: str) -> StagedModel:
        """Return a model with its stage.

        Raises
        ------
        PermanentError
            If it is not recorded.
        """
        found = await store.find_model(connection, sha256)
        if found is None:
            raise PermanentError(f"model {sha256} is not recorded: train it again")
        return found

    def _show_in_mlflow(self, model: StagedModel, stage: Stage, tags: dict[str, str]) -> None:
        """Move the alias in MLflow from a model's last stage to its new one, and say why."""
        if model.stage is not None and model.stage in ALIAS_OF_STAGE and model.stage != stage:
            self._registry.delete_alias(model.name, ALIAS_OF_STAGE[model.stage])
        if stage in ALIAS_OF_STAGE:
            self._registry.set_alias(model.name, ALIAS_OF_STAGE[stage], model.version)
        self._registry.set_tags(model.name, model.version, tags)

    async def _write_artefacts(self, unit: UnitOfWork) -> None:
        """Write who holds which stage to files, once the decision is recorded."""
        rows = await store.list_models(unit.connection, artefacts.MOST_MODELS)
        folder = self._settings.home / "models"

        async def write() -> None:
            try:
                await asyncio.to_thread(artefacts.write, folder, rows)
            except OSError as error:
                # The record decides and nothing reads the files: a full disk stops no promotion.
                logger.warning("artefacts not written", folder=str(folder), error=str(error))

        unit.errand_after_commit(write)
