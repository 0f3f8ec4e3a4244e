"""How much of its own a label tells when the labels around it are made from the same bars."""

from __future__ import annotations

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D, Int1D


def average_uniqueness(starts: Int1D, ends: Int1D, groups: Int1D | None = None) -> Float1D:
    """Return the share of each label's span that it has to itself.

    Parameters
    ----------
    starts, ends : ndarray of int64, shape (n,)
        First and last bar number a label is made from, both included, in any order.
    groups : ndarray of int64, shape (n,)
        Number of the pair a label is of: only labels of one group overlap. By default all are
        of one group.

    Returns
    -------
    ndarray of float64, shape (n,)
        Within (0, 1]: 1 where no other label shares a bar. Give it to a fit as sample weight.

    Raises
    ------
    DataError
        If the columns differ in length or a label ends before it starts.

    Notes
    -----
    u_i = mean over the bars t of i's span of 1 / c_t, with c_t the number of labels of the
    group whose spans hold t. Linear in labels plus bars.

    References
    ----------
    Lopez de Prado, M. (2018), Advances in Financial Machine Learning, Wiley, sections 4.3 and
    4.4.

    Examples
    --------
    >>> average_uniqueness(np.array([0, 1, 5]), np.array([1, 2, 6])).tolist()
    [0.75, 0.75, 1.0]
    """
    if groups is None:
        groups = np.zeros(len(starts), dtype=np.int64)
    if starts.ndim != 1 or not starts.shape == ends.shape == groups.shape:
        raise DataError(
            f"starts, ends and groups of shapes {starts.shape}, {ends.shape} and {groups.shape}: "
            "give one of each for every label"
        )
    if np.any(ends < starts):
        label = int(np.argmax(ends < starts))
        raise DataError(
            f"label {label} ends at bar {ends[label]}, before its start {starts[label]}: give "
            "the last bar the label is made from"
        )
    uniqueness = np.empty(len(starts))
    for group in np.unique(groups):
        of_group = groups == group
        uniqueness[of_group] = _of_one_group(starts[of_group], ends[of_group])
    return uniqueness


def _of_one_group(starts: Int1D, ends: Int1D) -> Float1D:
    first = starts.min()
    opens, closes = starts - first, ends - first + 1
    n_bars = int(closes.max())
    steps = np.bincount(opens, minlength=n_bars + 1) - np.bincount(closes, minlength=n_bars + 1)
    concurrency = steps[:n_bars].cumsum()
    share = np.zeros(n_bars + 1)
    # A bar of no label is in no span, whatever its share.
    share[1:] = (1 / np.maximum(concurrency, 1)).cumsum()
    # Rounding of the sums must not let a label own more than all of its span.
    unique: Float1D = np.minimum((share[closes] - share[opens]) / (closes - opens), 1.0)
    return unique
