from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.typing import Float1D, Float2D, Int1D
from shared.sleeves.pairs.features import FeatureSettings, feature_names, pair_features
from shared.sleeves.pairs.labels import Labels, LabelSettings, make_labels

BAR_MS = 300_000
NAMES = ("z_score", "beta", "alpha", "spread_mean", "spread_std")


def frozen(z_scores: list[float], beta: float = 2.0, alpha: float = 1.0) -> Float2D:
    """Return features of a spread y - (2 x + 1) of mean 0 and deviation 0.5."""
    rest = np.tile([beta, alpha, 0.0, 0.5], (len(z_scores), 1))
    return np.column_stack([np.array(z_scores), rest])


def label(
    features: Float2D,
    close_y: list[float],
    close_x: list[float],
    *,
    kind: Literal["z_threshold", "held_return"] = "z_threshold",
    space: Literal["log", "price"] = "price",
    closes_at: Int1D | None = None,
    horizon_bars: int = 2,
    cost_rate: float = 0.0011,
) -> Labels:
    return make_labels(
        features,
        NAMES,
        np.array(close_y),
        np.array(close_x),
        np.arange(len(close_y)) * BAR_MS if closes_at is None else closes_at * BAR_MS,
        bar_ms=BAR_MS,
        spread_space=space,
        settings=LabelSettings(kind=kind, horizon_bars=horizon_bars, cost_rate=cost_rate),
    )


def test_z_threshold_is_one_where_the_held_spread_comes_back_within_the_horizon() -> None:
    # Spread y - (2 x + 1) with x = 5 is y - 11; z = spread / 0.5 is back below 1.5 at y < 11.75.
    close_y = [12.0, 12.5, 11.7, 12.1, 12.0, 11.9]
    labels = label(frozen([2.0, 3.0, 1.4, 2.2, 2.0, 1.8]), close_y, [5.0] * 6)
    # Row 0: bars 1 and 2 at z 3.0 and 1.4. Row 1: 1.4 and 2.2. Row 2 is not stretched.
    # Row 3: 2.0 and 1.8. Rows 4 and 5 lack a full horizon.
    assert labels.rows.tolist() == [0, 1, 3]
    assert labels.label.tolist() == [1, 1, 0]
    assert labels.end.tolist() == [2, 3, 5]


def test_z_threshold_counts_a_spread_that_passes_beyond_the_other_side_as_not_home() -> None:
    # From z = 2 to z = -2 and -3: never within 1.5 of the mean at a close.
    labels = label(frozen([2.0, 0.0, 0.0]), [12.0, 10.0, 9.5], [5.0] * 3)
    assert labels.label.tolist() == [0]


def test_the_held_spread_keeps_the_ratio_of_its_row() -> None:
    # The rolling ratio moves to 2.2 and its z-score comes home; what is held has not moved.
    features = frozen([2.0, 0.0, 0.0])
    features[1:, 1] = 2.2
    labels = label(features, [12.0, 12.0, 12.0], [5.0, 5.0, 5.0])
    assert labels.rows.tolist() == [0]
    assert labels.label.tolist() == [0]


def test_mean_and_deviation_of_the_row_are_held_too() -> None:
    features = frozen([2.0, 0.0, 0.0])
    features[0, 3:] = [0.5, 0.25]  # spread 1 is at (1 - 0.5) / 0.25 = 2; home below 0.875
    home = label(features, [12.0, 12.0, 11.8], [5.0] * 3)
    away = label(features, [12.0, 12.0, 11.9], [5.0] * 3)
    assert (home.label.tolist(), away.label.tolist()) == ([1], [0])


def test_z_threshold_in_log_space() -> None:
    # Spread ln y - (2 ln x + 1): at ln y = 4, ln x = 1 it is 1, so z = 2; at ln y = 3.7 z = 1.4.
    y, x = np.exp([4.0, 4.0, 3.7]).tolist(), np.exp([1.0, 1.0, 1.0]).tolist()
    assert label(frozen([2.0, 0.0, 0.0]), y, x, space="log").label.tolist() == [1]


@pytest.mark.parametrize(("z_score", "expected"), [(2.0, 1), (-2.0, 0)])
def test_held_return_in_price_space_is_per_gross_notional(z_score: float, expected: int) -> None:
    # The spread falls by 0.1 - 2 * 0.01 = 0.08 on a gross of 12 + 2 * 5 = 22: 0.36 %.
    labels = label(
        frozen([z_score, 0.0, 0.0]),
        [12.0, 13.0, 11.9],
        [5.0, 5.0, 4.99],
        kind="held_return",
        cost_rate=0.0036,
    )
    assert labels.label.tolist() == [expected]


def test_held_return_in_log_space_is_per_gross_notional() -> None:
    # ln y falls by 0.010, ln x by 0.002: spread -0.010 + 2 * 0.002 = -0.006, gross 3: 0.20 %.
    y, x = np.exp([4.0, 4.5, 3.990]).tolist(), np.exp([1.0, 1.0, 0.998]).tolist()
    for cost_rate, expected in ((0.0019, 1), (0.0021, 0)):
        labels = label(
            frozen([2.0, 0.0, 0.0]),
            y,
            x,
            kind="held_return",
            space="log",
            cost_rate=cost_rate,
        )
        assert labels.label.tolist() == [expected]


def test_held_return_of_a_short_spread_of_negative_ratio() -> None:
    # beta -1: both legs are sold; y falls by 0.03 of 3, x by 0.02 of 2: 0.05 on 5 is 1 %.
    for cost_rate, expected in ((0.0099, 1), (0.0101, 0)):
        labels = label(
            frozen([2.0, 0.0], beta=-1.0),
            [3.0, 2.97],
            [2.0, 1.98],
            kind="held_return",
            horizon_bars=1,
            cost_rate=cost_rate,
        )
        assert labels.label.tolist() == [expected]


def test_held_return_in_log_space_of_a_negative_ratio() -> None:
    # beta -1: ln y falls by 0.006, ln x by 0.004: 0.010 on a gross of 2 is 0.5 %.
    y, x = np.exp([4.0, 3.994]).tolist(), np.exp([1.0, 0.996]).tolist()
    for cost_rate, expected in ((0.0049, 1), (0.0051, 0)):
        labels = label(
            frozen([2.0, 0.0], beta=-1.0),
            y,
            x,
            kind="held_return",
            space="log",
            horizon_bars=1,
            cost_rate=cost_rate,
        )
        assert labels.label.tolist() == [expected]


def test_a_row_at_the_threshold_is_labelled() -> None:
    features = frozen([1.5, -1.5, 1.49, np.nan, 0.0])
    labels = label(features, [12.0] * 5, [5.0] * 5, horizon_bars=1)
    assert labels.rows.tolist() == [0, 1]


def test_a_horizon_across_a_missing_bar_is_not_labelled() -> None:
    closes_at = np.array([0, 1, 2, 4, 5, 6])  # bar 3 is missing
    labels = label(frozen([2.0] * 6), [12.0] * 6, [5.0] * 6, closes_at=closes_at)
    assert labels.rows.tolist() == [0, 3]
    assert labels.end.tolist() == [2, 5]


def test_fewer_bars_than_the_horizon_give_no_labels() -> None:
    labels = label(frozen([2.0, 2.0]), [12.0] * 2, [5.0] * 2, horizon_bars=3)
    assert labels.rows.size == labels.label.size == labels.end.size == 0


def random_pair() -> tuple[Float1D, Float1D]:
    rng = np.random.default_rng(5)
    close_x = np.exp(rng.normal(0, 0.01, 400).cumsum())
    slow = np.sin(np.arange(400) / 6) * 0.05  # so that some spreads are not home in three bars
    return close_x * np.exp(slow + rng.normal(0, 0.01, 400)), close_x


@pytest.mark.parametrize("kind", ["z_threshold", "held_return"])
def test_a_label_depends_on_no_bar_after_its_end(
    kind: Literal["z_threshold", "held_return"],
) -> None:
    close_y, close_x = random_pair()
    settings = FeatureSettings(beta_window=30, z_window=20)
    volume = np.ones(400)
    closes_at_ms = np.arange(400) * BAR_MS
    features = pair_features(close_y, close_x, volume, volume, settings)

    def labels_of(n_bars: int) -> Labels:
        return make_labels(
            features[:n_bars],
            feature_names(settings),
            close_y[:n_bars],
            close_x[:n_bars],
            closes_at_ms[:n_bars],
            bar_ms=BAR_MS,
            spread_space="log",
            settings=LabelSettings(kind=kind, cost_rate=0.002, threshold=1.0),
        )

    whole, part = labels_of(400), labels_of(300)
    assert 0 < part.label.sum() < len(part.label)
    is_known = whole.end < 300
    np.testing.assert_array_equal(whole.rows[is_known], part.rows)
    np.testing.assert_array_equal(whole.label[is_known], part.label)


def test_faulty_columns_are_refused() -> None:
    features = frozen([2.0, 2.0, 2.0])
    with pytest.raises(DataError, match="one row, two closes"):
        label(features, [12.0] * 2, [5.0] * 2)
    with pytest.raises(DataError, match="ascending on a grid"):
        label(features, [12.0] * 3, [5.0] * 3, closes_at=np.array([0, 2, 1]))
    with pytest.raises(DataError, match="lack z_score"):
        make_labels(
            features,
            ("z", "beta", "alpha", "spread_mean", "spread_std"),
            np.ones(3),
            np.ones(3),
            np.arange(3) * BAR_MS,
            bar_ms=BAR_MS,
            spread_space="log",
            settings=LabelSettings(),
        )
