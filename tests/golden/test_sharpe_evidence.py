from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from shared.quant.sharpe_ratio import (
    TrackRecord,
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    minimum_backtest_length_years,
    probabilistic_sharpe_ratio,
)


@pytest.fixture(scope="module")
def references(data_folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (data_folder / "reference" / "reference_values.json").read_text()
    )
    return document


def test_deflated_sharpe_ratio_equals_the_published_example(references: dict[str, Any]) -> None:
    example = references["deflated_sharpe_N100"]
    inputs, exact = example["inputs"], example["recomputed"]
    variance = inputs["var_sr_annual"] / inputs["periods_per_year"]
    record = TrackRecord(
        inputs["sr_annual"] / math.sqrt(inputs["periods_per_year"]),
        inputs["T"],
        skewness=inputs["skew"],
        kurtosis=inputs["kurtosis"],
    )
    expected_maximum = expected_maximum_sharpe(inputs["N"], variance)
    deflated = deflated_sharpe_ratio(record, inputs["N"], variance)
    assert expected_maximum == pytest.approx(exact["sr0_daily"], abs=1e-12)
    assert deflated == pytest.approx(exact["dsr"], abs=1e-12)
    assert round(expected_maximum, 4) == example["published"]["sr0_daily"]
    assert round(deflated, 4) == example["published"]["dsr"]


def test_probabilistic_sharpe_ratio_equals_the_published_example(
    references: dict[str, Any],
) -> None:
    example = references["psr_hedge_fund_example"]
    inputs, exact, published = example["inputs"], example["recomputed"], example["published"]
    normal = TrackRecord(inputs["sr_monthly"], inputs["n"])
    skewed = TrackRecord(inputs["sr_monthly"], inputs["n"], inputs["skew"], inputs["kurtosis"])
    assert probabilistic_sharpe_ratio(normal) == pytest.approx(exact["psr0_normal"], abs=1e-12)
    assert probabilistic_sharpe_ratio(skewed) == pytest.approx(exact["psr0_nonnormal"], abs=1e-12)
    assert round(probabilistic_sharpe_ratio(normal), 3) == published["psr0_normal"]
    assert round(probabilistic_sharpe_ratio(skewed), 3) == published["psr0_nonnormal"]


def test_minimum_backtest_length_equals_the_published_example(references: dict[str, Any]) -> None:
    example = references["min_backtest_length_N45"]
    years = minimum_backtest_length_years(example["published"]["N"])
    assert years == pytest.approx(example["recomputed"]["years"], abs=1e-12)
    assert round(years, 2) == example["published"]["years"]
