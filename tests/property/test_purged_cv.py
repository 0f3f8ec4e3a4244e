from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DataError
from shared.quant.purged_cv import purged_time_series_splits
from shared.quant.typing import Int1D


@st.composite
def samples(draw: st.DrawFn) -> tuple[Int1D, Int1D]:
    """Return labels in order of their start, several to a bar, of any length."""
    steps = draw(st.lists(st.integers(0, 4), min_size=8, max_size=120))
    spans = draw(st.lists(st.integers(0, 30), min_size=len(steps), max_size=len(steps)))
    starts = np.cumsum(steps)
    return starts, starts + np.array(spans)


n_folds = st.integers(1, 6)
gaps = st.integers(0, 40)


@given(samples(), n_folds, gaps)
def test_no_training_label_reaches_the_gap_before_the_test(
    labelled: tuple[Int1D, Int1D], n_splits: int, gap: int
) -> None:
    starts, ends = labelled
    for train, test in purged_time_series_splits(starts, ends, n_splits=n_splits, gap=gap):
        assert (ends[train] < starts[test].min() - gap).all()


@given(samples(), n_folds, gaps)
def test_every_earlier_sample_that_is_clear_of_the_gap_is_trained_on(
    labelled: tuple[Int1D, Int1D], n_splits: int, gap: int
) -> None:
    starts, ends = labelled
    for train, test in purged_time_series_splits(starts, ends, n_splits=n_splits, gap=gap):
        clear = [i for i in range(test[0]) if ends[i] < starts[test[0]] - gap]
        assert train.tolist() == clear


@given(samples(), n_folds, gaps)
def test_tests_are_equal_blocks_that_end_with_the_last_sample(
    labelled: tuple[Int1D, Int1D], n_splits: int, gap: int
) -> None:
    starts, ends = labelled
    splits = purged_time_series_splits(starts, ends, n_splits=n_splits, gap=gap)
    tested = np.concatenate([test for _, test in splits])
    assert len(splits) == n_splits
    assert {len(test) for _, test in splits} == {len(starts) // (n_splits + 1)}
    np.testing.assert_array_equal(tested, np.arange(len(starts) - len(tested), len(starts)))


@given(samples(), n_folds, gaps, st.integers(1, 20))
def test_a_limit_keeps_the_newest_training_samples(
    labelled: tuple[Int1D, Int1D], n_splits: int, gap: int, limit: int
) -> None:
    starts, ends = labelled
    whole = purged_time_series_splits(starts, ends, n_splits=n_splits, gap=gap)
    limited = purged_time_series_splits(
        starts, ends, n_splits=n_splits, gap=gap, max_train_size=limit
    )
    for (train, test), (newest, same_test) in zip(whole, limited, strict=True):
        np.testing.assert_array_equal(newest, train[-limit:])
        np.testing.assert_array_equal(same_test, test)


def test_a_long_label_among_short_ones_is_purged_by_its_end() -> None:
    starts = np.arange(6)
    ends = np.array([5, 1, 2, 3, 4, 5])
    (train, test), *_ = purged_time_series_splits(starts, ends, n_splits=1, gap=0)
    assert test.tolist() == [3, 4, 5]
    assert train.tolist() == [1, 2]  # sample 0 reaches to bar 5


def test_a_label_that_ends_on_the_first_test_bar_is_purged() -> None:
    starts = np.arange(4)
    (train, test), *_ = purged_time_series_splits(starts, starts + 1, n_splits=1, gap=0)
    assert (train.tolist(), test.tolist()) == ([0], [2, 3])


def test_a_gap_that_leaves_nothing_gives_an_empty_training_set() -> None:
    starts = np.arange(6)
    (train, _), *_ = purged_time_series_splits(starts, starts, n_splits=1, gap=24)
    assert train.size == 0


def test_faulty_samples_are_refused() -> None:
    starts = np.arange(10)
    with pytest.raises(DataError, match="ascending order"):
        purged_time_series_splits(starts[::-1], starts[::-1])
    with pytest.raises(DataError, match="sample 3 ends at bar 2"):
        purged_time_series_splits(starts, np.where(starts == 3, 2, starts))
    with pytest.raises(DataError, match="at least 11 samples"):
        purged_time_series_splits(starts, starts, n_splits=10)
    with pytest.raises(DataError, match="n_splits 0"):
        purged_time_series_splits(starts, starts, n_splits=0)
    with pytest.raises(DataError, match="one of each"):
        purged_time_series_splits(starts, starts[1:])
