from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

import numpy as np
import pytest

from shared.quant.typing import Float1D
from shared.sleeves.pairs.dataset import Dataset, PairRows, make_dataset, rows_from_history
from shared.sleeves.pairs.features import FeatureSettings, feature_names, pair_features, warmup_bars
from shared.sleeves.pairs.following import JoinedHistory
from shared.sleeves.pairs.labels import LabelSettings

BAR_MS = 300_000
NAMES = ("z_score", "beta", "alpha", "spread_mean", "spread_std")


def rows(
    names: str, z_scores: Sequence[float], closes_y: Sequence[float], first_bar: int = 0
) -> PairRows:
    """Return rows whose held spread is y - 11, of deviation 0.5, in price space."""
    rest = np.tile([2.0, 1.0, 0.0, 0.5], (len(z_scores), 1))
    return PairRows(
        f"{names[0]}/USDT",
        f"{names[1]}/USDT",
        np.column_stack([np.array(z_scores), rest]),
        np.array(closes_y),
        np.full(len(z_scores), 5.0),
        (first_bar + np.arange(len(z_scores))) * BAR_MS,
    )


def dataset(
    pairs: Sequence[PairRows], kind: Literal["z_threshold", "held_return"] = "z_threshold"
) -> Dataset:
    return make_dataset(
        pairs,
        NAMES,
        bar_ms=BAR_MS,
        spread_space="price",
        settings=LabelSettings(kind=kind, horizon_bars=2),
    )


# A is home at once (y = 11.5 is z = 1), C never; C begins a bar later.
AB = rows("AB", [2.0, 0.0, 3.0, 2.5, 2.0], [12.0, 11.5, 12.5, 12.25, 11.0])
CD = rows("CD", [-2.0, -2.5, -2.0, 0.0], [10.0, 9.75, 10.0, 10.0], first_bar=1)


def test_stretched_rows_of_every_pair_are_pooled_in_order_of_time() -> None:
    found = dataset([AB, CD])
    # A: rows at bars 0 and 2; of bars 3 and 4 the horizon of two is not there. C: bars 1 and 2.
    assert found.starts.tolist() == [0, 1, 2, 2]
    assert found.ends.tolist() == [2, 3, 4, 4]
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert found.features[:, 0].tolist() == [2.0, -2.0, 3.0, -2.5]
    assert found.features.shape == (4, 5)
    assert found.feature_names == NAMES
    # A's spans 0-2 and 2-4 share bar 2; C's spans 1-3 and 2-4 share two of three bars.
    assert found.weights.tolist() == pytest.approx([5 / 6, 2 / 3, 5 / 6, 2 / 3])


def test_ties_in_time_are_in_order_of_the_pairs_whatever_order_they_come_in() -> None:
    found, turned = dataset([AB, CD]), dataset([CD, AB])
    assert turned.features.tolist() == found.features.tolist()
    assert turned.dataset_id == found.dataset_id


def test_many_ties_stay_in_order_of_the_pairs() -> None:
    pairs = [
        rows(f"{y}{x}", [2.0 + n / 100, 0.0, 0.0], [12.0, 12.0, 12.0], first_bar=n % 2)
        for n, (y, x) in enumerate(product("ABCDEFGH", "IJKLMNOP"))
    ]
    found = dataset(pairs)
    assert found.starts.tolist() == [0] * 32 + [1] * 32
    z_scores = [2.0 + n / 100 for n in range(64)]
    assert found.features[:, 0].tolist() == z_scores[::2] + z_scores[1::2]


def test_the_kind_of_label_is_that_of_the_settings() -> None:
    # Against z = 2 the spread falls by 12.5 - 12 = -0.5 at bar 2: held, it has lost.
    assert dataset([AB], "held_return").labels.tolist() == [0, 1]


def test_no_pair_and_no_stretched_row_give_an_empty_dataset() -> None:
    for found in (dataset([]), dataset([rows("AB", [0.0, 0.5, 1.0], [11.0] * 3)])):
        assert found.features.shape == (0, 5)
        assert found.labels.shape == found.starts.shape == found.ends.shape == (0,)
        assert found.labels.dtype == np.int64
        assert found.dataset_id == dataset([]).dataset_id


def test_the_id_of_a_dataset_covers_names_and_values() -> None:
    found = dataset([AB, CD])
    assert dataset([AB, CD]).dataset_id == found.dataset_id
    others = [replace(found, feature_names=NAMES[::-1]).dataset_id]
    for column in ("features", "labels", "starts", "ends"):
        changed = getattr(found, column).copy()
        changed[-1] += 1
        others.append(replace(found, **{column: changed}).dataset_id)
    assert len({found.dataset_id, *others}) == 6


def test_the_id_does_not_depend_on_how_the_values_lie_in_memory() -> None:
    found = dataset([AB, CD])
    turned = replace(found, features=np.asfortranarray(found.features))
    assert not turned.features.flags.c_contiguous
    assert turned.dataset_id == found.dataset_id


# --- rows from bars ---------------------------------------------------------------------------

SETTINGS = FeatureSettings(beta_window=12, z_window=10, lags=2, volume_window=4, trend_window=3)
N_BARS = warmup_bars(SETTINGS) + 10


@pytest.fixture
def columns() -> tuple[Float1D, Float1D, Float1D, Float1D]:
    rng = np.random.default_rng(4)
    close_x = np.exp(3 + rng.normal(0, 0.01, N_BARS).cumsum())
    volumes = rng.exponential(100, (2, N_BARS))
    return close_x * np.exp(rng.normal(0, 0.005, N_BARS)), close_x, volumes[0], volumes[1]


def test_rows_of_bars_are_those_the_features_service_would_have_recorded(
    columns: tuple[Float1D, Float1D, Float1D, Float1D],
) -> None:
    closes_at_ms = np.arange(N_BARS, dtype=np.int64) * BAR_MS
    first = warmup_bars(SETTINGS) - 1
    found = rows_from_history(
        ("A/USDT", "B/USDT"), closes_at_ms, JoinedHistory(*columns), SETTINGS, after_ms=-1
    )
    assert (found.y, found.x) == ("A/USDT", "B/USDT")
    assert found.closes_at_ms.tolist() == closes_at_ms[first:].tolist()
    assert found.close_y.tolist() == columns[0][first:].tolist()
    assert found.close_x.tolist() == columns[1][first:].tolist()
    assert found.features.tobytes() == pair_features(*columns, SETTINGS)[first:].tobytes()
    assert found.features.shape[1] == len(feature_names(SETTINGS))


def test_bars_up_to_an_instant_only_warm_the_windows_up(
    columns: tuple[Float1D, Float1D, Float1D, Float1D],
) -> None:
    closes_at_ms = np.arange(N_BARS, dtype=np.int64) * BAR_MS
    after_ms = int(closes_at_ms[-4])
    found = rows_from_history(
        ("A/USDT", "B/USDT"), closes_at_ms, JoinedHistory(*columns), SETTINGS, after_ms=after_ms
    )
    assert found.closes_at_ms.tolist() == closes_at_ms[-3:].tolist()
    assert found.features.tobytes() == pair_features(*columns, SETTINGS)[-3:].tobytes()
