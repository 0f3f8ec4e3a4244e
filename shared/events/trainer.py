"""Events published by the trainer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.events.base import Event

_SHA256 = "^[0-9a-f]{64}$"


class ModelPromoted(Event):
    """A model took an alias; it decides from the first close after `closes_at`."""

    name: str
    alias: Literal["challenger", "champion"]
    model_version: int
    sha256: str = Field(pattern=_SHA256)
    override_reason: str | None = None
