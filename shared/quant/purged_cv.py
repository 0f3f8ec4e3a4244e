"""Splits of labelled samples in time, with no label reaching from training into test."""

from __future__ import annotations

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Int1D

Split = tuple[Int1D, Int1D]
"""Positions of the training samples and of the test samples."""


def purged_time_series_splits(
    starts: Int1D,
    ends: Int1D,
    *,
    n_splits: int = 5,
    gap: int = 24,
    max_train_size: int | None = None,
) -> tuple[Split, ...]:
    """Split samples into folds whose training lies wholly before their test.

    Parameters
    ----------
    starts, ends : ndarray of int64, shape (n,)
        First and last bar number a sample's label is made from, both included; samples in
        ascending order of `starts`. Samples of several pairs may share bars.
    n_splits
        Folds; the samples are cut into `n_splits + 1` blocks of equal count (the first one
        takes the rest), of which all but the first are tested in turn.
    gap
        Bars kept free between the last training label and the first test sample.
    max_train_size
        Most training samples of a fold, the newest; `None` keeps all.

    Returns
    -------
    tuple of (train, test)
        `n_splits` folds in order of time. A training set is empty where the gap leaves
        nothing before the test.

    Raises
    ------
    DataError
        If the samples are out of order, a label ends before it starts, there are too few
        samples for the folds, or an argument is out of bounds.

    Notes
    -----
    A sample is purged from training when its label ends at or after ``test start - gap``.
    Training never lies after the test, so the gap is purge and embargo in one.

    References
    ----------
    Lopez de Prado, M. (2018), Advances in Financial Machine Learning, Wiley, chapter 7,
    sections 7.4.1 (purging) and 7.4.2 (embargo).

    Examples
    --------
    >>> bars = np.arange(6)
    >>> for train, test in purged_time_series_splits(bars, bars + 1, n_splits=2, gap=0):
    ...     print(train, test)
    [0] [2 3]
    [0 1 2] [4 5]
    """
    _require_sound(starts, ends, n_splits, gap, max_train_size)
    n_samples = len(starts)
    test_size = n_samples // (n_splits + 1)
    splits = []
    for first in range(n_samples - n_splits * test_size, n_samples, test_size):
        # A label may end late without starting late, so every earlier sample is looked at.
        train = np.flatnonzero(ends[:first] < starts[first] - gap)
        if max_train_size is not None:
            train = train[-max_train_size:]
        splits.append((train, np.arange(first, first + test_size)))
    return tuple(splits)


def _require_sound(
    starts: Int1D, ends: Int1D, n_splits: int, gap: int, max_train_size: int | None
) -> None:
    if n_splits < 1 or gap < 0 or (max_train_size is not None and max_train_size < 1):
        raise DataError(
            f"n_splits {n_splits}, gap {gap}, max_train_size {max_train_size}: "
            "give at least 1, 0 and 1"
        )
    if starts.ndim != 1 or starts.shape != ends.shape:
        raise DataError(
            f"starts of shape {starts.shape} and ends of shape {ends.shape}: "
            "give one of each for every sample"
        )
    if len(starts) <= n_splits:
        raise DataError(
            f"{len(starts)} samples for {n_splits} folds: "
            f"give at least {n_splits + 1} samples or fewer folds"
        )
    if np.any(np.diff(starts) < 0):
        raise DataError("samples are not in ascending order of their start: sort them by time")
    if np.any(ends < starts):
        sample = int(np.argmax(ends < starts))
        raise DataError(
            f"the label of sample {sample} ends at bar {ends[sample]}, before its start "
            f"{starts[sample]}: give the last bar the label is made from"
        )
