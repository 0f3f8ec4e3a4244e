"""Benchmarks of kernels, in a tiny size: every row is filled, whatever it measures."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest

from cli.bench import features, screens
from cli.bench.figure import Figure
from cli.bench.run import benchmarks, run
from shared.errors import SettingsError


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens, "N_SYMBOLS", 6)
    monkeypatch.setattr(screens, "_walks", partial(screens._walks, n_symbols=6))
    monkeypatch.setattr(screens, "_LONG_BARS", 300)
    monkeypatch.setattr(screens, "_SHORT_BARS", 150)
    monkeypatch.setattr(screens, "_LAGS_OF_SHORT", 4)
    monkeypatch.setattr(features, "N_PAIRS", 12)


def check(figure: Figure, name: str, unit: str, data: str) -> None:
    assert (figure.name, figure.unit, figure.reason) == (name, unit, "")
    assert data in figure.data
    assert figure.reference is not None
    assert figure.ratio is not None
    assert all(math.isfinite(value) for value in (figure.figure, figure.reference, figure.ratio))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("n_bars", [120, 200])
def test_a_screen_is_faster_or_slower_than_statsmodels(n_bars: int) -> None:
    figure = screens.all_pairs(n_bars)
    check(figure, f"screen_{n_bars}", "us a test", "30 ordered tests")
    assert figure.ratio == pytest.approx((figure.reference or 0) / figure.figure)


@pytest.mark.usefixtures("tiny")
def test_moments_are_brought_up_to_date() -> None:
    check(screens.stream_moments(), "stream_moments", "us a bar", "300 bars, 4 lags")


@pytest.mark.usefixtures("tiny")
def test_a_long_window_is_screened_anew_beside_a_short_one() -> None:
    figure = screens.stream_rescreen()
    check(figure, "stream_rescreen", "ms a bar", "300 against 150 bars")
    assert figure.ratio == pytest.approx(figure.figure / (figure.reference or 0))


def test_the_screen_is_exact(data_folder: Path) -> None:
    figure = screens.exactness(data_folder, 3)
    check(figure, "exactness", "relative difference", "3 random pairs")
    assert figure.figure < 1e-8


@pytest.mark.usefixtures("tiny")
def test_features_of_a_close_beside_pandas() -> None:
    check(features.one_close(), "features", "us a close", "12 pairs")


def test_absent_data_is_a_row_with_its_reason(tmp_path: Path) -> None:
    [figure] = run(["exactness"], tmp_path)
    assert (figure.name, figure.reference, figure.ratio) == ("exactness", None, None)
    assert "MNT_DATA" in figure.reason


def test_an_unknown_benchmark_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'speed'.*lockstep_replay"):
        list(run(["speed"], tmp_path))
    assert {"bar_to_order", "lockstep_replay", "features"} <= benchmarks(tmp_path).keys()
