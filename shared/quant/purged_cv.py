"""Splits of labelled samples in time, with no label reaching from training into test."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Bool1D, Int1D, Int2D

Split = tuple[Int1D, Int1D]
"""Positions of the training samples and of the test samples."""


@dataclass(frozen=True, eq=False)
class CombinatorialSplits:
    """Every choice of test folds, and the backtest paths that their tests make up.

    Attributes
    ----------
    splits
        In lexicographic order of their test folds.
    test_folds : ndarray of int64, shape (n_splits, n_test_folds)
        Numbers of the folds each split tests.
    folds
        Samples of each fold, in order of time.
    paths : ndarray of int64, shape (n_paths, n_folds)
        A path takes the test of fold j from split `paths[p, j]`, so that each fold is tested
        once a path and each test of a fold serves one path.
    """

    splits: tuple[Split, ...]
    test_folds: Int2D
    folds: tuple[Int1D, ...]
    paths: Int2D


def purged_k_fold_splits(
    starts: Int1D, ends: Int1D, *, n_splits: int = 5, embargo_bars: int = 24
) -> tuple[Split, ...]:
    """Test every block of time once, training on both sides of it.

    Parameters
    ----------
    starts, ends : ndarray of int64, shape (n,)
        First and last bar number a sample's label is made from, both included; samples in
        ascending order of `starts`. Samples of several pairs may share bars.
    n_splits
        Blocks of time, each tested in turn.
    embargo_bars
        Bars after the last label of the test that no training sample starts in.

    Returns
    -------
    tuple of (train, test)
        In order of the tests.

    Raises
    ------
    DataError
        If the samples are out of order, a label ends before it starts, there are too few
        distinct starts for the blocks, or an argument is out of bounds.

    Notes
    -----
    Blocks hold equally many distinct starts, the last one the rest: samples that start at the
    same bar, whatever their pair, are never parted. A training sample is purged when its
    label's span touches the time from the first start to the last end of the test.

    References
    ----------
    Lopez de Prado, M. (2018), Advances in Financial Machine Learning, Wiley, chapter 7,
    snippets 7.1 to 7.3.

    Examples
    --------
    >>> bars = np.arange(6)
    >>> for train, test in purged_k_fold_splits(bars, bars + 1, n_splits=3, embargo_bars=0):
    ...     print(train, test)
    [3 4 5] [0 1]
    [0 5] [2 3]
    [0 1 2] [4 5]
    """
    if n_splits < 2 or embargo_bars < 0:
        raise DataError(f"n_splits {n_splits}, embargo {embargo_bars}: give at least 2 and 0")
    folds = _blocks_of_time(starts, ends, n_splits)
    return tuple((_clear_of([fold], starts, ends, embargo_bars), fold) for fold in folds)


def walk_forward_splits(
    starts: Int1D,
    ends: Int1D,
    *,
    n_splits: int = 5,
    gap: int = 24,
    train_bars: int | None = None,
) -> tuple[Split, ...]:
    """Test blocks of time in order, each after training on what lay before it.

    Parameters
    ----------
    starts, ends : ndarray of int64, shape (n,)
        As for `purged_k_fold_splits`.
    n_splits
        Tests; time is cut into one block more, the first of which is only trained on.
    gap
        Bars kept free between the last training label and the first test sample.
    train_bars
        Bars before the test in which training samples may start: a rolling window. `None`
        keeps all.

    Returns
    -------
    tuple of (train, test)
        In order of time. A training set is empty where the gap leaves nothing.

    Raises
    ------
    DataError
        As `purged_k_fold_splits`.

    Examples
    --------
    >>> bars = np.arange(6)
    >>> splits = walk_forward_splits(bars, bars + 1, n_splits=2, gap=0, train_bars=3)
    >>> for train, test in splits:
    ...     print(train, test)
    [0] [2 3]
    [1 2] [4 5]
    """
    if n_splits < 1 or gap < 0 or (train_bars is not None and train_bars < 1):
        raise DataError(
            f"n_splits {n_splits}, gap {gap}, train_bars {train_bars}: give at least 1, 0 and 1"
        )
    splits = []
    for fold in _blocks_of_time(starts, ends, n_splits + 1)[1:]:
        test_start = starts[fold[0]]
        is_before = ends < test_start - gap
        if train_bars is not None:
            is_before &= starts >= test_start - train_bars
        splits.append((np.flatnonzero(is_before), fold))
    return tuple(splits)


def combinatorial_purged_splits(
    starts: Int1D,
    ends: Int1D,
    *,
    n_folds: int = 8,
    n_test_folds: int = 2,
    embargo_bars: int = 24,
) -> CombinatorialSplits:
    """Test every choice of folds of time, training on what is clear of them (CPCV).

    Parameters
    ----------
    starts, ends : ndarray of int64, shape (n,)
        As for `purged_k_fold_splits`.
    n_folds, n_test_folds
        Blocks of time, and how many of them are tested at once.
    embargo_bars
        Bars after the last label of each tested fold that no training sample starts in.

    Returns
    -------
    CombinatorialSplits
        C(n_folds, n_test_folds) splits and C(n_folds - 1, n_test_folds - 1) paths: 28 and 7
        by default.

    Raises
    ------
    DataError
        As `purged_k_fold_splits`.

    References
    ----------
    Lopez de Prado, M. (2018), Advances in Financial Machine Learning, Wiley, section 12.4.

    Examples
    --------
    >>> bars = np.arange(8)
    >>> found = combinatorial_purged_splits(
    ...     bars, bars, n_folds=4, n_test_folds=2, embargo_bars=0
    ... )
    >>> len(found.splits), found.paths.tolist()
    (6, [[0, 0, 1, 2], [1, 3, 3, 4], [2, 4, 5, 5]])
    """
    if not 1 <= n_test_folds < n_folds or embargo_bars < 0:
        raise DataError(
            f"{n_test_folds} test folds of {n_folds}, embargo {embargo_bars}: give at least one "
            "test fold, one fold to train on and an embargo of at least 0"
        )
    folds = _blocks_of_time(starts, ends, n_folds)
    test_folds = np.array(list(itertools.combinations(range(n_folds), n_test_folds)))
    splits = []
    for chosen in test_folds:
        tested = [folds[fold] for fold in chosen]
        train = _clear_of(tested, starts, ends, embargo_bars)
        splits.append((train, np.concatenate(tested)))
    paths = [np.flatnonzero((test_folds == fold).any(axis=1)) for fold in range(n_folds)]
    return CombinatorialSplits(tuple(splits), test_folds, folds, np.column_stack(paths))


def _blocks_of_time(starts: Int1D, ends: Int1D, n_blocks: int) -> tuple[Int1D, ...]:
    """Cut samples into blocks of equally many distinct starts, the last one with the rest."""
    _require_spans(starts, ends)
    bars, first_sample = np.unique(starts, return_index=True)
    if len(bars) < n_blocks:
        raise DataError(
            f"samples start at {len(bars)} distinct bars: give at least {n_blocks} or fewer folds"
        )
    size = len(bars) // n_blocks
    cuts = first_sample[size : n_blocks * size : size]
    return tuple(np.split(np.arange(len(starts)), cuts))


def _clear_of(tested: Sequence[Int1D], starts: Int1D, ends: Int1D, embargo_bars: int) -> Int1D:
    """Return the samples whose span touches no tested block and no embargo after one."""
    is_clear: Bool1D = np.ones(len(starts), dtype=np.bool_)
    for test in tested:
        is_before = ends < starts[test[0]]
        is_after = starts > ends[test].max() + embargo_bars
        is_clear &= is_before | is_after
    return np.flatnonzero(is_clear)


def _require_spans(starts: Int1D, ends: Int1D) -> None:
    if starts.ndim != 1 or starts.shape != ends.shape:
        raise DataError(
            f"starts of shape {starts.shape} and ends of shape {ends.shape}: "
            "give one of each for every sample"
        )
    if np.any(np.diff(starts) < 0):
        raise DataError("samples are not in ascending order of their start: sort them by time")
    if np.any(ends < starts):
        sample = int(np.argmax(ends < starts))
        raise DataError(
            f"the label of sample {sample} ends at bar {ends[sample]}, before its start "
            f"{starts[sample]}: give the last bar the label is made from"
        )
