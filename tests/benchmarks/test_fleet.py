"""Benchmarks of the running fleet, in a short form: real servers and services, few closes."""

from __future__ import annotations

import pytest

from cli.bench import bar_to_order, lockstep
from cli.bench.bar_to_order import Crossings
from cli.bench.lockstep import Replayed


def test_closes_of_a_few_pairs_become_intents() -> None:
    measured = bar_to_order.measure(n_pairs=5, n_rounds=2, closes_a_round=4)
    assert (len(measured.closes), len(measured.floor)) == (8, 8)
    assert min(measured.closes + measured.floor) > 0
    assert measured.n_intents > 0


def test_median_and_percentile_are_multiples_of_the_floor() -> None:
    measured = Crossings([0.004] * 98 + [0.010] * 2, [0.001] * 98 + [0.005] * 2, 250)
    median, late = bar_to_order.figures(measured, 5)
    assert (median.name, median.unit, median.reason) == ("bar_to_order", "ms a close", "")
    assert late.name == "bar_to_order_p99"
    assert (
        median.data == late.data == ("100 closes of 5 pairs, 2 intents each, 3 commits and 4 hops")
    )
    assert (median.figure, median.reference, median.ratio) == pytest.approx((4.0, 1.0, 4.0))
    assert (late.figure, late.reference, late.ratio) == pytest.approx((10.0, 5.0, 2.0))


def test_a_short_replay_follows_every_pair_of_its_market() -> None:
    # The roster of the first screen, twelve closes on, is in force from the thirteenth.
    replayed = lockstep.replay(n_pairs=2, n_closes=26, closes_before=14, floor_closes=3)
    assert replayed.n_closes == 12
    assert replayed.n_feature_rows == 2 * 12
    assert replayed.closes_per_second > 0
    assert replayed.floor_per_second > 0


def test_the_rate_of_a_replay_is_a_share_of_the_floors() -> None:
    figure = lockstep.figure(Replayed(30.0, 120.0, 10, 200, 4))
    assert (figure.name, figure.unit) == ("lockstep_replay", "closes a second")
    assert (figure.figure, figure.reference, figure.ratio) == (30.0, 120.0, 0.25)
    assert figure.data == "10 closes of 20 pairs, 4 fills, 5 commits and hops"
