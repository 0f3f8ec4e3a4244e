"""Pair positions and the account, in exact integers.

A pair is one position: two legs, one cash account of its own. All cash is counted as it
moves (a buy pays its notional and fee, a sale receives), so a flat position's cash *is* its
profit and an open position's value is its cash plus its lots at the mark.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from shared.book.arithmetic import share_below
from shared.book.execution import Execution, FillTerms, carry_e8
from shared.book.instrument import Instrument
from shared.book.orders import Order
from shared.errors import PermanentError
from shared.quant.compiled import interpreted


class PairState(StrEnum):
    """Where the position of a pair stands in its life."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class PairPosition:
    """The position that one opening intent brought about.

    Attributes
    ----------
    position_id
        Id of the opening intent.
    pair
        Key `y~x`.
    lots_y, lots_x
        Signed holdings in lots.
    cash_e8
        All cash that moved, costs included, in 1e-8 of the quote.
    fees_e8, funding_e8
        The part of the cash that was fees, and funding with borrowing, as positive costs.
    target_lots_y, target_lots_x
        Signed lots that the opening intent decided on.
    is_residue
        Whether what closing has left is below the venue's smallest order.
    exposed_since_ms, exposed_ms
        The close from which on the legs have been out of proportion, if they are, and for how
        long they have been before.
    """

    position_id: str
    pair: str
    symbol_y: str
    symbol_x: str
    state: PairState
    opened_at_ms: int
    lots_y: int = 0
    lots_x: int = 0
    cash_e8: int = 0
    fees_e8: int = 0
    funding_e8: int = 0
    closed_at_ms: int | None = None
    target_lots_y: int = 0
    target_lots_x: int = 0
    is_residue: bool = False
    exposed_since_ms: int | None = None
    exposed_ms: int = 0

    @property
    def is_flat(self) -> bool:
        """Whether neither leg holds anything."""
        return self.lots_y == 0 and self.lots_x == 0

    @property
    def is_single_legged(self) -> bool:
        """Whether exactly one leg holds something."""
        return (self.lots_y == 0) != (self.lots_x == 0)

    def holding(self, leg: str) -> tuple[str, int]:
        """Return symbol and signed lots of leg `y` or `x`."""
        return (self.symbol_y, self.lots_y) if leg == "y" else (self.symbol_x, self.lots_x)


def apply_execution(
    position: PairPosition, order: Order, execution: Execution, instrument: Instrument
) -> PairPosition:
    """Return the position after a fill of one of its orders.

    Raises
    ------
    PermanentError
        If a reduce-only order would open or turn the leg around.
    """
    _, held = position.holding(order.leg)
    change = order.side.sign * execution.lots
    if order.reduce_only and (held * change >= 0 or abs(change) > abs(held)):
        raise PermanentError(
            f"reduce-only order {order.client_order_id} filled {change} lots of {order.symbol} "
            f"while {held} are held: the venue's fills and the book disagree, reconcile them"
        )
    notional_e8 = instrument.notional_e8(execution.price_ticks, execution.lots)
    cash_e8 = -order.side.sign * notional_e8 - execution.fee_e8
    moved = replace(
        position,
        cash_e8=position.cash_e8 + cash_e8,
        fees_e8=position.fees_e8 + execution.fee_e8,
    )
    if order.leg == "y":
        return replace(moved, lots_y=position.lots_y + change)
    return replace(moved, lots_x=position.lots_x + change)


def charge_funding(
    positions: Collection[PairPosition],
    marks_ticks: Mapping[str, int],
    instruments: Mapping[str, Instrument],
    terms: FillTerms,
    settlements: int,
) -> list[PairPosition]:
    """Return positions after `settlements` funding instants, each charged against us.

    A venue charges the net position of a symbol. The pairs that hold the symbol bear that in
    proportion to their lots, whichever way they hold it, the oldest first, so that the parts
    add up to the whole.

    Parameters
    ----------
    positions
        All of the book: what is net is found among them.
    marks_ticks
        Of every symbol that is held; a leg without a mark has never been priced and therefore
        never filled.
    instruments, terms, settlements
        Units, costs, and how many instants.
    """
    net_lots: dict[str, int] = {}
    gross_lots: dict[str, int] = {}
    for position in positions:
        for symbol, lots in (position.holding("y"), position.holding("x")):
            net_lots[symbol] = net_lots.get(symbol, 0) + lots
            gross_lots[symbol] = gross_lots.get(symbol, 0) + abs(lots)
    borne_lots = dict.fromkeys(gross_lots, 0)
    charged = []
    for position in sorted(positions, key=lambda p: (p.opened_at_ms, p.symbol_y, p.symbol_x)):
        cost_e8 = 0
        for symbol, lots in (position.holding("y"), position.holding("x")):
            if lots:
                net, gross = net_lots[symbol], gross_lots[symbol]
                notional_e8 = instruments[symbol].notional_e8(marks_ticks[symbol], abs(net))
                carried_e8 = settlements * carry_e8(net, notional_e8, terms)
                before_e8 = interpreted(share_below)(carried_e8, borne_lots[symbol], gross)
                borne_lots[symbol] += abs(lots)
                cost_e8 += interpreted(share_below)(carried_e8, borne_lots[symbol], gross)
                cost_e8 -= before_e8
        charged.append(
            replace(
                position,
                cash_e8=position.cash_e8 - cost_e8,
                funding_e8=position.funding_e8 + cost_e8,
            )
        )
    return charged


def value_e8(
    position: PairPosition,
    marks_ticks: Mapping[str, int],
    instruments: Mapping[str, Instrument],
) -> tuple[int, int]:
    """Return the position's net market value of its lots and its gross exposure, in 1e-8."""
    net = gross = 0
    for leg in ("y", "x"):
        symbol, lots = position.holding(leg)
        if lots:
            notional_e8 = instruments[symbol].notional_e8(marks_ticks[symbol], abs(lots))
            net += notional_e8 if lots > 0 else -notional_e8
            gross += notional_e8
    return net, gross
