from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared.clock import instant_of_ms
from shared.events.ingest import BarsClosed
from shared.sleeves.pairs.screener import PairScreener, ScreenedClose, roster_member
from shared.sleeves.pairs.screening import ScreenSettings
from tests.support import MIDNIGHT_MS, closing_bars

HOUR_MS = 3_600_000
N_BARS = 210
SYMBOLS = ("A/USDT", "B/USDT", "C/USDT")
SETTINGS = ScreenSettings(
    window_bars=200,
    method="p_value",
    level=0.01,
    enter_after_screens=2,
    leave_after_screens=2,
    closing_only_hours=4,
)


def market() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Three walks, of which B follows A with a fading deviation."""
    rng = np.random.default_rng(2)
    log_prices = 3 + 0.01 * rng.normal(size=(N_BARS, 3)).cumsum(axis=0)
    deviation = np.zeros(N_BARS)
    for n in range(1, N_BARS):
        deviation[n] = 0.6 * deviation[n - 1] + 0.003 * rng.normal()
    log_prices[:, 1] = 0.5 + 0.9 * log_prices[:, 0] + deviation
    return np.exp(log_prices)


MARKET = market()


def close(n: int, symbols: tuple[str, ...] = SYMBOLS) -> BarsClosed:
    bars = {symbol: (float(MARKET[n, SYMBOLS.index(symbol)]), 1e6) for symbol in symbols}
    return closing_bars(MIDNIGHT_MS + n * HOUR_MS, bars).model_copy(update={"timeframe": "1h"})


def warm() -> PairScreener:
    """Return a screener whose window lacks the last of its bars."""
    screener = PairScreener(SETTINGS, "1h")
    for n in range(199):
        screener.push(close(n))
    return screener


def screen(screener: PairScreener, closed: BarsClosed) -> ScreenedClose:
    return screener.screen(closed, SYMBOLS)


def statuses(screened: ScreenedClose) -> list[tuple[str, int]]:
    return [(pair.status, pair.accepted_screens) for pair in screened.event.pairs]


def test_history_is_not_screened() -> None:
    screener = warm()
    assert (screener.roster, screener.last_closes_at_ms) == ((), None)


def test_a_screen_tells_what_was_tested_and_the_roster_it_led_to() -> None:
    screened = screen(warm(), close(199))
    event = screened.event
    assert event.closes_at == instant_of_ms(MIDNIGHT_MS + 199 * HOUR_MS)
    assert (event.timeframe, event.method, event.level) == ("1h", "p_value", 0.01)
    assert screened.screen is not None
    assert (event.n_symbols, event.n_tests) == (3, 6)
    assert event.n_accepted == int(screened.screen.tests.accepted.sum()) > 0
    assert event.summary == screened.screen.summary
    (pair,) = event.pairs
    (candidate,) = screened.screen.candidates
    assert {pair.y, pair.x} == {"A/USDT", "B/USDT"}
    for name in ("y", "x", "statistic", "p_value", "q_value", "lag", "hedge_ratio", "intercept",
                 "half_life_bars", "hurst", "correlation", "crossings", "n_bars"):  # fmt: skip
        assert getattr(pair, name) == getattr(candidate, name), name
    assert screened.excluded == {}


def test_every_new_close_counts_towards_the_roster() -> None:
    screener = warm()
    first, second = screen(screener, close(199)), screen(screener, close(200))
    assert statuses(first) == [("candidate", 1)]
    assert statuses(second) == [("active", 2)]
    assert second.event.pairs[0].entered_at == second.event.closes_at
    assert first.event.pairs[0].entered_at is None


@pytest.mark.parametrize("late", [199, 150])
def test_a_close_that_is_not_newer_completes_the_window_without_a_screen(late: int) -> None:
    screener = PairScreener(SETTINGS, "1h")
    for n in range(199):
        screener.push(close(n, SYMBOLS[:2] if n == late else SYMBOLS))
    first = screen(screener, close(199, SYMBOLS[:2] if late == 199 else SYMBOLS))
    reason = "no bar at this close" if late == 199 else "199 of 200 bars: a gap of its own"
    assert first.excluded["C/USDT"].startswith(reason)
    again = screen(screener, close(late, ("C/USDT",)))
    assert again.screen is None
    assert (again.event.n_tests, again.event.pairs) == (0, first.event.pairs)
    assert again.event.summary == "not newer than the last screen: no test made"
    assert screener.last_closes_at_ms == MIDNIGHT_MS + 199 * HOUR_MS
    assert screen(screener, close(200)).event.n_symbols == 3


def test_what_may_not_be_traded_is_tested_and_not_followed() -> None:
    screened = warm().screen(close(199), ("A/USDT", "C/USDT"))
    assert (screened.event.n_tests, screened.event.pairs) == (6, ())
    assert screened.event.n_accepted > 0


def test_a_screener_that_starts_anew_goes_on_as_before() -> None:
    screener = warm()
    for n in (199, 200):
        screen(screener, close(n))
    # The roster comes back from the last event, the window from the bars.
    members = [roster_member(pair) for pair in screen(screener, close(201)).event.pairs]
    assert tuple(members) == screener.roster
    restarted = PairScreener(SETTINGS, "1h", members, screener.last_closes_at_ms)
    for n in range(2, 202):
        restarted.push(close(n))
    for n in (201, 202, 203):
        one, other = screen(screener, close(n)), screen(restarted, close(n))
        assert one.event == other.event
        assert one.excluded == other.excluded


def test_a_member_survives_the_way_into_an_event_and_back() -> None:
    screener = warm()
    screen(screener, close(199))
    (candidate,) = screener.roster
    left = replace(
        candidate,
        status="closing_only",
        accepted_screens=0,
        missed_screens=2,
        entered_at_ms=MIDNIGHT_MS,
        left_at_ms=MIDNIGHT_MS + HOUR_MS,
    )
    for member in (candidate, left):
        restarted = PairScreener(SETTINGS, "1h", [member], screener.last_closes_at_ms)
        (pair,) = screen(restarted, close(199)).event.pairs
        assert roster_member(pair) == member
