"""Bars as a chart shows them: longer ones, the forming one, and their bounds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from services.paper_exchange import charts
from services.paper_exchange.candles import Candle, Candles
from services.paper_exchange.clock import VenueClock
from services.paper_exchange.market import Listing, Market
from shared.book.instrument import Instrument

BAR_MS = 300_000
HOUR_MS = 3_600_000
T0 = 1_704_067_200_000  # a full hour
COIN = Instrument("AAA/USDT", 2, 3, 500_000_000, "perpetual")


def close_ms(number: int) -> int:
    return T0 + (number + 1) * BAR_MS


def candles(numbers: range | list[int]) -> Candles:
    """Bar i opens at 100 + i, closes one higher, reaches two above and below, trades i."""
    return Candles.of(
        [
            Candle(close_ms(i) - BAR_MS, close_ms(i), 100.0 + i, 103.0 + i, 98.0 + i, 101.0 + i, i)
            for i in numbers
        ]
    )


def listing(numbers: range | list[int] = range(30)) -> Listing:
    return Listing("AAAUSDT", COIN, BAR_MS, candles(numbers))


def opens(found: list[Candle]) -> list[int]:
    return [(candle.opens_at_ms - T0) // BAR_MS for candle in found]


def test_an_hour_is_made_of_its_twelve_bars() -> None:
    (hour,) = listing().candles(HOUR_MS, T0, T0, 10, close_ms(29))
    assert hour == (T0, T0 + HOUR_MS, 100.0, 114.0, 98.0, 112.0, float(sum(range(12))))


def test_an_hour_with_a_gap_is_made_of_what_there_is() -> None:
    (hour,) = listing([3, 4, 9, 12]).candles(HOUR_MS, T0, T0, 10, close_ms(29))
    assert hour == (T0, T0 + HOUR_MS, 103.0, 112.0, 101.0, 110.0, 16.0)


def test_a_recorded_hour_is_shown_as_it_was_recorded() -> None:
    recorded = Candles.of([Candle(T0, T0 + HOUR_MS, 1.0, 2.0, 0.5, 1.5, 7.0)])
    shown = Listing("AAAUSDT", COIN, BAR_MS, candles(range(30)), {HOUR_MS: recorded})
    assert shown.candles(HOUR_MS, T0, T0, 1, close_ms(29))[0].volume == 7.0
    assert shown.closed(HOUR_MS, T0 + HOUR_MS) == (T0, T0 + HOUR_MS, 1.0, 2.0, 0.5, 1.5, 7.0)


def test_nothing_after_the_present_is_shown() -> None:
    at_ms = close_ms(13)
    for bar_ms in (BAR_MS, HOUR_MS):
        shown = listing().candles(bar_ms, None, None, 100, at_ms)
        hidden = listing(range(14)).candles(bar_ms, None, None, 100, at_ms)
        assert shown == hidden
    assert max(candle.high for candle in shown) == 103.0 + 13


def test_the_forming_bar_comes_last() -> None:
    *_, ended, forming = listing().candles(BAR_MS, None, None, 3, close_ms(13))
    assert ended.closes_at_ms == forming.opens_at_ms == close_ms(13)
    # It stands at the last price; the open of the bar to come is nobody's business yet.
    assert forming[2:] == (114.0, 114.0, 114.0, 114.0, 0.0)


def test_a_forming_hour_is_made_of_what_has_closed() -> None:
    *_, forming = listing().candles(HOUR_MS, None, None, 3, close_ms(13))
    assert forming == (T0 + HOUR_MS, T0 + 2 * HOUR_MS, 112.0, 116.0, 110.0, 114.0, 25.0)


@pytest.mark.parametrize(
    ("start", "end", "limit", "expected"),
    [
        (None, None, 3, [12, 13, 14]),
        (None, None, 1, [14]),
        (5, None, 3, [5, 6, 7]),
        (None, 5, 3, [3, 4, 5]),
        (5, 6, 500, [5, 6]),
        (12, None, 500, [12, 13, 14]),
        (14, None, 500, [14]),
        (15, None, 500, []),
        (12, 13, 500, [12, 13]),
        (12, None, 2, [12, 13]),
        (6, 5, 500, []),
    ],
)
def test_bounds_are_of_the_opens_and_the_limit_counts_from_the_start_if_there_is_one(
    start: int | None, end: int | None, limit: int, expected: list[int]
) -> None:
    start_ms, end_ms = (None if i is None else T0 + i * BAR_MS for i in (start, end))
    found = listing().candles(BAR_MS, start_ms, end_ms, limit, close_ms(13))
    assert opens(found) == expected


def test_a_bound_between_two_opens_takes_in_no_bar_that_opened_before_it() -> None:
    found = listing().candles(BAR_MS, T0 + 1, T0 + 2 * BAR_MS + 1, 9, close_ms(13))
    assert opens(found) == [1, 2]


def test_before_its_first_bar_a_symbol_shows_nothing() -> None:
    late = listing([20])
    assert late.candles(BAR_MS, None, None, 5, close_ms(10)) == []
    assert late.forming(HOUR_MS, close_ms(10)) is None


def test_a_bar_reads_back_to_the_bit() -> None:
    rng = np.random.default_rng(5)
    for value in [*rng.lognormal(0.0, 12.0, 200).tolist(), 0.1 + 0.2, 1e-7, 12345678.9, 5.0]:
        text = charts.shortest(value)
        assert "e" not in text.lower()
        assert float(text) == value


def test_the_last_day_is_the_last_day_and_no_more() -> None:
    shown = charts.ticker(listing(range(600)), close_ms(400))
    # of bars 113 to 400
    assert (shown["openPrice"], shown["lastPrice"]) == ("213.0", "501.0")
    assert (shown["lowPrice"], shown["highPrice"]) == ("211.0", "503.0")
    assert float(shown["volume"]) == sum(range(113, 401))
    assert shown["priceChange"] == "288.0"


def test_a_market_grows_and_forgets() -> None:
    market = Market({"AAAUSDT": listing(range(10))}, candles(range(10)).closes_at_ms, BAR_MS)
    market.grow(candles(range(10, 12)).closes_at_ms, {"AAAUSDT": candles(range(10, 12))})
    market.forget(close_ms(8))
    grown = market.listings["AAAUSDT"].bars
    assert grown.closes_at_ms.tolist() == [close_ms(9), close_ms(10), close_ms(11)]
    assert grown.open.tolist() == [109.0, 110.0, 111.0]
    assert market.closes_between(0, close_ms(99)) == [close_ms(9), close_ms(10), close_ms(11)]
    assert grown.open.base is None  # nothing of the forgotten bars is kept alive


def test_only_intervals_that_can_be_made_of_its_bars_are_offered() -> None:
    assert list(Market({}, candles([]).closes_at_ms, 900_000).intervals) == [
        "15m",
        "1h",
        "4h",
        "1d",
    ]


# --- the clock of a market that moves by itself -----------------------------------------------


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [50.0]
    monkeypatch.setattr("services.paper_exchange.clock.monotonic_seconds", lambda: now[0])
    return iter([now])


def test_the_clock_never_shows_a_close_before_the_market_has_reached_it(
    seconds: Iterator[list[float]],
) -> None:
    now = next(seconds)
    clock = VenueClock(T0)
    clock.reach(T0, before_ms=close_ms(0))
    now[0] += 299.9
    assert clock.now_ms() == T0 + 299_900
    now[0] += 5.0
    assert clock.now_ms() == close_ms(0) - 1
    clock.reach(close_ms(0), before_ms=close_ms(1))
    assert clock.now_ms() == close_ms(0)


def test_the_clock_of_a_slow_market_is_slow(seconds: Iterator[list[float]]) -> None:
    now = next(seconds)
    clock = VenueClock(T0, rate=0.25)
    now[0] += 8.0
    assert clock.now_ms() == T0 + 2_000
