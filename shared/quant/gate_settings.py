"""Names and thresholds of the gates, apart from the numerics: every process reads them."""

from __future__ import annotations

from pydantic import BaseModel, Field


class GateSettings(BaseModel, frozen=True, extra="forbid"):
    """Thresholds of the gates.

    Attributes
    ----------
    sharpe_min
        Annual Sharpe ratio out of sample, net of costs.
    drawdown_max
        Largest loss from a peak, as a share of it.
    deflated_sharpe_min
        Probability that the true Sharpe ratio exceeds what luck finds in all trials made.
    overfitting_max
        Probability of backtest overfitting.
    shadow_closes_min
        Trade closes in the champion's shadow: four weeks of five minutes by default.
    """

    sharpe_min: float = Field(1.0, gt=0)
    drawdown_max: float = Field(0.2, gt=0, le=1)
    deflated_sharpe_min: float = Field(0.95, gt=0.5, lt=1)
    overfitting_max: float = Field(0.05, gt=0, lt=0.5)
    shadow_closes_min: int = Field(8064, gt=0)


BACKTEST_GATES = (
    "out_of_sample",
    "sharpe_net",
    "max_drawdown",
    "deflated_sharpe",
    "overfitting_probability",
    "sharpe_over_z_rule",
)
"""What a candidate must pass to go into the champion's shadow."""
ALL_GATES = (*BACKTEST_GATES, "shadow_closes", "shadow_excess_return")
"""What it must pass to become champion."""
