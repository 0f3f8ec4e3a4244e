"""Whether a computation looks ahead, and how far back it looks: found by taking bars away.

A value of bar t may depend on bars up to t alone. So nothing at or before t may change when
the bars after t are cut off, nor when they are replaced by others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.quant.typing import Bool1D, Int1D

Columns = Mapping[str, NDArray[Any]]
"""Arrays by name, the first axis of each the bars, oldest first."""
Pipeline = Callable[[Columns], Columns]
"""From columns of bars to columns of results, one row for each bar."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A result that changed when only bars it must not know were changed.

    Attributes
    ----------
    output
        Name of the result.
    future
        Whether the bars after the point were `cut` off or `replaced` by others.
    point
        Last bar that was left as it was.
    row
        First row of the result that changed though it may know nothing beyond the point.
    n_rows
        How many such rows there were at this point.
    """

    output: str
    future: Literal["cut", "replaced"]
    point: int
    row: int
    n_rows: int


def truncation_check(
    pipeline: Pipeline,
    bars: Columns,
    points: Iterable[int],
    *,
    rng: np.random.Generator,
    reach_bars: Mapping[str, int] | None = None,
) -> tuple[Leak, ...]:
    """Find the results of a pipeline that look ahead.

    Parameters
    ----------
    pipeline
        Features, inputs of labels, signals, orders or all of them; a pure function of the bars.
    bars
        What it reads. Columns of whole numbers are instants or names and are never replaced.
    points
        Bars after which the future is taken away, each within [0, n - 2]. Take many, and not
        on a regular grid: a leak at the turn of an hour shows only between two turns.
    rng
        Draws the bars that replace the future.
    reach_bars
        How far beyond its row a result may look, by its name; 0 where not given. A label of
        horizon h may look h bars ahead. A position held or an order in force during bar t was
        decided before t: -1. Check these rather than profit, which holds the price of t by
        right: a fill on the bar that decided shows only there.

    Returns
    -------
    tuple of Leak
        At most one for each result and kind of future, at the earliest point that shows it;
        empty for a clean pipeline.

    Raises
    ------
    DataError
        If columns differ in length, a point is out of bounds, a result has not one row for
        each bar, or the pipeline gives different results for the same bars.

    Notes
    -----
    Values are compared to the bit, NaN equal to NaN. Future bars are replaced by whole bars
    drawn from all of the sample, so that each replacement is a sound bar of the same market:
    its high is above its low, and its legs belong together.

    Examples
    --------
    >>> bars = {"close": np.random.default_rng(0).normal(size=50)}
    >>> rng = np.random.default_rng(1)
    >>> truncation_check(lambda b: {"sum": b["close"].cumsum()}, bars, [20, 30], rng=rng)
    ()
    >>> leaks = truncation_check(
    ...     lambda b: {"mean": b["close"] - b["close"].mean()}, bars, [20, 30], rng=rng
    ... )
    >>> [(leak.output, leak.future, leak.point, leak.row) for leak in leaks]
    [('mean', 'cut', 20, 0), ('mean', 'replaced', 20, 0)]
    """
    n_bars = _n_bars(bars)
    reach = dict(reach_bars or {})
    whole = _run(pipeline, bars, n_bars)
    unknown = set(reach) - set(whole)
    if unknown:
        raise DataError(
            f"reach of {', '.join(sorted(unknown))}, which the pipeline does not return: it "
            f"returns {', '.join(whole)}"
        )
    for name, values in _run(pipeline, bars, n_bars).items():
        if not _is_same(values, whole[name]).all():
            raise DataError(
                f"{name} differs between two runs on the same bars: give the pipeline's "
                "randomness a seed"
            )
    leaks: dict[tuple[str, str], Leak] = {}
    for point in sorted(points):
        if not 0 <= point < n_bars - 1:
            raise DataError(f"point {point} of {n_bars} bars: give one from 0 to {n_bars - 2}")
        futures: tuple[tuple[Literal["cut", "replaced"], Columns], ...] = (
            ("cut", {name: column[: point + 1] for name, column in bars.items()}),
            ("replaced", _with_other_future(bars, point, n_bars, rng)),
        )
        for future, changed in futures:
            results = _run(pipeline, changed, _n_bars(changed))
            if set(results) != set(whole):
                raise DataError(
                    f"the pipeline returns other results when the bars after {point} are "
                    f"{future}: {', '.join(sorted(set(results) ^ set(whole)))}; return the same "
                    "names for all bars"
                )
            for name, values in results.items():
                # Rows that may know nothing beyond the point, as far as both runs have them.
                n_rows = max(0, min(point + 1 - reach.get(name, 0), len(values)))
                differs = ~_is_same(values[:n_rows], whole[name][:n_rows])
                if differs.any():
                    row, n_differing = int(differs.argmax()), int(differs.sum())
                    leak = Leak(name, future, point, row, n_differing)
                    leaks.setdefault((name, future), leak)
    return tuple(leaks.values())


def warmup_bars_needed(
    pipeline: Pipeline,
    bars: Columns,
    points: Iterable[int],
    *,
    fewest_bars: int = 1,
    tolerance: float = 0.0,
) -> dict[str, int | None]:
    """Find how many bars each result of a pipeline needs until more bars change nothing.

    Parameters
    ----------
    pipeline
        A pure function of the bars.
    bars
        What it reads; longer than any warm-up to be found.
    points
        Bars at which results are compared, each with a long history before it.
    fewest_bars
        Fewest bars that the pipeline takes.
    tolerance
        Largest difference that counts as none, relative to the value from the whole history;
        0 asks for the same bits. What is accumulated, such as an exponential mean, is stable
        only within a tolerance.

    Returns
    -------
    dict of str to int or None
        The least number of bars, the row's own included, that gave the value of the whole
        history at every point; None where a value needed all of some point's history, or was
        NaN at all points.

    Raises
    ------
    DataError
        As `truncation_check`, or if an argument is out of bounds.

    Notes
    -----
    Found by bisection: a result that is stable with w bars is taken to be so with more.

    Examples
    --------
    >>> def pipeline(bars):
    ...     close = bars["close"]
    ...     lagged = np.full(len(close), np.nan)
    ...     lagged[3:] = close[3:] - close[:-3]
    ...     return {"three_back": lagged, "so_far": np.maximum.accumulate(close)}
    >>> bars = {"close": -np.arange(60.0)}
    >>> warmup_bars_needed(pipeline, bars, [40, 59])
    {'three_back': 4, 'so_far': None}
    """
    n_bars = _n_bars(bars)
    if fewest_bars < 1 or tolerance < 0:
        raise DataError(f"fewest_bars {fewest_bars}, tolerance {tolerance}: give at least 1 and 0")
    whole = _run(pipeline, bars, n_bars)
    needed: dict[str, int | None] = dict.fromkeys(whole, 0)
    for point in points:
        if not fewest_bars <= point < n_bars:
            raise DataError(
                f"point {point} of {n_bars} bars: give one from {fewest_bars} to {n_bars - 1}"
            )
        history = {name: column[: point + 1] for name, column in bars.items()}
        expected = {name: values[point : point + 1] for name, values in whole.items()}
        runs: dict[int, Columns] = {}
        for name, so_far in needed.items():
            value = expected[name]
            if so_far is None or (value.dtype.kind == "f" and np.isnan(value).any()):
                continue
            low, high = fewest_bars, point + 1
            while low < high:
                middle = (low + high) // 2
                if middle not in runs:
                    last = {key: column[-middle:] for key, column in history.items()}
                    runs[middle] = _run(pipeline, last, middle)
                if _is_same(runs[middle][name][-1:], value, tolerance).all():
                    high = middle
                else:
                    low = middle + 1
            needed[name] = max(so_far, low) if low <= point else None
    return {name: n_last or None for name, n_last in needed.items()}


def _with_other_future(
    bars: Columns, point: int, n_bars: int, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    source: Int1D = rng.integers(0, n_bars, n_bars - point - 1)
    changed = {}
    for name, column in bars.items():
        changed[name] = column
        if column.dtype.kind == "f":
            changed[name] = np.concatenate([column[: point + 1], column[source]])
    return changed


def _run(pipeline: Pipeline, bars: Columns, n_bars: int) -> dict[str, NDArray[Any]]:
    # Copies: a pipeline that writes into its bars must not change those of the next run.
    results = {
        name: np.asarray(values)
        for name, values in pipeline({name: column.copy() for name, column in bars.items()}).items()
    }
    for name, values in results.items():
        if values.shape[:1] != (n_bars,):
            raise DataError(
                f"{name} has shape {values.shape} for {n_bars} bars: return one row for each bar, "
                "NaN where there is no value"
            )
    return results


def _is_same(values: NDArray[Any], others: NDArray[Any], tolerance: float = 0.0) -> Bool1D:
    """Tell for each row whether all of its values are the same, NaN equal to NaN."""
    same = values == others
    if values.dtype.kind == "f" and others.dtype.kind == "f":
        same |= np.isnan(values) & np.isnan(others)
        if tolerance:
            same |= np.abs(values - others) <= tolerance * np.abs(others)
    is_same: Bool1D = same.all(axis=tuple(range(1, same.ndim)))
    return is_same


def _n_bars(bars: Columns) -> int:
    lengths = {len(column) for column in bars.values()}
    if len(lengths) != 1:
        raise DataError(f"columns of lengths {sorted(lengths)}: give one value for each bar")
    return lengths.pop()
