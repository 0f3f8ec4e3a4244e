from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.typing import Float1D, Float2D, Int1D
from shared.sleeves.pairs.features import FeatureSettings, feature_names, pair_features
from shared.sleeves.pairs.labels import LabelKind, Labels, LabelSettings, make_labels

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
    kind: LabelKind = "z_threshold",
    space: Literal["log", "price"] = "price",
    closes_at: Int1D | None = None,
    horizon_bars: int = 2,
    cost_rate: float = 0.0011,
    stop_loss_std: float = 1.0,
) -> Labels:
    return make_labels(
        features,
        NAMES,
        np.array(close_y),
        np.array(close_x),
        np.arange(len(close_y)) * BAR_MS if closes_at is None else closes_at * BAR_MS,
        bar_ms=BAR_MS,
        spread_space=space,
        settings=LabelSettings(
            kind=kind,
            horizon_bars=horizon_bars,
            cost_rate=cost_rate,
            stop_loss_std=stop_loss_std,
        ),
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


@pytest.mark.parametrize("kind", get_args(LabelKind))
def test_a_label_depends_on_no_bar_after_its_end(kind: LabelKind) -> None:
    close_y, close_x = random_pair()
    settings = FeatureSettings(beta_window=30, z_window=20)
    volume = np.ones(400)
    closes_at_ms = np.arange(400) * BAR_MS
    features = pair_features(close_y, close_x, volume, volume, settings)

    def labels_of(close_y: Float1D, close_x: Float1D, n_bars: int = 400) -> Labels:
        return make_labels(
            features[:n_bars],
            feature_names(settings),
            close_y[:n_bars],
            close_x[:n_bars],
            closes_at_ms[:n_bars],
            bar_ms=BAR_MS,
            spread_space="log",
            settings=LabelSettings(kind=kind, cost_rate=0.002, threshold=1.0, horizon_bars=6),
        )

    whole, part = labels_of(close_y, close_x), labels_of(close_y, close_x, 300)
    assert 0 < part.label.sum() < len(part.label)
    n_part = len(part.rows)
    # A label is not made before all of its horizon is there, even where it ends sooner: else
    # the newest labels would be those that met a barrier early.
    assert part.rows[-1] + (1 if kind == "next_bar_sign" else 6) < 300
    np.testing.assert_array_equal(whole.rows[:n_part], part.rows)
    np.testing.assert_array_equal(whole.label[:n_part], part.label)
    np.testing.assert_array_equal(whole.end[:n_part], part.end)
    assert (whole.rows < whole.end).all()

    # Whatever the closes after a bar had been, the labels that end with it stay as they are.
    for bar in range(60, 390, 7):
        scale = np.where(np.arange(400) > bar, 1.3, 1.0)
        moved = labels_of(close_y * scale, close_x)
        is_over = whole.end <= bar
        assert (whole.end[~is_over] > bar).any()
        np.testing.assert_array_equal(moved.label[is_over], whole.label[is_over])
        np.testing.assert_array_equal(moved.end[is_over], whole.end[is_over])
        np.testing.assert_array_equal(moved.reversion[is_over], whole.reversion[is_over])


# In the next four the spread is y - 11 with deviation 0.5, as above.
def test_revert_direction_is_one_where_the_spread_ends_nearer_to_its_mean() -> None:
    above = label(
        frozen([2.0, 3.0, 1.4, 1.8]), [12.0, 12.5, 11.7, 11.9], [5.0] * 4, kind="revert_direction"
    )
    assert above.label.tolist() == [1, 1]
    assert above.reversion.tolist() == pytest.approx([0.6, 1.2])
    below = label(frozen([-2.0, 0, 0]), [10.0, 9.0, 9.9], [5.0] * 3, kind="revert_direction")
    assert below.label.tolist() == [0]
    assert below.reversion.tolist() == pytest.approx([-0.2])


def test_a_spread_that_stands_still_has_not_reverted() -> None:
    for kind in ("revert_direction", "next_bar_sign"):
        found = label(frozen([2.0, 0.0, 0.0]), [12.0] * 3, [5.0] * 3, kind=kind)
        assert (found.label[0], found.reversion[0]) == (0, 0)


def test_next_bar_sign_looks_at_the_next_bar_alone() -> None:
    labels = label(frozen([2.0, 2.4, -2.0]), [12.0, 12.2, 10.0], [5.0] * 3, kind="next_bar_sign")
    # Row 1 comes down from 12.2 to 10; row 2 has no next bar.
    assert labels.rows.tolist() == [0, 1]
    assert labels.end.tolist() == [1, 2]
    assert labels.label.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("closes", "stop_loss_std", "expected", "end"),
    [
        ([12.0, 11.8, 11.5, 13.0], 1.0, 1, 2),  # one deviation down at bar 2, the loss after it
        ([12.0, 12.5, 11.0, 11.0], 1.0, 0, 1),  # stopped before it comes home
        ([12.0, 12.5, 11.0, 11.0], 1.5, 1, 2),  # a wider stop lets it come home
        ([12.0, 11.8, 11.7, 11.6], 1.0, 0, 3),  # neither within the horizon
        ([12.0, 12.0, 12.0, 11.5], 1.0, 1, 3),  # on the last bar of the horizon
    ],
)
def test_triple_barrier_tells_which_barrier_is_met_first(
    closes: list[float], stop_loss_std: float, expected: int, end: int
) -> None:
    labels = label(
        frozen([2.0, 0, 0, 0]),
        closes,
        [5.0] * 4,
        kind="triple_barrier",
        horizon_bars=3,
        stop_loss_std=stop_loss_std,
    )
    assert (labels.label.tolist(), labels.end.tolist()) == ([expected], [end])
    assert labels.reversion.tolist() == pytest.approx([(12.0 - closes[end]) / 0.5])


def test_settings_without_barriers_keep_the_document_they_had_before_there_were_any() -> None:
    assert set(LabelSettings().model_dump()) == {"kind", "threshold", "horizon_bars", "cost_rate"}
    other = LabelSettings(kind="triple_barrier", stop_loss_std=2.0)
    assert LabelSettings.model_validate(other.model_dump()) == other


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
