"""The ladder of markets with known truth: a few rungs here, all of them by `make honesty`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from rich.console import Console
from rich.progress import track

from shared.backtest import preparation
from shared.backtest.feature_table import FeatureTable, compute_feature_table
from shared.events.screener import PairsScreened
from shared.quant.bars import Bars
from shared.quant.gates import BACKTEST_GATES, GateSettings, are_passed, judge, measure_backtest
from shared.quant.typing import Int1D
from shared.sleeves.pairs.features import FeatureSettings
from tests.honesty.dying import DELAY_DAYS, watch_a_dying_edge
from tests.honesty.ladder import (
    CARELESS,
    EATEN,
    EDGES,
    N_SYMBOLS,
    NULLS,
    Finding,
    climb,
    climb_edge,
    climb_null,
    share_of,
)
from tests.honesty.markets import DAY, independent_walks, market_of
from tests.honesty.power import measure_power

T = TypeVar("T")

REAL = Path("crypto/binance_spot_1h_2024.parquet")
FREE = ("execution.fee_ppm=0", "execution.slippage_ppm=0", "execution.funding_ppm=0")

# --- the short form -----------------------------------------------------------------------------


@pytest.mark.parametrize("rung", NULLS)
def test_nothing_is_promoted_without_an_edge(rung: str, data_folder: Path) -> None:
    careless = climb_null(rung, 1, data_folder / REAL)
    assert careless.has_candidate
    assert not careless.is_promoted


def test_the_screen_of_the_product_finds_no_pair_among_independent_walks() -> None:
    honest = climb_null("independent", 2, real=None)
    assert honest.n_pairs == 0
    assert not honest.is_promoted


def test_a_model_that_sees_the_future_is_promoted_where_there_is_no_edge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without this the ladder would also stand if nothing could ever be promoted.
    rng = np.random.default_rng(1)
    n_days = 260
    market = market_of(independent_walks(n_days * DAY, N_SYMBOLS, rng), rng)
    sure = (*CARELESS, "signals.probability_threshold=0.6")
    assert not climb("leak", 1, market, *sure, test_days=150).is_promoted
    monkeypatch.setattr(preparation, "compute_feature_table", _with_tomorrow)
    assert climb("leak", 1, market, *sure, test_days=150).is_promoted


def _with_tomorrow(
    bars: Bars, closes: Int1D, screens: Sequence[PairsScreened], settings: FeatureSettings
) -> FeatureTable:
    """Return the features with one that looks ahead: how far the spread will have come home."""
    table = compute_feature_table(bars, closes, screens, settings)
    values = table.values.copy()
    for code in range(len(table.pairs)):
        rows = np.flatnonzero(table.pair == code)
        y, x = np.log(table.close_y[rows]), np.log(table.close_x[rows])
        ahead = np.minimum(np.arange(len(rows)) + 12, len(rows) - 1)
        change = (y[ahead] - y) - table.column("beta")[rows] * (x[ahead] - x)
        home = -np.sign(table.column("z_score")[rows]) * change
        values[rows, table.feature_names.index("market_trend")] = home
    return replace(table, values=values)


def test_luck_is_let_through_where_trials_are_not_counted() -> None:
    passed = Counter[bool]()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        trials = rng.normal(0, 0.005, (365, 60))
        best = trials[:, [np.argmax(trials.mean(axis=0) / trials.std(axis=0))]]
        for is_counted in (True, False):
            evidence = measure_backtest(
                best[:, 0],
                np.zeros(365),
                best,
                n_trials=60 if is_counted else 1,
                is_out_of_sample=True,
                periods_per_year=365,
                settings=GateSettings(),
                rng=rng,
            )
            passed[is_counted] += are_passed(judge(evidence, None, GateSettings()), BACKTEST_GATES)
    assert passed[True] == 0
    assert passed[False] >= 6


def test_an_edge_that_only_a_model_can_tell_is_promoted() -> None:
    found = climb_edge("told", 3, EDGES["told, half-life 2 h, strong"])
    assert found.is_promoted
    assert found.sharpe > found.z_sharpe > 1


def test_an_edge_that_costs_eat_is_not_promoted() -> None:
    assert climb_edge("eaten", 0, EATEN, *FREE).z_sharpe > 5
    eaten = climb_edge("eaten", 0, EATEN)
    assert eaten.has_candidate
    assert not eaten.is_promoted
    assert eaten.z_sharpe < -5


def test_a_champion_is_rolled_back_within_the_delay_once_its_edge_is_dead() -> None:
    watched = watch_a_dying_edge(0, half_life_bars=2)
    assert watched.n_false == 0
    assert watched.days_to_rollback is not None
    assert watched.days_to_rollback <= DELAY_DAYS


def test_the_gates_have_the_power_that_is_computed() -> None:
    power = measure_power(2.0, 91, n_trials=1, n_seeds=100)
    assert power.simulated == pytest.approx(power.analytic, abs=0.1)
    assert power.analytic == pytest.approx(0.25, abs=0.02)
    assert measure_power(2.0, 91, n_trials=50, n_seeds=10).simulated == 0


# --- the full form ------------------------------------------------------------------------------

MARKETS_OF_A_NULL = 100
MARKETS_WITH_COSTS_OR_DEATH = 20
SEEDS_OF_A_POWER = 1000
N_PROCESSES = 2


def climbed(title: str, one: Callable[[int], T], n_seeds: int) -> list[T]:
    """Return what every seed gives, with progress."""
    # Not forked: compiled kernels may hold threads.
    with ProcessPoolExecutor(N_PROCESSES, mp_context=get_context("spawn")) as pool:
        return list(track(pool.map(one, range(n_seeds)), title, total=n_seeds))


def tell(title: str, findings: Sequence[Finding]) -> None:
    """Print what a rung came to."""
    reached = [each for each in findings if each.has_candidate]
    promoted = [each.seed for each in findings if each.is_promoted]
    refusals = dict(Counter(gate for each in reached for gate in each.refused_by))
    Console().print(
        f"{title}: {len(findings)} markets, {len(reached)} reached the gates, seeds promoted "
        f"{promoted}, refused by {refusals}"
    )


@pytest.mark.honesty
@pytest.mark.parametrize("rung", NULLS)
def test_nothing_is_promoted_in_a_hundred_markets_without_an_edge(
    rung: str, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        one = partial(climb_null, rung, real=data_folder / REAL)
        findings = climbed(rung, one, MARKETS_OF_A_NULL)
        tell(rung, findings)
    assert [each.seed for each in findings if each.is_promoted] == []
    # Else nothing but the screen was tried.
    assert sum(each.has_candidate for each in findings) >= MARKETS_OF_A_NULL * 0.4


@pytest.mark.honesty
@pytest.mark.parametrize("name", EDGES)
def test_an_edge_is_promoted_as_often_as_all_gates_allow(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        edge = EDGES[name]
        findings = climbed(name, partial(climb_edge, name, edge=edge), edge.n_markets)
        tell(name, findings)
        share = share_of(findings)
        Console().print(share)
    # Four standard errors of a share of twenty are 0.45.
    assert share.promoted <= share.analytic + 0.45


@pytest.mark.honesty
def test_an_edge_that_costs_eat_is_never_promoted(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        findings = climbed(
            "eaten", partial(climb_edge, "eaten", edge=EATEN), MARKETS_WITH_COSTS_OR_DEATH
        )
        tell("eaten by costs", findings)
    assert all(each.has_candidate for each in findings)
    assert not any(each.is_promoted for each in findings)


@pytest.mark.honesty
@pytest.mark.parametrize("half_life_bars", [2, 4, 8, 16])
def test_champions_are_rolled_back_within_the_delay(
    half_life_bars: float, capsys: pytest.CaptureFixture[str]
) -> None:
    one = partial(watch_a_dying_edge, half_life_bars=half_life_bars)
    with capsys.disabled():
        watched = climbed(f"dying, half-life {half_life_bars} h", one, MARKETS_WITH_COSTS_OR_DEATH)
        delays = sorted(each.days_to_rollback or np.inf for each in watched)
        n_alive, n_false = (
            sum(getattr(w, name) for w in watched) for name in ("n_alive", "n_false")
        )
        Console().print(f"days to rollback {delays}; {n_false} of {n_alive} checks before it false")
    assert max(delays) <= DELAY_DAYS


@pytest.mark.honesty
@pytest.mark.parametrize("n_trials", [1, 10, 50])
@pytest.mark.parametrize("n_days", [91, 182, 365])
def test_the_share_that_passes_all_gates_is_the_analytic_power(
    n_days: int, n_trials: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for sharpe in (1.0, 2.0, 3.0, 5.0):
        power = measure_power(sharpe, n_days, n_trials, n_seeds=SEEDS_OF_A_POWER)
        with capsys.disabled():
            Console().print(sharpe, n_days, n_trials, *(f"{share:.3f}" for share in astuple(power)))
        assert power.simulated == pytest.approx(power.analytic, abs=0.1)
