"""No intent, whoever made it, gets an order to the venue that is beyond a limit."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.book.execution import Execution
from shared.book.instrument import Instrument
from shared.book.ledger import Ledger, OrderReport, Settlement, acknowledge
from shared.book.limits import Guard, RiskLimits, RiskView
from shared.book.orders import OrderState, Side
from shared.events.portfolio import SubmitOrder
from tests.support import BAR_MS, MIDNIGHT_MS, closing, opening, settle

UNIT = 10**8
CAPITAL = 10_000 * UNIT
INSTRUMENTS = {
    "A/USDT": Instrument("A/USDT", 2, 3, 0, "perpetual"),
    "B/USDT": Instrument("B/USDT", 0, 5, 0, "perpetual"),
    "C/USDT": Instrument("C/USDT", 4, 0, 0, "perpetual"),
}
PAIRS = [(y, x) for y in INSTRUMENTS for x in INSTRUMENTS if y != x]
N_STEPS = 25
N_EXAMPLES = 100
INTENTS_A_STEP = 4
assert N_STEPS * N_EXAMPLES * INTENTS_A_STEP >= 10_000


def random_limits(random: Random) -> RiskLimits:
    def multiple(largest: float) -> float:
        return random.choice([0.01, 0.1, 0.5, 1.0, largest])

    return RiskLimits(
        order_cap=multiple(10.0),
        intent_cap=multiple(10.0),
        symbol_cap=multiple(10.0),
        gross_cap=multiple(20.0),
        net_cap=multiple(10.0),
        max_orders_per_minute=random.choice([2, 5, 100]),
        max_daily_loss=random.choice([0.001, 0.1]),
        max_drawdown=random.choice([0.001, 0.1]),
    )


WIDE = RiskLimits(
    order_cap=1e6,
    intent_cap=1e6,
    symbol_cap=1e6,
    gross_cap=1e6,
    net_cap=1e6,
    max_orders_per_minute=10**6,
    max_daily_loss=1e6,
    max_drawdown=1e6,
    max_slippage_ppm=10**9,
    max_data_age_seconds=1e9,
    max_data_lead_seconds=1e9,
)


def e8(fraction: float) -> int:
    """Return a fraction of the capital."""
    return round(CAPITAL * fraction)


class Book:
    """A book under limits, and the sums that show whether they held, made from scratch."""

    def __init__(self, random: Random, limits: RiskLimits | None) -> None:
        self.random = random
        self.limits = limits
        self.ledger = Ledger(CAPITAL)
        self.closes = 0
        self.n_intents = 0
        self.equities = [CAPITAL]

    def intents(self) -> list[SubmitOrder]:
        made = []
        for _ in range(INTENTS_A_STEP):
            self.n_intents += 1
            held = list(self.ledger.positions.values())
            if held and self.random.random() < 0.3:
                position = self.random.choice(held)
                made.append(closing(f"c{self.n_intents}", position.position_id))
                continue
            pair = self.random.choice(PAIRS)
            notionals = [self.random.choice([1, 10, 100, 1_000, 30_000]) * UNIT for _ in pair]
            lots_y, lots_x = (
                max(1, notional // INSTRUMENTS[symbol].notional_e8(self.ticks(symbol), 1))
                for symbol, notional in zip(pair, notionals, strict=True)
            )
            side = self.random.choice([1, -1])
            made.append(opening(f"o{self.n_intents}", lots_y, lots_x, pair, 1 if side > 0 else -1))
        return made

    def ticks(self, symbol: str) -> int:
        return INSTRUMENTS[symbol].price_ticks(self.marks[symbol], "nearest")

    def step(self) -> Settlement:
        self.closes += 1
        self.marks = {symbol: float(self.random.randint(5, 50)) for symbol in INSTRUMENTS}
        view = RiskView(
            recent_orders=self.random.choice([0, 0, 1, 4]),
            day_start_e8=self.equities[0],
            peak_e8=max(self.equities),
            data_age_ms=self.random.choice([0, 0, 0, 10**7, -(10**7)]),
        )
        reports = [
            OrderReport(
                o.client_order_id,
                OrderState.FILLED,
                ((0, Execution(o.remaining_lots, self.ledger.marks_ticks[o.symbol], 0)),),
            )
            for o in self.ledger.orders.values()
            if self.random.random() < 0.7
        ]
        settled = settle(
            self.ledger,
            MIDNIGHT_MS + self.closes * BAR_MS,
            intents=self.intents(),
            reports=reports,
            marks=self.marks,
            instruments=INSTRUMENTS,
            guard=None if self.limits is None else Guard(self.limits, CAPITAL, view),
        )
        if self.limits is not None and self.limits != WIDE:
            self.check(settled, view, self.limits)
        self.equities.append(settled.equity_e8)
        answers = [OrderReport(o.client_order_id, OrderState.ACCEPTED) for o in settled.submit]
        self.ledger, _ = acknowledge(settled.ledger, answers)
        return settled

    def check(self, settled: Settlement, view: RiskView, limits: RiskLimits) -> None:
        opened = [order for order in settled.submit if not order.reduce_only]
        if not opened:
            return
        assert view.data_age_ms == 0
        assert view.recent_orders + len(opened) <= limits.max_orders_per_minute
        parents: dict[str, int] = {}
        for order in opened:
            worth = INSTRUMENTS[order.symbol].notional_e8(
                self.ticks(order.symbol), order.quantity_lots
            )
            assert worth <= e8(limits.order_cap)
            parents[order.intent_id] = parents.get(order.intent_id, 0) + worth
        assert max(parents.values()) <= e8(limits.intent_cap)
        by_symbol: dict[str, int] = {}
        net = up = down = 0
        for position in settled.ledger.positions.values():
            for symbol, lots in (position.holding("y"), position.holding("x")):
                worth = INSTRUMENTS[symbol].notional_e8(self.ticks(symbol), lots)
                by_symbol[symbol] = by_symbol.get(symbol, 0) + abs(worth)
                net += worth
        for order in settled.ledger.orders.values():
            if order.reduce_only:
                continue
            worth = INSTRUMENTS[order.symbol].notional_e8(
                self.ticks(order.symbol), order.remaining_lots
            )
            by_symbol[order.symbol] = by_symbol.get(order.symbol, 0) + worth
            up += worth if order.side is Side.BUY else 0
            down += worth if order.side is Side.SELL else 0
        assert max(by_symbol[order.symbol] for order in opened) <= e8(limits.symbol_cap)
        assert sum(by_symbol.values()) <= e8(limits.gross_cap)
        assert abs(net + up) <= e8(limits.net_cap)
        assert abs(net - down) <= e8(limits.net_cap)
        assert self.equities[0] - settled.equity_e8 <= e8(limits.max_daily_loss)
        assert max(self.equities) - settled.equity_e8 <= e8(limits.max_drawdown)


@hypothesis_settings(max_examples=N_EXAMPLES)
@given(st.randoms(use_true_random=False))
def test_none_of_ten_thousand_intents_gets_beyond_a_limit(random: Random) -> None:
    book = Book(random, random_limits(random))
    for _ in range(N_STEPS):
        book.step()


@hypothesis_settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_limits_that_are_wide_enough_change_no_decision(seed: int) -> None:
    free, guarded = Book(Random(seed), None), Book(Random(seed), WIDE)
    for _ in range(5):
        assert guarded.step() == free.step()


def test_a_limit_never_stops_a_close() -> None:
    tight = RiskLimits(
        order_cap=1e-6,
        intent_cap=1e-6,
        symbol_cap=1e-6,
        gross_cap=1e-6,
        net_cap=1e-6,
        max_orders_per_minute=1,
        max_daily_loss=1e-6,
        max_drawdown=1e-6,
        max_slippage_ppm=1,
        max_data_age_seconds=0.001,
    )
    view = RiskView(10**6, 10**15, 10**15, 10**9, 10**9)
    opened = settle(
        Ledger(CAPITAL),
        MIDNIGHT_MS + BAR_MS,
        intents=[opening("p", 1_000, 1_000, PAIRS[0])],
        marks={"A/USDT": 10.0, "B/USDT": 10.0},
        instruments=INSTRUMENTS,
    )
    ledger, _ = acknowledge(
        opened.ledger, [OrderReport(o.client_order_id, OrderState.ACCEPTED) for o in opened.submit]
    )
    reports = [
        OrderReport(
            o.client_order_id, OrderState.FILLED, ((0, Execution(o.quantity_lots, 10_000, 0)),)
        )
        for o in opened.submit
    ]
    closed = settle(
        ledger,
        MIDNIGHT_MS + 2 * BAR_MS,
        intents=[closing("c", "p")],
        reports=reports,
        marks={"A/USDT": 10.0, "B/USDT": 10.0},
        instruments=INSTRUMENTS,
        guard=Guard(tight, CAPITAL, view),
    )
    assert [order.reduce_only for order in closed.submit] == [True, True]
    assert closed.breach is not None
