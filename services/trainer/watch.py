"""How far features, forecasts and fills have moved from what was reckoned with. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.book.execution import FillTerms
from shared.book.slippage import FilledInBar, Slippage, measure_slippage
from shared.quant.drift import FeatureDrift, feature_drift
from shared.quant.typing import Float2D
from shared.quant.walk_odds import walk_log_odds
from shared.sleeves.pairs.dataset import Dataset, PairRows
from shared.sleeves.pairs.drift_settings import DriftSettings
from shared.sleeves.pairs.features import SpreadSpace
from shared.sleeves.pairs.held_reversion import held_reversion
from shared.sleeves.pairs.stored_model import StoredModel


@dataclass(frozen=True, slots=True)
class DriftFound:
    """What a check of drift found.

    Attributes
    ----------
    features
        In the order of the model's; none of a check of fills.
    calibration_gap
        Mean forecast less share of outcomes; None without an outcome.
    reasons
        Why the wire tripped; empty where it did not.
    walk_log_odds
        How much likelier the steps of the spreads are if they wander than if they come home as
        in training, as a natural logarithm; None where either side has too few steps, or they
        did not come home in training.
    slippage
        Of the fills; None without any, or where a model was checked.
    """

    features: tuple[FeatureDrift, ...]
    calibration_gap: float | None
    reasons: tuple[str, ...]
    walk_log_odds: float | None = None
    slippage: Slippage | None = None


def watch_champion(
    model: StoredModel,
    names: Sequence[str],
    training: Sequence[PairRows],
    present: Sequence[PairRows],
    outcomes: Dataset,
    settings: DriftSettings,
    *,
    bar_ms: int,
    spread_space: SpreadSpace,
) -> DriftFound | None:
    """Compare the present with what a model was trained on.

    Parameters
    ----------
    model
        The champion.
    names
        Columns of the rows.
    training, present
        Feature rows of its training period and of late.
    outcomes
        The labelled rows of late.
    settings
        Bounds.
    bar_ms, spread_space
        Length of the trade timeframe's bar, and the space of the spreads.

    Returns
    -------
    DriftFound or None
        None where either side has too few rows to say anything.
    """
    places = model.places_in(names)
    before, now = _pooled(training, places), _pooled(present, places)
    if min(len(before), len(now)) < settings.fewest_rows:
        return None
    features = feature_drift(before, now, model.feature_names)
    gap = None
    if len(outcomes.labels):
        forecast = model.predict_probability(outcomes.features[:, places])
        gap = float(forecast.mean() - outcomes.labels.mean())
    reasons = []
    bound = settings.stability_index_max
    moved = [drift for drift in features if drift.stability_index > bound]
    if len(moved) > settings.features_share_max * len(features):
        worst = max(moved, key=lambda drift: drift.stability_index)
        reasons.append(
            f"{len(moved)} of {len(features)} features have a stability index above {bound:g}, "
            f"{worst.name} {worst.stability_index:.3g}"
        )
    if gap is not None and abs(gap) > settings.calibration_gap_max:
        reasons.append(
            f"mean forecast less share of outcomes is {gap:+.3f}, beyond "
            f"{settings.calibration_gap_max:g}"
        )
    log_odds = _walk_log_odds(training, present, names, settings, bar_ms, spread_space)
    if log_odds is not None and log_odds > math.log(settings.walk_odds_max):
        reasons.append(
            f"spreads wander rather than come home as in training: the log-odds are "
            f"{log_odds:.3g}, beyond those of {settings.walk_odds_max:g} to 1"
        )
    return DriftFound(features, gap, tuple(reasons), log_odds)


def _walk_log_odds(
    training: Sequence[PairRows],
    present: Sequence[PairRows],
    names: Sequence[str],
    settings: DriftSettings,
    bar_ms: int,
    spread_space: SpreadSpace,
) -> float | None:
    before, now = (
        held_reversion(
            pairs, names, bar_ms=bar_ms, stretch_closes=settings.window_closes,
            spread_space=spread_space,
        )
        for pairs in (training, present)
    )  # fmt: skip
    if min(before.n_steps, now.n_steps) < settings.fewest_rows or before.speed <= 0.0:
        return None
    return walk_log_odds(now, before.speed)


def watch_fills(
    fills: Iterable[FilledInBar], terms: FillTerms, settings: DriftSettings
) -> DriftFound:
    """Hold the fills of late against what the backtest reckons with.

    Parameters
    ----------
    fills
        Of late, each with its bar.
    terms
        Slippage and impact that the backtest assumes.
    settings
        Bounds.
    """
    found = measure_slippage(fills, terms)
    reasons = []
    bound = settings.slippage_excess_max_ppm
    if found and found.n_fills >= settings.fewest_fills and found.excess_ppm > bound:
        reasons.append(
            f"{found.n_fills} fills were {found.realised_ppm:.0f} ppm worse than the opens of "
            f"their bars, {found.modelled_ppm:.0f} by the model: beyond it by more than {bound:g}"
        )
    return DriftFound((), None, tuple(reasons), slippage=found)


def _pooled(pairs: Sequence[PairRows], places: list[int]) -> Float2D:
    rows = [rows.features[:, places] for rows in pairs]
    return np.concatenate(rows) if rows else np.empty((0, len(places)))
