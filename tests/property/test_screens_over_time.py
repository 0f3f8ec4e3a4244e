"""Screens close by close over a market with listings, gaps, halts and delistings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numba
import numpy as np
import pytest

from shared.events.ingest import BarsClosed
from shared.sleeves.pairs.screener import PairScreener, ScreenedClose, roster_member
from shared.sleeves.pairs.screening import Method, ScreenSettings, screen_pairs
from tests.support import MIDNIGHT_MS, closing_bars

HOUR_MS = 3_600_000
WINDOW = 200
N_BARS = 330
SYMBOLS = ("A", "B", "C", "D", "E", "F", "G")
TESTED = ("statistic", "p_value", "hedge_ratio", "intercept")


def settings(method: Method = "empirical_null") -> ScreenSettings:
    return ScreenSettings(
        window_bars=WINDOW, min_bars=100, method=method, null_copies=19, level=0.1,
        enter_after_screens=2, leave_after_screens=2, hurst_max=0.6,
    )  # fmt: skip


def market() -> list[BarsClosed]:
    """Return hourly closes of seven symbols, two of which follow another.

    F is listed late, E has a gap, G is delisted, and the venue halts over a midnight.
    """
    rng = np.random.default_rng(6)
    log_prices = 3 + 0.01 * rng.normal(size=(N_BARS, len(SYMBOLS))).cumsum(axis=0)
    deviation = np.zeros((N_BARS, 2))
    for n in range(1, N_BARS):
        deviation[n] = 0.6 * deviation[n - 1] + 0.003 * rng.normal(size=2)
    log_prices[:, 1] = 0.5 + 0.9 * log_prices[:, 0] + deviation[:, 0]
    log_prices[:, 5] = 0.2 + 1.1 * log_prices[:, 2] + deviation[:, 1]
    closes = np.exp(log_prices)
    halt, gap = range(286, 291), range(240, 243)
    there = {
        "F": range(110, N_BARS),
        "E": [n for n in range(N_BARS) if n not in gap],
        "G": range(300),
    }
    return [
        bars_at(
            n, {s: closes[n, k] for k, s in enumerate(SYMBOLS) if n in there.get(s, range(N_BARS))}
        )
        for n in range(N_BARS)
        if n not in halt
    ]


def bars_at(n: int, closes: Mapping[str, float]) -> BarsClosed:
    bars = {symbol: (float(close), 1e6) for symbol, close in closes.items()}
    return closing_bars(MIDNIGHT_MS + n * HOUR_MS, bars).model_copy(update={"timeframe": "1h"})


MARKET = market()
FIRST = 215
"""The first close that is screened: the record is still too young for an anchor."""


def begun(before: int, method: Method = "empirical_null") -> PairScreener:
    """Return a screener that has read the last closes before one, as after a restart."""
    screener = PairScreener(settings(method), "1h")
    for closed in MARKET[max(0, before - screener.window.history_bars) : before]:
        screener.push(closed)
    return screener


def run(screener: PairScreener, closes: Sequence[BarsClosed]) -> list[ScreenedClose]:
    return [screener.screen(closed, SYMBOLS) for closed in closes]


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """Keep the kernels, which give the same bits on any number, from waiting for busy cores."""
    n_threads = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def unbroken() -> list[ScreenedClose]:
    return run(begun(FIRST), MARKET[FIRST:])


def at_hour(screens: Sequence[ScreenedClose], hour: int) -> ScreenedClose:
    wanted = MIDNIGHT_MS + hour * HOUR_MS
    return next(screened for screened in screens if screened.event.closes_at_ms == wanted)


def assert_same_bits(one: ScreenedClose, other: ScreenedClose) -> None:
    assert one.event.model_dump_json() == other.event.model_dump_json()
    assert (one.excluded, one.symbols_by_bars) == (other.excluded, other.symbols_by_bars)
    assert one.screen is not None
    assert other.screen is not None
    assert one.screen.symbols == other.screen.symbols
    for field in (*TESTED, "lag", "q_value", "accepted", "n_bars", "y_index", "x_index"):
        mine, theirs = getattr(one.screen.tests, field), getattr(other.screen.tests, field)
        assert mine.tobytes() == theirs.tobytes(), field


def test_a_restart_at_any_close_changes_no_bit(unbroken: list[ScreenedClose]) -> None:
    for restart in range(FIRST + 1, len(MARKET) - 1, 3):
        n_before = restart - FIRST
        last = unbroken[n_before - 1].event
        screener = begun(restart)
        screener.roster = tuple(roster_member(pair) for pair in last.pairs)
        screener.last_closes_at_ms = last.closes_at_ms
        again = run(screener, MARKET[restart : restart + 2])
        for one, other in zip(again, unbroken[n_before : n_before + 2], strict=True):
            assert_same_bits(one, other)


def test_the_window_told_again_changes_no_bit(unbroken: list[ScreenedClose]) -> None:
    screener = begun(FIRST)
    for n, closed in enumerate(MARKET[FIRST:]):
        # What the service does when a late bar makes it read the record again.
        for earlier in MARKET[max(0, FIRST + n - screener.window.history_bars) : FIRST + n]:
            screener.push(earlier)
        assert_same_bits(screener.screen(closed, SYMBOLS), unbroken[n])


def test_a_bar_that_comes_late_changes_what_follows_and_nothing_else(
    unbroken: list[ScreenedClose],
) -> None:
    # Late by a close each time: the last before, at and after the anchor of hour 264.
    for hour in (263, 264, 265):
        screener = begun(FIRST)
        for closed, expected in zip(MARKET[FIRST:275], unbroken[: 275 - FIRST], strict=True):
            if closed.closes_at_ms != MIDNIGHT_MS + hour * HOUR_MS:
                screened = screener.screen(closed, SYMBOLS)
                is_after = closed.closes_at_ms > MIDNIGHT_MS + hour * HOUR_MS
                if is_after and screened.screen is not None and expected.screen is not None:
                    tests, wanted = screened.screen.tests, expected.screen.tests
                    assert tests.statistic.tobytes() == wanted.statistic.tobytes()
                    assert tests.q_value.tobytes() == wanted.q_value.tobytes()
                continue
            late = [bar for bar in closed.bars if bar.symbol == "B"]
            on_time = [bar for bar in closed.bars if bar.symbol != "B"]
            screened = screener.screen(closed.model_copy(update={"bars": tuple(on_time)}), SYMBOLS)
            assert "B" in screened.excluded
            again = screener.screen(closed.model_copy(update={"bars": tuple(late)}), SYMBOLS)
            assert again.screen is None
            assert "B" not in again.excluded


@pytest.mark.parametrize("hour", [250, 264, 266])
def test_a_bar_told_again_otherwise_changes_what_is_carried_on(
    unbroken: list[ScreenedClose], hour: int
) -> None:
    screener = begun(FIRST)
    for closed, expected in zip(MARKET[FIRST:272], unbroken[: 272 - FIRST], strict=True):
        if closed.closes_at_ms == MIDNIGHT_MS + hour * HOUR_MS:
            first, *others = closed.bars
            wrong = first.model_copy(update={"close": first.close * 1.2, "high": first.close * 1.2})
            screener.screen(closed.model_copy(update={"bars": (wrong, *others)}), SYMBOLS)
            # No new screen, but what was made from the wrong bar must not be carried on.
            screener.screen(closed, SYMBOLS)
            continue
        screened = screener.screen(closed, SYMBOLS)
        assert screened.screen is not None
        assert expected.screen is not None
        for field in ("statistic", "q_value"):
            found, wanted = (getattr(s.tests, field) for s in (screened.screen, expected.screen))
            assert found.tobytes() == wanted.tobytes(), (closed.closes_at, field)


def test_what_is_carried_on_equals_what_is_made_anew() -> None:
    screener = begun(FIRST, "benjamini_hochberg")
    for closed in MARKET[FIRST:]:
        carried = screener.screen(closed, SYMBOLS).screen
        ragged = screener.window.ragged()
        anew = screen_pairs(
            ragged.symbols,
            ragged.log_prices,
            ragged.quote_volume,
            SYMBOLS,
            settings("benjamini_hochberg"),
        )
        assert carried is not None
        assert carried.tests.lag.tolist() == anew.tests.lag.tolist()
        for field in TESTED:
            one, other = getattr(carried.tests, field), getattr(anew.tests, field)
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_every_symbol_is_tested_on_the_bars_it_has_or_left_out_with_a_reason(
    unbroken: list[ScreenedClose],
) -> None:
    first = at_hour(unbroken, FIRST)
    assert first.symbols_by_bars == {200: 6, 100: 1}
    assert first.event.n_tests == 42
    later = at_hour(unbroken, 239)
    assert later.symbols_by_bars == {200: 6, 100: 1}
    # At hour 240 the anchor moves: F has 131 bars, and E misses its first.
    assert at_hour(unbroken, 240).symbols_by_bars == {200: 5, 125: 1}
    assert at_hour(unbroken, 240).excluded["E"].startswith("no bar at this close, the last one at")
    assert at_hour(unbroken, 243).excluded == {
        "E": "200 of 203 bars: a gap of its own in the window"
    }
    gone = at_hour(unbroken, 300).excluded
    assert gone["G"] == "no bar at this close, the last one at 2024-01-13T11:00:00+00:00"
    screen = at_hour(unbroken, 240).screen
    assert screen is not None
    n_bars = {
        (screen.symbols[y], screen.symbols[x]): n
        for y, x, n in zip(
            screen.tests.y_index, screen.tests.x_index, screen.tests.n_bars.tolist(), strict=True
        )
    }
    assert n_bars == {pair: 125 if "F" in pair else 200 for pair in n_bars}
    assert len(n_bars) == 30


def test_a_pair_of_a_symbol_listed_late_is_found_on_its_own_bars(
    unbroken: list[ScreenedClose],
) -> None:
    last = unbroken[-1].event
    found = {frozenset((pair.y, pair.x)): pair for pair in last.pairs if pair.status == "active"}
    assert set(found) == {frozenset("AB"), frozenset("CF")}
    assert (found[frozenset("AB")].n_bars, found[frozenset("CF")].n_bars) == (200, 175)
    first_with_f = next(
        pair
        for screened in unbroken
        for pair in screened.event.pairs
        if frozenset((pair.y, pair.x)) == frozenset("CF")
    )
    assert first_with_f.n_bars < 175
