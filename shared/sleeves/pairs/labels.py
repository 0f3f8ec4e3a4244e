"""What happened after a stretched spread: the answers a model learns from.

Labels look at the spread that a trade opened at the row would hold, with hedge ratio,
intercept, mean and deviation frozen there. They read the future by design and are made for
training only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from shared.errors import DataError
from shared.quant.typing import Bool1D, Float1D, Float2D, Int1D
from shared.sleeves.pairs.features import SpreadSpace, held_z, in_space

LabelKind = Literal[
    "z_threshold", "held_return", "revert_direction", "triple_barrier", "next_bar_sign"
]


def _barrier() -> Any:
    # Left out of a document where it is the default: models stored before there were barriers
    # keep their bytes, and so their hash.
    return Field(1.0, gt=0, exclude_if=lambda barrier: barrier == 1.0)


class LabelSettings(BaseModel, frozen=True, extra="forbid"):
    """Which rows are labelled, and how.

    In every kind 1 means that entering at the row, against the sign of z, was right.

    Attributes
    ----------
    kind
        `z_threshold`: 1 if |z| of the held spread is below the threshold at any of the next
        `horizon_bars` bars. `held_return`: 1 if the return of holding the pair, against the
        sign of z, for `horizon_bars` bars exceeds `cost_rate`. `revert_direction`: 1 if the
        held spread stands nearer to its mean, or beyond it, after `horizon_bars` bars; how far
        it went is `Labels.reversion`. `triple_barrier`: 1 if the held spread goes
        `take_profit_std` towards its mean before it goes `stop_loss_std` away from it and
        within `horizon_bars` bars. `next_bar_sign`: 1 if the held spread goes towards its mean
        on the next bar.
    threshold
        Rows with |z| of at least this are labelled.
    horizon_bars
        Bars a label looks ahead; `next_bar_sign` looks one bar ahead in any case.
    cost_rate
        Cost of entering and leaving as a share of gross notional: by default a fee of 0.0005
        a side, twice, and 0.0001 of slippage.
    take_profit_std, stop_loss_std
        Barriers of `triple_barrier`, in deviations of the spread at the row.
    """

    kind: LabelKind = "z_threshold"
    threshold: float = Field(1.5, gt=0)
    horizon_bars: int = Field(3, ge=1)
    cost_rate: float = Field(0.0011, ge=0)
    take_profit_std: float = _barrier()
    stop_loss_std: float = _barrier()

    @property
    def bars_ahead(self) -> int:
        """Most bars that a label is made from after its row."""
        return 1 if self.kind == "next_bar_sign" else self.horizon_bars


@dataclass(frozen=True, eq=False)
class Labels:
    """The labelled rows of one pair.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Positions of the labelled rows in the feature matrix, ascending: the first bar each
        label is made from.
    label : ndarray of int64, shape (m,)
        1 or 0.
    end : ndarray of int64, shape (m,)
        Position of the last bar each label is made from.
    reversion : ndarray of float64, shape (m,)
        How far the held spread went towards its mean from the row to the end, in deviations
        of the row; negative where it went away.
    """

    rows: Int1D
    label: Int1D
    end: Int1D
    reversion: Float1D


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
    close_y + |beta_t| close_x at the row in price space, where it is a share. Barriers are
    looked at on closes; a label that met one ends there, the others after the horizon.

    References
    ----------
    Lopez de Prado, M. (2018), Advances in Financial Machine Learning, Wiley, section 3.4 (the
    triple-barrier method).
    """
    _require_aligned(features, names, close_y, close_x, closes_at_ms, bar_ms)
    column = {name: features[:, position] for position, name in enumerate(names)}
    bars_ahead = settings.bars_ahead
    is_stretched = np.abs(column["z_score"]) >= settings.threshold  # False where NaN
    rows = np.flatnonzero(is_stretched & _has_horizon(closes_at_ms, bars_ahead, bar_ms))
    ahead = rows[:, np.newaxis] + np.arange(1, bars_ahead + 1)
    y, x = in_space(close_y, spread_space), in_space(close_x, spread_space)
    beta = column["beta"][rows]
    change = (y[ahead] - y[rows, np.newaxis]) - beta[:, np.newaxis] * (
        x[ahead] - x[rows, np.newaxis]
    )
    towards_mean = -np.sign(column["z_score"][rows, np.newaxis]) * change
    reversion = towards_mean / column["spread_std"][rows, np.newaxis]
    last = np.full(len(rows), bars_ahead - 1)
    if settings.kind == "z_threshold":
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
    elif settings.kind == "held_return":
        is_log = spread_space == "log"
        gross = 1 + np.abs(beta) if is_log else close_y[rows] + np.abs(beta) * close_x[rows]
        is_positive = towards_mean[:, -1] / gross > settings.cost_rate
    elif settings.kind == "triple_barrier":
        takes_profit = reversion >= settings.take_profit_std
        meets = takes_profit | (reversion <= -settings.stop_loss_std)
        last = np.where(meets.any(axis=1), meets.argmax(axis=1), last)
        is_positive = takes_profit[np.arange(len(rows)), last]
    else:  # revert_direction, next_bar_sign
        is_positive = towards_mean[:, -1] > 0
    return Labels(
        rows,
        is_positive.astype(np.int64),
        end=rows + 1 + last,
        reversion=reversion[np.arange(len(rows)), last],
    )


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
