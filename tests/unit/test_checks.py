from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli import checks
from cli.checks import check_lookahead, check_warmup
from shared.errors import DataError, SettingsError
from shared.settings import strategy_of
from shared.sleeves.pairs.features import pair_features, warmup_bars
from tests.research_market import QUICK, write_market


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("market")
    return write_market(folder, n_days=5, n_pairs=1, half_life_bars=20.0, seed=3)


def lookahead(bars: tuple[Path, Path]) -> checks.LookaheadCheck:
    return check_lookahead(bars, QUICK, pair="Y0/USDT~X0/USDT", n_bars=1000, n_points=6, seed=0)


def test_what_the_fleet_decides_does_not_look_ahead(bars: tuple[Path, Path]) -> None:
    found = lookahead(bars)
    assert found.leaks == ()
    assert found.n_orders > 5
    assert {"beta", "z_score", "label_held_return", "signal", "order_y", "filled_side"} <= set(
        found.outputs
    )


def test_a_feature_that_knows_the_next_bar_is_found_and_so_is_what_follows_from_it(
    bars: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:

    def centred(*given: Any) -> Any:
        values = pair_features(*given)
        return np.concatenate([values[1:], values[-1:]])

    monkeypatch.setattr("cli.checks.pair_features", centred)
    assert {"beta", "z_score"} <= {leak.output for leak in lookahead(bars).leaks}


def test_a_fill_on_the_bar_that_decided_is_found(
    bars: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = checks._traded

    def at_once(*given: Any) -> Any:
        columns = honest(*given)
        columns["filled_side"] = np.sign(columns["order_y"])
        return columns

    monkeypatch.setattr(checks, "_traded", at_once)
    # Decisions are rare: the point before one must be among those looked at.
    whole = check_lookahead(bars, QUICK, pair="Y0/USDT~X0/USDT", n_bars=450, n_points=1000, seed=0)
    assert {leak.output for leak in whole.leaks} == {"filled_side"}


def test_every_feature_is_stable_with_the_bars_it_is_given_and_not_with_fewer(
    bars: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check() -> checks.WarmupCheck:
        return check_warmup(bars, QUICK, pair=None, n_points=2, seed=0)

    found = check()
    given = warmup_bars(strategy_of(QUICK).features)
    assert (found.given, set(found.needed.values()), found.too_long) == (given, {given}, ())
    monkeypatch.setattr(checks, "warmup_bars", lambda _: given - 1)
    assert set(check().too_long) == set(found.needed)


@pytest.mark.parametrize("pair", ["Y0/USDT", "Y0/USDT~Y0/USDT", "Y0/USDT~Z/USDT"])
def test_a_pair_that_is_none_is_refused(bars: tuple[Path, Path], pair: str) -> None:
    with pytest.raises(SettingsError, match="write two different symbols"):
        check_warmup(bars, QUICK, pair=pair, n_points=1, seed=0)


def test_too_few_bars_are_refused_with_how_many_it_takes(bars: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="the check needs"):
        check_lookahead(
            bars, ("features.beta_window=2000",), pair=None, n_bars=3000, n_points=1, seed=0
        )
