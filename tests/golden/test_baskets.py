"""Johansen's test and total least squares against published figures and other software."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shared.errors import DataError
from shared.quant.baskets import johansen, total_least_squares


@pytest.fixture(scope="module")
def reference(data_folder: Path) -> dict[str, Any]:
    text = (data_folder / "reference/reference_values.json").read_text()
    values: dict[str, Any] = json.loads(text)
    return values


@pytest.mark.parametrize(
    ("columns", "name"), [(["EWA", "EWC"], "pair"), (["EWA", "EWC", "IGE"], "triplet")]
)
def test_country_funds_equal_the_published_figures(
    data_folder: Path, reference: dict[str, Any], columns: list[str], name: str
) -> None:
    table = pd.read_parquet(data_folder / "reference/chan_ewa_ewc_ige.parquet")
    published = reference["chan_ewa_ewc_johansen"]["published"]
    result = johansen(table[columns].to_numpy(dtype=np.float64))
    np.testing.assert_allclose(result.trace, published[f"{name}_trace"], atol=2e-3)
    np.testing.assert_allclose(result.max_eigenvalue, published[f"{name}_max_eig"], atol=2e-3)
    assert result.rank(0.05) == len(columns)


def test_eight_series_equal_the_published_traces(
    data_folder: Path, reference: dict[str, Any]
) -> None:
    table = pd.read_parquet(data_folder / "reference/johansen_jplv7_8series.parquet")
    result = johansen(table.to_numpy(dtype=np.float64), trend_order=1, lagged_changes=2)
    expected = reference["johansen_jplv7"]["published"]["trace"]
    np.testing.assert_allclose(result.trace, expected, rtol=1e-9)


def test_baskets_that_cannot_be_tested_are_refused() -> None:
    walks = np.random.default_rng(1).normal(size=(100, 3)).cumsum(axis=0)
    assert johansen(walks).rank(0.01) == 0
    with pytest.raises(DataError, match="combination of the others"):
        johansen(np.column_stack([walks, walks.sum(axis=1)]))
    with pytest.raises(DataError, match="2 to 12 series"):
        johansen(walks[:, :1])
    with pytest.raises(DataError, match="not finite"):
        johansen(np.full((50, 2), np.nan))
    with pytest.raises(DataError, match="trend_order 2"):
        johansen(walks, trend_order=2)
    with pytest.raises(DataError, match=r"no critical values at level 0\.2"):
        johansen(walks).rank(0.2)


def test_total_least_squares_equals_orthogonal_regression_and_is_symmetric() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 3)).cumsum(axis=0)
    y = np.array([1.5, -0.7, 3.0]) * x + rng.normal(size=(200, 3))
    slopes = total_least_squares(y, x)
    for k in range(3):
        centred = np.column_stack([x[:, k], y[:, k]])
        _, _, axes = np.linalg.svd(centred - centred.mean(axis=0))
        assert slopes[k] == pytest.approx(axes[0, 1] / axes[0, 0], rel=1e-9)
    np.testing.assert_allclose(total_least_squares(x, y), 1 / slopes, rtol=1e-12)
    assert np.isnan(total_least_squares(np.ones((5, 1)), x[:5, :1])).all()
    with pytest.raises(DataError, match="legs have shapes"):
        total_least_squares(y, x[:, :2])
