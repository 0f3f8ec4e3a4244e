"""What the positions of all pairs are together, which is all that a venue knows of them."""

from __future__ import annotations

from collections.abc import Iterable

from shared.book.orders import Order
from shared.book.positions import PairPosition


def net_lots(positions: Iterable[PairPosition], symbol: str) -> int:
    """Return the signed lots of a symbol over positions."""
    return sum(
        lots
        for position in positions
        for held_symbol, lots in (position.holding("y"), position.holding("x"))
        if held_symbol == symbol
    )


def reduces_at_venue(held_lots: int, orders: Iterable[Order], order: Order) -> bool:
    """Tell whether the venue can take an order as reduce-only without cutting or refusing it.

    Parameters
    ----------
    held_lots
        Signed net position of the order's symbol.
    orders
        Orders that work, the order itself included or not.
    order
        One that reduces the position of its pair.

    Notes
    -----
    A venue compares a reduce-only order with the net position of all pairs. Others of the
    same symbol and side may trade before it, so what they still want is taken off first.
    """
    claimed_lots = sum(
        other.remaining_lots
        for other in orders
        if other.symbol == order.symbol
        and other.side is order.side
        and other.is_working
        and other.client_order_id != order.client_order_id
    )
    return -order.side.sign * held_lots - claimed_lots >= order.remaining_lots
