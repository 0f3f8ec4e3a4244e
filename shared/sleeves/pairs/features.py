"""Features of a pair, bar by bar: one kernel, in a batch form and a streaming form.

Both forms append a bar to a history of columns with the same kernel. Every column is itself a
function of the bars in a window, so a row is, to the bit, a function of the last
`warmup_bars` joined bars, wherever a process was restarted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeVar

import numba
import numpy as np
from pydantic import BaseModel, Field

from shared.errors import DataError
from shared.quant.compiled import compiled, compiled_parallel, interpreted
from shared.quant.rolling import (
    N_SUMS,
    window_half_life,
    window_mean,
    window_mean_std,
    window_ols,
)
from shared.quant.typing import Float1D, Float2D, Float3D, Int1D

Pair = tuple[str, str]
"""The symbols y and x, y regressed on x."""
SpreadSpace = Literal["log", "price"]


class FeatureSettings(BaseModel, frozen=True, extra="forbid"):
    """Windows of the features, in joined bars, the present one included.

    Attributes
    ----------
    beta_window
        Of the regression of y on x.
    z_window
        Of mean, deviation, volatility and half-life of the spread.
    lags
        How many past z-scores a row carries.
    volume_window
        Over which the usual turnover of a leg is taken.
    trend_window
        Bars back to which trends look, and the short window of the volatility ratio.
    spread_space
        Whether the spread is one of log prices or of prices.
    """

    beta_window: int = Field(1000, ge=10)
    z_window: int = Field(300, ge=10)
    lags: int = Field(10, ge=0)
    volume_window: int = Field(48, ge=2)
    trend_window: int = Field(48, ge=2)
    spread_space: SpreadSpace = "log"


_BASE_NAMES = (
    "beta",
    "alpha",
    "spread",
    "spread_mean",
    "spread_std",
    "z_score",
    "z_velocity",
    "z_acceleration",
    "half_life_bars",
    "spread_volatility",
    "relative_volume_y",
    "relative_volume_x",
    "liquidity_y",
    "liquidity_x",
    "spread_trend",
    "market_trend",
    "volatility_ratio",
)
_N_BASE = len(_BASE_NAMES)

# Columns of the history that a row is computed from.
_Y, _X, _SPREAD, _Z, _TURNOVER_Y, _TURNOVER_X = range(6)
_N_COLUMNS = 6

NEGLIGIBLE_STD = 1e-12
"""A spread whose deviation is below this share of its terms is rounding noise: its z is 0."""

PAIRS_A_TURN = 64
"""Pairs that one core advances before it looks for more."""
PAIRS_FOR_ONE_CORE = 256
"""With more pairs the other cores are woken, which takes longer than so many do."""

Windows = tuple[int, int, int, int, int, int]
"""Beta, z, volume and trend window, lags, warm-up: the settings as the kernel takes them."""


def feature_names(settings: FeatureSettings) -> tuple[str, ...]:
    """Return the name of every column of a feature row; only `lags` changes them."""
    return _BASE_NAMES + tuple(f"z_lag_{lag}" for lag in range(1, settings.lags + 1))


def warmup_bars(settings: FeatureSettings) -> int:
    """Return how many consecutive joined bars one full row is computed from."""
    oldest_z_back = max(settings.lags, 2)  # the acceleration looks two bars back
    n_spreads = max(settings.z_window + oldest_z_back, settings.trend_window + 1)
    return max(settings.beta_window - 1 + n_spreads, settings.volume_window)


def pair_features(
    close_y: Float1D,
    close_x: Float1D,
    volume_y: Float1D,
    volume_x: Float1D,
    settings: FeatureSettings,
) -> Float2D:
    """Return the features of every bar of a pair.

    Parameters
    ----------
    close_y, close_x : ndarray of float64, shape (n,)
        Closes of the bars that both legs have, oldest first, in the quote currency.
    volume_y, volume_x : ndarray of float64, shape (n,)
        Volumes of the same bars in the base currency; 0 is allowed.
    settings
        Windows and spread space.

    Returns
    -------
    ndarray of float64, shape (n, k)
        One column per `feature_names`. A row is either finite throughout or NaN throughout:
        NaN before warm-up, and for as long as a window holds a bar at which the hedge ratio
        was undefined because x had not moved for a whole `beta_window`.

    Raises
    ------
    DataError
        If the columns differ in length, a price is not positive or a volume negative.

    Notes
    -----
    With y and x the closes, or their logarithms in log space:

    - beta, alpha: least squares of y on x over `beta_window`; spread = y - (beta x + alpha)
      with the bar's own beta and alpha;
    - spread_mean, spread_std: of the spread over `z_window` (n - 1 in the denominator);
      z_score = (spread - spread_mean) / spread_std, or 0 where the deviation is negligible
      (`NEGLIGIBLE_STD`); z_velocity and z_acceleration: its first and second difference;
    - half_life_bars: of the spread over `z_window`, capped at `z_window`, because a reversion
      slower than the window cannot be told from none;
    - spread_volatility: standard deviation of the spread's changes over `z_window` bars;
      volatility_ratio: the same over `trend_window` bars divided by it, or 1 where it is 0;
    - liquidity: mean of ln(1 + turnover) over `volume_window`, turnover being close times
      volume; relative_volume: the bar's own ln(1 + turnover) less that mean;
    - spread_trend: change of the spread over `trend_window` bars in units of spread_std, or 0
      where that is negligible; market_trend: log return of x over `trend_window` bars;
    - z_lag_i: the z-score i bars ago.

    Takes about n * (2 beta_window + 8 z_window) steps.
    """
    columns = _columns(close_y, close_x, volume_y, volume_x)
    n_bars = columns.shape[1]
    history = np.full((_N_COLUMNS, n_bars), np.nan)
    rows = np.full((n_bars, len(feature_names(settings))), np.nan)
    _append_bars(history, columns, _windows(settings), settings.spread_space == "log", rows)
    return rows


class FeatureStreams:
    """The features of many pairs, advanced together, bar by bar.

    What it keeps is a cache of the last `warmup_bars` bars of each pair and of their spreads
    and z-scores. A pair learnt anew at any bar gives the same bits as before, and the same as
    `pair_features`.

    Parameters
    ----------
    settings
        Windows and spread space.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self._n_kept = warmup_bars(settings)
        self._windows = _windows(settings)
        self._is_log = settings.spread_space == "log"
        self._n_features = len(feature_names(settings))
        self._place: dict[Pair, int] = {}
        self._free: list[int] = []
        # Twice the length needed, so that every window is one slice and the columns move
        # back only once in `warmup_bars` updates.
        self._history = np.empty((0, _N_COLUMNS, 2 * self._n_kept))
        self._next = np.zeros(0, dtype=np.int64)

    def __contains__(self, pair: object) -> bool:
        return pair in self._place

    def learn(
        self,
        pair: Pair,
        close_y: Float1D,
        close_x: Float1D,
        volume_y: Float1D,
        volume_x: Float1D,
    ) -> None:
        """Begin a pair, or begin it anew, with the joined bars it has, oldest first.

        Parameters
        ----------
        pair
            Its two symbols.
        close_y, close_x, volume_y, volume_x : ndarray of float64, shape (n,)
            As for `pair_features`. The last `warmup_bars` are used; with fewer, none
            included, the pair is still warming up.

        Raises
        ------
        DataError
            As for `pair_features`.
        """
        columns = _columns(close_y, close_x, volume_y, volume_x)[:, -self._n_kept :]
        columns = np.ascontiguousarray(columns)
        n_bars = columns.shape[1]
        place = self._place.get(pair)
        if place is None:
            place = self._take_place()
            self._place[pair] = place
        self._history[place] = np.nan
        rows = np.empty((n_bars, self._n_features))
        _append_bars(self._history[place], columns, self._windows, self._is_log, rows)
        self._next[place] = n_bars

    def forget(self, pair: Pair) -> None:
        """Give up a pair."""
        self._free.append(self._place.pop(pair))

    def update(
        self,
        pairs: Sequence[Pair],
        close_y: Float1D,
        close_x: Float1D,
        volume_y: Float1D,
        volume_x: Float1D,
    ) -> Float2D:
        """Append a joined bar to each of some pairs and return their features.

        Parameters
        ----------
        pairs
            Different pairs that were learnt, m of them.
        close_y, close_x, volume_y, volume_x : ndarray of float64, shape (m,)
            The bar of each.

        Returns
        -------
        ndarray of float64, shape (m, k)
            In the order of `feature_names`; NaN where `pair_features` gives a row of NaN.

        Raises
        ------
        DataError
            If a price is not positive and finite or a volume negative or not finite; all
            pairs are then as before.
        """
        columns = _columns(close_y, close_x, volume_y, volume_x)
        places = np.array([self._place[pair] for pair in pairs], dtype=np.int64)
        full = places[self._next[places] == self._history.shape[2]]
        if full.size:
            self._history[full, :, : self._n_kept] = self._history[full, :, self._n_kept :]
            self._next[full] = self._n_kept
        rows = np.empty((len(places), self._n_features))
        append = _append_to_each if len(places) <= PAIRS_FOR_ONE_CORE else _append_to_many
        append(self._history, self._next, places, columns, self._windows, self._is_log, rows)
        self._next[places] += 1
        return rows

    def _take_place(self) -> int:
        if not self._free:
            n_before = len(self._next)
            n_after = max(8, 2 * n_before)
            history = np.empty((n_after, *self._history.shape[1:]))
            history[:n_before] = self._history
            self._history = history
            self._next = np.resize(self._next, n_after) if n_before else np.zeros(8, dtype=np.int64)
            self._free = list(range(n_after - 1, n_before - 1, -1))
        return self._free.pop()


Value = TypeVar("Value", float, Float1D)


def held_z(
    close_y: Value,
    close_x: Value,
    beta: Value,
    alpha: Value,
    spread_mean: Value,
    spread_std: Value,
    spread_space: SpreadSpace,
) -> Value:
    """Return how far a held spread stands from its mean, in deviations, all frozen at entry.

    Parameters
    ----------
    close_y, close_x : float or ndarray of float64
        Present closes; arrays of any shapes that broadcast.
    beta, alpha, spread_mean, spread_std : float or ndarray of float64
        Features of the bar of entry; the deviation must be positive.
    spread_space
        Space in which the spread was formed.

    Returns
    -------
    float or ndarray of float64
        (y - (beta x + alpha) - spread_mean) / spread_std. At the bar of entry it is that
        bar's z-score. Later the two differ, because the rolling hedge ratio moves under the
        trade while the position keeps the ratio it was opened with.

    Examples
    --------
    >>> held_z(12.0, 5.0, 2.0, 1.0, 0.25, 0.5, "price")
    1.5
    """
    y, x = in_space(close_y, spread_space), in_space(close_x, spread_space)
    return _interpreted_z(y, x, beta, alpha, spread_mean, spread_std)


@compiled
def z_held(
    y: Value, x: Value, beta: Value, alpha: Value, spread_mean: Value, spread_std: Value
) -> Value:
    """Return the same as `held_z` of closes that are in the space of the spread already."""
    return (y - (beta * x + alpha) - spread_mean) / spread_std


_interpreted_z = interpreted(z_held)


def in_space(close: Value, spread_space: SpreadSpace) -> Value:
    """Return closes as the spread takes them: as they are, or their natural logarithms."""
    if spread_space == "price":
        return close
    if isinstance(close, np.ndarray):
        return np.log(close)
    return math.log(close)


def _windows(settings: FeatureSettings) -> Windows:
    return (
        settings.beta_window,
        settings.z_window,
        settings.volume_window,
        settings.trend_window,
        settings.lags,
        warmup_bars(settings),
    )


def _columns(close_y: Float1D, close_x: Float1D, volume_y: Float1D, volume_x: Float1D) -> Float2D:
    """Check joined bars at the door and return them as one array of shape (4, n)."""
    shapes = [np.shape(column) for column in (close_y, close_x, volume_y, volume_x)]
    if len(shapes[0]) != 1 or len(set(shapes)) != 1:
        raise DataError(f"columns of shapes {shapes}: give four of one length, joined on bar time")
    columns = np.array([close_y, close_x, volume_y, volume_x], dtype=np.float64)
    is_good = np.isfinite(columns)
    is_good[:2] &= columns[:2] > 0
    is_good[2:] &= columns[2:] >= 0
    if not is_good.all():
        column, bar = np.argwhere(~is_good)[0]
        name = ("close_y", "close_x", "volume_y", "volume_x")[column]
        raise DataError(
            f"{name} of bar {bar} is {columns[column, bar]}: closes must be positive, volumes "
            "not negative, all finite; quarantine the bar before features are computed"
        )
    return columns


@compiled
def _append_bars(
    history: Float2D, columns: Float2D, windows: Windows, is_log: bool, rows: Float2D
) -> None:
    """Append bars to an empty history, writing the row of each into `rows`."""
    room = _room(windows)
    for t in range(columns.shape[1]):
        close_y, close_x, volume_y, volume_x = columns[:, t]
        _append_bar(
            history, t, close_y, close_x, volume_y, volume_x, windows, is_log, room, rows[t]
        )


@compiled
def _room(windows: Windows) -> Float1D:
    """Return room to work in: for sums, then for the changes of the longer window of them."""
    return np.empty(N_SUMS + max(windows[1], windows[3]))


@compiled
def _append_to_each(
    history: Float3D,
    nexts: Int1D,
    places: Int1D,
    columns: Float2D,
    windows: Windows,
    is_log: bool,
    rows: Float2D,
) -> None:
    """Append bar `columns[:, n]` to the history at `places[n]` and write its row."""
    room = _room(windows)
    for n in range(len(places)):
        place = places[n]
        close_y, close_x, volume_y, volume_x = columns[:, n]
        _append_bar(
            history[place],
            nexts[place],
            close_y,
            close_x,
            volume_y,
            volume_x,
            windows,
            is_log,
            room,
            rows[n],
        )


@compiled_parallel
def _append_to_many(
    history: Float3D,
    nexts: Int1D,
    places: Int1D,
    columns: Float2D,
    windows: Windows,
    is_log: bool,
    rows: Float2D,
) -> None:
    """Do the same on all cores, `PAIRS_A_TURN` at a time."""
    n_turns = -(-len(places) // PAIRS_A_TURN)
    for turn in numba.prange(n_turns):
        part = slice(turn * PAIRS_A_TURN, (turn + 1) * PAIRS_A_TURN)
        _append_to_each(history, nexts, places[part], columns[:, part], windows, is_log, rows[part])


@compiled
def _append_bar(
    history: Float2D,
    t: int,
    close_y: float,
    close_x: float,
    volume_y: float,
    volume_x: float,
    windows: Windows,
    is_log: bool,
    room: Float1D,
    row: Float1D,
) -> bool:
    """Append a bar as column `t` of the history, write its row and tell if it is complete.

    An incomplete row is NaN throughout. NaN stands in the history for what is not defined
    yet, and spreads by arithmetic to every row whose windows hold it.
    """
    beta_window, z_window, volume_window, trend_window, lags, warmup = windows
    sums, changes = room[:N_SUMS], room[N_SUMS:]
    history[_Y, t] = math.log(close_y) if is_log else close_y
    history[_X, t] = math.log(close_x) if is_log else close_x
    history[_TURNOVER_Y, t] = math.log1p(close_y * volume_y)
    history[_TURNOVER_X, t] = math.log1p(close_x * volume_x)
    history[_SPREAD, t] = history[_Z, t] = math.nan
    row[:] = math.nan

    end = t + 1
    if end < beta_window:
        return False
    y, x = history[_Y, t], history[_X, t]
    first = end - beta_window
    beta, alpha = window_ols(history[_Y, first:end], history[_X, first:end], sums)
    spread = y - (beta * x + alpha)
    spreads, z_scores = history[_SPREAD], history[_Z]
    spreads[t] = spread

    if end < beta_window + z_window - 1:
        return False
    mean, std = window_mean_std(spreads[end - z_window : end], sums)
    is_flat = std <= NEGLIGIBLE_STD * (abs(y) + abs(beta * x) + abs(alpha))
    z_score = 0.0 if is_flat else (spread - mean) / std
    z_scores[t] = z_score

    if end < warmup:
        return False
    n_changes = len(changes)
    before, after = spreads[t - n_changes : t], spreads[end - n_changes : end]
    for i in range(n_changes):
        changes[i] = after[i] - before[i]
    volatility = window_mean_std(changes[n_changes - z_window :], sums)[1]
    short_volatility = window_mean_std(changes[n_changes - trend_window :], sums)[1]
    usual_y = window_mean(history[_TURNOVER_Y, end - volume_window : end], sums)
    usual_x = window_mean(history[_TURNOVER_X, end - volume_window : end], sums)
    row[0], row[1], row[2], row[3], row[4], row[5] = beta, alpha, spread, mean, std, z_score
    row[6] = z_score - z_scores[t - 1]
    row[7] = row[6] - (z_scores[t - 1] - z_scores[t - 2])
    row[8] = window_half_life(
        spreads[end - z_window : end], changes[n_changes - z_window + 1 :], float(z_window), sums
    )
    row[9] = volatility
    row[10] = history[_TURNOVER_Y, t] - usual_y
    row[11] = history[_TURNOVER_X, t] - usual_x
    row[12], row[13] = usual_y, usual_x
    row[14] = 0.0 if is_flat else (spread - spreads[t - trend_window]) / std
    x_before = history[_X, t - trend_window]
    row[15] = x - x_before if is_log else math.log(x) - math.log(x_before)
    row[16] = 1.0 if volatility == 0.0 else short_volatility / volatility
    for lag in range(1, lags + 1):
        row[_N_BASE + lag - 1] = z_scores[t - lag]

    for value in row:
        if not math.isfinite(value):
            row[:] = math.nan
            return False
    return True
