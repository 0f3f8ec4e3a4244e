"""The fleet does not start on a secret that can be guessed."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from cli.fleet.home import FleetHome
from cli.up import UpRequest, prepare_environment
from services.paper_exchange.settings import load_settings as load_venue_settings
from services.paper_exchange.settings import refuse_weak_secrets as refuse_weak_venue_secrets
from shared.errors import SettingsError
from shared.secret_files import require_strong
from shared.service import create_service
from shared.settings import PREFIX, load_settings, refuse_weak_secrets

STRONG = "kT8-wq2_Zr5vXn1bGm4sJd7hLf0cPy3u"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("secret", "fault"),
    [
        ("", "has 0 characters"),
        ("s" * 31, "has 31 characters, fewer than 32"),
        ("abcab" * 10, "repeats a few characters"),
        ("changeme-changeme-changeme-changeme", "is a default that everybody knows"),
        ("Password123456-PASSWORD123456-password", "is a default that everybody knows"),
        ("your_api_secret_your_api_secret_your", "is a default that everybody knows"),
        ("0123456789abcdef0123456789abcdef", "is a default that everybody knows"),
    ],
)
def test_a_secret_that_can_be_guessed_is_refused_and_not_shown(secret: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=f"MNT_X {fault}") as refused:
        require_strong("MNT_X", secret, 32)
    assert not secret or secret not in str(refused.value)


def test_random_secrets_are_strong() -> None:
    for _ in range(1_000):
        require_strong("MNT_X", secrets.token_urlsafe(32), 32)
        require_strong("MNT_X", secrets.token_hex(32), 32)
        require_strong("MNT_X", secrets.token_hex(9), 16)


@pytest.mark.parametrize("name", ["MNT_VENUE_API_KEY", "MNT_VENUE_API_SECRET"])
def test_a_trading_key_that_is_no_key_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MNT_VENUE_API_KEY", STRONG)
    monkeypatch.setenv("MNT_VENUE_API_SECRET", STRONG)
    refuse_weak_secrets(load_settings())
    refuse_weak_venue_secrets(load_venue_settings())
    monkeypatch.setenv(name, "secret")
    with pytest.raises(SettingsError, match=f"{name} has 6 characters"):
        refuse_weak_secrets(load_settings())
    with pytest.raises(SettingsError, match=f"{name} has 6 characters"):
        refuse_weak_venue_secrets(load_venue_settings())


@pytest.mark.parametrize("password", ["mnt", "postgres", "postgrespassword"])
def test_a_password_of_the_database_that_everybody_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("MNT_DATABASE_URL", f"postgresql+asyncpg://mnt:{password}@db/mnt")
    with pytest.raises(SettingsError, match="the password of MNT_DATABASE_URL"):
        refuse_weak_secrets(load_settings())
    monkeypatch.setenv("MNT_DATABASE_URL", "postgresql+asyncpg://mnt@db/mnt")
    refuse_weak_secrets(load_settings())


@pytest.mark.parametrize("content", [None, "short\n", "changeme" * 5])
def test_a_process_does_not_start_on_a_weak_token(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    for service in ("signals", "paper_exchange"):
        done = subprocess.run(
            [sys.executable, "-m", f"services.{service}"],
            env={
                **os.environ,
                "MNT_HOME": str(tmp_path),
                "MNT_API_TOKEN_FILE": str(file),
                **({"MNT_VENUE_API_KEY": STRONG, "MNT_VENUE_API_SECRET": STRONG}
                   if service == "paper_exchange" else {}),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 1
        assert "MNT_API_TOKEN_FILE" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_fleet_is_not_brought_up_on_a_weak_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "environ", {"MNT_VENUE_API_KEY": "key", "MNT_VENUE_API_SECRET": STRONG})
    with pytest.raises(SettingsError, match="MNT_VENUE_API_KEY has 3 characters"):
        prepare_environment(FleetHome(tmp_path), UpRequest("simulated"))


@pytest.mark.parametrize(
    "service", ["ingest", "screener", "features", "trainer", "signals", "portfolio", "console"]
)
@pytest.mark.parametrize("name", ["MNT_VENUE_API_KEY", "MNT_VENUE_API_SECRET"])
def test_a_service_that_is_given_trading_keys_it_has_no_use_for_does_not_start(
    monkeypatch: pytest.MonkeyPatch, service: str, name: str
) -> None:
    monkeypatch.setenv(name, STRONG)

    def build(_: object) -> object:
        raise AssertionError("it must not come to that")

    with pytest.raises(SettingsError, match=f"{service} is given trading keys"):
        create_service(service, "1", load_settings(), build)  # type: ignore[arg-type]
