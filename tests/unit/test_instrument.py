from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.book.instrument import (
    Instrument,
    derive_instrument,
    instruments_from_bars,
    perpetual_symbol,
    venue_id,
)
from shared.errors import DataError
from shared.quant.bars import Bars, RawBars

CENTS = Instrument("ABC/USDT", 2, 3, 5 * 10**8, "perpetual")


@pytest.mark.parametrize(
    ("price", "rounding", "ticks"),
    [
        (10.0, "nearest", 1000),
        (10.004, "nearest", 1000),
        (10.005, "nearest", 1001),
        (10.001, "up", 1001),
        (10.009, "down", 1000),
        (0.07, "up", 7),
        (1.1, "down", 110),
        (1e22, "nearest", 10**24),
    ],
)
def test_a_price_becomes_ticks_as_it_is_written_in_decimal(
    price: float, rounding: Literal["up", "down", "nearest"], ticks: int
) -> None:
    # 0.07 * 100 is 7.000000000000001 and 1.1 * 100 is 110.00000000000001 in floats, and
    # 10.005 is a little less than its decimal: none of that may move a tick.
    assert CENTS.price_ticks(price, rounding) == ticks
    assert CENTS.price_ticks(Decimal(repr(price)), rounding) == ticks
    assert CENTS.price_ticks(np.float64(price), rounding) == ticks


@pytest.mark.parametrize("rounding", ["up", "down", "nearest"])
def test_a_positive_price_is_never_rounded_to_zero(
    rounding: Literal["up", "down", "nearest"],
) -> None:
    assert CENTS.price_ticks(1e-9, rounding) == 1


@pytest.mark.parametrize("price", [0.0, -1.0, float("nan"), float("inf"), Decimal("NaN")])
def test_a_price_that_is_not_a_positive_number_has_no_ticks(price: float | Decimal) -> None:
    with pytest.raises(DataError, match="not a positive number"):
        CENTS.price_ticks(price, "nearest")


def test_lots_are_rounded_down_and_exact() -> None:
    assert CENTS.lots_of(0.0) == 0
    assert CENTS.lots_of(0.0009) == 0
    assert CENTS.lots_of(1.001) == 1001
    assert CENTS.lots_of(Decimal("2.9999")) == 2999


@pytest.mark.parametrize("quantity", [-0.001, float("nan"), float("inf")])
def test_a_quantity_that_is_negative_or_not_finite_has_no_lots(quantity: float) -> None:
    with pytest.raises(DataError, match="zero or positive"):
        CENTS.lots_of(quantity)


def test_notional_is_an_exact_signed_integer() -> None:
    # 10.05 * 0.123 = 1.23615 quote units
    assert CENTS.notional_e8(1005, 123) == 123_615_000
    assert CENTS.notional_e8(1005, -123) == -123_615_000
    assert CENTS.notional_e8(10**30 + 1, 1) == (10**30 + 1) * 1000


@pytest.mark.parametrize(("price_decimals", "lot_decimals"), [(5, 4), (-1, 3), (3, -1)])
def test_decimals_that_leave_no_exact_notional_are_refused(
    price_decimals: int, lot_decimals: int
) -> None:
    with pytest.raises(DataError, match="may add up to 8"):
        Instrument("ABC/USDT", price_decimals, lot_decimals, 0, "perpetual")


@given(ticks=st.integers(1, 10**40), lots=st.integers(0, 10**40))
def test_ticks_and_lots_survive_the_way_to_decimals_and_back(ticks: int, lots: int) -> None:
    price, quantity = CENTS.price_of(ticks), CENTS.quantity_of(lots)
    assert CENTS.price_ticks(price, "nearest") == ticks
    assert CENTS.lots_of(quantity) == lots
    with localcontext(prec=200):
        assert CENTS.notional_e8(ticks, lots) == price * quantity * 10**8


def test_the_precision_of_the_callers_decimal_context_changes_nothing() -> None:
    with localcontext(prec=3):
        assert CENTS.price_ticks(123456.78, "nearest") == 12_345_678
        assert CENTS.price_of(12_345_678) == Decimal("123456.78")


@given(price=st.floats(1e-7, 1e12), decimals=st.integers(0, 8))
def test_rounding_up_and_down_bracket_the_price_within_a_tick(price: float, decimals: int) -> None:
    instrument = Instrument("ABC/USDT", decimals, 0, 0, "perpetual")
    up, down = instrument.price_ticks(price, "up"), instrument.price_ticks(price, "down")
    nearest = instrument.price_ticks(price, "nearest")
    assert up - down in (0, 1)
    assert nearest in (up, down)
    assert instrument.price_of(up) >= Decimal(repr(price))
    assert down == 1 or instrument.price_of(down) <= Decimal(repr(price))


@pytest.mark.parametrize(
    ("price", "price_decimals", "lot_decimals"),
    [
        (42283.58, 1, 5),
        (99999.99, 1, 5),
        (100000.0, 0, 6),
        (2310.11, 2, 4),
        (10.0, 4, 2),
        (9.999999, 5, 1),
        (1.0, 5, 1),
        (0.9999999999999999, 6, 0),
        (99999.99999999999, 1, 5),  # its float logarithm is 5.0
        (0.1, 6, 0),
        (0.0007793, 8, 0),
        (0.00000122, 8, 0),
        (1e-8, 8, 0),
        (1e9, 0, 8),
        (1000.0, 2, 4),
    ],
)
def test_derived_units_resolve_six_significant_digits(
    price: float, price_decimals: int, lot_decimals: int
) -> None:
    instrument = derive_instrument("ABC/USDT", price)
    assert (instrument.price_decimals, instrument.lot_decimals) == (price_decimals, lot_decimals)
    assert instrument.min_notional_e8 == 500_000_000


@pytest.mark.parametrize("price", [0.0, -5.0, 9.9e-9, float("nan"), float("inf")])
def test_no_unit_is_derived_from_an_unusable_price(price: float) -> None:
    with pytest.raises(DataError, match="no tick fits"):
        derive_instrument("ABC/USDT", price)


def test_the_source_of_the_price_is_labelled() -> None:
    spot = derive_instrument("BTC/USDT", 1.0)
    assert spot.price_source == "spot price standing in for the perpetual"
    assert derive_instrument("BTC/USDT:USDT", 1.0).price_source == "perpetual"


def test_symbols_translate_to_the_perpetual_and_to_the_name_of_the_venue() -> None:
    assert perpetual_symbol("BTC/USDT") == "BTC/USDT:USDT"
    assert perpetual_symbol("BTC/USDT:USDT") == "BTC/USDT:USDT"
    assert venue_id("BTC/USDT") == "BTCUSDT"
    assert venue_id("1000SATS/USDT:USDT") == "1000SATSUSDT"


@pytest.mark.parametrize("symbol", ["BTCUSDT", "", "/USDT", "BTC/", "BTC/USD:BTC", "A/B/C", "A /B"])
def test_a_symbol_of_another_form_is_refused(symbol: str) -> None:
    for use in (perpetual_symbol, venue_id, lambda name: derive_instrument(name, 1.0)):
        with pytest.raises(DataError, match="BASE/QUOTE"):
            use(symbol)


def test_instruments_come_from_the_open_of_each_symbols_first_bar() -> None:
    rows = [
        ("B/USDT", 2, 0.5, 200.0, 0.5, 150.0, 1.0),
        ("A/USDT", 3, 20_000.0, 20_000.0, 20_000.0, 20_000.0, 1.0),
        ("A/USDT", 2, 3.0, 3.0, 3.0, 3.0, 1.0),
        ("C/USDT", 1, 1.0, 1.0, 1.0, 1.0, 1.0),
    ]
    bars = Bars.from_raw(RawBars.from_rows("binance", "1h", rows)).between(1, None)
    instruments = instruments_from_bars(bars)
    assert list(instruments) == ["A/USDT", "B/USDT"]  # C is in the code book, without a bar
    assert instruments["A/USDT"] == derive_instrument("A/USDT", 3.0)
    assert instruments["B/USDT"] == derive_instrument("B/USDT", 0.5)
