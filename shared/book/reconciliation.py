"""Compare the book with the account at the venue, and bring the book to it.

The venue is right about what it holds. What it holds less is taken from the pairs that hold
it, what it holds more belongs to no pair and is kept apart, and what is left of the money is
an adjustment of cash. The same comparison made again finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from shared.book.instrument import Instrument
from shared.book.ledger import FUNDING_INTERVAL_MS, Ledger, OrderReport
from shared.book.positions import PairPosition

CASH_TOLERANCE_E8 = 10**6
"""A hundredth of the quote: venues round entry prices, and so the cost of what is held."""


class AdjustmentKind(StrEnum):
    """What a difference was about."""

    BASELINE = "baseline"
    """The venue's money when it was first looked at, less the book's; not money of the book."""
    CASH = "cash"
    POSITION = "position"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One difference and how the book was brought to the venue.

    Attributes
    ----------
    amount_e8
        Cash that the book gained by it.
    book_value, venue_value
        What was compared: money in 1e-8 of the quote, or lots of the symbol in all.
    symbol, position_id, lots, price_ticks
        Of a position: signed lots that it gained, and what they were valued at; without an
        id they belong to no pair.
    """

    kind: AdjustmentKind
    amount_e8: int
    book_value: int
    venue_value: int
    symbol: str | None = None
    position_id: str | None = None
    lots: int = 0
    price_ticks: int | None = None


@dataclass(frozen=True, slots=True)
class VenueBook:
    """What the venue says of the account, at one instant.

    Attributes
    ----------
    cash_e8
        Wallet less the cost of what is held, in 1e-8 of the quote: what the wallet would be
        if every purchase took and every sale brought its whole notional.
    lots, prices_ticks
        Signed net positions, and the venue's own price of each, by symbol.
    as_of_ms
        The venue's time.
    """

    cash_e8: int
    lots: Mapping[str, int]
    prices_ticks: Mapping[str, int]
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The book as the venue has it, and what was changed for that."""

    ledger: Ledger
    adjustments: tuple[Adjustment, ...]
    positions: tuple[PairPosition, ...]


def reconcile(
    ledger: Ledger,
    reports: Sequence[OrderReport],
    venue: VenueBook,
    instruments: Mapping[str, Instrument],
    baseline_e8: int | None,
) -> Reconciliation:
    """Bring a book to what the venue holds.

    Parameters
    ----------
    ledger
        Without orders of which it is unknown whether the venue has them.
    reports
        What the venue says of all orders that work; executions not booked yet are expected at
        the venue, and left for the next close to book.
    venue
        The account, asked while no order moved.
    instruments
        Of every symbol the book or the venue holds.
    baseline_e8
        The venue's money less the book's at the first comparison; `None` before it.

    Notes
    -----
    Money is compared only while both sides have paid the same funding, and in a book that has
    been settled once.
    """
    draft = _Draft(ledger, instruments)
    expected = _Expectation(ledger, reports, instruments)
    symbols = {s for p in ledger.positions.values() for s in (p.symbol_y, p.symbol_x)}
    symbols |= venue.lots.keys() | ledger.unattributed_lots.keys() | expected.lots.keys()
    for symbol in sorted(symbols):
        book_lots = ledger.net_lots(symbol) + expected.lots.get(symbol, 0)
        venue_lots = venue.lots.get(symbol, 0)
        if book_lots != venue_lots:
            price_ticks = ledger.marks_ticks.get(symbol) or venue.prices_ticks.get(symbol)
            draft.move(symbol, book_lots, venue_lots, price_ticks, expected)
    book_e8 = draft.cash_e8 + expected.cash_e8
    if baseline_e8 is None:
        amount_e8 = venue.cash_e8 - book_e8
        draft.adjustments.append(
            Adjustment(AdjustmentKind.BASELINE, amount_e8, book_e8, venue.cash_e8)
        )
    elif _has_paid_the_same_funding(ledger, venue.as_of_ms):
        book_e8 += baseline_e8
        amount_e8 = venue.cash_e8 - book_e8
        if abs(amount_e8) > CASH_TOLERANCE_E8:
            draft.cash_e8 += amount_e8
            draft.adjustments.append(
                Adjustment(AdjustmentKind.CASH, amount_e8, book_e8, venue.cash_e8)
            )
    return draft.conclude(ledger)


class _Expectation:
    """What the venue must hold beyond the book: executions that are not booked yet."""

    def __init__(
        self,
        ledger: Ledger,
        reports: Iterable[OrderReport],
        instruments: Mapping[str, Instrument],
    ) -> None:
        self.lots: dict[str, int] = {}
        self.cash_e8 = 0
        self.reducing = {
            (order.pair, order.leg)
            for order in ledger.orders.values()
            if order.is_working and order.reduce_only
        }
        for report in reports:
            order = ledger.orders[report.client_order_id]
            booked = ledger.fill_counts.get(order.client_order_id, 0)
            for _, execution in report.executions[booked:]:
                change = order.side.sign * execution.lots
                self.lots[order.symbol] = self.lots.get(order.symbol, 0) + change
                self.cash_e8 -= execution.fee_e8 + instruments[order.symbol].notional_e8(
                    execution.price_ticks, change
                )


class _Draft:
    """The book while it is being brought to the venue."""

    def __init__(self, ledger: Ledger, instruments: Mapping[str, Instrument]) -> None:
        self.instruments = instruments
        self.cash_e8 = ledger.cash_e8
        self.positions = dict(ledger.positions)
        self.unattributed_lots = dict(ledger.unattributed_lots)
        self.marks_ticks = dict(ledger.marks_ticks)
        self.changed: dict[str, PairPosition] = {}
        self.adjustments: list[Adjustment] = []

    def move(
        self,
        symbol: str,
        book_lots: int,
        venue_lots: int,
        price_ticks: int | None,
        expected: _Expectation,
    ) -> None:
        """Spread a difference over what no pair holds, the pairs, and again what none holds.

        A leg whose closing order works is left alone: its fills are still to be booked.
        """
        left = venue_lots - book_lots
        foreign = self.unattributed_lots.get(symbol, 0)
        off = _towards_zero(foreign, left)
        left -= off
        cuts = []
        for position in sorted(self.positions.values(), key=lambda p: p.position_id):
            for leg in ("y", "x"):
                is_reducing = (position.pair, leg) in expected.reducing
                if position.holding(leg)[0] == symbol and not is_reducing:
                    cut = _towards_zero(position.holding(leg)[1], left)
                    left -= cut
                    if cut:
                        cuts.append((position, leg, cut))
        for position, leg, cut in cuts:
            self._cut(position, leg, cut, book_lots, venue_lots)
        off += left
        if off:
            if price_ticks is not None:
                self.marks_ticks.setdefault(symbol, price_ticks)
            self.unattributed_lots[symbol] = foreign + off
            self.adjustments.append(
                Adjustment(
                    AdjustmentKind.POSITION,
                    0,
                    book_lots,
                    venue_lots,
                    symbol,
                    None,
                    off,
                    self.marks_ticks.get(symbol),
                )
            )

    def _cut(
        self, position: PairPosition, leg: str, lots: int, book_lots: int, venue_lots: int
    ) -> None:
        """Give a leg lots of the other sign, as if they had been traded at the mark."""
        position = self.positions[position.position_id]
        symbol, held = position.holding(leg)
        price_ticks = self.marks_ticks[symbol]
        amount_e8 = -self.instruments[symbol].notional_e8(price_ticks, lots)
        moved = replace(position, cash_e8=position.cash_e8 + amount_e8)
        if leg == "y":
            moved = replace(moved, lots_y=held + lots)
        else:
            moved = replace(moved, lots_x=held + lots)
        self.cash_e8 += amount_e8
        self.positions[position.position_id] = self.changed[position.position_id] = moved
        self.adjustments.append(
            Adjustment(
                AdjustmentKind.POSITION,
                amount_e8,
                book_lots,
                venue_lots,
                symbol,
                position.position_id,
                lots,
                price_ticks,
            )
        )

    def conclude(self, ledger: Ledger) -> Reconciliation:
        settled = replace(
            ledger,
            cash_e8=self.cash_e8,
            positions=self.positions,
            marks_ticks=self.marks_ticks,
            unattributed_lots={s: lots for s, lots in self.unattributed_lots.items() if lots},
        )
        return Reconciliation(settled, tuple(self.adjustments), tuple(self.changed.values()))


def _towards_zero(held: int, wanted: int) -> int:
    """Return as much of a wanted change as brings what is held no further than to nothing."""
    if held * wanted >= 0:
        return 0
    return max(wanted, -held) if wanted < 0 else min(wanted, -held)


def _has_paid_the_same_funding(ledger: Ledger, as_of_ms: int) -> bool:
    return (
        ledger.closes_at_ms is not None
        and ledger.closes_at_ms // FUNDING_INTERVAL_MS == as_of_ms // FUNDING_INTERVAL_MS
    )
