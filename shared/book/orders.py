"""The life cycle of an order.

States follow what is known, not what is hoped: *denied* is our own refusal, *rejected* the
venue's on positive evidence, and *unknown* means that no usable answer came back. Reports
may come late, twice or out of order and change nothing then.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum

from shared.errors import PermanentError


class Side(StrEnum):
    """The direction of an order or a fill."""

    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        """+1 for a buy, -1 for a sell."""
        return 1 if self is Side.BUY else -1


class OrderState(StrEnum):
    """What is known of an order."""

    INITIALISED = "initialised"
    DENIED = "denied"
    SUBMITTED = "submitted"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_S = OrderState
TAKEN = frozenset({_S.ACCEPTED, _S.PARTIALLY_FILLED, _S.FILLED, _S.CANCELLED, _S.EXPIRED})
"""States of an order that the venue took: it may have fills."""
_AT_VENUE = TAKEN | {_S.REJECTED}
TRANSITIONS: dict[OrderState, frozenset[OrderState]] = {
    _S.INITIALISED: frozenset({_S.DENIED, _S.SUBMITTED}),
    _S.SUBMITTED: _AT_VENUE | {_S.UNKNOWN},
    _S.UNKNOWN: _AT_VENUE | {_S.SUBMITTED},
    _S.ACCEPTED: frozenset({_S.PARTIALLY_FILLED, _S.FILLED, _S.CANCELLED, _S.EXPIRED}),
    _S.PARTIALLY_FILLED: frozenset({_S.FILLED, _S.CANCELLED, _S.EXPIRED}),
    _S.DENIED: frozenset(),
    _S.REJECTED: frozenset(),
    _S.FILLED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.EXPIRED: frozenset(),
}
"""The legal moves. Everything absent is refused, or ignored when it is a stale report."""

TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
IN_FLIGHT = frozenset({_S.INITIALISED, _S.SUBMITTED, _S.UNKNOWN})
"""States in which we do not know whether the venue has the order."""


def client_order_id(account: str, run: str, intent_id: str, leg: str, attempt: int) -> str:
    """Return the id under which an order is known to us and to the venue.

    A pure function of its arguments, so that a repeat of the same decision is the same
    order. 32 characters of `[0-9a-f]`, within every supported venue's alphabet and length.
    """
    key = "\x1f".join((account, run, intent_id, leg, str(attempt)))
    return hashlib.sha256(key.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Order:
    """One market order for one leg of a pair.

    Attributes
    ----------
    pair
        Key `y~x` of the pair whose position the order changes.
    leg
        `y` or `x`.
    quantity_lots, filled_lots
        In lots of the instrument.
    created_at_ms
        The close on which it was decided.
    """

    client_order_id: str
    intent_id: str
    pair: str
    leg: str
    attempt: int
    symbol: str
    side: Side
    quantity_lots: int
    reduce_only: bool
    created_at_ms: int
    state: OrderState = OrderState.INITIALISED
    filled_lots: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        """Refuse an order that could not exist."""
        if self.quantity_lots <= 0:
            raise PermanentError(
                f"order {self.client_order_id}: quantity of {self.quantity_lots} lots; "
                "an order needs at least one lot"
            )
        if not 0 <= self.filled_lots <= self.quantity_lots:
            raise PermanentError(
                f"order {self.client_order_id}: {self.filled_lots} of {self.quantity_lots} lots "
                "filled; a fill beyond the order must be reconciled by hand"
            )

    @property
    def is_working(self) -> bool:
        """Whether the order may still trade."""
        return self.state not in TERMINAL

    @property
    def remaining_lots(self) -> int:
        """Lots not yet filled."""
        return self.quantity_lots - self.filled_lots


def advance_order(order: Order, state: OrderState, reason: str = "") -> Order:
    """Return the order in its next state.

    A report of the present state, or of an earlier stage of the life cycle, is a late or
    duplicate one and returns the order unchanged.

    Raises
    ------
    PermanentError
        If the move can never be right, such as a fill of a denied or a rejected order.
    """
    if state is order.state:
        return order
    if state in TRANSITIONS[order.state]:
        return replace(order, state=state, reason=reason or order.reason)
    if order.state in _AT_VENUE and state in {_S.SUBMITTED, _S.UNKNOWN}:
        return order
    if order.state in TAKEN and state in {_S.ACCEPTED, _S.PARTIALLY_FILLED}:
        return order
    raise PermanentError(
        f"order {order.client_order_id} is {order.state} and cannot become {state}: "
        "the report contradicts what was recorded; compare the venue's order with the book"
    )


def fill_order(order: Order, lots: int) -> Order:
    """Return the order with `lots` more filled, filled or partially filled."""
    filled = order.filled_lots + lots
    state = OrderState.FILLED if filled == order.quantity_lots else OrderState.PARTIALLY_FILLED
    moved = advance_order(order, state)
    return replace(moved, filled_lots=filled)
