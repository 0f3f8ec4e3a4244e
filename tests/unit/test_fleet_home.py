from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from cli.fleet.embedded import first_closed_folder
from cli.fleet.home import FIRST_PORT, LAST_PORT, FleetError, FleetHome, is_port_free, resolve_home


def listen_on(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def test_token_is_made_once_and_is_closed_to_others(tmp_path: Path) -> None:
    home = FleetHome(tmp_path / "home")
    token = home.token()
    assert len(token) >= 43  # 256 bits in base64
    assert FleetHome(tmp_path / "home").token() == token
    assert stat.S_IMODE(home.token_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700
    assert [path.name for path in home.secrets.iterdir()] == ["token"]


def test_token_is_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        home = FleetHome(tmp_path / "home")
        home.token()
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.token_file.stat().st_mode) == 0o600


def test_secrets_differ_by_name_and_by_home(tmp_path: Path) -> None:
    one, other = FleetHome(tmp_path / "one"), FleetHome(tmp_path / "other")
    assert len({one.token(), one.secret("postgres_password"), other.token()}) == 3


def test_ports_are_remembered_distinct_and_below_the_ephemeral_range(tmp_path: Path) -> None:
    names = ["valkey", "postgres", "ingest", "executor"]
    home = FleetHome(tmp_path / "home")
    ports = {name: home.claim_port(name) for name in names}
    assert len(set(ports.values())) == len(names)
    assert all(FIRST_PORT <= port <= LAST_PORT for port in ports.values())
    again = FleetHome(tmp_path / "home")
    assert {name: again.claim_port(name) for name in names} == ports
    assert again.ports() == ports


def test_port_taken_by_another_program_is_picked_anew(tmp_path: Path) -> None:
    port = FleetHome(tmp_path / "home").claim_port("valkey")
    with listen_on(port):
        assert not is_port_free(port)
        later = FleetHome(tmp_path / "home")
        assert later.port("valkey") == port  # asking where it is moves nothing
        moved = later.claim_port("valkey")
        assert moved != port
        assert later.port("valkey") == moved


def test_port_in_use_by_the_running_fleet_is_kept(tmp_path: Path) -> None:
    home = FleetHome(tmp_path / "home")
    port = home.claim_port("valkey")
    with home.lock(), listen_on(port):
        assert home.claim_port("valkey") == port


def test_port_is_free_again_while_old_connections_linger(tmp_path: Path) -> None:
    port = FleetHome(tmp_path / "home").port("valkey")
    with listen_on(port) as listener:
        client = socket.create_connection(("127.0.0.1", port))
        served, _ = listener.accept()
        served.close()  # the side that closes first is left in TIME_WAIT
        client.close()
    assert is_port_free(port)


def test_second_lock_names_the_home_and_the_holder(tmp_path: Path) -> None:
    home = FleetHome(tmp_path / "home")
    with home.lock():
        assert home.supervisor_pid() == os.getpid()
        with pytest.raises(FleetError, match=rf"{home.path}.* pid {os.getpid()}:.*--home"):
            FleetHome(tmp_path / "home").lock().__enter__()
    assert home.supervisor_pid() is None
    with home.lock():
        pass


def test_lock_of_one_home_leaves_another_free(tmp_path: Path) -> None:
    with FleetHome(tmp_path / "one").lock(), FleetHome(tmp_path / "other").lock():
        pass


def test_number_of_a_dead_supervisor_is_not_believed(tmp_path: Path) -> None:
    home = FleetHome(tmp_path / "home")
    home.create()
    home.lock_file.write_text(str(os.getpid()))  # alive, but holding no lock
    assert home.supervisor_pid() is None


def test_home_is_the_option_then_the_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MNT_HOME", raising=False)
    assert resolve_home(None).path == tmp_path.resolve() / ".mnt"
    monkeypatch.setenv("MNT_HOME", str(tmp_path / "named"))
    assert resolve_home(None).path == tmp_path.resolve() / "named"
    assert resolve_home(Path("given")).path == tmp_path.resolve() / "given"


def test_asking_about_a_home_makes_no_folder(tmp_path: Path) -> None:
    home = FleetHome(tmp_path / "home")
    assert home.ports() == {}
    assert home.supervisor_pid() is None
    assert not home.path.exists()


def test_home_that_cannot_be_made_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FleetError, match=r"file.*--home"):
        FleetHome(tmp_path / "file" / "home").create()


def test_folder_closed_to_a_user_is_found() -> None:
    stranger = 60_123
    # Not `tmp_path`: pytest closes its own folders to others.
    with tempfile.TemporaryDirectory() as name:
        closed = Path(name)
        inner = closed / "inner"
        inner.mkdir(mode=0o755)
        owner = closed.stat()
        assert first_closed_folder(inner, stranger, stranger) == closed
        assert first_closed_folder(inner, owner.st_uid, stranger) is None
        closed.chmod(0o711)
        assert first_closed_folder(inner, stranger, stranger) is None
        closed.chmod(0o710)
        assert first_closed_folder(inner, stranger, owner.st_gid) is None
        assert first_closed_folder(inner, stranger, stranger) == closed
