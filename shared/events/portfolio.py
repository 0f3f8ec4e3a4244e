"""Events published by portfolio."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.events.base import Event, Fact, Finite, Symbol
from shared.events.signals import Action, Price


class OrderLeg(Fact):
    """One leg of an opening intent."""

    leg: Literal["y", "x"]
    symbol: Symbol
    side: Literal["buy", "sell"]
    quantity_lots: int = Field(gt=0)


class SubmitOrder(Fact):
    """An intent about the position of one pair.

    Opening names the quantities; closing names the position, and whatever of it is held
    when the executor handles the intent is what gets closed.
    """

    intent_id: str = Field(min_length=1, max_length=200)
    sleeve: str
    y: Symbol
    x: Symbol
    action: Literal["open", "close"]
    position_id: str
    reason: str
    hedge_ratio: Finite
    legs: tuple[OrderLeg, ...]


class RefusedSignal(Fact):
    """A signal that became no intent, and why."""

    y: Symbol
    x: Symbol
    action: Action
    reason: str


class OrdersRequested(Event):
    """Every intent of one close; often none.

    Attributes
    ----------
    marks
        As the signals had them.
    refused
        The signals of the close that became none.
    """

    version: Literal[2] = 2  # type: ignore[assignment]  # the first had an object for each mark

    timeframe: str
    intents: tuple[SubmitOrder, ...]
    marks: dict[Symbol, Price]
    refused: tuple[RefusedSignal, ...] = ()
