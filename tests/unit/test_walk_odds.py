"""The odds that spreads wander."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from shared.quant.typing import Float1D
from shared.quant.walk_odds import ReversionSums, reversion_sums, walk_log_odds


def stretch(n_steps: int, speed: float, rng: np.random.Generator) -> tuple[Float1D, Float1D]:
    spread = np.zeros(n_steps + 1)
    for bar in range(n_steps):
        spread[bar + 1] = (1.0 - speed) * spread[bar] + rng.normal()
    return spread[:-1], np.diff(spread)


def test_the_odds_are_the_ratio_of_two_normal_likelihoods() -> None:
    distance, step = stretch(300, 0.2, np.random.default_rng(0))
    std = np.sqrt((step**2).mean())
    wandering = np.sum(stats.norm.logpdf(step, 0.0, std))
    coming_home = np.sum(stats.norm.logpdf(step, -0.15 * distance, std))
    found = walk_log_odds(reversion_sums([(distance, step)]), 0.15)
    assert found == pytest.approx(wandering - coming_home, rel=1e-12)


def test_speed_is_that_of_a_regression_and_no_scale_matters() -> None:
    rng = np.random.default_rng(1)
    one, other = stretch(4000, 0.1, rng), stretch(4000, 0.1, rng)
    found = reversion_sums([one, other])
    assert found.speed == pytest.approx(0.1, abs=4 * np.sqrt(2 * 0.1 / 8000))
    scaled = reversion_sums([one, (other[0] * 1e-6, other[1] * 1e-6)])
    assert (scaled.n_steps, scaled.pull, scaled.room) == pytest.approx(
        (found.n_steps, found.pull, found.room), rel=1e-9
    )


def test_a_spread_that_stands_still_says_nothing() -> None:
    still = (np.full(50, 3.0), np.zeros(50))
    assert reversion_sums([still]) == ReversionSums(0, 0.0, 0.0)
    assert reversion_sums([(np.empty(0), np.empty(0))]).speed == 0.0


def test_chance_reaches_odds_of_twenty_no_more_than_once_in_twenty() -> None:
    rng = np.random.default_rng(2)
    n_seeds, speed = 2000, 0.02
    reached = dict.fromkeys((20, 100, 400), 0)
    for n_steps in reached:
        for _ in range(n_seeds):
            found = reversion_sums([stretch(n_steps, speed, rng)])
            reached[n_steps] += walk_log_odds(found, speed) > np.log(20.0)
    bound = 0.05 + 2 * np.sqrt(0.05 * 0.95 / n_seeds)
    assert max(reached.values()) / n_seeds <= bound


def test_what_wanders_is_told_from_what_comes_home_within_a_few_half_lives() -> None:
    rng = np.random.default_rng(3)
    speed = np.log(2.0) / 16.0
    told = [
        walk_log_odds(reversion_sums([stretch(168, 0.0, rng) for _ in range(6)]), speed)
        > np.log(20.0)
        for _ in range(200)
    ]
    assert np.mean(told) >= 0.98
