"""The features of every followed pair over a whole period, as columns.

Features do not depend on what is traded: a sweep over thresholds, sizes or costs computes
them once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shared.events.screener import PairsScreened
from shared.quant.bars import Bars
from shared.quant.typing import Bool1D, Float1D, Float2D, Int1D
from shared.sleeves.pairs.features import (
    FeatureSettings,
    Pair,
    feature_names,
    pair_features,
    warmup_bars,
)

NO_ROSTER = -1


@dataclass(frozen=True, eq=False, slots=True)
class FeatureTable:
    """One row per trade close and followed pair whose windows are full.

    Attributes
    ----------
    closes_at_ms : ndarray of int64, shape (n_closes,)
        The trade closes, ascending.
    roster_at_ms : ndarray of int64, shape (n_closes,)
        Close of the screen in force at each, or `NO_ROSTER`.
    pairs
        Every pair that is followed at some close, ascending.
    first_row : ndarray of int64, shape (n_closes + 1,)
        Rows of close i are `first_row[i]` to `first_row[i + 1]`, in ascending order of pair.
    pair : ndarray of int64, shape (n,)
        Index into `pairs`.
    is_active : ndarray of bool, shape (n,)
        Whether the pair may be opened; else it is only still to be closed.
    close_y, close_x : ndarray of float64, shape (n,)
        In the quote currency.
    values : ndarray of float64, shape (n, k)
        In the order of `feature_names`.
    """

    closes_at_ms: Int1D
    roster_at_ms: Int1D
    pairs: tuple[Pair, ...]
    feature_names: tuple[str, ...]
    first_row: Int1D
    pair: Int1D
    is_active: Bool1D
    close_y: Float1D
    close_x: Float1D
    values: Float2D

    def column(self, name: str) -> Float1D:
        """Return one feature of every row."""
        return np.ascontiguousarray(self.values[:, self.feature_names.index(name)])

    def row_close(self) -> Int1D:
        """Return the index of the close of every row."""
        return np.repeat(np.arange(len(self.closes_at_ms)), np.diff(self.first_row))


class _Run(NamedTuple):
    """Closes `first` up to and without `last` at which one roster follows a pair."""

    first: int
    last: int
    is_active: bool


class _Part(NamedTuple):
    """Rows of one pair."""

    close: Int1D
    is_active: Bool1D
    close_y: Float1D
    close_x: Float1D
    values: Float2D


def compute_feature_table(
    bars: Bars, closes: Int1D, screens: Sequence[PairsScreened], settings: FeatureSettings
) -> FeatureTable:
    """Compute the features of the pairs of each roster while it is in force.

    Parameters
    ----------
    bars
        Of the trade timeframe, with the history that windows reach back to.
    closes : ndarray of int64, shape (n_closes,)
        Trade closes to compute, ascending.
    screens
        In order of their closes; each is in force from the first close after its own.
    settings
        Windows.

    Returns
    -------
    FeatureTable
        To the bit what `PairFollower` computes close by close.
    """
    in_force = _in_force(closes, screens)
    runs = _runs(in_force, screens)
    pairs = tuple(sorted(runs))
    symbols = sorted({symbol for pair in pairs for symbol in pair})
    known = bars.between(None, int(closes[-1]) if len(closes) else None)
    at = known.closes()
    close = np.ascontiguousarray(known.wide(symbols, "close", at).T)
    volume = np.ascontiguousarray(known.wide(symbols, "volume", at).T)
    place = {symbol: n for n, symbol in enumerate(symbols)}
    parts, codes = [], []
    for code, (y, x) in enumerate(pairs):
        legs = place[y], place[x]
        joined = np.flatnonzero(~np.isnan(close[legs[0]]) & ~np.isnan(close[legs[1]]))
        columns = [table[leg][joined] for table in (close, volume) for leg in legs]
        for part in _parts_of(runs[(y, x)], closes, at[joined], columns, settings):
            parts.append(part)
            codes.append(np.full(len(part.close), code))
    names = feature_names(settings)
    empty = _Part(
        np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0), np.zeros(0),
        np.zeros((0, len(names))),
    )  # fmt: skip
    merged = _Part(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))
    pair = np.concatenate([np.zeros(0, np.int64), *codes])
    order = np.lexsort((pair, merged.close))
    first_row = merged.close[order].searchsorted(np.arange(len(closes) + 1))
    screened_at = np.array([screen.closes_at_ms for screen in screens] + [NO_ROSTER])
    return FeatureTable(
        closes,
        screened_at[in_force],
        pairs,
        names,
        first_row,
        pair[order],
        merged.is_active[order],
        merged.close_y[order],
        merged.close_x[order],
        merged.values[order],
    )


def _in_force(closes: Int1D, screens: Sequence[PairsScreened]) -> Int1D:
    """Return the index of the newest screen made before each close, -1 where there is none."""
    screened_at = np.array([screen.closes_at_ms for screen in screens], dtype=np.int64)
    return screened_at.searchsorted(closes, "left") - 1


def _runs(in_force: Int1D, screens: Sequence[PairsScreened]) -> dict[Pair, list[_Run]]:
    """Return when each pair is followed, in order of time."""
    runs: dict[Pair, list[_Run]] = {}
    for index in np.unique(in_force[in_force >= 0]).tolist():
        first, last = np.searchsorted(in_force, [index, index + 1]).tolist()
        for pair in screens[index].pairs:
            if pair.status != "candidate":
                run = _Run(first, last, pair.status == "active")
                runs.setdefault((pair.y, pair.x), []).append(run)
    return runs


def _parts_of(
    runs: Sequence[_Run],
    closes: Int1D,
    joined_at: Int1D,
    columns: Sequence[Float1D],
    settings: FeatureSettings,
) -> Iterator[_Part]:
    """Yield the rows of one pair, each time it is followed without a pause.

    Parameters
    ----------
    runs
        When it is followed.
    closes, joined_at
        The trade closes, and those at which both legs have a bar.
    columns
        Close of y and x, volume of y and x, at `joined_at`.
    """
    for stretch in _stretches(runs):
        first_ms, last_ms = closes[stretch[0].first], closes[stretch[-1].last - 1]
        first = int(joined_at.searchsorted(first_ms))
        end = int(joined_at.searchsorted(last_ms, "right"))
        begin = max(0, first - warmup_bars(settings))
        cut = [column[begin:end] for column in columns]
        values = pair_features(cut[0], cut[1], cut[2], cut[3], settings)
        is_active = np.zeros(len(closes), dtype=np.bool_)
        for run in stretch:
            is_active[run.first : run.last] = run.is_active
        at = closes.searchsorted(joined_at[begin:end])
        wanted = ~np.isnan(values[:, 0])
        wanted[: first - begin] = False
        at = at[wanted]
        yield _Part(at, is_active[at], cut[0][wanted], cut[1][wanted], values[wanted])


def _stretches(runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    """Yield runs that follow one upon the other together."""
    stretch: list[_Run] = []
    for run in runs:
        if stretch and stretch[-1].last != run.first:
            yield stretch
            stretch = []
        stretch.append(run)
    if stretch:
        yield stretch
