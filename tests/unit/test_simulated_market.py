"""The seeded market: the same bars whatever happens, and what a screen finds in them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from shared.quant.bar_checks import BarCheckSettings, check_bars
from shared.sleeves.pairs.screening import ScreenSettings, screen_pairs
from shared.venues.simulated import (
    BAR_MS,
    COINTEGRATED,
    CORRELATED,
    DAY_MS,
    SIMULATED,
    UNRELATED,
    SimulatedDay,
    SimulatedMarket,
    bars_of_days,
)

FIRST_DAY = 19_700
PLANTED = {frozenset(f"{name}/USDT:USDT" for name in pair) for pair in COINTEGRATED}


def days(seed: int, n: int) -> list[SimulatedDay]:
    market = SimulatedMarket(seed, FIRST_DAY)
    return [market.day(FIRST_DAY + number) for number in range(n)]


def assert_same(one: SimulatedDay, other: SimulatedDay) -> None:
    for field in fields(SimulatedDay):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("asked", [(3,), (0, 3), (5, 3), (3, 3), (4, 0, 3)])
def test_a_day_is_the_same_whatever_was_asked_for_before_it(asked: tuple[int, ...]) -> None:
    market = SimulatedMarket(7, FIRST_DAY)
    for number in asked:
        found = market.day(FIRST_DAY + number)
    assert_same(found, days(7, 4)[3])


def test_another_seed_is_another_market() -> None:
    assert not np.array_equal(days(1, 1)[0].close, days(2, 1)[0].close)


def test_days_join_without_a_seam() -> None:
    one, two = days(7, 2)
    assert one.closes_at_ms[-1] + BAR_MS == two.closes_at_ms[0]
    assert one.closes_at_ms[-1] == (FIRST_DAY + 1) * DAY_MS
    assert np.abs(np.log(two.open[0] / one.close[-1])).max() < 0.001


def test_every_bar_passes_the_checks_of_the_fleet_and_lies_on_the_tick() -> None:
    made = days(11, 20)
    bars = bars_of_days(made)
    checked = check_bars(bars, now_ms=10**14, known=None, settings=BarCheckSettings(), prior={})
    assert len(checked.accepted) == len(bars) == 20 * 288 * 24
    instruments = SimulatedMarket(11, FIRST_DAY).instruments
    assert {each.price_source for each in instruments.values()} == {SIMULATED}
    for column, instrument in enumerate(instruments.values()):
        for name in ("open", "high", "low", "close"):
            for price in getattr(made[0], name)[:5, column].tolist():
                ticks = instrument.price_ticks(price, "down")
                assert float(instrument.price_of(ticks)) == price
        lots = instrument.lots_of(float(made[0].volume[0, column]))
        assert float(instrument.quantity_of(lots)) == made[0].volume[0, column]


def test_prices_stay_near_where_they_began() -> None:
    market = SimulatedMarket(3, FIRST_DAY)
    began = market.day(FIRST_DAY).close[0]
    # Ten years on: a free random walk would have lost or gained a factor of a hundred.
    later = market.day(FIRST_DAY + 3_650).close[-1]
    assert np.abs(np.log(later / began)).max() < np.log(20.0)


@pytest.mark.parametrize("seed", [1, 2, 7, 8])
def test_a_screen_accepts_the_planted_pairs_and_no_other(seed: int) -> None:
    made = days(seed, 45)
    n_hours = ScreenSettings().window_bars
    close = np.concatenate([day.close for day in made])
    volume = np.concatenate([day.volume for day in made])
    hourly_close = close[11::12][-n_hours:]
    hourly_volume = (close * volume).reshape(-1, 12, 24).sum(axis=1)[-n_hours:]
    symbols = made[0].symbols
    screen = screen_pairs(symbols, np.log(hourly_close), hourly_volume, symbols, ScreenSettings())

    found = {frozenset((pair.y, pair.x)): pair for pair in screen.candidates}
    assert len(PLANTED & found.keys()) >= 7
    assert not found.keys() - PLANTED
    for pair in found.values():
        assert pair.p_value < 1e-4
        assert 1.0 < pair.half_life_bars < 20.0


def test_the_look_alikes_move_together_and_the_strangers_do_not() -> None:
    changes = np.diff(np.log(np.concatenate([day.close for day in days(7, 20)])[11::12]), axis=0)
    names = [symbol.partition("/")[0] for symbol in days(7, 1)[0].symbols]
    correlation = np.corrcoef(changes.T)

    def between(one: str, other: str) -> float:
        return float(correlation[names.index(one), names.index(other)])

    alike = [between(a, b) for a in CORRELATED for b in CORRELATED if a < b]
    strange = [between(a, b) for a in UNRELATED for b in names if a != b]
    assert min(alike) > 0.5
    assert max(map(abs, strange)) < 0.25
