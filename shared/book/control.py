"""What a person lets the book trade.

Closing is always allowed: no state takes it away.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TradingState(StrEnum):
    """What the book may do."""

    ACTIVE = "active"
    """Everything."""
    REDUCE_ONLY = "reduce_only"
    """Nothing that opens."""
    HALTED = "halted"
    """Nothing that opens, and opening orders that work are withdrawn."""


class TradingCommand(StrEnum):
    """What a person may ask for."""

    HALT = "halt"
    REDUCE_ONLY = "reduce_only"
    FLATTEN = "flatten"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class TradingControl:
    """What is in force at a close.

    Attributes
    ----------
    is_flattening
        Whether every position is to be closed.
    reason
        The person's own.
    """

    state: TradingState = TradingState.ACTIVE
    is_flattening: bool = False
    reason: str = ""

    @property
    def denial(self) -> str | None:
        """Why an opening intent is denied, or `None`."""
        if self.state is TradingState.ACTIVE:
            return None
        return f"trading is {self.state}: {self.reason}"


def obey(control: TradingControl, command: TradingCommand, reason: str) -> TradingControl:
    """Return what is in force after a command.

    Only `RESUME` ends a flattening, and flattening a halted book leaves it halted: the
    stricter of two wishes stands until it is taken back.
    """
    if command is TradingCommand.RESUME:
        return TradingControl(reason=reason)
    if command is TradingCommand.HALT:
        return TradingControl(TradingState.HALTED, control.is_flattening, reason)
    if command is TradingCommand.REDUCE_ONLY:
        return TradingControl(TradingState.REDUCE_ONLY, control.is_flattening, reason)
    is_halted = control.state is TradingState.HALTED
    state = TradingState.HALTED if is_halted else TradingState.REDUCE_ONLY
    return TradingControl(state, is_flattening=True, reason=reason)
