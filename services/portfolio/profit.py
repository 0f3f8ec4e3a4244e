"""Profit and loss from the book: exact, net of what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.book.instrument import Instrument
from shared.book.positions import PairPosition, value_e8


@dataclass(frozen=True, slots=True)
class Profit:
    """What was earned, in 1e-8 of the quote.

    Attributes
    ----------
    n_closed
        Positions that were filled and are closed.
    realised_e8
        Of closed positions: all cash that moved, costs included.
    open_e8
        Of the others: the same, and what they hold at the marks.
    fees_e8, funding_e8
        The costs that both contain, as positive numbers.
    """

    n_closed: int = 0
    realised_e8: int = 0
    open_e8: int = 0
    fees_e8: int = 0
    funding_e8: int = 0

    @property
    def total_e8(self) -> int:
        """Realised and open."""
        return self.realised_e8 + self.open_e8

    def __add__(self, other: Profit) -> Profit:
        return Profit(
            self.n_closed + other.n_closed,
            self.realised_e8 + other.realised_e8,
            self.open_e8 + other.open_e8,
            self.fees_e8 + other.fees_e8,
            self.funding_e8 + other.funding_e8,
        )


@dataclass(frozen=True, slots=True)
class ProfitAndLoss:
    """Profit in total and by pair."""

    total: Profit = Profit()
    by_pair: Mapping[str, Profit] = field(default_factory=dict)


def profit_and_loss(
    closed: Mapping[str, Profit],
    live: Iterable[PairPosition],
    marks_ticks: Mapping[str, int],
    instruments: Mapping[str, Instrument],
) -> ProfitAndLoss:
    """Add the positions that are not closed to the profits of those that are.

    Parameters
    ----------
    closed
        Profit of each pair's closed positions.
    live
        Positions that are not closed.
    marks_ticks, instruments
        Marks of every held symbol, and units.
    """
    by_pair = dict(closed)
    for position in live:
        net_e8, _ = value_e8(position, marks_ticks, instruments)
        profit = Profit(
            open_e8=position.cash_e8 + net_e8,
            fees_e8=position.fees_e8,
            funding_e8=position.funding_e8,
        )
        by_pair[position.pair] = by_pair.get(position.pair, Profit()) + profit
    return ProfitAndLoss(sum(by_pair.values(), Profit()), by_pair)
