"""How spreads that are held behave: hedge ratio, intercept, mean and deviation frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from shared.quant.typing import Float1D
from shared.quant.walk_odds import ReversionSums, reversion_sums
from shared.sleeves.pairs.dataset import PairRows
from shared.sleeves.pairs.features import SpreadSpace, held_z


def held_reversion(
    pairs: Sequence[PairRows],
    names: Sequence[str],
    *,
    bar_ms: int,
    stretch_closes: int,
    spread_space: SpreadSpace,
) -> ReversionSums:
    """Measure how spreads come home, as a trade sees them that holds each for a stretch of time.

    Parameters
    ----------
    pairs, names
        Feature rows and the names of their columns.
    bar_ms
        Length of the trade timeframe's bar. A step over more than one, where closes are
        missing, is left out.
    stretch_closes
        Trade closes after which a spread is frozen anew.
    spread_space
        Of the features.
    """
    frozen = [names.index(name) for name in ("beta", "alpha", "spread_mean", "spread_std")]
    return reversion_sums(
        stretch
        for rows in pairs
        for stretch in _stretches(rows, frozen, bar_ms, stretch_closes, spread_space)
    )


def _stretches(
    rows: PairRows, frozen: list[int], bar_ms: int, stretch_closes: int, spread_space: SpreadSpace
) -> Iterator[tuple[Float1D, Float1D]]:
    if not len(rows.closes_at_ms):
        return
    since_first = rows.closes_at_ms - rows.closes_at_ms[0]
    first_rows = np.flatnonzero(np.diff(since_first // (stretch_closes * bar_ms), prepend=-1))
    for first, after in zip(first_rows, [*first_rows[1:], len(since_first)], strict=True):
        beta, alpha, spread_mean, spread_std = rows.features[first, frozen]
        if spread_std <= 0.0:  # features by hand: no spread to measure by
            continue
        distance = held_z(
            rows.close_y[first:after], rows.close_x[first:after],
            beta, alpha, spread_mean, spread_std, spread_space,
        )  # fmt: skip
        is_one_bar = np.diff(since_first[first:after]) == bar_ms
        yield distance[:-1][is_one_bar], np.diff(distance)[is_one_bar]
