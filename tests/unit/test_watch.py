"""When the champion counts as drifted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.trainer.watch import DriftFound, watch_champion, watch_fills
from shared.book.execution import FillTerms
from shared.book.instrument import SPOT_STAND_IN, Instrument
from shared.book.orders import Side
from shared.book.slippage import FilledInBar
from shared.quant.calibration import PlattCalibration
from shared.quant.scorers import LinearScorer
from shared.quant.typing import Float1D, Float2D
from shared.sleeves.pairs.dataset import Dataset, PairRows
from shared.sleeves.pairs.drift_settings import DriftSettings
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.stored_model import StoredModel

NAMES = ("unused", "a", "b", "c", "beta", "alpha", "spread_mean", "spread_std")
MODEL = StoredModel(
    family="logistic_regression",
    parameters={},
    seed=0,
    feature_names=("a", "b", "c"),
    scorer=LinearScorer((0.0,) * 3, (1.0,) * 3, (0.0,) * 3, 0.0),
    calibration=PlattCalibration(1.0, 0.0),
    label=LabelSettings(),
    trained_from_ms=0,
    trained_to_ms=1,
    n_samples=100,
)
SETTINGS = DriftSettings(fewest_rows=100)
BAR_MS = 300_000


def rows(n: int, *shift: float, seed: int = 0) -> list[PairRows]:
    features = np.random.default_rng(seed).normal(size=(n, 4)) + np.array([0.0, *shift])
    return [held("Y", features, np.ones(n))]


def held(y: str, features: Float2D, close_y: Float1D) -> PairRows:
    """Return rows of a pair whose spread is the close of its first leg."""
    n = len(close_y)
    frozen = np.tile([0.0, 0.0, 100.0, 1.0], (n, 1))
    closes_at_ms = np.arange(1, n + 1, dtype=np.int64) * BAR_MS
    return PairRows(y, "X", np.hstack([features, frozen]), close_y, np.ones(n), closes_at_ms)


def watch(
    training: list[PairRows],
    present: list[PairRows],
    found: Dataset,
    settings: DriftSettings = SETTINGS,
) -> DriftFound | None:
    return watch_champion(
        MODEL, NAMES, training, present, found, settings, bar_ms=BAR_MS, spread_space="price"
    )


def outcomes(share: float, n: int = 100) -> Dataset:
    labels = (np.arange(n) < share * n).astype(np.int64)
    spans = np.arange(n, dtype=np.int64)
    return Dataset(NAMES, np.zeros((n, len(NAMES))), labels, spans, spans, np.ones(n))


@pytest.mark.parametrize(
    ("shift", "share", "reasons"),
    [
        ((0.0, 0.0, 0.0), 0.5, []),
        ((3.0, 0.0, 0.0), 0.5, []),  # one feature of three is not more than half
        ((3.0, 0.0, 4.0), 0.5, ["2 of 3 features have a stability index above 0.25, c "]),
        ((0.0, 0.0, 0.0), 0.2, ["mean forecast less share of outcomes is +0.300, beyond 0.15"]),
        ((0.0, 0.0, 0.0), 0.8, ["mean forecast less share of outcomes is -0.300, beyond 0.15"]),
    ],
)
def test_a_wire_trips_on_many_moved_features_or_on_wrong_forecasts(
    shift: tuple[float, ...], share: float, reasons: list[str]
) -> None:
    training, present = rows(2000, 0.0, 0.0, 0.0), rows(500, *shift, seed=1)
    found = watch(training, present, outcomes(share))
    assert found is not None
    assert len(found.reasons) == len(reasons)
    for reason, start in zip(found.reasons, reasons, strict=True):
        assert reason.startswith(start)
    assert [feature.name for feature in found.features] == ["a", "b", "c"]


def test_too_few_rows_say_nothing_and_no_outcome_is_no_gap() -> None:
    training, present = rows(2000, 0.0, 0.0, 0.0), rows(99, 9.0, 9.0, 9.0)
    assert watch(training, present, outcomes(0.5)) is None
    assert watch([], training, outcomes(0.5)) is None
    found = watch(training, training, outcomes(0.0, n=0))
    assert found is not None
    assert found.calibration_gap is None
    # The prices of these rows never change.
    assert found.walk_log_odds is None


def spreads(n_bars: int, speed: float, seed: int) -> list[PairRows]:
    """Return three pairs whose spreads come home at a speed, with features that never move."""
    rng = np.random.default_rng(seed)
    features = np.random.default_rng(0).normal(size=(n_bars, 4))
    found = []
    for y in ("A", "B", "C"):
        spread = np.zeros(n_bars)
        for bar in range(1, n_bars):
            spread[bar] = (1.0 - speed) * spread[bar - 1] + rng.normal()
        found.append(held(y, features, 100.0 + spread))
    return found


@pytest.mark.parametrize(("speed", "is_tripped"), [(0.1, False), (0.3, False), (0.0, True)])
def test_a_wire_trips_on_spreads_that_came_home_and_wander_now(
    speed: float, is_tripped: bool
) -> None:
    settings = DriftSettings(window_closes=400)
    found = watch(spreads(2000, 0.1, 1), spreads(400, speed, 2), outcomes(0.5), settings)
    assert found is not None
    assert found.walk_log_odds is not None
    assert (found.walk_log_odds > math.log(20)) is is_tripped
    expected = "spreads wander rather than come home as in training: the log-odds are "
    assert [reason.startswith(expected) for reason in found.reasons] == [True] * is_tripped


def test_spreads_that_never_came_home_cannot_cease_to() -> None:
    wandering = spreads(2000, -0.001, 1)
    found = watch(wandering, spreads(400, 0.0, 2), outcomes(0.5), DriftSettings(window_closes=2000))
    assert found is not None
    assert found.walk_log_odds is None


@pytest.mark.parametrize(
    ("n_fills", "price_ticks", "is_tripped"),
    [(9, 10_200, False), (10, 10_200, True), (10, 10_059, False), (10, 9_000, False)],
)
def test_a_wire_trips_on_enough_fills_that_are_worse_than_the_model(
    n_fills: int, price_ticks: int, is_tripped: bool
) -> None:
    coin = Instrument("AAA/USDT", 2, 3, min_notional_e8=0, price_source=SPOT_STAND_IN)
    bought = FilledInBar(coin, Side.BUY, 100, price_ticks, 100.0, 50.0)
    settings = DriftSettings(slippage_excess_max_ppm=5_000, fewest_fills=10)
    terms = FillTerms(slippage_ppm=1_000)
    found = watch_fills([bought] * n_fills, terms, settings)
    assert found.slippage is not None
    assert found.slippage.n_fills == n_fills
    assert bool(found.reasons) is is_tripped
    if is_tripped:
        assert found.reasons[0].startswith("10 fills were 20000 ppm worse than the opens of their ")
    assert watch_fills([], terms, settings).slippage is None
