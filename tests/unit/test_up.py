from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest

from cli.fleet.home import FleetError, FleetHome
from cli.fleet.topology import take_keys
from cli.up import UpRequest, claim_market, describe_market, market_source, prepare_environment
from shared.errors import SettingsError


@pytest.fixture
def home(tmp_path: Path) -> Iterator[FleetHome]:
    """Give a home, and take out of the environment again what a command puts into it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MNT_")}
    with patch.dict(os.environ, clean, clear=True):
        yield FleetHome(tmp_path / "home")


@pytest.fixture
def bar_files(tmp_path: Path) -> tuple[Path, ...]:
    paths = []
    for timeframe, name in (("1h", "hourly.parquet"), ("5min", "trade.parquet")):
        ts = pd.date_range("2024-03-01", periods=48, freq=timeframe, tz="UTC")
        values = dict.fromkeys(("open", "high", "low", "close", "volume"), 100.0)
        bars = pd.DataFrame({"ts": ts, "symbol": "AAA/USDT", "exchange": "somewhere", **values})
        bars.to_parquet(tmp_path / name)
        paths.append(tmp_path / name)
    return tuple(paths)


def test_the_simulated_market_is_the_default_and_says_so_everywhere(home: FleetHome) -> None:
    settings = prepare_environment(home, UpRequest(None))
    assert settings.market.source == "simulated"
    assert settings.venue_name == "simulated"
    assert "simulated market (seed 7)" in describe_market(settings)
    assert settings.follow.since == datetime(2023, 11, 2, tzinfo=UTC)
    assert settings.trainer.in_sample
    assert os.environ["MNT_VENUE_NAME"] == "simulated"  # for the processes to come


def test_what_is_given_goes_before_what_the_market_implies(home: FleetHome) -> None:
    os.environ["MNT_TRAINER__IN_SAMPLE"] = "false"
    os.environ["MNT_MARKET__SEED"] = "3"
    settings = prepare_environment(home, UpRequest(None, overrides=("market.seed=11",)))
    assert settings.market.seed == 11
    assert not settings.trainer.in_sample


def test_files_make_a_recorded_market_under_their_own_name(
    home: FleetHome, bar_files: tuple[Path, ...]
) -> None:
    start = datetime(2024, 3, 2, tzinfo=UTC)
    settings = prepare_environment(home, UpRequest(None, bar_files, start))
    assert settings.market.source == "recorded"
    assert settings.market.bars == bar_files
    assert settings.market.start == start
    assert settings.venue_name == "somewhere"
    assert not settings.trainer.in_sample
    assert "hourly.parquet, trade.parquet" in describe_market(settings)


def test_a_live_market_is_named_by_its_exchange(home: FleetHome) -> None:
    overrides = ("market.exchange_url=http://127.0.0.1:9",)
    settings = prepare_environment(home, UpRequest("live", overrides=overrides))
    assert settings.venue_name == "binanceusdm"
    assert describe_market(settings).endswith("at http://127.0.0.1:9, paper fills")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (UpRequest("recorded"), "give --bars once per file"),
        (UpRequest(None, (Path("absent.parquet"),)), "absent.parquet"),
        (UpRequest(None, overrides=("market.sped=2",)), "did you mean market.speed"),
        (UpRequest(None, overrides=("market.speed=-1",)), "market.speed"),
        (UpRequest(None, overrides=("screener.level=2",)), "screener.level"),
    ],
)
def test_what_cannot_be_brought_up_is_refused_with_the_remedy(
    home: FleetHome, request_: UpRequest, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        prepare_environment(home, request_)


def test_the_settings_of_a_replay_are_refused(home: FleetHome) -> None:
    os.environ["MNT_REPLAY__BARS"] = '["bars.parquet"]'
    with pytest.raises(SettingsError, match="MNT_REPLAY__BARS belongs to `mnt replay`"):
        prepare_environment(home, UpRequest(None))


def test_an_unknown_market_is_refused() -> None:
    with pytest.raises(SettingsError, match="choose from simulated, recorded, live"):
        market_source("spot")


def test_a_home_keeps_to_the_market_it_began_with(home: FleetHome) -> None:
    home.create()
    settings = prepare_environment(home, UpRequest(None))
    claim_market(home, settings)
    claim_market(home, settings)  # going on with the same one
    other = settings.model_copy(
        update={"market": settings.market.model_copy(update={"seed": 8}), "venue_name": "simulated"}
    )
    with pytest.raises(FleetError, match="choose another home"):
        claim_market(home, other)
    faster = settings.model_copy(
        update={"market": settings.market.model_copy(update={"speed": 60.0})}
    )
    claim_market(home, faster)  # the same market at another pace


def test_trading_keys_leave_the_environment_that_children_inherit(home: FleetHome) -> None:
    os.environ["MNT_VENUE_API_KEY"] = "key"
    os.environ["MNT_VENUE_API_SECRET"] = "secret"
    keys = {"MNT_VENUE_API_KEY": "key", "MNT_VENUE_API_SECRET": "secret"}
    assert take_keys(home) == keys
    assert not keys.keys() & os.environ.keys()


def test_the_paper_account_gets_keys_of_the_home_when_none_are_given(home: FleetHome) -> None:
    keys = take_keys(home)
    assert keys == take_keys(home)
    assert len(set(keys.values())) == 2
    assert not keys.keys() & os.environ.keys()
