"""An edge that dies under a champion: the tripwire checked close by close, as the trainer does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.trainer.watch import watch_champion
from shared.backtest.candidates import FitTerms, fit_candidate, training_set
from shared.backtest.feature_table import FeatureTable
from shared.backtest.preparation import prepare_with
from shared.quant.model_families import family_named
from shared.settings import strategy_of
from shared.sleeves.pairs.dataset import PairRows, make_dataset
from shared.sleeves.pairs.drift_settings import DriftSettings
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.stored_model import StoredModel
from tests.honesty.ladder import COMPACT
from tests.honesty.markets import DAY, FIRST_MS, HOUR_MS, cointegrated_pairs, market_of
from tests.support import roster

N_PAIRS = 6
# The defaults of the fleet, a check a day of the week before, in bars of an hour.
WIRE = DriftSettings(every_closes=DAY, window_closes=7 * DAY, action="rollback")
DELAY_DAYS = (WIRE.window_closes + WIRE.every_closes) // DAY
"""After so many days nothing but dead bars is in the window, and they have been looked at."""
_TRAIN_FROM, _PROMOTED, _DIES, _END = 15 * DAY, 75 * DAY, 105 * DAY, 125 * DAY
_FAMILY = "logistic_regression"


@dataclass(frozen=True)
class Watched:
    """What the wire did.

    Attributes
    ----------
    n_alive, n_false
        Checks while the edge lived, and those of them that tripped.
    days_to_rollback
        From its death to the first check that tripped; None if none did.
    """

    n_alive: int
    n_false: int
    days_to_rollback: float | None


def watch_a_dying_edge(seed: int, *, half_life_bars: float) -> Watched:
    """Train a champion on a living edge, let it die after a month, and watch.

    The roster keeps its pairs, as if no screen noticed: the wire is the only defence.
    """
    rng = np.random.default_rng(seed)
    prices = cointegrated_pairs(
        _END, N_PAIRS, rng, half_life_bars=half_life_bars, spread_std=0.006,
        dies_at=_DIES,
    )  # fmt: skip
    market = market_of(prices, rng)
    strategy = strategy_of(COMPACT)
    screens = [roster(FIRST_MS, {(f"Y{n}/USDT", f"X{n}/USDT"): "active" for n in range(N_PAIRS)})]
    label = LabelSettings()
    training, whole = (
        prepare_with(
            market, strategy, screens,
            start_ms=FIRST_MS + start * HOUR_MS, end_ms=FIRST_MS + end * HOUR_MS,
        )
        for start, end in ((_TRAIN_FROM, _PROMOTED), (_PROMOTED - WIRE.window_closes, _END))
    )  # fmt: skip
    dataset = training_set(training, label)
    candidate = fit_candidate(_FAMILY, label, dataset, FitTerms(), family_named(_FAMILY).defaults)
    champion = StoredModel.of(
        candidate.model, dataset.feature_names, label=label, trained_from_ms=0, trained_to_ms=1,
        n_samples=candidate.n_samples,
    )  # fmt: skip
    trained_on = rows_between(training.table, 0, _END)
    n_alive = n_false = 0
    for bar in range(_PROMOTED + WIRE.every_closes, _END + 1, WIRE.every_closes):
        present = rows_between(whole.table, bar - WIRE.window_closes, bar)
        outcomes = make_dataset(
            present, whole.table.feature_names, bar_ms=HOUR_MS,
            spread_space=strategy.features.spread_space, settings=label,
        )  # fmt: skip
        found = watch_champion(
            champion, whole.table.feature_names, trained_on, present, outcomes, WIRE,
            bar_ms=HOUR_MS, spread_space=strategy.features.spread_space,
        )  # fmt: skip
        is_tripped = found is not None and bool(found.reasons)
        if bar > _DIES:
            if is_tripped:
                return Watched(n_alive, n_false, (bar - _DIES) / DAY)
        else:
            n_alive += 1
            n_false += is_tripped
    return Watched(n_alive, n_false, None)


def rows_between(table: FeatureTable, after: int, up_to: int) -> list[PairRows]:
    """Return the feature rows of every pair within some bars."""
    closes_at_ms = table.closes_at_ms[table.row_close()]
    is_within = (closes_at_ms > FIRST_MS + after * HOUR_MS) & (
        closes_at_ms <= FIRST_MS + up_to * HOUR_MS
    )
    found = []
    for code, (y, x) in enumerate(table.pairs):
        rows = np.flatnonzero(is_within & (table.pair == code))
        found.append(
            PairRows(
                y, x, table.values[rows], table.close_y[rows], table.close_x[rows],
                closes_at_ms[rows],
            )
        )  # fmt: skip
    return found
