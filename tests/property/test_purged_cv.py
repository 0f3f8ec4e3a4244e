from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from skfolio.model_selection import CombinatorialPurgedCV

from shared.errors import DataError
from shared.quant.purged_cv import (
    Split,
    combinatorial_purged_splits,
    purged_k_fold_splits,
    walk_forward_splits,
)
from shared.quant.typing import Int1D


@st.composite
def samples(draw: st.DrawFn) -> tuple[Int1D, Int1D]:
    """Return labels in order of their start, several to a bar, of any length."""
    steps = draw(st.lists(st.integers(0, 4), min_size=8, max_size=120))
    spans = draw(st.lists(st.integers(0, 30), min_size=len(steps), max_size=len(steps)))
    starts = np.cumsum(steps)
    return starts, starts + np.array(spans)


gaps = st.integers(0, 40)


def test_a_long_label_among_short_ones_is_purged_by_its_end() -> None:
    starts = np.arange(6)
    ends = np.array([5, 1, 2, 3, 4, 5])
    [(train, test)] = walk_forward_splits(starts, ends, n_splits=1, gap=0)
    assert test.tolist() == [3, 4, 5]
    assert train.tolist() == [1, 2]  # sample 0 reaches to bar 5


def test_a_label_that_ends_on_the_first_test_bar_is_purged() -> None:
    starts = np.arange(4)
    [(train, test)] = walk_forward_splits(starts, starts + 1, n_splits=1, gap=0)
    assert (train.tolist(), test.tolist()) == ([0], [2, 3])


def test_a_gap_that_leaves_nothing_gives_an_empty_training_set() -> None:
    starts = np.arange(6)
    [(train, _)] = walk_forward_splits(starts, starts, n_splits=1, gap=24)
    assert train.size == 0


def test_faulty_samples_are_refused() -> None:
    starts = np.arange(10)
    with pytest.raises(DataError, match="ascending order"):
        walk_forward_splits(starts[::-1], starts[::-1])
    with pytest.raises(DataError, match="sample 3 ends at bar 2"):
        walk_forward_splits(starts, np.where(starts == 3, 2, starts))
    with pytest.raises(DataError, match="n_splits 0"):
        walk_forward_splits(starts, starts, n_splits=0)
    with pytest.raises(DataError, match="one of each"):
        walk_forward_splits(starts, starts[1:])
    with pytest.raises(DataError, match="at least 11 or fewer"):
        purged_k_fold_splits(starts, starts, n_splits=11)
    with pytest.raises(DataError, match="n_splits 1"):
        purged_k_fold_splits(starts, starts, n_splits=1)
    with pytest.raises(DataError, match="train_bars 0"):
        walk_forward_splits(starts, starts, train_bars=0)
    with pytest.raises(DataError, match="4 test folds of 4"):
        combinatorial_purged_splits(starts, starts, n_folds=4, n_test_folds=4)


def crowded() -> tuple[Int1D, Int1D]:
    """Return labels of many pairs: several to a bar, of unlike length."""
    rng = np.random.default_rng(8)
    starts = np.sort(rng.integers(0, 400, 900))
    return starts, starts + rng.integers(0, 12, 900)


def require_no_leak(starts: Int1D, ends: Int1D, split: Split, embargo_bars: int) -> None:
    """Assert that no training span shares a bar with a test span or its embargo, one by one."""
    train, test = split
    for i in test:
        is_apart = (ends[train] < starts[i]) | (starts[train] > ends[i])
        assert is_apart.all()
        follows = starts[train] > ends[i]
        assert (starts[train][follows] > ends[i] + embargo_bars).all()


@given(samples(), st.integers(2, 5), gaps)
def test_k_fold_trains_on_no_bar_of_a_test_label_and_tests_each_sample_once(
    labelled: tuple[Int1D, Int1D], n_splits: int, embargo_bars: int
) -> None:
    starts, ends = labelled
    assume(len(np.unique(starts)) >= n_splits)
    splits = purged_k_fold_splits(starts, ends, n_splits=n_splits, embargo_bars=embargo_bars)
    for split in splits:
        require_no_leak(starts, ends, split, embargo_bars)
    tested = np.concatenate([test for _, test in splits])
    np.testing.assert_array_equal(tested, np.arange(len(starts)))


@given(samples(), st.integers(2, 5), st.data(), st.integers(0, 10))
def test_combinatorial_splits_train_on_no_bar_of_a_test_label(
    labelled: tuple[Int1D, Int1D], n_folds: int, data: st.DataObject, embargo_bars: int
) -> None:
    starts, ends = labelled
    assume(len(np.unique(starts)) >= n_folds)
    n_test_folds = data.draw(st.integers(1, n_folds - 1))
    found = combinatorial_purged_splits(
        starts, ends, n_folds=n_folds, n_test_folds=n_test_folds, embargo_bars=embargo_bars
    )
    for split in found.splits:
        require_no_leak(starts, ends, split, embargo_bars)


@given(samples(), st.integers(1, 4), gaps)
def test_walking_forward_trains_on_all_that_is_clear_of_the_gap_and_on_nothing_else(
    labelled: tuple[Int1D, Int1D], n_splits: int, gap: int
) -> None:
    starts, ends = labelled
    assume(len(np.unique(starts)) > n_splits)
    for train, test in walk_forward_splits(starts, ends, n_splits=n_splits, gap=gap):
        clear = [i for i in range(len(starts)) if ends[i] < starts[test].min() - gap]
        assert train.tolist() == clear
        assert not set(train) & set(test)


def test_samples_that_start_together_are_never_parted() -> None:
    starts, ends = crowded()
    blocks = (
        [test for _, test in purged_k_fold_splits(starts, ends, n_splits=7)],
        [test for _, test in walk_forward_splits(starts, ends, n_splits=7)],
        combinatorial_purged_splits(starts, ends).folds,
    )
    for tests in blocks:
        for before, after in itertools.pairwise(tests):
            assert starts[before].max() < starts[after].min()


def test_what_is_clear_of_the_tests_is_trained_on() -> None:
    starts = np.arange(40)
    ends = starts + 2
    (train, test), *_ = purged_k_fold_splits(starts, ends, n_splits=4, embargo_bars=3)[1:]
    assert test.tolist() == list(range(10, 20))
    # Labels up to bar 9; then the last test label ends at 21 and the embargo at 24.
    assert train.tolist() == [*range(8), *range(25, 40)]


def test_a_rolling_window_forgets_what_started_before_it() -> None:
    starts, ends = crowded()
    for train, test in walk_forward_splits(starts, ends, n_splits=4, gap=5, train_bars=60):
        begins = starts[test[0]]
        wanted = [
            i for i in range(len(starts)) if starts[i] >= begins - 60 and ends[i] < begins - 5
        ]
        assert train.tolist() == wanted


def test_every_path_tests_every_fold_once_and_every_test_serves_one_path() -> None:
    starts, ends = crowded()
    found = combinatorial_purged_splits(starts, ends, n_folds=8, n_test_folds=3)
    assert found.paths.shape == (21, 8)
    for fold in range(8):
        assert len(set(found.paths[:, fold])) == 21
        for split in found.paths[:, fold]:
            assert fold in found.test_folds[split]


@pytest.mark.parametrize(
    ("n_samples", "n_folds", "n_test_folds", "span", "embargo_bars"),
    [(800, 8, 2, 0, 0), (803, 8, 2, 3, 5), (500, 10, 8, 4, 2), (197, 6, 3, 7, 10)],
)
def test_combinatorial_splits_equal_those_of_skfolio(
    n_samples: int, n_folds: int, n_test_folds: int, span: int, embargo_bars: int
) -> None:
    starts = np.arange(n_samples)
    own = combinatorial_purged_splits(
        starts,
        # The last labels of the record end with it.
        np.minimum(starts + span, n_samples - 1),
        n_folds=n_folds,
        n_test_folds=n_test_folds,
        embargo_bars=embargo_bars,
    )
    reference = CombinatorialPurgedCV(
        n_folds=n_folds, n_test_folds=n_test_folds, purged_size=span, embargo_size=embargo_bars
    )
    expected = list(reference.split(starts[:, np.newaxis]))
    assert len(own.splits) == len(expected) == reference.n_splits
    for (train, test), (expected_train, expected_tests) in zip(own.splits, expected, strict=True):
        np.testing.assert_array_equal(train, expected_train)
        np.testing.assert_array_equal(test, np.concatenate(expected_tests))
    np.testing.assert_array_equal(own.paths.T, reference.recombined_paths)
