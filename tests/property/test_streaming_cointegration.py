from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import DataError
from shared.quant.cointegration import EngleGrangerResult, engle_granger_all_pairs
from shared.quant.streaming_cointegration import StreamingEngleGranger
from shared.quant.typing import Float2D

FIELDS = ("statistic", "p_value", "lag", "hedge_ratio", "intercept")
WINDOW = 80


def walks(seed: int, n_bars: int, n_series: int) -> Float2D:
    steps = np.random.default_rng(seed).standard_t(4, size=(n_bars, n_series))
    return 5.0 + 0.01 * steps.cumsum(axis=0)


def fed(rows: Float2D, first_bar: int, trend: str = "c") -> StreamingEngleGranger:
    stream = StreamingEngleGranger(
        rows.shape[1], WINDOW, trend=trend, anchor_every=7, first_bar=first_bar
    )
    for row in rows:
        stream.update(row)
    return stream


def assert_close(first: EngleGrangerResult, second: EngleGrangerResult) -> None:
    for field in FIELDS:
        np.testing.assert_allclose(
            getattr(first, field), getattr(second, field), rtol=1e-9, atol=1e-9
        )


@given(
    seed=st.integers(0, 2**32 - 1),
    n_bars=st.integers(WINDOW, 3 * WINDOW + 5),
    n_series=st.sampled_from([2, 7, 8, 9]),
    trend=st.sampled_from(["c", "ct"]),
    first_bar=st.integers(0, 30),
)
@settings(max_examples=40, deadline=None)
def test_the_stream_equals_the_batch(
    seed: int, n_bars: int, n_series: int, trend: str, first_bar: int
) -> None:
    rows = walks(seed, n_bars, n_series)
    expected = engle_granger_all_pairs(rows[-WINDOW:], trend=trend)
    assert_close(fed(rows, first_bar, trend).result(), expected)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_bars=st.integers(WINDOW, 2 * WINDOW),
    n_more=st.integers(0, 20),
)
@settings(max_examples=40, deadline=None)
def test_a_stream_begun_again_at_any_bar_goes_on_to_the_bit(
    seed: int, n_bars: int, n_more: int
) -> None:
    rows = walks(seed, n_bars + 30 + n_more, 5)
    unbroken = fed(rows, 0)
    restarted_at = len(rows) - n_more
    first = restarted_at - unbroken.history_bars
    restarted = fed(rows[max(0, first) :], max(0, first))
    for field in FIELDS:
        assert (
            getattr(restarted.result(), field).tobytes()
            == getattr(unbroken.result(), field).tobytes()
        )


def test_a_stream_refuses_what_it_cannot_test() -> None:
    stream = fed(walks(1, WINDOW - 1, 3), 0)
    with pytest.raises(DataError, match="79 bars so far: a test needs the whole window of 80"):
        stream.result()
    with pytest.raises(DataError, match=r"bar 79 has shape \(2,\)"):
        stream.update(np.zeros(2))
    with pytest.raises(DataError, match="not finite"):
        stream.update(np.array([1.0, np.nan, 1.0]))
    stream.update(np.array([1.0, 2.0, 3.0]))
    assert stream.result().n_bars == WINDOW
    for _ in range(WINDOW):
        stream.update(np.array([1.0, 2.0, 3.0]))
    with pytest.raises(DataError, match="column 0 of the log prices never changes"):
        stream.result()
    with pytest.raises(DataError, match="an anchor every 0 bars"):
        StreamingEngleGranger(3, WINDOW, anchor_every=0)
