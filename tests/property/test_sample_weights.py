from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DataError
from shared.quant.sample_weights import average_uniqueness
from shared.quant.typing import Int1D


@st.composite
def labels(draw: st.DrawFn) -> tuple[Int1D, Int1D, Int1D]:
    """Return labels in any order, of three pairs."""
    spans = draw(
        st.lists(
            st.tuples(st.integers(0, 60), st.integers(0, 12), st.integers(0, 2)),
            min_size=1,
            max_size=60,
        )
    )
    starts, lengths, groups = np.array(spans).T
    return starts, starts + lengths, groups


@given(labels())
def test_uniqueness_is_that_of_its_definition(labelled: tuple[Int1D, Int1D, Int1D]) -> None:
    starts, ends, groups = labelled
    expected = []
    for start, end, group in zip(starts, ends, groups, strict=True):
        of_group = groups == group
        concurrency = [
            int((of_group & (starts <= bar) & (ends >= bar)).sum()) for bar in range(start, end + 1)
        ]
        expected.append(np.mean([1 / count for count in concurrency]))
    weights = average_uniqueness(starts, ends, groups)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert (weights <= 1).all()


def test_labels_of_one_pair_sum_to_the_bars_they_cover_per_length() -> None:
    starts = np.array([0, 1, 2, 3])
    # Four labels of three bars cover six bars: what they tell adds up to two whole labels.
    assert average_uniqueness(starts, starts + 2).sum() == pytest.approx(2)


def test_bar_numbers_far_from_zero_cost_no_memory_and_no_precision() -> None:
    starts = np.array([0, 1, 5])
    near = average_uniqueness(starts, starts + 2)
    far = average_uniqueness(starts + 5_000_000_000, starts + 5_000_000_002)
    np.testing.assert_array_equal(near, far)


def test_unsound_labels_are_refused() -> None:
    starts = np.arange(4)
    with pytest.raises(DataError, match="one of each"):
        average_uniqueness(starts, starts[1:])
    with pytest.raises(DataError, match="label 2 ends at bar 1"):
        average_uniqueness(starts, np.array([0, 1, 1, 3]))
    assert average_uniqueness(starts[:0], starts[:0]).size == 0
