from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import (
    PREFIX,
    as_utc,
    environment_of,
    load_settings,
    setting_names,
    strategy_of,
)
from shared.sleeves.pairs.settings import StrategySettings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


each_reader = pytest.mark.parametrize("read", [strategy_of, environment_of])
Reader = Callable[[list[str]], object]


# --- options of the command line ----------------------------------------------------------


@each_reader
def test_an_unknown_setting_is_refused_with_a_suggestion(read: Reader) -> None:
    with pytest.raises(SettingsError) as caught:
        read(["screener.methd=holm"])
    assert "--set screener.methd=holm: unknown setting 'screener.methd'" in str(caught.value)
    assert "did you mean screener.method" in str(caught.value)


@each_reader
def test_a_setting_like_no_other_is_refused_with_all_that_there_are(read: Reader) -> None:
    with pytest.raises(SettingsError, match="unknown setting 'qqq'; known: trade_timeframe, "):
        read(["qqq=1"])


@each_reader
@pytest.mark.parametrize("path", ["screener", "trainer.labels", "screener.method.name", ""])
def test_a_section_or_a_part_of_a_setting_is_no_setting(read: Reader, path: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting '{path}'"):
        read([f"{path}=1"])


@each_reader
def test_an_option_without_a_value_is_refused(read: Reader) -> None:
    with pytest.raises(
        SettingsError, match=r"--set 'screener\.method': write it as section.key=val"
    ):
        read(["screener.method"])


@each_reader
@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("screener.level=1.5", "settings: screener.level: "),
        ("screener.level=nan", "settings: screener.level: "),
        ("screener.level=low", "settings: screener.level: "),
        ("screener.method=guess", "settings: screener.method: "),
        ("trade_timeframe=7m", "settings: trade_timeframe: "),
        ("trainer.n_splits=2.5", "settings: trainer.n_splits: "),
    ],
)
def test_a_bad_value_is_refused_by_name(read: Reader, option: str, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read([option])
    assert str(caught.value).startswith(fault)
    assert f"(got {option.partition('=')[2]!r})" in str(caught.value)


def test_no_options_leave_the_defaults() -> None:
    assert strategy_of([]) == StrategySettings()
    assert environment_of([]) == {}


def test_options_change_only_what_they_name() -> None:
    strategy = strategy_of(["screener.level=0.01", "trainer.labels.horizon_bars=7"])
    assert strategy.screener.level == 0.01
    assert strategy.trainer.labels.horizon_bars == 7
    changed = strategy.model_dump()
    changed["screener"]["level"] = StrategySettings().screener.level
    changed["trainer"]["labels"]["horizon_bars"] = StrategySettings().trainer.labels.horizon_bars
    assert changed == StrategySettings().model_dump()


def test_a_value_may_contain_the_sign_of_assignment() -> None:
    assert environment_of(["mlflow_url=file:x?a=b"]) == {"MNT_MLFLOW_URL": "file:x?a=b"}


# --- the environment of a process ---------------------------------------------------------


def test_options_reach_a_process_through_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [
        "screener.level=0.01",
        "trainer.labels.horizon_bars=7",
        "trade_timeframe=15m",
        "account=second",
        'replay.bars=["a.parquet","b.parquet"]',
        "replay.start=2024-03-01T00:00:00Z",
    ]
    environment = environment_of(options)
    assert environment["MNT_TRAINER__LABELS__HORIZON_BARS"] == "7"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.strategy == strategy_of(options)
    assert settings.strategy != StrategySettings()
    assert settings.account == "second"
    assert settings.replay.bars == (Path("a.parquet"), Path("b.parquet"))
    assert settings.replay.start_ms == 1_709_251_200_000
    assert settings.replay.end_ms is None


def test_every_setting_can_be_named_in_the_environment() -> None:
    names = setting_names()
    assert len(set(names)) == len(names)
    assert {"screener.method", "trainer.labels.kind", "replay.bars", "home"} <= set(names)


@pytest.mark.parametrize("name", ["MNT_SCREENER__METHD", "mnt_screener__methd", "MNT_PROT"])
def test_an_unknown_variable_is_refused_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"environment variable {name}: .*did you mean "):
        load_settings()


def test_a_variable_without_the_prefix_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCREENER__METHD", "1")
    assert load_settings().strategy == StrategySettings()


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("MNT_SCREENER__LEVEL", "1.5", "screener.level"),
        ("MNT_PORT", "70000", "port"),
        ("MNT_MODE", "live", "mode"),
    ],
)
def test_a_variable_with_a_bad_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, place: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"settings: {place}: .*\(got '{value}'\)"):
        load_settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNT_DATABASE_URL", "postgresql+asyncpg://mnt:hidden@h/d")
    monkeypatch.setenv("MNT_VENUE_API_SECRET", "hidden")
    settings = load_settings()
    assert "hidden" not in f"{settings!r} {settings} {settings.model_dump_json()}"


# --- instants and runs --------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["2024-03-01", "2024-03-01T00:00:00", "2024-03-01T00:00Z", "2024-03-01T01:00+01:00"]
)
def test_an_instant_without_a_zone_is_utc(value: str) -> None:
    assert as_utc(value) == datetime(2024, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("value", ["", "yesterday", "2024-13-01"])
def test_what_is_no_instant_is_refused_with_the_form_to_use(value: str) -> None:
    with pytest.raises(SettingsError, match=f"'{value}' is not an instant: write it as 2024-03-01"):
        as_utc(value)


def test_a_run_is_named_by_its_strategy_and_start() -> None:
    default, other = StrategySettings(), strategy_of(["screener.level=0.01"])
    names = {default.run_id(None), default.run_id(0), default.run_id(1), other.run_id(0)}
    assert len(names) == 4
    assert default.run_id(0) == strategy_of([]).run_id(0)


def test_the_example_lists_every_setting() -> None:
    example = Path(__file__).resolve().parents[2] / ".env.example"
    listed = re.findall(r"^#(MNT_[A-Z0-9_]+)=", example.read_text(), re.MULTILINE)
    expected = {f"MNT_{name.replace('.', '__').upper()}" for name in setting_names()}
    assert set(listed) == expected
    assert len(listed) == len(expected)


def test_families_are_named_with_commas_in_the_environment_and_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MNT_TRAINER__FAMILIES", "lightgbm,random_forest")
    assert load_settings().trainer.family_names == ("lightgbm", "random_forest")
    assert strategy_of(["trainer.families=lightgbm"]).trainer.family_names == ("lightgbm",)
    for unfit in ("", "lightgbm,lightgbm", "oracle", "lightgbm, random_forest"):
        with pytest.raises(SettingsError, match="name each family once"):
            strategy_of([f"trainer.families={unfit}"])
