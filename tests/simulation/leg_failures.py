"""What may become of the two legs of a pair, in every combination, and what is left of it.

The book alone, with a venue that gives each leg the outcome it is told, and to what is sent
after that whatever the seed draws until it is healed. It needs neither a server nor a clock,
so that a thousand seeds take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Literal

from shared.book.control import TradingControl, TradingState
from shared.book.execution import Execution, FillTerms
from shared.book.instrument import Instrument
from shared.book.ledger import (
    Identity,
    Ledger,
    OrderReport,
    Settlement,
    acknowledge,
    in_flight,
    settle_close,
)
from shared.book.orders import Order, OrderState
from shared.book.positions import PairPosition
from shared.clock import instant_of_ms
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder

UNIT = 10**8
BAR_MS = 300_000
FUNDED_AT_MS = 1_704_096_000_000
"""An instant of funding, at which the book asks once more for what was too small to close."""
OPENED_AT_MS = FUNDED_AT_MS - 15 * BAR_MS
N_FAULTY = 6
"""Closes after which whatever is sent fills."""
N_CLOSES = 30
NET_SHARE = 0.02
"""Largest net exposure of a pair that is left, as a share of its gross, at its first prices."""
SMALLEST_USDT = 5.5
"""What the venue takes no order for, with what prices may have moved since it was judged."""
INSTRUMENTS = {
    symbol: Instrument(symbol, 2, 3, 5 * UNIT, "perpetual") for symbol in ("Y/USDT", "X/USDT")
}
_IDENTITY = Identity("paper", "legs")


class Outcome(StrEnum):
    """What becomes of an order."""

    REJECTED = "rejected"
    PARTIAL = "partial"
    FILLED = "filled"
    UNKNOWN = "unknown"
    LATE = "late"


@dataclass(slots=True)
class _AtVenue:
    """An order at the venue: when it ends, how much of it has filled by then, and how it ends."""

    order: Order
    ends_at: int
    filled: int
    state: OrderState
    executions: list[tuple[int, Execution]] = field(default_factory=list)


class Legs:
    """A pair that is opened, each leg with an outcome of its own.

    Parameters
    ----------
    seed, outcomes
        Decide everything; the outcomes are those of the opening orders, y first.
    """

    def __init__(self, seed: int, outcomes: tuple[Outcome, Outcome]) -> None:
        self._outcomes = outcomes
        self.ledger = Ledger(100_000 * UNIT)
        self.n_closes = 0
        self._random = Random(f"{seed} {outcomes[0]} {outcomes[1]}")
        self._prices = {
            "Y/USDT": round(self._random.uniform(5, 50), 2),
            "X/USDT": round(self._random.uniform(50, 500), 2),
        }
        self._first_prices = dict(self._prices)
        self._at_venue: dict[str, _AtVenue] = {}
        self._control = TradingControl()
        self._answers_at: dict[str, int] = {}

    def run(self) -> str | None:
        """Open the pair and go on until nothing works; return what is wrong with what is left."""
        self._send(self._settle((self._opening(),)), self._outcomes)
        if self._random.random() < 0.3:
            self._control = TradingControl(self._random.choice(list(TradingState)))
        while self.n_closes < N_CLOSES:
            self._let_venue_trade()
            self._resolve()
            if not in_flight(self.ledger):
                self._send(self._settle())
        if self.ledger.orders:
            return f"orders work in the end: {self.ledger.orders}"
        for position in self.ledger.positions.values():
            if wrong := self._wrong(position):
                return f"{wrong}: {position}"
        return None

    def _wrong(self, position: PairPosition) -> str | None:
        if position.is_single_legged:
            return "single-legged in the end"
        notional = [
            lots * self._first_prices[symbol] / 1_000
            for symbol, lots in (position.holding("y"), position.holding("x"))
        ]
        gross = sum(map(abs, notional))
        if abs(sum(notional)) > max(NET_SHARE * gross, SMALLEST_USDT):
            return f"net exposure is {sum(notional) / gross:.2%} of gross"
        return None

    # --- the book -------------------------------------------------------------------------

    def _opening(self) -> SubmitOrder:
        notional = self._random.uniform(400, 5_000)
        side = self._random.choice((1, -1))

        def leg(name: Literal["y", "x"], symbol: str, sign: int) -> OrderLeg:
            lots = round(1_000 * notional / self._prices[symbol])
            return OrderLeg(
                leg=name, symbol=symbol, side="buy" if sign > 0 else "sell", quantity_lots=lots
            )

        return SubmitOrder(
            intent_id="pair",
            sleeve="pairs",
            y="Y/USDT",
            x="X/USDT",
            action="open",
            position_id="pair",
            reason="z_score",
            hedge_ratio=1.0,
            legs=(leg("y", "Y/USDT", side), leg("x", "X/USDT", -side)),
        )

    def _settle(self, intents: Sequence[SubmitOrder] = ()) -> Settlement:
        requested = OrdersRequested(
            closes_at=instant_of_ms(OPENED_AT_MS + self.n_closes * BAR_MS),
            timeframe="5m",
            intents=tuple(intents),
            marks=dict(self._prices),
        )
        settled = settle_close(
            self.ledger,
            requested,
            [self._report(order) for order in self.ledger.orders.values() if order.is_working],
            INSTRUMENTS,
            FillTerms(),
            _IDENTITY,
            self._control,
        )
        self.ledger = settled.ledger
        for order in settled.cancel:
            known = self._at_venue.get(order.client_order_id)
            # A withdrawal may get lost; the book repeats it.
            if known is not None and known.ends_at > self.n_closes and self._random.random() < 0.7:
                known.ends_at = self.n_closes + 1
                known.filled = self._random.randint(0, max(0, known.filled - 1))
                known.state = OrderState.CANCELLED
        return settled

    def _report(self, order: Order) -> OrderReport:
        known = self._at_venue[order.client_order_id]
        state = known.state if known.ends_at <= self.n_closes else OrderState.ACCEPTED
        return OrderReport(order.client_order_id, state, tuple(known.executions))

    # --- the venue ------------------------------------------------------------------------

    def _send(self, settled: Settlement, outcomes: Sequence[Outcome] | None = None) -> None:
        """Send what a close decided; every order has an outcome."""
        answers = []
        for number, order in enumerate(settled.submit):
            outcome = Outcome.FILLED
            if outcomes is not None:
                outcome = outcomes[number]
            elif self.n_closes < N_FAULTY:
                outcome = self._random.choice(list(Outcome))
            answers.append(OrderReport(order.client_order_id, self._take(order, outcome)))
        self.ledger, _ = acknowledge(self.ledger, answers)

    def _take(self, order: Order, outcome: Outcome) -> OrderState:
        """Let the venue take an order, and return what the book is told at once."""
        random, key = self._random, order.client_order_id
        if outcome is Outcome.REJECTED:
            return OrderState.REJECTED
        ends_at, told = self.n_closes + 1, OrderState.ACCEPTED
        if outcome is Outcome.LATE:
            ends_at += random.randint(1, 3)
        if outcome is Outcome.UNKNOWN:
            told = OrderState.UNKNOWN
            self._answers_at[key] = self.n_closes + random.randint(1, 3)
            outcome = random.choice((Outcome.REJECTED, Outcome.PARTIAL, Outcome.FILLED))
            if outcome is Outcome.REJECTED:
                return told
        filled, state = order.quantity_lots, OrderState.FILLED
        if outcome is Outcome.PARTIAL:
            filled = order.quantity_lots * random.randint(1, 99) // 100
            state = random.choice((OrderState.CANCELLED, OrderState.EXPIRED))
        self._at_venue[key] = _AtVenue(order, ends_at, filled, state)
        return told

    def _let_venue_trade(self) -> None:
        """Let a bar go by: prices move, and orders fill."""
        self.n_closes += 1
        for symbol, price in self._prices.items():
            self._prices[symbol] = round(price * (1 + self._random.uniform(-0.004, 0.004)), 2)
        for known in self._at_venue.values():
            if known.ends_at != self.n_closes or not known.filled:
                continue
            # In one piece or in two.
            first = self._random.randint(0, known.filled)
            ticks = round(100 * self._prices[known.order.symbol])
            at_ms = OPENED_AT_MS + self.n_closes * BAR_MS
            known.executions = [
                (at_ms, Execution(lots, ticks, lots))
                for lots in (first, known.filled - first)
                if lots
            ]

    def _resolve(self) -> None:
        """Let the venue say what became of orders that it had not answered for."""
        told = []
        for order in in_flight(self.ledger):
            key = order.client_order_id
            if self._answers_at[key] <= self.n_closes:
                is_there = key in self._at_venue
                state = OrderState.ACCEPTED if is_there else OrderState.REJECTED
                told.append(OrderReport(key, state))
        self.ledger, _ = acknowledge(self.ledger, told)
