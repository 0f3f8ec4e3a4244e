from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.fleet.access import database_url
from cli.fleet.home import FleetHome
from cli.fleet.topology import take_keys
from services.paper_exchange.settings import load_settings as load_venue_settings
from shared.errors import SettingsError
from shared.secret_files import secrets_from_files
from shared.settings import PREFIX, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("hush\n")
    return file


def test_only_secrets_whose_files_are_named_are_read(key_file: Path) -> None:
    environment = {"MNT_VENUE_API_KEY_FILE": str(key_file), "MNT_VENUE_API_SECRET_FILE": ""}
    assert secrets_from_files(environment, ("venue_api_key", "venue_api_secret")) == {
        "venue_api_key": "hush"
    }


def test_a_secret_in_a_file_and_by_value_is_refused(key_file: Path) -> None:
    environment = {"MNT_VENUE_API_KEY_FILE": str(key_file), "MNT_VENUE_API_KEY": "hush"}
    with pytest.raises(SettingsError, match="MNT_VENUE_API_KEY_FILE are both given") as refused:
        secrets_from_files(environment, ("venue_api_key",))
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_secret_file_that_holds_none_is_refused_by_name(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"MNT_VENUE_API_KEY_FILE {file} (is empty|cannot be)"):
        secrets_from_files({"MNT_VENUE_API_KEY_FILE": str(file)}, ("venue_api_key",))


def test_the_executor_and_the_venue_read_the_same_key_files(
    monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    monkeypatch.setenv("MNT_VENUE_API_KEY_FILE", str(key_file))
    monkeypatch.setenv("MNT_VENUE_API_SECRET_FILE", str(key_file))
    executor, venue = load_settings(), load_venue_settings()
    assert executor.venue_api_key == venue.venue_api_key
    assert executor.venue_api_secret is not None
    assert executor.venue_api_secret.get_secret_value() == "hush"
    assert "hush" not in f"{executor!r} {venue!r}"


def test_a_password_in_a_file_is_written_into_the_url_of_services_and_commands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/word\n")
    monkeypatch.setenv("MNT_DATABASE_URL", "postgresql+asyncpg://mnt@db:5432/mnt")
    monkeypatch.setenv("MNT_DATABASE_PASSWORD_FILE", str(file))
    expected = "postgresql+asyncpg://mnt:p%40ss%2Fword@db:5432/mnt"
    assert load_settings().database_url.get_secret_value() == expected
    assert database_url(FleetHome(tmp_path)) == expected


def test_a_password_in_the_url_and_in_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    monkeypatch.setenv("MNT_DATABASE_URL", "postgresql+asyncpg://mnt:hush@db/mnt")
    monkeypatch.setenv("MNT_DATABASE_PASSWORD_FILE", str(key_file))
    with pytest.raises(SettingsError, match="both give a password") as refused:
        load_settings()
    assert "hush" not in str(refused.value)


def test_a_supervisor_takes_key_files_out_of_the_environment_its_services_inherit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key_file: Path
) -> None:
    monkeypatch.setenv("MNT_VENUE_API_KEY_FILE", str(key_file))
    assert take_keys(FleetHome(tmp_path)) == {"MNT_VENUE_API_KEY_FILE": str(key_file)}
    assert "MNT_VENUE_API_KEY_FILE" not in os.environ
