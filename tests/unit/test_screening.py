from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from shared.errors import DataError
from shared.quant.cointegration import engle_granger_all_pairs
from shared.quant.mean_reversion import half_life_bars, zero_crossings
from shared.quant.multiple_testing import benjamini_hochberg, benjamini_yekutieli
from shared.quant.typing import Float2D
from shared.sleeves.pairs.screening import (
    MS_PER_HOUR,
    Method,
    PairStatistics,
    RosterMember,
    Screen,
    ScreenSettings,
    screen_pairs,
    update_roster,
)

N_BARS = 400
SYMBOLS = ("AAA/USDT", "BBB/USDT", "CCC/USDT", "DDD/USDT", "EEE/USDT", "FFF/USDT")
SETTINGS = ScreenSettings(window_bars=N_BARS, method="benjamini_hochberg")


def market(seed: int = 0) -> Float2D:
    """Six walks; BBB follows AAA and DDD follows CCC with a fading deviation."""
    rng = np.random.default_rng(seed)
    log_prices = 3.0 + 0.01 * rng.normal(size=(N_BARS, 6)).cumsum(axis=0)
    log_prices[:, 1] = 0.5 + 0.8 * log_prices[:, 0] + fading(rng)
    log_prices[:, 3] = 1.0 + 1.2 * log_prices[:, 2] + fading(rng)
    return log_prices


def fading(rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    deviation = np.zeros(N_BARS)
    for t in range(1, N_BARS):
        deviation[t] = 0.7 * deviation[t - 1] + 0.003 * rng.normal()
    return deviation


def traded(usdt: float = 1e6) -> Float2D:
    return np.full((N_BARS, 6), usdt)


def screen(
    log_prices: Float2D,
    settings: ScreenSettings = SETTINGS,
    tradable: Sequence[str] = SYMBOLS,
    quote_volume: Float2D | None = None,
    symbols: Sequence[str] = SYMBOLS,
) -> Screen:
    volume = traded() if quote_volume is None else quote_volume
    return screen_pairs(symbols, log_prices, volume, tradable, settings)


def pairs_of(screened: Screen) -> set[frozenset[str]]:
    return {frozenset((pair.y, pair.x)) for pair in screened.candidates}


AB, CD = frozenset(SYMBOLS[:2]), frozenset(SYMBOLS[2:4])


def test_the_two_tied_pairs_are_found() -> None:
    screened = screen(market())
    assert pairs_of(screened) == {AB, CD}
    assert screened.refused == ()
    assert screened.summary == (
        "30 tests of 6 symbols at benjamini_hochberg 0.05: 4 accepted in 2 pairs, 2 with both "
        "symbols tradable, 2 through the filters"
    )


def test_every_ordered_test_is_kept_with_its_figures() -> None:
    log_prices = market()
    tests = screen(log_prices).tests
    expected = engle_granger_all_pairs(log_prices)
    ordered = [(i, j) for i in range(6) for j in range(6) if i != j]
    assert list(zip(tests.y_index.tolist(), tests.x_index.tolist(), strict=True)) == ordered
    for name in ("statistic", "p_value", "lag", "hedge_ratio", "intercept"):
        matrix = getattr(expected, name)
        assert getattr(tests, name).tolist() == [matrix[entry] for entry in ordered]
    assert tests.lag.dtype == np.int64
    assert tests.q_value.tolist() == benjamini_hochberg(tests.p_value).tolist()
    assert set(tests.n_bars.tolist()) == {N_BARS}


def test_the_direction_of_the_lower_p_value_is_kept_and_candidates_are_in_its_order() -> None:
    screened = screen(market())
    tests = screened.tests
    p_value = {
        (SYMBOLS[y], SYMBOLS[x]): p
        for y, x, p in zip(tests.y_index, tests.x_index, tests.p_value, strict=True)
    }
    for pair in screened.candidates:
        assert pair.p_value == p_value[pair.y, pair.x]
        assert pair.p_value < p_value[pair.x, pair.y]
    found = [pair.p_value for pair in screened.candidates]
    assert found == sorted(found)


def test_directions_of_equal_p_values_are_told_apart_by_name() -> None:
    # A deviation without memory: both p-values are exactly 0, its half-life below one bar.
    settings = SETTINGS.model_copy(update={"half_life_min_bars": 0.0})
    log_prices = market()
    noise = np.random.default_rng(0).normal(size=N_BARS)
    log_prices[:, 5] = log_prices[:, 4] + 0.001 * noise
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]):
        symbols = [SYMBOLS[n] for n in order]
        screened = screen(log_prices[:, order], settings, symbols=symbols)
        tied = screened.tests.p_value == 0.0
        assert tied.sum() == 2
        best = screened.candidates[0]
        assert (best.y, best.x, best.p_value) == ("EEE/USDT", "FFF/USDT", 0.0)


def test_the_figures_of_a_pair_are_those_of_its_spread() -> None:
    log_prices = market()
    pair = screen(log_prices).candidates[0]
    y, x = (log_prices[:, SYMBOLS.index(symbol)] for symbol in (pair.y, pair.x))
    spread = (y - pair.hedge_ratio * x - pair.intercept)[:, np.newaxis]
    assert abs(spread.mean()) < 1e-12
    assert pair.half_life_bars == half_life_bars(spread)[0]
    assert pair.crossings == zero_crossings(spread)[0]
    assert pair.correlation == pytest.approx(np.corrcoef(np.diff(y), np.diff(x))[0, 1])


@pytest.mark.parametrize(
    ("method", "level", "top_n"),
    [
        ("benjamini_hochberg", 0.3, 20),
        ("benjamini_yekutieli", 0.3, 20),
        ("p_value", 0.2, 20),
        ("top_n", 0.05, 7),
    ],
)
def test_each_method_accepts_as_it_says(method: Method, level: float, top_n: int) -> None:
    settings = ScreenSettings(window_bars=N_BARS, method=method, level=level, top_n=top_n)
    tests = screen(market(3), settings).tests
    expected = {
        "benjamini_hochberg": benjamini_hochberg(tests.p_value) <= level,
        "benjamini_yekutieli": benjamini_yekutieli(tests.p_value) <= level,
        "p_value": tests.p_value <= level,
        "top_n": np.argsort(np.argsort(tests.p_value)) < top_n,
    }[method]
    assert tests.accepted.tolist() == expected.tolist()
    assert 0 < tests.accepted.sum() < 30


def test_q_values_are_yekutielis_where_that_is_the_method() -> None:
    settings = ScreenSettings(window_bars=N_BARS, method="benjamini_yekutieli")
    tests = screen(market(), settings).tests
    assert tests.q_value.tolist() == benjamini_yekutieli(tests.p_value).tolist()


def test_the_order_of_symbols_does_not_matter() -> None:
    log_prices = market()
    order = [4, 2, 0, 5, 3, 1]
    mixed = screen(log_prices[:, order], symbols=[SYMBOLS[n] for n in order])
    assert mixed.candidates == screen(log_prices).candidates


def test_a_symbol_that_may_not_be_traded_is_tested_and_not_offered() -> None:
    screened = screen(market(), tradable=["AAA/USDT", "BBB/USDT", "CCC/USDT"])
    assert pairs_of(screened) == {AB}
    assert len(screened.tests.p_value) == 30
    assert screened.tests.accepted.sum() == 4


def test_nothing_tradable_is_said_plainly() -> None:
    screened = screen(market(), tradable=["AAA/USDT", "CCC/USDT"])
    assert screened.candidates == ()
    assert screened.summary == (
        "30 tests of 6 symbols at benjamini_hochberg 0.05: 4 accepted, none of them with both "
        "symbols tradable"
    )


def test_nothing_accepted_is_said_plainly() -> None:
    walks = 0.01 * np.random.default_rng(1).normal(size=(N_BARS, 6)).cumsum(axis=0)
    screened = screen(walks)
    lowest = screened.tests.q_value.min()
    assert screened.candidates == ()
    assert screened.summary == (
        "30 tests of 6 symbols at benjamini_hochberg 0.05: none accepted, the lowest q-value is "
        f"{lowest:.3g}"
    )


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        ({"half_life_min_bars": 50.0}, "half-life in bars {pair.half_life_bars:,.6g} is below 50"),
        ({"half_life_max_bars": 1.0}, "half-life in bars {pair.half_life_bars:,.6g} is above 1"),
        ({"hurst_max": 0.01}, "Hurst exponent {pair.hurst:,.6g} is above 0.01"),
        (
            {"correlation_min": 0.999},
            "correlation of returns {pair.correlation:,.6g} is below 0.999",
        ),
        ({"crossings_min": 390}, "crossings of the mean {pair.crossings} is below 390"),
        ({"hedge_ratio_min": 4.0}, "hedge ratio {pair.hedge_ratio:,.6g} is below 4"),
        ({"hedge_ratio_max": 0.3}, "hedge ratio {pair.hedge_ratio:,.6g} is above 0.3"),
        ({"quote_volume_min_usdt": 2e6}, "median USDT per bar 1e+06 is below 2e+06"),
    ],
)
def test_each_filter_refuses_with_its_value_and_bound(bound: dict[str, float], reason: str) -> None:
    allowed = {(pair.y, pair.x): pair for pair in screen(market()).candidates}
    screened = screen(market(), ScreenSettings.model_validate({"window_bars": N_BARS, **bound}))
    assert screened.candidates == ()
    assert screened.refused == tuple(
        (y, x, reason.format(pair=pair)) for (y, x), pair in sorted(allowed.items())
    )
    assert screened.summary.endswith("2 with both symbols tradable, none through the filters")


def test_all_reasons_are_given_at_once() -> None:
    settings = SETTINGS.model_copy(update={"crossings_min": 390, "hedge_ratio_min": 4.0})
    (_, _, reason), _ = screen(market(), settings).refused
    assert reason.count(" is below ") == 2


def test_liquidity_is_the_median_of_the_thinner_leg() -> None:
    volume = traded()
    volume[:, 1] = 9_999.0
    volume[7, 1] = 1e9
    volume[: N_BARS // 2 - 1, 3] = 0.0  # not half of the bars: the median stays
    screened = screen(market(), quote_volume=volume)
    assert pairs_of(screened) == {CD}
    assert [reason for _, _, reason in screened.refused] == [
        "median USDT per bar 9,999 is below 10,000"
    ]


def test_a_pair_too_alike_to_be_tested_is_refused() -> None:
    log_prices = market()
    log_prices[:, 5] = log_prices[:, 4]
    screened = screen(log_prices)
    assert pairs_of(screened) == {AB, CD}
    ((y, x, reason),) = screened.refused
    assert (y, x) == ("EEE/USDT", "FFF/USDT")
    assert reason.startswith("statistic -inf: the legs are too alike")


def test_a_price_that_never_moved_is_left_out() -> None:
    log_prices = market()
    log_prices[:, 4] = 1.0
    screened = screen(log_prices)
    assert screened.symbols == ("AAA/USDT", "BBB/USDT", "CCC/USDT", "DDD/USDT", "FFF/USDT")
    assert pairs_of(screened) == {AB, CD}
    assert screened.summary.endswith("; 1 symbol left out as the price never moved")


@pytest.mark.parametrize("n_symbols", [0, 1])
def test_fewer_than_two_symbols_make_no_test(n_symbols: int) -> None:
    columns = slice(0, n_symbols)
    screened = screen_pairs(
        SYMBOLS[columns], market()[:, columns], traded()[:, columns], SYMBOLS, SETTINGS
    )
    assert screened.candidates == ()
    assert len(screened.tests.p_value) == len(screened.tests.accepted) == 0
    there = "there are 0" if n_symbols == 0 else "there is 1"
    assert screened.summary == (
        f"no test made: a pair needs two symbols with 200 to 400 bars up to the close, {there}"
    )


def test_unusable_windows_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(399, 6\): give the last 400 bars of the 6"):
        screen(market()[1:])
    with pytest.raises(DataError, match="quote volumes have shape"):
        screen(market(), quote_volume=traded()[:, :5])
    with pytest.raises(DataError, match=r"'AAA/USDT'.* named more than once"):
        screen(market(), symbols=("AAA/USDT", *SYMBOLS[:5]))
    log_prices = market()
    log_prices[5, 2] = np.nan
    with pytest.raises(DataError, match="log prices of CCC/USDT hold a value that is not finite"):
        screen(log_prices)


def test_settings_with_crossed_bounds_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"hedge_ratio_min 6\.0 is above"):
        ScreenSettings(hedge_ratio_min=6.0)
    with pytest.raises(ValidationError, match=r"half_life_min_bars 300\.0 is above"):
        ScreenSettings(half_life_min_bars=300.0)
    with pytest.raises(ValidationError, match="window_bars"):
        ScreenSettings(window_bars=199)
    with pytest.raises(ValidationError, match="p_valu"):
        ScreenSettings.model_validate({"p_valu": 0.05})


def test_a_thousand_hours_of_real_coins(data_folder: Path) -> None:
    # Counts made with statsmodels, test by test: 1,000 bars up to 2024-08-31.
    bars = pd.read_parquet(data_folder / "crypto/binance_spot_1h_2024.parquet")
    bars = bars[bars["ts"] < pd.Timestamp("2024-09-01", tz="UTC")]
    bars["quote_volume"] = bars["close"] * bars["volume"]
    close = bars.pivot(index="ts", columns="symbol", values="close").iloc[-1000:]
    close = close.dropna(axis="columns")
    volume = bars.pivot(index="ts", columns="symbol", values="quote_volume")
    symbols = [str(symbol) for symbol in close.columns]
    screened = screen_pairs(
        symbols,
        np.log(close.to_numpy()),
        volume.loc[close.index, symbols].to_numpy(),
        symbols,
        ScreenSettings(method="benjamini_hochberg"),
    )
    assert len(screened.tests.p_value) == 15_006
    assert int((screened.tests.p_value < 0.05).sum()) == 1_329
    assert int(screened.tests.accepted.sum()) == 89
    assert all(pair.hurst <= 0.5 and pair.correlation >= 0.3 for pair in screened.candidates)
    assert len(screened.candidates) + len(screened.refused) == 55


# --- the roster ---------------------------------------------------------------------------

HOUR = MS_PER_HOUR
RULES = ScreenSettings(
    enter_after_screens=3, leave_after_screens=2, closing_only_hours=4, window_bars=N_BARS
)


@pytest.fixture(scope="module")
def found() -> Screen:
    """Accept exactly AAA and BBB, and CCC and DDD."""
    return screen(market())


def without(screened: Screen, pair: frozenset[str]) -> Screen:
    rest = tuple(c for c in screened.candidates if frozenset((c.y, c.x)) != pair)
    return replace(screened, candidates=rest)


def run(
    screens: Sequence[Screen], roster: tuple[RosterMember, ...] = (), first_hour: int = 1
) -> tuple[RosterMember, ...]:
    """Update the roster with one screen an hour."""
    for hour, screened in enumerate(screens, start=first_hour):
        roster = update_roster(roster, screened, hour * HOUR, RULES)
    return roster


def only(roster: Sequence[RosterMember], pair: frozenset[str]) -> RosterMember:
    (member,) = (member for member in roster if frozenset((member.y, member.x)) == pair)
    return member


def test_a_pair_enters_after_three_acceptances_in_a_row(found: Screen) -> None:
    statuses = [only(run([found] * n), AB).status for n in (1, 2, 3, 4)]
    assert statuses == ["candidate", "candidate", "active", "active"]
    member = only(run([found] * 4), AB)
    assert member.entered_at_ms == 3 * HOUR
    assert (member.accepted_screens, member.missed_screens, member.left_at_ms) == (4, 0, None)
    assert member.statistics in found.candidates


def test_one_acceptance_is_enough_where_the_settings_say_so(found: Screen) -> None:
    rules = RULES.model_copy(update={"enter_after_screens": 1})
    member = only(update_roster((), found, HOUR, rules), AB)
    assert (member.status, member.entered_at_ms, member.accepted_screens) == ("active", HOUR, 1)


def test_a_candidate_that_misses_is_dropped_and_starts_anew(found: Screen) -> None:
    missed = without(found, AB)
    assert [frozenset((m.y, m.x)) for m in run([found, found, missed])] == [CD]
    assert only(run([found, found, missed, found]), AB).accepted_screens == 1


def test_an_active_pair_leaves_after_two_misses_in_a_row(found: Screen) -> None:
    missed = without(found, AB)
    member = only(run([found] * 3 + [missed]), AB)
    assert (member.status, member.accepted_screens, member.missed_screens) == ("active", 0, 1)
    member = only(run([found] * 3 + [missed, found, missed]), AB)
    assert (member.status, member.missed_screens) == ("active", 1)
    member = only(run([found] * 3 + [missed, missed]), AB)
    assert (member.status, member.left_at_ms) == ("closing_only", 5 * HOUR)
    assert member.entered_at_ms == 3 * HOUR
    assert member.statistics in found.candidates


def test_a_pair_that_left_is_followed_for_four_hours(found: Screen) -> None:
    missed = without(found, AB)
    left_at_5 = [found] * 3 + [missed] * 2
    assert only(run([*left_at_5, *[missed] * 3]), AB).status == "closing_only"
    roster = run([*left_at_5, *[missed] * 4])
    assert [frozenset((member.y, member.x)) for member in roster] == [CD]


def test_a_pair_that_left_comes_back_after_three_acceptances_in_a_row(found: Screen) -> None:
    missed = without(found, AB)
    left_at_5 = [found] * 3 + [missed] * 2
    assert only(run([*left_at_5, found, found]), AB).status == "closing_only"
    member = only(run([*left_at_5, found, found, found]), AB)
    assert (member.status, member.entered_at_ms, member.left_at_ms) == ("active", 8 * HOUR, None)
    # A miss between them starts the count again, and the four hours run out.
    member = only(run([*left_at_5, found, missed, found, found]), AB)
    assert (member.status, member.accepted_screens) == ("candidate", 1)


def test_a_screen_without_tests_counts_as_a_miss(found: Screen) -> None:
    nothing = screen_pairs((), np.empty((0, 0)), np.empty((0, 0)), (), RULES)
    assert run([found, nothing]) == ()
    assert {member.missed_screens for member in run([found] * 3 + [nothing])} == {1}


def test_the_direction_stays_while_the_other_one_is_better(found: Screen) -> None:
    roster = run([found] * 2)
    member = only(roster, AB)
    turned = mirrored(found, member.statistics)
    later = only(run([turned, turned], roster, first_hour=3), AB)
    assert (later.y, later.x, later.status) == (member.y, member.x, "active")
    assert later.accepted_screens == 4
    # The test is that of its own direction, and so the same as before.
    own = later.statistics
    assert (own.y, own.x) == (member.y, member.x)
    for name in ("statistic", "p_value", "q_value", "lag", "hedge_ratio", "intercept"):
        assert getattr(own, name) == getattr(member.statistics, name)
    # What describes the spread is of the spread that the screen looked at.
    assert own.half_life_bars == member.statistics.half_life_bars + 1.0


def test_a_direction_that_cannot_be_tested_keeps_its_statistics(found: Screen) -> None:
    roster = run([found])
    member = only(roster, AB)
    turned = mirrored(found, member.statistics)
    statistic = turned.tests.statistic.copy()
    statistic[:] = -math.inf
    turned = replace(turned, tests=replace(turned.tests, statistic=statistic))
    later = only(run([turned], roster, first_hour=2), AB)
    assert later.accepted_screens == 2
    assert later.statistics == member.statistics


def mirrored(screened: Screen, pair: PairStatistics) -> Screen:
    """Return a screen that prefers the other direction of one pair."""
    other = replace(
        pair,
        y=pair.x,
        x=pair.y,
        hedge_ratio=1.0 / pair.hedge_ratio,
        p_value=pair.p_value / 2.0,
        half_life_bars=pair.half_life_bars + 1.0,
    )
    return replace(
        screened, candidates=tuple(other if c == pair else c for c in screened.candidates)
    )


def test_the_roster_is_in_order_of_names_and_the_same_every_time(found: Screen) -> None:
    backwards = replace(found, candidates=found.candidates[::-1])
    roster = run([found] * 3)
    assert run([backwards] * 3) == roster
    assert update_roster(roster[::-1], found, 4 * HOUR, RULES) == run([found] * 4)
    names = [(member.y, member.x) for member in roster]
    assert names == sorted(names)
