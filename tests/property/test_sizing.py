from __future__ import annotations

from collections.abc import Mapping
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


SYMBOLS = tuple(f"{name}/USDT" for name in "ABCDE")
INSTRUMENTS = {
    symbol: Instrument(symbol, 2, decimals, 5 * UNIT, "perpetual")
    for decimals, symbol in enumerate(SYMBOLS)
}


def closed_positions(random: Random, requested: list[SubmitOrder]) -> PositionsChanged:
    """Report some of the positions that were to be closed as closed."""
    return PositionsChanged(
        closes_at=instant_of_ms(MIDNIGHT_MS),
        cash_e8=0,
        equity_e8=0,
        gross_e8=0,
        positions=tuple(
            PositionStatus(
                position_id=intent.position_id,
                pair=f"{intent.y}~{intent.x}",
                state=random.choice(["closed", "closing"]),
                lots_y=0,
                lots_x=0,
                cash_e8=0,
            )
            for intent in requested
        ),
    )


def random_signals(random: Random) -> tuple[Signal, ...]:
    pairs = [tuple(random.sample(SYMBOLS, 2)) for _ in range(random.randint(0, 8))]
    return tuple(
        signal(
            random.choice(["enter", "enter", "exit"]),
            (y, x),
            strength=random.choice([2.0, 2.5, 3.0]),
            hedge_ratio=random.uniform(0.2, 5.0),
            closes=(random.uniform(1.0, 100.0), random.uniform(1.0, 100.0)),
        )
        for y, x in pairs
    )


@hypothesis_settings(max_examples=60)
@given(
    st.randoms(use_true_random=False),
    st.builds(
        SizingSettings,
        capital_usdt=st.integers(100, 100_000),
        top_k=st.integers(1, 6),
        gross_cap=st.floats(0.1, 4.0),
        symbol_cap=st.floats(0.05, 2.0),
    ),
    st.integers(1, 12),
)
def test_no_cap_is_exceeded_whatever_is_signalled(
    random: Random, settings: SizingSettings, n_closes: int
) -> None:
    live: Mapping[tuple[str, str], LiveTarget] = {}
    ids: set[str] = set()
    to_close: list[SubmitOrder] = []
    for n in range(n_closes):
        raised = SignalsRaised(
            closes_at=instant_of_ms(MIDNIGHT_MS + n * BAR_MS),
            timeframe="5m",
            signals=random_signals(random),
            marks=(),
        )
        plan = plan_intents(live, raised, INSTRUMENTS, settings, "log")
        assert len(plan.decisions) == len(raised.signals)
        for intent in plan.requested.intents:
            assert intent.intent_id not in ids
            ids.add(intent.intent_id)
        to_close += [i for i in plan.requested.intents if i.action == "close"]
        targets = plan.live.values()
        assert len(targets) <= settings.top_k
        by_symbol = dict.fromkeys(SYMBOLS, 0)
        for target in targets:
            by_symbol[target.y] += target.notional_y_e8
            by_symbol[target.x] += target.notional_x_e8
        capital_e8 = settings.capital_usdt * UNIT
        # A cap is a setting to six decimals.
        slack = Fraction(capital_e8, 1_000_000)
        assert sum(by_symbol.values()) <= capital_e8 * Fraction(settings.gross_cap) + slack
        assert max(by_symbol.values()) <= capital_e8 * Fraction(settings.symbol_cap) + slack
        live = release_closed(plan.live, closed_positions(random, to_close))
