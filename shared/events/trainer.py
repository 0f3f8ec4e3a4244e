"""Events published by the trainer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from shared.events.base import Event

_SHA256 = "^[0-9a-f]{64}$"


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
