"""Which pairs may be traded: the screen of one instant, and the roster it leads to.

A screen tests every ordered pair and forgets the past; the roster asks for several screens in
a row before a pair enters or leaves, so that a pair at the edge does not come and go.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from shared.errors import DataError
from shared.quant.cointegration import EngleGrangerResult
from shared.quant.empirical_null import adjusted_by_null, smallest_null_p_values
from shared.quant.mean_reversion import (
    correlation_of_changes,
    half_life_bars,
    hurst_exponent,
    zero_crossings,
)
from shared.quant.multiple_testing import benjamini_hochberg, benjamini_yekutieli
from shared.quant.ragged_cointegration import engle_granger_ragged, has_every_bar, moves
from shared.quant.typing import Bool1D, Float1D, Float2D, Int1D

Method = Literal["empirical_null", "benjamini_hochberg", "benjamini_yekutieli", "p_value", "top_n"]
Status = Literal["candidate", "active", "closing_only"]

MS_PER_HOUR = 3_600_000


class ScreenSettings(BaseModel, frozen=True, extra="forbid"):
    """What a pair must show to be accepted, and how long to enter and to leave.

    Attributes
    ----------
    method
        `empirical_null`: accept p-values so low that `null_copies` sign-flipped copies of the
        universe hold one in a share of at most `level`: if nothing is cointegrated, anything
        at all is accepted that rarely. `benjamini_hochberg`, `benjamini_yekutieli`: accept
        q-values of at most `level`, so that at most this share of what is accepted is
        expected to be false. `p_value`: accept p-values of at most `level`, without regard to
        how many tests were made. `top_n`: accept the `top_n` tests with the lowest p-values,
        good or not.
    level
        The level of all methods but `top_n`.
    null_copies
        Copies made by `empirical_null`; the lowest level it can tell is 1 / (1 + copies).
    window_bars
        Bars a screen looks back on.
    min_bars
        Fewest bars a symbol is tested on; `None` takes half of `window_bars`.
    top_n
        Tests accepted by the method of that name.
    enter_after_screens, leave_after_screens
        Consecutive screens that must accept a pair before it is active, and miss it before
        it is closing only.
    hedge_ratio_min, hedge_ratio_max
        Bounds of the hedge ratio.
    half_life_min_bars, half_life_max_bars
        Bounds of the spread's half-life.
    hurst_max
        Largest Hurst exponent of the spread; a random walk has 0.5. In-sample residuals of
        unrelated hourly coins have 0.45 in the median, of accepted pairs 0.3 to 0.4.
    correlation_min
        Smallest correlation of the legs' log returns.
    crossings_min
        Fewest crossings of the spread's mean within the window.
    quote_volume_min_usdt
        Smallest median of traded value per bar, in USDT, of the thinner leg.
    closing_only_hours
        How long a pair that left is still followed.
    """

    method: Method = "empirical_null"
    level: float = Field(0.05, gt=0, lt=1)
    null_copies: int = Field(99, ge=19)
    window_bars: int = Field(1000, ge=200)
    min_bars: int | None = Field(None, ge=100)
    top_n: int = Field(20, gt=0)
    enter_after_screens: int = Field(3, ge=1)
    leave_after_screens: int = Field(12, ge=1)
    hedge_ratio_min: float = Field(0.2, gt=0)
    hedge_ratio_max: float = Field(5.0, gt=0)
    half_life_min_bars: float = Field(1.0, ge=0)
    half_life_max_bars: float = Field(250.0, gt=0)
    hurst_max: float = Field(0.5, gt=0, le=1)
    correlation_min: float = Field(0.3, ge=-1, le=1)
    crossings_min: int = Field(10, ge=0)
    quote_volume_min_usdt: float = Field(10_000.0, ge=0)
    closing_only_hours: int = Field(48, ge=0)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.fewest_bars > self.window_bars:
            raise ValueError(
                f"min_bars {self.min_bars} is above window_bars {self.window_bars}: lower the one "
                "or raise the other"
            )
        if self.hedge_ratio_min > self.hedge_ratio_max:
            raise ValueError(
                f"hedge_ratio_min {self.hedge_ratio_min} is above hedge_ratio_max "
                f"{self.hedge_ratio_max}: lower the one or raise the other"
            )
        if self.half_life_min_bars > self.half_life_max_bars:
            raise ValueError(
                f"half_life_min_bars {self.half_life_min_bars} is above half_life_max_bars "
                f"{self.half_life_max_bars}: lower the one or raise the other"
            )
        return self

    @property
    def fewest_bars(self) -> int:
        """Fewest bars a symbol is tested on."""
        return self.window_bars // 2 if self.min_bars is None else self.min_bars


@dataclass(frozen=True, eq=False)
class PairTests:
    """Every test of one screen, as columns: symbol `y_index` regressed on `x_index`.

    Attributes
    ----------
    y_index, x_index : ndarray of int64, shape (m,)
        Indices into `Screen.symbols`, in ascending order of (y, x).
    statistic, p_value, hedge_ratio, intercept : ndarray of float64, shape (m,)
        As in `EngleGrangerResult`.
    lag : ndarray of int64, shape (m,)
        As in `EngleGrangerResult`.
    q_value : ndarray of float64, shape (m,)
        p-value adjusted for all m tests: by the copies or by Benjamini and Yekutieli where
        they are the method, else by Benjamini and Hochberg.
    accepted : ndarray of bool, shape (m,)
        By the method alone, before every filter.
    n_bars : ndarray of int64, shape (m,)
        Bars of each test: those of the leg that has fewer.
    """

    y_index: Int1D
    x_index: Int1D
    statistic: Float1D
    p_value: Float1D
    lag: Int1D
    hedge_ratio: Float1D
    intercept: Float1D
    q_value: Float1D
    accepted: Bool1D
    n_bars: Int1D


@dataclass(frozen=True)
class PairStatistics:
    """What a screen found about one pair, y regressed on x.

    Attributes
    ----------
    y, x
        Symbols.
    statistic, p_value, q_value, lag, hedge_ratio, intercept
        Of the test.
    half_life_bars, hurst, crossings
        Of the spread y - hedge_ratio x - intercept.
    correlation
        Of the legs' log returns.
    n_bars
        Bars behind all of these.
    """

    y: str
    x: str
    statistic: float
    p_value: float
    q_value: float
    lag: int
    hedge_ratio: float
    intercept: float
    half_life_bars: float
    hurst: float
    correlation: float
    crossings: int
    n_bars: int


@dataclass(frozen=True, eq=False)
class Screen:
    """The outcome of one screen.

    Attributes
    ----------
    symbols
        Symbols that were tested.
    tests
        All ordered tests of them; none of a pair one leg of which never moved within the bars
        that both have.
    candidates
        Accepted pairs of two tradable symbols that pass every filter, in the direction of
        the lower p-value, by (p-value, y, x).
    refused
        Accepted pairs of two tradable symbols that a filter refused: y, x and the reason.
    summary
        What happened, in one sentence.
    """

    symbols: tuple[str, ...]
    tests: PairTests
    candidates: tuple[PairStatistics, ...]
    refused: tuple[tuple[str, str, str], ...]
    summary: str


def screen_pairs(
    symbols: Sequence[str],
    log_prices: Float2D,
    quote_volume: Float2D,
    tradable: Collection[str],
    settings: ScreenSettings,
    *,
    longest: EngleGrangerResult | None = None,
    null_smallest: Float1D | None = None,
) -> Screen:
    """Test every ordered pair of symbols and keep those that can be traded.

    A pair is tested on the bars both symbols have. All tests, of however many bars, are one
    family to the method.

    Parameters
    ----------
    symbols
        N distinct symbols, each with every bar from its first to the end of the window.
    log_prices : ndarray of float64, shape (T, N)
        Natural logarithm of the close, NaN before a symbol's first bar; T is
        `settings.window_bars`.
    quote_volume : ndarray of float64, shape (T, N)
        Traded value per bar, in USDT; it has every bar that the price has.
    tradable
        Symbols that may be traded; the others are tested too and count as tests.
    settings
        Method, level and filters.
    longest
        The tests among the symbols whose price moved and has all T bars, where they are known.
    null_smallest
        Smallest p-values of the copies, where they are known; only `empirical_null` asks.

    Returns
    -------
    Screen
        Without tests where fewer than two symbols are left. A symbol whose price never moved
        in the window is left out, as it cannot be tested.

    Raises
    ------
    DataError
        If the shapes do not fit the symbols and the window, a symbol is named twice, has a
        gap or a value that is not finite.
    """
    _check_window(symbols, log_prices, quote_volume, settings)
    moved = moved_at_all(log_prices)
    tested = tuple(symbol for symbol, has_moved in zip(symbols, moved, strict=True) if has_moved)
    n_unmoved = len(symbols) - len(tested)
    if not moved.all():
        log_prices, quote_volume = log_prices[:, moved], quote_volume[:, moved]
    tests = _test_pairs(tested, log_prices, settings, longest, null_smallest)
    if len(tests.p_value) == 0:
        summary = _summary_without_tests(len(tested), n_unmoved, settings)
        return Screen(tested, tests, (), (), summary)
    kept = _better_directions(tested, tests)
    both_tradable = _both_tradable(tested, tests, kept, tradable)
    statistics = _pair_statistics(tested, log_prices, tests, both_tradable)
    thinner = _thinner_leg_volume(quote_volume, tests, both_tradable)
    reasons = [
        _reason_to_refuse(pair, volume, settings)
        for pair, volume in zip(statistics, thinner, strict=True)
    ]
    judged = list(zip(statistics, reasons, strict=True))
    candidates = tuple(
        sorted(
            (pair for pair, reason in judged if not reason),
            key=lambda pair: (pair.p_value, pair.y, pair.x),
        )
    )
    refused = tuple(sorted((pair.y, pair.x, reason) for pair, reason in judged if reason))
    summary = _summary(
        len(tested), n_unmoved, tests, len(kept), len(candidates), len(refused), settings
    )
    return Screen(tested, tests, candidates, refused, summary)


def moved_at_all(log_prices: Float2D) -> Bool1D:
    """Tell of which symbols the price moved within the bars they have."""
    lowest = np.fmin.reduce(log_prices, axis=0, initial=np.inf)
    highest = np.fmax.reduce(log_prices, axis=0, initial=-np.inf)
    moved: Bool1D = highest > lowest
    return moved


def _check_window(
    symbols: Sequence[str], log_prices: Float2D, quote_volume: Float2D, settings: ScreenSettings
) -> None:
    if len(set(symbols)) != len(symbols):
        repeated = sorted({symbol for symbol in symbols if list(symbols).count(symbol) > 1})
        raise DataError(f"symbols {repeated} are named more than once: give each one column")
    if not symbols:
        return
    expected = (settings.window_bars, len(symbols))
    for name, values in (("log prices", log_prices), ("quote volumes", quote_volume)):
        if values.shape != expected:
            raise DataError(
                f"{name} have shape {values.shape}: give the last {expected[0]} bars of the "
                f"{expected[1]} symbols"
            )
    has_volume = (np.isfinite(quote_volume) | np.isnan(log_prices)).all(axis=0)
    for name, is_good in (
        ("log prices", has_every_bar(log_prices)),
        ("quote volumes", has_volume),
    ):
        unusable = np.flatnonzero(~is_good)
        if unusable.size:
            raise DataError(
                f"{name} of {symbols[unusable[0]]} hold a value that is not finite: leave out "
                "symbols that lack a bar between their first and the last"
            )


def _test_pairs(
    symbols: Sequence[str],
    log_prices: Float2D,
    settings: ScreenSettings,
    longest: EngleGrangerResult | None,
    null_smallest: Float1D | None,
) -> PairTests:
    result = engle_granger_ragged(log_prices, longest)
    y_index, x_index = np.nonzero(result.n_bars)
    p_value = result.p_value[y_index, x_index]
    if settings.method == "empirical_null":
        if null_smallest is None:
            null_smallest = null_of(log_prices, settings) if len(p_value) else np.empty(0)
        q_value = adjusted_by_null(p_value, null_smallest)
    elif settings.method == "benjamini_yekutieli":
        q_value = benjamini_yekutieli(p_value)
    else:
        q_value = benjamini_hochberg(p_value)
    if settings.method == "top_n":
        accepted = np.zeros(len(p_value), dtype=np.bool_)
        accepted[_by_p_value(symbols, y_index, x_index, p_value)[: settings.top_n]] = True
    elif settings.method == "p_value":
        accepted = p_value <= settings.level
    else:
        accepted = q_value <= settings.level
    return PairTests(
        y_index,
        x_index,
        result.statistic[y_index, x_index],
        p_value,
        result.lag[y_index, x_index].astype(np.int64),
        result.hedge_ratio[y_index, x_index],
        result.intercept[y_index, x_index],
        q_value,
        accepted,
        result.n_bars[y_index, x_index],
    )


def null_of(log_prices: Float2D, settings: ScreenSettings) -> Float1D:
    """Return the smallest p-values of sign-flipped copies of a window.

    The same signs every time: the bar for a pair then moves with the market alone.
    """
    return smallest_null_p_values(log_prices, settings.null_copies, seed=0)


def _by_p_value(symbols: Sequence[str], y_index: Int1D, x_index: Int1D, p_value: Float1D) -> Int1D:
    """Return the tests in ascending order of (p-value, y, x), symbols by name."""
    place = np.empty(len(symbols), dtype=np.int64)
    place[sorted(range(len(symbols)), key=lambda n: symbols[n])] = np.arange(len(symbols))
    order: Int1D = np.lexsort((place[x_index], place[y_index], p_value))
    return order


def _better_directions(symbols: Sequence[str], tests: PairTests) -> list[int]:
    """Return one test of every accepted pair: that of the lower p-value, ties by name."""
    chosen: dict[tuple[int, int], int] = {}
    accepted = np.flatnonzero(tests.accepted)
    y_index, x_index = tests.y_index[accepted], tests.x_index[accepted]
    # In this order the better direction comes first, and is accepted if either is.
    for n in _by_p_value(symbols, y_index, x_index, tests.p_value[accepted]).tolist():
        y, x = int(y_index[n]), int(x_index[n])
        chosen.setdefault((min(y, x), max(y, x)), int(accepted[n]))
    return list(chosen.values())


def _both_tradable(
    symbols: Sequence[str], tests: PairTests, kept: Sequence[int], tradable: Collection[str]
) -> list[int]:
    may_trade = [symbol in tradable for symbol in symbols]
    return [
        test for test in kept if may_trade[tests.y_index[test]] and may_trade[tests.x_index[test]]
    ]


def _pair_statistics(
    symbols: Sequence[str], log_prices: Float2D, tests: PairTests, rows: Sequence[int]
) -> list[PairStatistics]:
    chosen = np.array(rows, dtype=np.int64)
    half_life = np.full(len(chosen), np.inf)
    hurst = np.full(len(chosen), np.nan)
    crossings = np.zeros(len(chosen), dtype=np.int64)
    correlation = np.full(len(chosen), np.nan)
    for n_bars in np.unique(tests.n_bars[chosen]).tolist():
        alike = np.flatnonzero(tests.n_bars[chosen] == n_bars)
        test = chosen[alike]
        y = log_prices[-n_bars:, tests.y_index[test]]
        x = log_prices[-n_bars:, tests.x_index[test]]
        spreads = y - tests.hedge_ratio[test] * x - tests.intercept[test]
        # The spread of two equal series never changes: it has no half-life to speak of, and
        # the infinite statistic of its pair is refused whatever stands here.
        is_moving = moves(spreads)
        moving = alike[is_moving]
        half_life[moving] = half_life_bars(spreads[:, is_moving])
        hurst[moving] = hurst_exponent(spreads[:, is_moving])
        crossings[moving] = zero_crossings(spreads[:, is_moving])
        correlation[alike] = correlation_of_changes(y, x)
    return [
        PairStatistics(
            y=symbols[tests.y_index[test]],
            x=symbols[tests.x_index[test]],
            statistic=float(tests.statistic[test]),
            p_value=float(tests.p_value[test]),
            q_value=float(tests.q_value[test]),
            lag=int(tests.lag[test]),
            hedge_ratio=float(tests.hedge_ratio[test]),
            intercept=float(tests.intercept[test]),
            half_life_bars=float(half_life[n]),
            hurst=float(hurst[n]),
            correlation=float(correlation[n]),
            crossings=int(crossings[n]),
            n_bars=int(tests.n_bars[test]),
        )
        for n, test in enumerate(rows)
    ]


def _thinner_leg_volume(
    quote_volume: Float2D, tests: PairTests, rows: Sequence[int]
) -> list[float]:
    thinner = []
    for test in rows:
        legs = [tests.y_index[test], tests.x_index[test]]
        medians = np.median(quote_volume[-tests.n_bars[test] :, legs], axis=0)
        thinner.append(float(medians.min()))
    return thinner


def _reason_to_refuse(pair: PairStatistics, volume_usdt: float, settings: ScreenSettings) -> str:
    """Return every value out of its bounds, or an empty text; NaN is out of any bounds."""
    if not math.isfinite(pair.statistic):
        return f"statistic {pair.statistic}: the legs are too alike for the test to mean anything"
    half_life_bounds = (settings.half_life_min_bars, settings.half_life_max_bars)
    bounds = (
        ("half-life in bars", pair.half_life_bars, *half_life_bounds),
        ("Hurst exponent", pair.hurst, -math.inf, settings.hurst_max),
        ("correlation of returns", pair.correlation, settings.correlation_min, math.inf),
        ("crossings of the mean", pair.crossings, settings.crossings_min, math.inf),
        ("hedge ratio", pair.hedge_ratio, settings.hedge_ratio_min, settings.hedge_ratio_max),
        ("median USDT per bar", volume_usdt, settings.quote_volume_min_usdt, math.inf),
    )
    reasons = []
    for name, value, lowest, highest in bounds:
        if lowest <= value <= highest:
            continue
        bound = f"above {highest:,.6g}" if value > highest else f"below {lowest:,.6g}"
        if math.isnan(value):
            bound = "not defined"
        reasons.append(f"{name} {value:,.6g} is {bound}")
    return "; ".join(reasons)


def _summary_without_tests(n_tested: int, n_unmoved: int, settings: ScreenSettings) -> str:
    return (
        f"no test made: a pair needs two symbols with {settings.fewest_bars:,} to "
        f"{settings.window_bars:,} bars up to the close, there "
        f"{'is' if n_tested == 1 else 'are'} {n_tested}{_left_out(n_unmoved)}"
    )


def _summary(
    n_symbols: int,
    n_unmoved: int,
    tests: PairTests,
    n_pairs: int,
    n_candidates: int,
    n_refused: int,
    settings: ScreenSettings,
) -> str:
    threshold = settings.top_n if settings.method == "top_n" else settings.level
    n_accepted = int(np.count_nonzero(tests.accepted))
    opening = (
        f"{len(tests.p_value):,} tests of {n_symbols} symbols at {settings.method} {threshold}"
    )
    n_tradable = n_candidates + n_refused
    if n_accepted == 0:
        value = "p-value" if settings.method == "p_value" else "q-value"
        lowest = (tests.p_value if value == "p-value" else tests.q_value).min()
        outcome = f"none accepted, the lowest {value} is {lowest:.3g}"
    elif n_tradable == 0:
        outcome = f"{n_accepted:,} accepted, none of them with both symbols tradable"
    else:
        passed = f"{n_candidates:,}" if n_candidates else "none"
        outcome = (
            f"{n_accepted:,} accepted in {_counted(n_pairs, 'pair')}, {n_tradable:,} with both "
            f"symbols tradable, {passed} through the filters"
        )
    return f"{opening}: {outcome}{_left_out(n_unmoved)}"


def _left_out(n_unmoved: int) -> str:
    if n_unmoved == 0:
        return ""
    return f"; {_counted(n_unmoved, 'symbol')} left out as the price never moved"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@dataclass(frozen=True)
class RosterMember:
    """A pair on the roster, y regressed on x for as long as it stays.

    Attributes
    ----------
    y, x
        Symbols.
    status
        `candidate`: accepted, not yet often enough; `active`: may be entered;
        `closing_only`: left, followed for a while so that a position can be closed.
    accepted_screens, missed_screens
        Consecutive screens up to the last one that accepted, or missed, the pair.
    entered_at_ms
        Close from which it was last active, in milliseconds since 1970.
    left_at_ms
        Close at which it became closing only.
    statistics
        Of the last screen that accepted it, in the direction of the member.
    """

    y: str
    x: str
    status: Status
    accepted_screens: int
    missed_screens: int
    entered_at_ms: int | None
    left_at_ms: int | None
    statistics: PairStatistics


def update_roster(
    roster: Sequence[RosterMember], screen: Screen, closes_at_ms: int, settings: ScreenSettings
) -> tuple[RosterMember, ...]:
    """Return the roster after one more screen.

    A pair enters as a candidate in the direction of the screen that first accepts it and
    keeps that direction for as long as it is on the roster: a later screen that accepts the
    other direction counts as an acceptance. `enter_after_screens` acceptances in a row make
    it active; `leave_after_screens` misses in a row make an active one closing only, from
    where acceptances in a row lead back. A candidate that misses one screen is dropped; so is
    a closing-only pair that has not come back `closing_only_hours` after it left, which the
    same screen may take up again as a new candidate.

    Parameters
    ----------
    roster
        Members after the screen before this one; each pair at most once.
    screen
        Its candidates are the pairs accepted; a screen without tests accepts none.
    closes_at_ms
        Close of the screen, in milliseconds since 1970, after that of the screen before.
    settings
        Numbers of screens and hours.

    Returns
    -------
    tuple of RosterMember
        By (y, x).
    """
    accepted = {frozenset((pair.y, pair.x)): pair for pair in screen.candidates}
    stay: dict[frozenset[str], RosterMember] = {}
    for member in roster:
        pair = frozenset((member.y, member.x))
        found = accepted.get(pair)
        if found is None:
            after = _after_miss(member, closes_at_ms, settings)
        else:
            statistics = _in_direction_of(member, found, screen)
            after = _after_acceptance(member, statistics, closes_at_ms, settings)
        if after is not None and not _has_expired(after, closes_at_ms, settings):
            stay[pair] = after
    for pair, found in accepted.items():
        if pair not in stay:
            new = RosterMember(found.y, found.x, "candidate", 0, 0, None, None, found)
            stay[pair] = _after_acceptance(new, found, closes_at_ms, settings)
    return tuple(sorted(stay.values(), key=lambda member: (member.y, member.x)))


def _after_miss(
    member: RosterMember, closes_at_ms: int, settings: ScreenSettings
) -> RosterMember | None:
    if member.status == "candidate":
        return None
    missed = replace(member, accepted_screens=0, missed_screens=member.missed_screens + 1)
    if member.status == "active" and missed.missed_screens >= settings.leave_after_screens:
        return replace(missed, status="closing_only", left_at_ms=closes_at_ms)
    return missed


def _after_acceptance(
    member: RosterMember,
    statistics: PairStatistics,
    closes_at_ms: int,
    settings: ScreenSettings,
) -> RosterMember:
    accepted = replace(
        member,
        accepted_screens=member.accepted_screens + 1,
        missed_screens=0,
        statistics=statistics,
    )
    enters = accepted.accepted_screens >= settings.enter_after_screens
    if member.status != "active" and enters:
        return replace(accepted, status="active", entered_at_ms=closes_at_ms, left_at_ms=None)
    return accepted


def _has_expired(member: RosterMember, closes_at_ms: int, settings: ScreenSettings) -> bool:
    if member.status != "closing_only" or member.left_at_ms is None:
        return False
    followed_ms = closes_at_ms - member.left_at_ms
    return followed_ms >= settings.closing_only_hours * MS_PER_HOUR


def _in_direction_of(member: RosterMember, found: PairStatistics, screen: Screen) -> PairStatistics:
    """Return what a screen found, with the test of y on x as the member has them.

    Half-life, Hurst exponent and crossings stay those of the spread the screen looked at,
    which differs little; the correlation has no direction. Where the member's own direction
    could not be tested it keeps the statistics it has.
    """
    if (found.y, found.x) == (member.y, member.x):
        return found
    tests = screen.tests
    y, x = screen.symbols.index(member.y), screen.symbols.index(member.x)
    test = np.flatnonzero((tests.y_index == y) & (tests.x_index == x))[0]
    if not math.isfinite(tests.statistic[test]):
        return member.statistics
    return replace(
        found,
        y=member.y,
        x=member.x,
        statistic=float(tests.statistic[test]),
        p_value=float(tests.p_value[test]),
        q_value=float(tests.q_value[test]),
        lag=int(tests.lag[test]),
        hedge_ratio=float(tests.hedge_ratio[test]),
        intercept=float(tests.intercept[test]),
    )
