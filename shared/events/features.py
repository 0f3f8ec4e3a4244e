"""Events published by features."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from shared.events.base import Event, Fact, Finite, Instant, Symbol


class FeatureRow(Fact):
    """The features of one pair at the close, in the order of `feature_names`."""

    y: Symbol
    x: Symbol
    status: Literal["active", "closing_only"]
    close_y: Finite
    close_x: Finite
    values: tuple[Finite, ...]


class FeaturesComputed(Event):
    """Features of every followed pair whose two legs closed.

    Attributes
    ----------
    roster_closes_at
        The screen whose roster was followed; `None` before the first one.
    warming_up
        Pairs on the roster that lack bars for a full row, or a leg of this close.
    """

    timeframe: str
    roster_closes_at: Instant | None
    feature_names: tuple[str, ...]
    rows: tuple[FeatureRow, ...]
    warming_up: tuple[str, ...]

    @model_validator(mode="after")
    def _rows_have_every_feature(self) -> FeaturesComputed:
        for row in self.rows:
            if len(row.values) != len(self.feature_names):
                raise ValueError(
                    f"{row.y}~{row.x} has {len(row.values)} values "
                    f"for {len(self.feature_names)} features"
                )
        return self
