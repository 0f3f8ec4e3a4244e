"""Events published by the trainer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from shared.events.base import Event

_SHA256 = "^[0-9a-f]{64}$"
TripwireAction = Literal["record", "retrain", "rollback", "reduce_only"]


class DriftTripped(Event):
    """A check of drift went beyond its bounds.

    Attributes
    ----------
    closes_at
        The close of the check; what is done about it holds from the next one on.
    sha256
        The champion whose features or forecasts have moved; none where fills were worse than
        the model's.
    action
        What was decided: nothing but this, a training, a rollback, or that the executor is to
        open nothing until a person lifts that.
    """

    sha256: str | None = Field(pattern=_SHA256)
    action: TripwireAction
    reasons: tuple[str, ...] = Field(min_length=1)


class ModelPromoted(Event):
    """A model took an alias; it decides from the first close after `closes_at`.

    Promotions and rollbacks share one stream, because only a stream has an order: two that
    follow each other within a close must be taken in that order.

    Attributes
    ----------
    alias
        The champion decides; the shadow decides beside it without effect; the challenger is
        the best of the last training.
    model_version, sha256
        The model that has the alias now; `None` where a rollback left it without one.
    is_rollback
        Whether the model is the one that had the alias before.
    """

    name: str
    alias: Literal["challenger", "shadow", "champion"]
    model_version: int | None
    sha256: str | None = Field(pattern=_SHA256)
    override_reason: str | None = None
    is_rollback: bool = False

    @model_validator(mode="after")
    def _only_a_rollback_leaves_no_model(self) -> ModelPromoted:
        if (self.sha256 is None) != (self.model_version is None):
            raise ValueError("sha256 and model_version name one model: give both or neither")
        if self.sha256 is None and not self.is_rollback:
            raise ValueError("a promotion names a model: give its sha256 and model_version")
        return self
