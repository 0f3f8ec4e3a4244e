from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from cli.main import app
from shared.errors import PermanentError
from tests.serving import recording


async def test_tokens_are_made_listed_rotated_and_revoked_by_command(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNT_DATABASE_URL", database_url)

    def run(*words: str) -> object:
        home = ["--home", str(tmp_path)]
        done = CliRunner().invoke(app, ["token", *words, "--json", *home])
        if done.exception is not None:
            raise done.exception
        return orjson.loads(done.stdout)

    def act() -> tuple[dict[str, str], list[dict[str, object]]]:
        created = run("create", "desk", "--scope", "trade", "--scope", "read", "--days", "7")
        assert isinstance(created, dict)
        assert created["scopes"] == ["read", "trade"]
        assert len(created["token"]) > 40
        with pytest.raises(PermanentError, match="'desk' is in use"):
            run("create", "desk", "--scope", "read")
        with pytest.raises(PermanentError, match="choose some of read, control, trade"):
            run("create", "other", "--scope", "all")
        run("rotate")
        first = (tmp_path / "secrets" / "token").read_text()
        run("rotate")
        file = tmp_path / "secrets" / "token"
        assert (file.stat().st_mode & 0o777, file.read_text() == first) == (0o600, False)
        run("revoke", "desk")
        with pytest.raises(PermanentError, match="no token in use has the label 'desk'"):
            run("revoke", "desk")
        listed = run("list")
        assert isinstance(listed, list)
        return created, listed

    created, listed = await asyncio.to_thread(act)
    assert [(each["label"], each["state"]) for each in listed] == [
        ("home", "in force"),
        ("home", "revoked"),
        ("desk", "revoked"),
    ]
    assert created["token"] not in str(listed)
    async with recording(database_url, redis_url) as record:
        trail = await record.rows("SELECT path, is_done FROM audit_log ORDER BY request_id")
    assert trail == [
        ("mnt token create desk read,trade 7 days", True),
        ("mnt token rotate home", True),
        ("mnt token rotate home", True),
        ("mnt token revoke desk", True),
    ]
