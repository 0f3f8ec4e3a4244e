"""Sums of products of the changes of all series with the lagged changes of all others.

From these moments follow those of any residual y - b x, so that a test of a pair need not
touch its bars again. They are made from a window as matrix products, or carried on from bar
to bar.

Series are kept in groups of eight lanes, the width of the processor's registers, and moments
in tiles of eight by eight. Every entry is summed in the same order whatever its lane, so it
is, to the bit, a function of its own two series: on however many cores, whatever the others.
"""

from __future__ import annotations

import numba
import numpy as np

from shared.quant.compiled import compiled_fused, compiled_parallel
from shared.quant.typing import Float2D, Float3D, Float5D, Int2D

LANES = 8
_BARS_A_TURN = 512
"""Bars that are summed for every lag before the next ones are: they stay in the cache."""


def pack(series: Float2D) -> Float3D:
    """Return series (N, T) in groups of lanes, (ceil(N / 8), T, 8), filled up with zeros."""
    n_series, n_bars = series.shape
    n_groups = -(-n_series // LANES)
    padded = np.zeros((n_groups * LANES, n_bars))
    padded[:n_series] = series
    return np.ascontiguousarray(padded.reshape(n_groups, LANES, n_bars).transpose(0, 2, 1))


def untiled(products: Float5D, n_series: int) -> Float3D:
    """Return moments as (N, N, n_lags + 1)."""
    n_groups, _, n_terms, _, _ = products.shape
    flat = products.transpose(0, 3, 1, 4, 2).reshape(n_groups * LANES, n_groups * LANES, n_terms)
    return flat[:n_series, :n_series]


def tiles_of(n_groups: int, n_first: int) -> Int2D:
    """Return the pairs of groups one of which is among the first, shape (m, 2)."""
    group, other = np.divmod(np.arange(n_groups * n_groups), n_groups)
    return np.column_stack([group, other])[(group < n_first) | (other < n_first)]


def lagged_products(changes: Float3D, n_lags: int, n_first: int | None = None) -> Float5D:
    """Return the moments of a window.

    Parameters
    ----------
    changes : ndarray of float64, shape (G, n + n_lags, 8)
        Changes of each series, newest first, in groups as `pack` makes them.
    n_lags
        Largest lag.
    n_first
        Without it all moments are made; else those of each group with itself and with the
        first so many, the others being 0.

    Returns
    -------
    ndarray of float64, shape (G, G, n_lags + 1, 8, 8)
        Entry [g, h, k, a, b] is the sum over the newest n bars s of the change of series
        8 g + a at s times that of series 8 h + b at s + k.
    """
    n_groups = len(changes)
    tiles = tiles_of(n_groups, n_groups if n_first is None else n_first)
    if n_first is not None:
        rest = np.arange(n_first, n_groups)
        tiles = np.vstack([tiles, np.column_stack([rest, rest])])
    return _products_of_tiles(changes, n_lags, tiles)


@compiled_parallel
def _products_of_tiles(changes: Float3D, n_lags: int, tiles: Int2D) -> Float5D:
    n_groups, n_changes, _ = changes.shape
    n_bars = n_changes - n_lags
    products = np.zeros((n_groups, n_groups, n_lags + 1, LANES, LANES))
    for tile in numba.prange(len(tiles)):
        group, other = tiles[tile]
        for begin in range(0, n_bars, _BARS_A_TURN):
            end = min(begin + _BARS_A_TURN, n_bars)
            rows = changes[group, begin:end]
            for lag in range(n_lags + 1):
                columns = changes[other, begin + lag : end + lag]
                sums = products[group, other, lag]
                _add_products(rows, columns, 0, sums)
                _add_products(rows, columns, LANES // 2, sums)
    return products


@compiled_fused
def _add_products(rows: Float2D, columns: Float2D, half: int, sums: Float2D) -> None:
    """Add the products of four lanes of `rows`, from lane `half` on, with all of `columns`.

    Written out, because only sums that have names stay in registers.
    """
    s00 = s01 = s02 = s03 = s04 = s05 = s06 = s07 = 0.0
    s10 = s11 = s12 = s13 = s14 = s15 = s16 = s17 = 0.0
    s20 = s21 = s22 = s23 = s24 = s25 = s26 = s27 = 0.0
    s30 = s31 = s32 = s33 = s34 = s35 = s36 = s37 = 0.0
    for s in range(len(rows)):
        x0, x1, x2, x3 = rows[s, half], rows[s, half + 1], rows[s, half + 2], rows[s, half + 3]
        y0, y1, y2, y3 = columns[s, 0], columns[s, 1], columns[s, 2], columns[s, 3]
        y4, y5, y6, y7 = columns[s, 4], columns[s, 5], columns[s, 6], columns[s, 7]
        s00 += x0 * y0
        s01 += x0 * y1
        s02 += x0 * y2
        s03 += x0 * y3
        s04 += x0 * y4
        s05 += x0 * y5
        s06 += x0 * y6
        s07 += x0 * y7
        s10 += x1 * y0
        s11 += x1 * y1
        s12 += x1 * y2
        s13 += x1 * y3
        s14 += x1 * y4
        s15 += x1 * y5
        s16 += x1 * y6
        s17 += x1 * y7
        s20 += x2 * y0
        s21 += x2 * y1
        s22 += x2 * y2
        s23 += x2 * y3
        s24 += x2 * y4
        s25 += x2 * y5
        s26 += x2 * y6
        s27 += x2 * y7
        s30 += x3 * y0
        s31 += x3 * y1
        s32 += x3 * y2
        s33 += x3 * y3
        s34 += x3 * y4
        s35 += x3 * y5
        s36 += x3 * y6
        s37 += x3 * y7
    sums[half, 0] += s00
    sums[half, 1] += s01
    sums[half, 2] += s02
    sums[half, 3] += s03
    sums[half, 4] += s04
    sums[half, 5] += s05
    sums[half, 6] += s06
    sums[half, 7] += s07
    sums[half + 1, 0] += s10
    sums[half + 1, 1] += s11
    sums[half + 1, 2] += s12
    sums[half + 1, 3] += s13
    sums[half + 1, 4] += s14
    sums[half + 1, 5] += s15
    sums[half + 1, 6] += s16
    sums[half + 1, 7] += s17
    sums[half + 2, 0] += s20
    sums[half + 2, 1] += s21
    sums[half + 2, 2] += s22
    sums[half + 2, 3] += s23
    sums[half + 2, 4] += s24
    sums[half + 2, 5] += s25
    sums[half + 2, 6] += s26
    sums[half + 2, 7] += s27
    sums[half + 3, 0] += s30
    sums[half + 3, 1] += s31
    sums[half + 3, 2] += s32
    sums[half + 3, 3] += s33
    sums[half + 3, 4] += s34
    sums[half + 3, 5] += s35
    sums[half + 3, 6] += s36
    sums[half + 3, 7] += s37


@compiled_parallel
def advance_products(products: Float5D, newest: Float3D, oldest: Float3D) -> None:
    """Carry moments on by one bar, in place.

    Parameters
    ----------
    products : ndarray of float64, shape (G, G, n_lags + 1, 8, 8)
        Moments of the window before.
    newest : ndarray of float64, shape (G, n_lags + 1, 8)
        The newest changes of each series, the new one first.
    oldest : ndarray of float64, shape (G, n_lags + 1, 8)
        The oldest changes of the window before, newest first: the first of them leaves the
        sums as the leading factor, the last leaves the window.
    """
    n_groups, _, n_terms, _, _ = products.shape
    for tile in numba.prange(n_groups * n_groups):
        group, other = tile // n_groups, tile % n_groups
        for k in range(n_terms):
            sums = products[group, other, k]
            for a in range(LANES):
                for b in range(LANES):
                    sums[a, b] += (
                        newest[group, 0, a] * newest[other, k, b]
                        - oldest[group, 0, a] * oldest[other, k, b]
                    )
