from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shared.clock import instant_of_ms, ms_of_instant
from shared.events.features import FeaturesComputed
from shared.quant.typing import Float2D
from shared.sleeves.pairs.features import FeatureSettings, feature_names, pair_features, warmup_bars
from shared.sleeves.pairs.following import (
    Followed,
    JoinedHistory,
    PairFollower,
    followed_at,
    join_legs,
)
from tests.support import BAR_MS, MIDNIGHT_MS, closing_bars, roster

SETTINGS = FeatureSettings(beta_window=12, z_window=10, lags=2, volume_window=4, trend_window=3)
N_WARM_UP = warmup_bars(SETTINGS)
AB, AC = ("A/USDT", "B/USDT"), ("A/USDT", "C/USDT")
SYMBOLS = ("A/USDT", "B/USDT", "C/USDT")
N_BARS = N_WARM_UP + 6


def at(n_bars: int) -> int:
    return MIDNIGHT_MS + n_bars * BAR_MS


def market() -> Mapping[str, list[tuple[float, float]]]:
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 0.01, N_BARS).cumsum()
    closes = np.exp(3 + shared + rng.normal(0, 0.005, (3, N_BARS)))
    volumes = rng.exponential(100, (3, N_BARS))
    return {
        symbol: list(zip(close.tolist(), volume.tolist(), strict=True))
        for symbol, close, volume in zip(SYMBOLS, closes, volumes, strict=True)
    }


MARKET = market()
FOLLOWED, ROSTER = followed_at([roster(at(0), {AB: "active", AC: "closing_only"})], at(1))


def history(pair: tuple[str, str], before: int) -> JoinedHistory:
    columns = np.array([(*MARKET[pair[0]][n], *MARKET[pair[1]][n]) for n in range(before)])
    close_y, volume_y, close_x, volume_x = columns.reshape(-1, 4).T.copy()
    return JoinedHistory(close_y, close_x, volume_y, volume_x)


def expected(pair: tuple[str, str], n_bars: int = N_BARS) -> Float2D:
    known = history(pair, n_bars)
    return pair_features(known.close_y, known.close_x, known.volume_y, known.volume_x, SETTINGS)


def follow(
    follower: PairFollower,
    n: int,
    symbols: tuple[str, ...] = SYMBOLS,
    followed: Followed = FOLLOWED,
) -> FeaturesComputed:
    """Let the bars of close n come, and learn what is not known yet from those before."""
    closed = closing_bars(at(n), {symbol: MARKET[symbol][n] for symbol in symbols})
    for pair in follower.unknown_pairs(followed, closed):
        follower.learn(pair, closed.closes_at_ms, history(pair, n))
    return follower.compute(closed, followed, ROSTER)


# --- the roster in force ----------------------------------------------------------------------


def test_a_roster_is_in_force_from_the_first_close_after_its_own() -> None:
    early, late = roster(at(0), {AB: "active"}), roster(at(12), {AC: "active"})
    assert followed_at([early, late], at(0)) == (Followed(None, {}), None)
    assert followed_at([early, late], at(1)) == (Followed(at(0), {AB: "active"}), early)
    assert followed_at([early, late], at(12)) == (Followed(at(0), {AB: "active"}), early)
    assert followed_at([early, late], at(13)) == (Followed(at(12), {AC: "active"}), late)
    assert followed_at([], at(1)) == (Followed(None, {}), None)


def test_candidates_are_not_followed() -> None:
    listed = roster(at(0), {AB: "candidate", AC: "closing_only"})
    assert followed_at([listed], at(1))[0].pairs == {AC: "closing_only"}


# --- joining ----------------------------------------------------------------------------------


def test_legs_are_joined_on_the_closes_that_both_have() -> None:
    instants = [instant_of_ms(at(n)) for n in range(4)]
    bars_y = {instants[n]: (10.0 + n, 1.0 + n) for n in (0, 1, 3)}
    bars_x = {instants[n]: (20.0 + n, 2.0 + n) for n in (1, 2, 3)}
    common, joined = join_legs(bars_y, bars_x)
    assert common == [instants[1], instants[3]]
    columns = joined.close_y, joined.close_x, joined.volume_y, joined.volume_x
    assert [column.tolist() for column in columns] == [
        [11.0, 13.0],
        [21.0, 23.0],
        [2.0, 4.0],
        [3.0, 5.0],
    ]
    assert all(column.flags.c_contiguous for column in columns)
    newest, last = join_legs(bars_y, bars_x, most=1)
    assert (newest, last.close_y.tolist()) == ([instants[3]], [13.0])


def test_legs_without_a_common_close_are_joined_to_nothing() -> None:
    instant = instant_of_ms(at(0))
    for bars_x in ({}, {instant_of_ms(at(1)): (1.0, 1.0)}):
        instants, joined = join_legs({instant: (1.0, 1.0)}, bars_x)
        assert (instants, joined.close_y.shape, joined.volume_x.shape) == ([], (0,), (0,))


# --- following --------------------------------------------------------------------------------


def test_a_row_carries_the_pair_its_closes_and_its_features() -> None:
    follower = PairFollower(SETTINGS, "5m")
    computed = follow(follower, N_BARS - 1)
    assert ms_of_instant(computed.closes_at) == at(N_BARS - 1)
    assert (computed.timeframe, computed.warming_up) == ("5m", ())
    assert computed.feature_names == feature_names(SETTINGS)
    assert computed.roster_closes_at == instant_of_ms(at(0))
    assert [(row.y, row.x, row.status) for row in computed.rows] == [
        (*AB, "active"),
        (*AC, "closing_only"),
    ]
    for row, pair in zip(computed.rows, (AB, AC), strict=True):
        assert (row.close_y, row.close_x) == tuple(MARKET[name][-1][0] for name in pair)
        assert row.values == tuple(expected(pair)[-1].tolist())


def test_a_pair_warms_up_until_its_window_is_full() -> None:
    follower = PairFollower(SETTINGS, "5m")
    for n in range(N_BARS):
        computed = follow(follower, n)
        if n < N_WARM_UP - 1:
            assert (computed.rows, computed.warming_up) == ((), ("A/USDT~B/USDT", "A/USDT~C/USDT"))
        else:
            assert [row.values for row in computed.rows] == [
                tuple(expected(pair)[n].tolist()) for pair in (AB, AC)
            ]


def test_without_a_roster_nothing_is_followed() -> None:
    follower = PairFollower(SETTINGS, "5m")
    followed, no_roster = followed_at([], at(5))
    closed = closing_bars(at(5), {"A/USDT": (1.0, 1.0)})
    assert follower.unknown_pairs(followed, closed) == []
    computed = follower.compute(closed, followed, no_roster)
    assert (computed.rows, computed.warming_up, computed.roster_closes_at) == ((), (), None)


def test_a_pair_waits_for_its_second_leg() -> None:
    follower, n = PairFollower(SETTINGS, "5m"), N_BARS - 2
    first = follow(follower, n, ("A/USDT", "B/USDT"))
    assert [row.x for row in first.rows] == ["B/USDT"]
    assert first.warming_up == ("A/USDT~C/USDT",)
    # The further event of the close brings C; the caller adds what it has stored of the close.
    second = follow(follower, n)
    assert [(row.x, row.values) for row in second.rows] == [("C/USDT", tuple(expected(AC)[n]))]
    third = follow(follower, n + 1)
    assert [row.values for row in third.rows] == [
        tuple(expected(pair)[n + 1].tolist()) for pair in (AB, AC)
    ]


def test_a_close_without_a_leg_is_no_bar_of_the_pair() -> None:
    follower, n = PairFollower(SETTINGS, "5m"), N_BARS - 2
    follow(follower, n - 1)
    assert follow(follower, n, ("A/USDT", "C/USDT")).warming_up == ("A/USDT~B/USDT",)
    row = follow(follower, n + 1).rows[0]
    known = history(AB, N_BARS)
    close_y, close_x, volume_y, volume_x = (
        np.delete(column, n)
        for column in (known.close_y, known.close_x, known.volume_y, known.volume_x)
    )
    batch = pair_features(close_y, close_x, volume_y, volume_x, SETTINGS)
    assert row.values == tuple(batch[-1].tolist())


def test_only_pairs_that_are_new_to_the_roster_are_learnt() -> None:
    follower, n = PairFollower(SETTINGS, "5m"), N_BARS - 4
    one = Followed(at(0), {AB: "active"})
    closed = closing_bars(at(n), {symbol: MARKET[symbol][n] for symbol in SYMBOLS})
    assert follower.unknown_pairs(one, closed) == [AB]
    follow(follower, n, followed=one)
    closed = closing_bars(at(n + 1), {symbol: MARKET[symbol][n + 1] for symbol in SYMBOLS})
    assert follower.unknown_pairs(FOLLOWED, closed) == [AC]
    follow(follower, n + 1)
    # A pair that left and comes back has bars to catch up.
    follow(follower, n + 2, followed=one)
    closed = closing_bars(at(n + 3), {symbol: MARKET[symbol][n + 3] for symbol in SYMBOLS})
    assert follower.unknown_pairs(FOLLOWED, closed) == [AC]


def test_a_late_bar_gives_no_row_and_has_its_pairs_learnt_anew() -> None:
    follower, n = PairFollower(SETTINGS, "5m"), N_BARS - 2
    follow(follower, n)
    late = closing_bars(at(n - 1), {"C/USDT": MARKET["C/USDT"][n - 1]})
    assert follower.unknown_pairs(FOLLOWED, late) == []
    computed = follower.compute(late, FOLLOWED, ROSTER)
    assert (computed.rows, computed.warming_up) == ((), ())
    closed = closing_bars(at(n + 1), {symbol: MARKET[symbol][n + 1] for symbol in SYMBOLS})
    assert follower.unknown_pairs(FOLLOWED, closed) == [AC]


def test_a_bar_is_late_also_when_no_pair_had_a_row_yet() -> None:
    follower, n = PairFollower(SETTINGS, "5m"), N_WARM_UP - 2
    assert follow(follower, n).rows == ()
    late = closing_bars(at(n - 1), {"B/USDT": MARKET["B/USDT"][n - 1]})
    assert follower.unknown_pairs(FOLLOWED, late) == []
    assert follower.compute(late, FOLLOWED, ROSTER).rows == ()
    closed = closing_bars(at(n + 1), {symbol: MARKET[symbol][n + 1] for symbol in SYMBOLS})
    assert follower.unknown_pairs(FOLLOWED, closed) == [AB]


def test_a_follower_that_starts_knows_which_close_was_the_last() -> None:
    follower = PairFollower(SETTINGS, "5m", at(10))
    late = closing_bars(at(9), {symbol: MARKET[symbol][9] for symbol in SYMBOLS})
    assert follower.unknown_pairs(FOLLOWED, late) == []
    assert follower.compute(late, FOLLOWED, ROSTER).rows == ()
    same = closing_bars(at(10), {symbol: MARKET[symbol][10] for symbol in SYMBOLS})
    assert follower.unknown_pairs(FOLLOWED, same) == [AB, AC]
