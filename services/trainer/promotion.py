"""Who rises and who falls: by the gates, or by the word of a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from services.trainer import store
from services.trainer.domain import MODEL_NAME, Stage, alias_left, reign
from services.trainer.stages import Stages
from shared.bus.consumer import UnitOfWork
from shared.clock import instant_of_ms
from shared.errors import PermanentError
from shared.quant.gates import ALL_GATES, BACKTEST_GATES, are_passed
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Promoted:
    """The model that has a stage from the first close after `decides_after` on.

    Attributes
    ----------
    version, sha256
        Of the model; empty where a rollback left none, so that the z rule decides.
    is_override
        That not all gates were passed.
    gates
        As they stood, one line each.
    """

    name: str
    version: int | None
    sha256: str | None
    is_rollback: bool
    decides_after: datetime
    alias: Literal["shadow", "champion"] = "champion"
    is_override: bool = True
    gates: list[str] = field(default_factory=list)


class Promotion:
    """Decides which model has which stage.

    Parameters
    ----------
    settings
        Of the process.
    stages
        Where the decisions are carried out.
    """

    def __init__(self, settings: Settings, stages: Stages) -> None:
        self._settings = settings
        self._stages = stages

    async def promote(
        self,
        unit: UnitOfWork,
        close_ms: int,
        sha256: str | None,
        reason: str,
        operator: str,
        *,
        to: Literal["shadow", "champion"] = "champion",
        is_override: bool = True,
    ) -> Promoted:
        """Give a model a stage on an operator's word, from the next close on.

        Parameters
        ----------
        unit
            The transaction.
        close_ms
            The close after which it holds.
        sha256
            The model; where not given, the challenger, or the shadow if there is no challenger.
        reason, operator
            Why, and who says so; recorded.
        to
            Shadow or champion.
        is_override
            Whether it is promoted although a gate is failed or missing. A model that passed
            all of them is promoted by its gates either way.

        Raises
        ------
        PermanentError
            If there is no such model, it cannot take the stage, or a gate is not passed and
            nothing is overridden.
        """
        if sha256 is not None:
            model = await store.find_model(unit.connection, sha256)
        else:
            model = await store.model_at(unit.connection, "challenger")
            model = model or await store.model_at(unit.connection, "shadow")
        if model is None:
            raise PermanentError(
                f"no model {sha256 or 'is challenger'}: train one with POST /train, "
                "GET /models lists them"
            )
        gates = await self._stages.gates_of(unit.connection, model, close_ms)
        needed = BACKTEST_GATES if to == "shadow" else ALL_GATES
        before: Stage = "challenger" if to == "shadow" else "shadow"
        gates_passed = model.stage == before and are_passed(gates, needed)
        if not gates_passed and not is_override:
            missed = "; ".join(
                str(gate) for gate in gates if gate.gate in needed and gate.verdict != "passed"
            )
            raise PermanentError(
                f"model {model.sha256[:12]} is {model.stage} and cannot become {to} by its gates "
                f"({missed or 'all passed'}): wait for the evidence, or override with a reason"
            )
        await self._stages.place(
            unit, model, to, close_ms, gates=gates, reason=reason, decided_by=operator,
            gates_passed=gates_passed, is_override=not gates_passed,
        )  # fmt: skip
        return Promoted(
            name=model.name,
            version=model.version,
            sha256=model.sha256,
            is_rollback=False,
            decides_after=instant_of_ms(close_ms),
            alias=to,
            is_override=not gates_passed,
            gates=[str(gate) for gate in gates],
        )

    async def roll_back(
        self,
        unit: UnitOfWork,
        close_ms: int,
        reason: str,
        operator: str,
        *,
        is_override: bool = True,
    ) -> Promoted:
        """Make the champion before the present one champion again, or none where none was.

        Parameters
        ----------
        unit
            The transaction.
        close_ms
            The close after which it holds.
        reason, operator
            Why, and who says so; recorded.
        is_override
            Whether a person decided it, rather than a tripwire.

        Raises
        ------
        PermanentError
            If there is no champion.
        """
        champions = reign(await store.champions(unit.connection))
        if not champions:
            raise PermanentError(
                "no model is champion, so there is none to roll back: the z rule decides; "
                "POST /promote makes a champion"
            )
        if len(champions) > 1:
            earlier = await self._stages.require_model(unit.connection, champions[-2])
            await self._stages.place(
                unit, earlier, "champion", close_ms, reason=reason, decided_by=operator,
                is_override=is_override, is_rollback=True,
            )  # fmt: skip
            sha256, version = earlier.sha256, earlier.version
        else:
            await self._stages.leave_no_champion(
                unit, close_ms, reason, operator, is_override=is_override
            )
            sha256, version = None, None
        return Promoted(
            name=MODEL_NAME,
            version=version,
            sha256=sha256,
            is_rollback=True,
            decides_after=instant_of_ms(close_ms),
            is_override=is_override,
        )

    async def judge_shadow(self, unit: UnitOfWork, close_ms: int) -> None:
        """Promote a shadow that has lasted long enough, or retire it: the record says which."""
        shadow = await self._stages.find_shadow(unit)
        if shadow is None:
            return
        n_closes = await store.count_shadow_closes(
            unit.connection, shadow.sha256, shadow.since_ms, close_ms
        )
        if n_closes < self._settings.trainer.gates.shadow_closes_min:
            return
        gates = await self._stages.gates_of(unit.connection, shadow, close_ms)
        if are_passed(gates, ALL_GATES):
            await self._stages.place(
                unit, shadow, "champion", close_ms, gates=gates, gates_passed=True,
                reason="passed every gate", decided_by="trainer",
            )  # fmt: skip
            return
        missed = "; ".join(str(gate) for gate in gates if gate.verdict != "passed")
        await self._stages.retire(unit, shadow, close_ms, f"its shadow ended: {missed}", gates)
        unit.publish("models.promoted", alias_left(instant_of_ms(close_ms), shadow.name, "shadow"))
