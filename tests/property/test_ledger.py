from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.book.execution import Execution
from shared.book.instrument import Instrument
from shared.book.ledger import Ledger, OrderReport, Settlement, acknowledge, in_flight
from shared.book.orders import IN_FLIGHT, TERMINAL, TRANSITIONS, Order, OrderState
from shared.book.positions import PairPosition, PairState
from shared.events.portfolio import SubmitOrder
from tests.support import BAR_MS, MIDNIGHT_MS, closing, opening, settle

CAPITAL = 10**13
INSTRUMENTS = {
    "A/USDT": Instrument("A/USDT", 2, 3, 0, "perpetual"),
    "B/USDT": Instrument("B/USDT", 0, 5, 0, "perpetual"),
    "C/USDT": Instrument("C/USDT", 8, 0, 0, "perpetual"),
}
PAIRS = (("A/USDT", "B/USDT"), ("A/USDT", "C/USDT"), ("B/USDT", "C/USDT"))
S = OrderState


@dataclass
class AtVenue:
    """An order as the venue has it; an absent one got lost on the way there."""

    order: Order
    state: OrderState
    executions: list[tuple[int, Execution]] = field(default_factory=list)
    is_absent: bool = False

    @property
    def filled_lots(self) -> int:
        return sum(execution.lots for _, execution in self.executions)


class HostileVenue:
    """Refuses, loses answers and orders, fills in parts, ends orders, repeats itself.

    Once fair, it takes and fills everything.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.orders: dict[str, AtVenue] = {}
        self.is_fair = False

    def submit(self, order: Order) -> OrderReport:
        assert order.client_order_id not in self.orders, "an order id is used twice"
        fate = "take" if self.is_fair else self.random.choice(["take"] * 3 + ["refuse", "lose"])
        kept = AtVenue(order, S.REJECTED if fate == "refuse" else S.ACCEPTED)
        self.orders[order.client_order_id] = kept
        if fate == "lose":
            kept.is_absent = self.random.random() < 0.5
            return OrderReport(order.client_order_id, S.UNKNOWN)
        if kept.state is S.ACCEPTED and not self.is_fair and self.random.random() < 0.2:
            self.trade(kept, 0)
        return OrderReport(order.client_order_id, kept.state)

    def resolve(self, orders: Iterable[Order]) -> list[OrderReport]:
        """Say what became of orders in flight; what got lost is taken when sent again."""
        found = []
        for order in orders:
            if self.is_fair or self.random.random() < 0.7:
                kept = self.orders[order.client_order_id]
                kept.is_absent = False
                found.append(OrderReport(order.client_order_id, kept.state))
        return found

    def cancel(self, order: Order) -> None:
        kept = self.orders[order.client_order_id]
        if kept.state not in TERMINAL and (self.is_fair or self.random.random() < 0.7):
            kept.state = S.CANCELLED

    def advance(self, at_ms: int) -> None:
        for kept in self.orders.values():
            if not kept.is_absent and kept.state not in TERMINAL:
                self.trade(kept, at_ms)

    def trade(self, kept: AtVenue, at_ms: int) -> None:
        left = kept.order.quantity_lots - kept.filled_lots
        fate = "all" if self.is_fair else self.random.choice(["all", "part", "end", "nothing"])
        lots = left if fate == "all" else self.random.randint(0, left)
        if fate == "nothing":
            return
        if lots:
            price, fee = self.random.randint(1, 5_000), self.random.randint(0, 10**6)
            kept.executions.append((at_ms, Execution(lots, price, fee)))
            kept.state = S.FILLED if lots == left else S.PARTIALLY_FILLED
        if fate == "end" and kept.state is not S.FILLED:
            kept.state = self.random.choice([S.CANCELLED, S.EXPIRED])

    def reports(self, ledger: Ledger) -> list[OrderReport]:
        """Report working orders: now and then twice, late, or filled before its fills."""
        found = []
        for key, order in ledger.orders.items():
            kept = self.orders[key]
            if not order.is_working or kept.is_absent or order.state in IN_FLIGHT:
                continue
            n_listed = len(kept.executions)
            if kept.state is S.FILLED and not self.is_fair:
                n_listed = self.random.randint(0, n_listed)
            found.append(OrderReport(key, kept.state, tuple(kept.executions[:n_listed])))
            while not self.is_fair and self.random.random() < 0.3:
                state = self.random.choice([S.SUBMITTED, S.UNKNOWN, S.ACCEPTED])
                stale = kept.executions[: self.random.randint(0, n_listed)]
                late = OrderReport(key, S.PARTIALLY_FILLED if stale else state, tuple(stale))
                found.append(self.random.choice([late, found[-1]]))
        if not self.is_fair:
            self.random.shuffle(found)
        return found


def reloaded(ledger: Ledger) -> Ledger:
    """Return the book as a process that has just started reads it from the record."""
    working = {key: order for key, order in ledger.orders.items() if order.is_working}
    return replace(
        ledger,
        orders=dict(sorted(working.items())),
        positions=dict(sorted(ledger.positions.items(), reverse=True)),
        fill_counts={key: n for key, n in ledger.fill_counts.items() if key in working},
    )


def reachable(state: OrderState) -> set[OrderState]:
    found = {state}
    while True:
        more = {following for known in found for following in TRANSITIONS[known]}
        if more <= found:
            return found
        found |= more


class History:
    """A random history of one book, checked after every step."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.venue = HostileVenue(random)
        self.closes_at_ms = MIDNIGHT_MS + random.randint(0, 200) * BAR_MS
        self.ledger = Ledger(CAPITAL, self.closes_at_ms)
        self.states: dict[str, OrderState] = {}
        self.positions: dict[str, PairPosition] = {}
        self.n_intents = 0
        self.cash_e8 = CAPITAL
        self.booked: dict[str, list[tuple[int, Execution]]] = {}
        self.traded_lots: dict[tuple[str, str], int] = {}

    def step(self) -> None:
        """Take the book through an event at any close, new, known or past."""
        n_bars = self.random.choice([1, 1, 1, 1, 0, -2, 97, 200])
        self.settle_at(self.closes_at_ms + n_bars * BAR_MS, [i for i in self.wishes() if i])

    def wishes(self) -> Iterable[SubmitOrder | None]:
        for pair in PAIRS:
            wish = self.random.choice(["open", "close", "nothing"])
            self.n_intents += 1
            held = [p for p in self.ledger.positions.values() if p.pair == "~".join(pair)]
            if wish == "open":
                lots = self.random.randint(1, 10**6), self.random.randint(1, 10**6)
                side = self.random.choice([-1, 1])
                yield opening(f"open {self.n_intents}", *lots, pair, 1 if side > 0 else -1)
            elif wish == "close" and held:
                yield closing(f"close {self.n_intents}", held[0].position_id, pair)

    def settle_at(self, closes_at_ms: int, intents: list[SubmitOrder]) -> None:
        self.closes_at_ms = max(self.closes_at_ms, closes_at_ms)
        self.venue.advance(closes_at_ms)
        self.acknowledge(self.venue.resolve(in_flight(self.ledger)))
        marks = {symbol: float(self.random.randint(1, 50)) for symbol in INSTRUMENTS}
        if not self.venue.is_fair and self.random.random() < 0.2:
            marks = {}
        reports = self.venue.reports(self.ledger)
        settled, restarted = (
            settle(
                ledger,
                closes_at_ms,
                intents=intents,
                reports=reports,
                marks=marks,
                instruments=INSTRUMENTS,
            )
            for ledger in (self.ledger, reloaded(self.ledger))
        )
        self.check(settled, restarted)
        self.ledger = settled.ledger
        for order in settled.cancel:
            self.venue.cancel(order)
        self.acknowledge([self.venue.submit(order) for order in settled.submit])

    def acknowledge(self, reports: list[OrderReport]) -> None:
        self.ledger, changed = acknowledge(self.ledger, reports)
        self.note(changed)

    def note(self, orders: Iterable[Order]) -> None:
        for order in orders:
            before = self.states.get(order.client_order_id, S.INITIALISED)
            assert order.state in reachable(before), (before, order.state)
            self.states[order.client_order_id] = order.state

    def check(self, settled: Settlement, restarted: Settlement) -> None:
        assert restarted.ledger == settled.ledger
        assert restarted.fills == settled.fills
        assert restarted.submit == settled.submit
        assert set(restarted.orders) == set(settled.orders)
        assert set(restarted.positions) == set(settled.positions)
        assert set(restarted.cancel) == set(settled.cancel)
        assert settled.ledger.closes_at_ms == self.closes_at_ms
        self.note(settled.orders)
        self.positions |= {position.position_id: position for position in settled.positions}
        for fill in settled.fills:
            booked = self.booked.setdefault(fill.client_order_id, [])
            assert fill.fill_number == len(booked)
            execution = Execution(fill.lots, fill.price_ticks, fill.fee_e8)
            booked.append((fill.filled_at_ms, execution))
            notional_e8 = INSTRUMENTS[fill.symbol].notional_e8(fill.price_ticks, fill.lots)
            self.cash_e8 -= fill.side.sign * notional_e8 + fill.fee_e8
            place = fill.pair, fill.leg
            self.traded_lots[place] = self.traded_lots.get(place, 0) + fill.side.sign * fill.lots
        funding_e8 = sum(position.funding_e8 for position in self.positions.values())
        assert settled.ledger.cash_e8 == self.cash_e8 - funding_e8
        held = {p.pair: p for p in settled.ledger.positions.values()}
        assert len(held) == len(settled.ledger.positions), "two positions of one pair"
        for (pair, leg), lots in self.traded_lots.items():
            assert (held[pair].holding(leg)[1] if pair in held else 0) == lots
        values = [
            (lots, INSTRUMENTS[symbol].notional_e8(settled.ledger.marks_ticks[symbol], lots))
            for position in held.values()
            for symbol, lots in (position.holding("y"), position.holding("x"))
            if lots
        ]
        assert settled.equity_e8 == settled.ledger.cash_e8 + sum(value for _, value in values)
        assert settled.gross_e8 == sum(abs(value) for _, value in values)


@hypothesis_settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_money_lots_and_orders_add_up_whatever_the_venue_does(random: Random, n_steps: int) -> None:
    history = History(random)
    for _ in range(n_steps):
        history.step()

    history.venue.is_fair = True
    for _ in range(5):
        history.settle_at(history.closes_at_ms + BAR_MS, [])
    ledger = history.ledger
    assert not ledger.orders, "an order never ended"
    for position in ledger.positions.values():
        assert position.state is PairState.OPEN
        assert not position.is_single_legged
        assert not position.is_flat
    for key, kept in history.venue.orders.items():
        assert history.booked.get(key, []) == kept.executions, "a fill is lost"

    intents = [
        closing(f"last {p.position_id}", p.position_id, (p.symbol_y, p.symbol_x))
        for p in ledger.positions.values()
    ]
    history.settle_at(history.closes_at_ms + BAR_MS, intents)
    history.settle_at(history.closes_at_ms + BAR_MS, [])
    assert not history.ledger.positions
    assert {position.state for position in history.positions.values()} <= {PairState.CLOSED}
    result_e8 = sum(position.cash_e8 for position in history.positions.values())
    assert history.ledger.cash_e8 == CAPITAL + result_e8
