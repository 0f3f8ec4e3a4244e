"""When features, forecasts or fills count as drifted, and what is done then."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from shared.events.trainer import TripwireAction


class DriftSettings(BaseModel, frozen=True, extra="forbid"):
    """Tripwires of the trainer.

    Attributes
    ----------
    every_closes
        Trade closes between checks; 0 checks never.
    window_closes
        Trade closes that count as the present.
    fewest_rows
        Feature rows on either side below which nothing is said.
    stability_index_max, features_share_max
        Tripped where the population stability index of more than this share of the features
        exceeds this bound.
    calibration_gap_max
        Tripped where mean forecast and share of outcomes differ by more.
    walk_odds_max
        Tripped where the steps of the spreads are so many times likelier of spreads that wander
        than of spreads that come home as in training: so often, one in this many, such spreads
        seem to wander by chance.
    action
        What a tripped wire of the champion does beside its row: nothing, train anew, roll back,
        or ask the executor to open nothing until a person lifts that.
    slippage_excess_max_ppm
        Tripped where fills were worse than the model's by more than this on average, in
        millionths of the price.
    fewest_fills
        Fills below which nothing is said.
    slippage_action
        What that wire does: nothing, or ask the executor to open nothing.
    """

    every_closes: int = Field(288, ge=0)
    window_closes: int = Field(2016, gt=0)
    fewest_rows: int = Field(200, ge=10)
    stability_index_max: float = Field(0.25, gt=0)
    features_share_max: float = Field(0.5, ge=0, lt=1)
    calibration_gap_max: float = Field(0.15, gt=0, le=1)
    walk_odds_max: float = Field(20.0, gt=1)
    action: TripwireAction = "record"
    slippage_excess_max_ppm: float = Field(500.0, gt=0)
    fewest_fills: int = Field(50, gt=0)
    slippage_action: Literal["record", "reduce_only"] = "record"
