"""What happened after a stretched spread: the answers a model learns from.

Labels look at the spread that a trade opened at the row would hold, with hedge ratio,
intercept, mean and deviation frozen there. They read the future by design and are made for
training only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from shared.errors import DataError
from shared.quant.typing import Bool1D, Float1D, Float2D, Int1D
from shared.sleeves.pairs.features import SpreadSpace, held_z, in_space


class LabelSettings(BaseModel, frozen=True, extra="forbid"):
    """Which rows are labelled, and how.

    Attributes
    ----------
    kind
        `z_threshold`: 1 if |z| of the held spread is below the threshold at any of the next
        `horizon_bars` bars. `held_return`: 1 if the return of holding the pair, against the
        sign of z, for `horizon_bars` bars exceeds `cost_rate`.
    threshold
        Rows with |z| of at least this are labelled.
    horizon_bars
        Bars a label looks ahead.
    cost_rate
        Cost of entering and leaving as a share of gross notional: by default a fee of 0.0005
        a side, twice, and 0.0001 of slippage.
    """

    kind: Literal["z_threshold", "held_return"] = "z_threshold"
    threshold: float = Field(1.5, gt=0)
    horizon_bars: int = Field(3, ge=1)
    cost_rate: float = Field(0.0011, ge=0)


@dataclass(frozen=True, eq=False)
class Labels:
    """The labelled rows of one pair.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Positions of the labelled rows in the feature matrix, ascending.
    label : ndarray of int64, shape (m,)
        1 or 0.
    end : ndarray of int64, shape (m,)
        Position of the last bar each label is made from.
    """

    rows: Int1D
    label: Int1D
    end: Int1D


def make_labels(
    features: Float2D,
    names: Sequence[str],
    close_y: Float1D,
    close_x: Float1D,
    closes_at_ms: Int1D,
    *,
    bar_ms: int,
    spread_space: SpreadSpace,
    settings: LabelSettings,
) -> Labels:
    """Label the stretched rows of a pair.

    Parameters
    ----------
    features : ndarray of float64, shape (n, k)
        As `pair_features` returns them; rows of NaN are not labelled.
    names
        Names of the k features.
    close_y, close_x : ndarray of float64, shape (n,)
        Closes of the same bars.
    closes_at_ms : ndarray of int64, shape (n,)
        Instants of the same closes, ascending and on the grid of the timeframe. Where one is
        missing, rows whose horizon would cross the gap are not labelled.
    bar_ms
        Length of a bar in milliseconds.
    spread_space
        Space in which the features were made.
    settings
        Kind of label and its thresholds.

    Returns
    -------
    Labels
        The rows with |z| at or beyond the threshold and a full horizon after them.

    Raises
    ------
    DataError
        If the columns differ in length, a needed feature is missing, or the instants are not
        ascending on the grid.

    Notes
    -----
    With y and x in the space of the spread, h the horizon and t the row, the held return is
    -sign(z_t) ((y_{t+h} - y_t) - beta_t (x_{t+h} - x_t)) / gross. Gross notional is
    1 + |beta_t| in log space, where a unit of y is a unit of money, and
    close_y + |beta_t| close_x at the row in price space, where it is a share.
    """
    _require_aligned(features, names, close_y, close_x, closes_at_ms, bar_ms)
    column = {name: features[:, position] for position, name in enumerate(names)}
    is_stretched = np.abs(column["z_score"]) >= settings.threshold  # False where NaN
    rows = np.flatnonzero(is_stretched & _has_horizon(closes_at_ms, settings.horizon_bars, bar_ms))
    end = rows + settings.horizon_bars
    beta = column["beta"][rows]
    if settings.kind == "z_threshold":
        ahead = rows[:, np.newaxis] + np.arange(1, settings.horizon_bars + 1)
        z_score = held_z(
            close_y[ahead],
            close_x[ahead],
            beta[:, np.newaxis],
            column["alpha"][rows, np.newaxis],
            column["spread_mean"][rows, np.newaxis],
            column["spread_std"][rows, np.newaxis],
            spread_space,
        )
        is_positive = (np.abs(z_score) < settings.threshold).any(axis=1)
    else:
        y, x = in_space(close_y, spread_space), in_space(close_x, spread_space)
        change = (y[end] - y[rows]) - beta * (x[end] - x[rows])
        is_log = spread_space == "log"
        gross = 1 + np.abs(beta) if is_log else close_y[rows] + np.abs(beta) * close_x[rows]
        held_return = -np.sign(column["z_score"][rows]) * change / gross
        is_positive = held_return > settings.cost_rate
    return Labels(rows, is_positive.astype(np.int64), end)


def _has_horizon(closes_at_ms: Int1D, horizon_bars: int, bar_ms: int) -> Bool1D:
    """Tell for each bar whether the next `horizon_bars` bars are all there."""
    has_horizon = np.zeros(len(closes_at_ms), dtype=np.bool_)
    # On an ascending grid, bars h places apart are h bars apart only if none is missing.
    span = closes_at_ms[horizon_bars:] - closes_at_ms[:-horizon_bars]
    has_horizon[: len(span)] = span == horizon_bars * bar_ms
    return has_horizon


def _require_aligned(
    features: Float2D,
    names: Sequence[str],
    close_y: Float1D,
    close_x: Float1D,
    closes_at_ms: Int1D,
    bar_ms: int,
) -> None:
    n_bars = len(closes_at_ms)
    if features.shape != (n_bars, len(names)) or not len(close_y) == len(close_x) == n_bars:
        raise DataError(
            f"features of shape {features.shape} with {len(names)} names, {len(close_y)} and "
            f"{len(close_x)} closes and {n_bars} instants: give one row, two closes and one "
            "instant for every bar"
        )
    missing = {"z_score", "beta", "alpha", "spread_mean", "spread_std"} - set(names)
    if missing:
        raise DataError(f"features lack {', '.join(sorted(missing))}: labels are made from them")
    steps = np.diff(closes_at_ms)
    if bar_ms <= 0 or np.any(steps <= 0) or np.any(steps % bar_ms):
        raise DataError(
            f"closes are not ascending on a grid of {bar_ms} ms: sort the joined bars and give "
            "the length of their timeframe"
        )
