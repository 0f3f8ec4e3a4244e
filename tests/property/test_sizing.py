from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from random import Random
from typing import Literal

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.book.instrument import Instrument, derive_instrument
from shared.book.sizing import SizingSettings, size_pair
from shared.book.targets import LiveTarget, plan_intents, release_closed
from shared.clock import instant_of_ms
from shared.events.executor import PositionsChanged, PositionStatus
from shared.events.portfolio import SubmitOrder
from shared.events.signals import Signal, SignalsRaised
from tests.support import BAR_MS, MIDNIGHT_MS, signal

UNIT = 10**8
prices = st.floats(1e-4, 1e5)
hedge_ratios = st.floats(0.2, 5.0)


@st.composite
def legs(draw: st.DrawFn) -> tuple[float, Instrument]:
    """Return a price and units that were fitted to a price somewhere near it."""
    price = draw(prices)
    reference = price * draw(st.floats(0.1, 10.0))
    return price, derive_instrument("A/USDT", reference)


def lot_value(price: float, instrument: Instrument) -> int:
    return instrument.notional_e8(instrument.price_ticks(price, "nearest"), 1)


@given(st.integers(1, 10**7), hedge_ratios, st.sampled_from(["log", "price"]), legs(), legs())
def test_both_legs_take_the_gross_but_for_a_lot_each(
    gross_usdt: int,
    hedge_ratio: float,
    space: Literal["log", "price"],
    y: tuple[float, Instrument],
    x: tuple[float, Instrument],
) -> None:
    gross_e8 = gross_usdt * UNIT
    size = size_pair(gross_e8, hedge_ratio, space, y[0], x[0], y[1], x[1])
    assert min(size.lots_y, size.lots_x) >= 0
    assert size.notional_y_e8 == size.lots_y * lot_value(*y)
    assert size.notional_x_e8 == size.lots_x * lot_value(*x)
    taken = size.notional_y_e8 + size.notional_x_e8
    assert gross_e8 - lot_value(*y) - lot_value(*x) < taken <= gross_e8


@given(st.integers(1, 10**7), hedge_ratios, legs(), legs())
def test_in_log_space_notionals_stand_in_the_hedge_ratio_but_for_a_lot_each(
    gross_usdt: int, hedge_ratio: float, y: tuple[float, Instrument], x: tuple[float, Instrument]
) -> None:
    gross_e8 = gross_usdt * UNIT
    size = size_pair(gross_e8, hedge_ratio, "log", y[0], x[0], y[1], x[1])
    ratio = Fraction(hedge_ratio)
    lots = max(Fraction(lot_value(*x)), ratio * lot_value(*y))
    # The ratio counts in millionths, and the split of the gross in 1e-8 of the quote.
    rounding = Fraction(gross_e8, 1_000_000) + 1 + ratio
    assert abs(size.notional_x_e8 - ratio * size.notional_y_e8) <= lots + rounding


@given(st.integers(1, 10**7), hedge_ratios, legs(), legs())
def test_in_price_space_units_stand_in_the_hedge_ratio_but_for_a_lot_each(
    gross_usdt: int, hedge_ratio: float, y: tuple[float, Instrument], x: tuple[float, Instrument]
) -> None:
    # A ratio of notionals of one, give or take: x units at their price for y units at theirs.
    ratio = Fraction(hedge_ratio * y[0] / x[0])
    size = size_pair(gross_usdt * UNIT, float(ratio), "price", y[0], x[0], y[1], x[1])
    units_y, units_x = y[1].quantity_of(size.lots_y), x[1].quantity_of(size.lots_x)
    lot_y, lot_x = y[1].quantity_of(1), x[1].quantity_of(1)
    lots = max(Fraction(lot_x), ratio * Fraction(lot_y))
    # Lots are counted at prices in ticks, the ratio is taken at the closes themselves.
    ticks = sum(
        abs(Fraction(unit.price_of(unit.price_ticks(price, "nearest"))) / Fraction(price) - 1)
        for price, unit in (y, x)
    )
    slack = ratio * Fraction(units_y + lot_y) * (2 * ticks + Fraction(1, 50_000))
    assert abs(Fraction(units_x) - ratio * Fraction(units_y)) <= lots + slack


CLOSES = {"A/USDT": 30_000.0, "B/USDT": 100.0, "C/USDT": 10.0, "D/USDT": 2.5, "E/USDT": 1.0}
SYMBOLS = tuple(CLOSES)
INSTRUMENTS = {symbol: derive_instrument(symbol, close) for symbol, close in CLOSES.items()}


def closed_event(position_ids: Iterable[str]) -> PositionsChanged:
    return PositionsChanged(
        closes_at=instant_of_ms(MIDNIGHT_MS),
        cash_e8=0,
        equity_e8=0,
        gross_e8=0,
        positions=tuple(
            PositionStatus(
                position_id=position_id, pair="", state="closed", lots_y=0, lots_x=0, cash_e8=0
            )
            for position_id in position_ids
        ),
    )


def random_signals(random: Random) -> list[Signal]:
    pairs = [tuple(random.sample(SYMBOLS, 2)) for _ in range(random.randint(0, 8))]
    return [
        signal(
            random.choice(["enter", "enter", "exit"]),
            (y, x),
            strength=random.choice([2.0, 2.5, 3.0]),
            hedge_ratio=random.uniform(0.2, 5.0),
            closes=(CLOSES[y], CLOSES[x]),
        )
        for y, x in pairs
    ]


books = st.builds(
    SizingSettings,
    capital_usdt=st.integers(100, 100_000),
    top_k=st.integers(1, 6),
    gross_cap=st.floats(0.1, 4.0),
    symbol_cap=st.floats(0.05, 2.0),
)


@hypothesis_settings(max_examples=150)
@given(st.integers(0, 2**32), st.lists(books, min_size=1, max_size=2), st.integers(1, 8))
def test_no_entry_exceeds_a_cap_whatever_is_signalled(
    seed: int, in_force: list[SizingSettings], n_closes: int
) -> None:
    random = Random(seed)
    live: Mapping[tuple[str, str], LiveTarget] = {}
    open_positions: dict[str, SubmitOrder] = {}
    to_close: list[str] = []
    # The settings may change under a book that was filled before.
    for n, settings in enumerate(s for s in in_force for _ in range(n_closes)):
        raised = SignalsRaised.of_rows(
            random_signals(random),
            closes_at=instant_of_ms(MIDNIGHT_MS + n * BAR_MS),
            timeframe="5m",
            roster_closes_at=None,
            marks={},
        )
        plan = plan_intents(live, raised, INSTRUMENTS, settings, "log")
        assert len(plan.decisions) == len(raised.rows)
        entries = [intent for intent in plan.requested.intents if intent.action == "open"]
        for intent in plan.requested.intents:
            if intent.action == "close":
                assert intent.position_id in open_positions
                assert intent.position_id not in to_close
                to_close.append(intent.position_id)
            else:
                assert intent.intent_id not in open_positions
                open_positions[intent.position_id] = intent
        held = dict.fromkeys(SYMBOLS, 0)
        for intent in open_positions.values():
            for leg in intent.legs:
                unit = INSTRUMENTS[leg.symbol]
                ticks = unit.price_ticks(CLOSES[leg.symbol], "nearest")
                held[leg.symbol] += unit.notional_e8(ticks, leg.quantity_lots)
        if entries:
            # A cap is a setting to six decimals.
            capital_e8 = settings.capital_usdt * UNIT
            slack = Fraction(capital_e8, 1_000_000)
            assert len(open_positions) <= settings.top_k
            assert sum(held.values()) <= capital_e8 * Fraction(settings.gross_cap) + slack
            for symbol in {leg.symbol for intent in entries for leg in intent.legs}:
                assert held[symbol] <= capital_e8 * Fraction(settings.symbol_cap) + slack
        pairs = [(intent.y, intent.x) for intent in open_positions.values()]
        assert len(set(pairs)) == len(pairs)
        closed = [position_id for position_id in to_close if random.random() < 0.5]
        to_close = [position_id for position_id in to_close if position_id not in closed]
        for position_id in closed:
            del open_positions[position_id]
        live = release_closed(plan.live, closed_event(closed))
        assert {target.position_id for target in live.values()} == open_positions.keys()
