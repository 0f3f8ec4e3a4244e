from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio

import cli.fleet.embedded
from cli.fleet.embedded import PASSWORD_SECRET, postgres_spec, postgres_url, redis_url
from cli.fleet.home import FleetError, FleetHome
from cli.fleet.status import ProcessState
from cli.fleet.supervisor import RestartPolicy, Supervisor
from cli.fleet.topology import server_specs
from tests.support import eventually, eventually_async, is_gone

PROJECT = Path(__file__).resolve().parents[2]
QUICK = RestartPolicy(first_pause_seconds=0.05, probe_pause_seconds=0.02)
IS_ROOT = os.geteuid() == 0

# A whole round as a program: start both servers, write, stop, start again, read back.
ROUND = """
import asyncio, pathlib, sys
import asyncpg
from cli.fleet.embedded import postgres_url
from cli.fleet.home import FleetHome
from cli.fleet.supervisor import Supervisor
from cli.fleet.topology import server_specs
home = FleetHome(pathlib.Path(sys.argv[1]))
async def sql(statement):
    connection = await asyncpg.connect(postgres_url(home, driver=""), timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()
async def redis(command):
    reader, writer = await asyncio.open_connection("127.0.0.1", home.port("valkey"))
    writer.write(command.encode() + b"\\r\\nQUIT\\r\\n")
    answer = await reader.read()
    writer.close()
    return answer.split()
async def main():
    async with Supervisor(home) as fleet:
        await fleet.start(server_specs(home, {}))
        await sql("CREATE TABLE note AS SELECT 'kept' AS words")
        await redis("SET note kept")
    async with Supervisor(home) as fleet:
        await fleet.start(server_specs(home, {}))
        print(await sql("SELECT words FROM note"), b"kept" in await redis("GET note"))
asyncio.run(main())
"""

FLEET = """
import asyncio, pathlib, sys
from cli.fleet.home import FleetHome
from cli.fleet.supervisor import Supervisor
from cli.fleet.topology import server_specs
async def main():
    home = FleetHome(pathlib.Path(sys.argv[1]))
    async with Supervisor(home) as fleet:
        await fleet.start(server_specs(home, {}))
        print("READY", flush=True)
        await fleet.run_until_signalled()
asyncio.run(main())
"""


@asynccontextmanager
async def postgres(home: FleetHome) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_url(home, driver=""), timeout=10)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def valkey(home: FleetHome) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.from_url(redis_url(home), decode_responses=True) as client:
        yield client


@asynccontextmanager
async def servers(home: FleetHome) -> AsyncIterator[Supervisor]:
    async with Supervisor(home, policy=QUICK) as fleet:
        await fleet.start(server_specs(home, {}))
        yield fleet


async def kill_and_wait(fleet: Supervisor, name: str) -> None:
    [before] = [status for status in fleet.status() if status.name == name]
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)

    async def is_back() -> bool:
        [now] = [status for status in fleet.status() if status.name == name]
        return now.state is ProcessState.READY and now.restarts == before.restarts + 1

    await eventually_async(is_back)


def kernel_status(pid: int | None) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: words.split() for key, words in (line.split(":", 1) for line in lines)}


def postgres_log(home: FleetHome) -> str:
    return (home.logs / "postgres.log").read_text()


@pytest.fixture
def home(tmp_path: Path) -> FleetHome:
    return FleetHome(tmp_path / "home")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that every user can pass: pytest closes its own to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def closed_folder(open_folder: Path) -> Path:
    open_folder.chmod(0o700)
    return open_folder


@contextmanager
def sleeper(uid: int, gid: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of the given user that has nothing to do with the fleet."""
    command = ["/bin/sleep", "600"]
    process = (
        subprocess.Popen(command, user=uid, group=gid, extra_groups=[])
        if IS_ROOT
        else subprocess.Popen(command)
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def test_data_survives_a_kill_of_each_server(home: FleetHome) -> None:
    async with servers(home) as fleet:
        async with postgres(home) as connection, valkey(home) as client:
            await connection.execute("CREATE TABLE fill (quantity bigint)")
            await connection.execute("INSERT INTO fill SELECT generate_series(1, 1000)")
            await client.xadd("bars.1h", {"data": "first"})
        await kill_and_wait(fleet, "postgres")
        await kill_and_wait(fleet, "valkey")
        async with postgres(home) as connection, valkey(home) as client:
            assert await connection.fetchval("SELECT sum(quantity) FROM fill") == 500_500
            assert await client.xlen("bars.1h") == 1
    assert "automatic recovery in progress" in postgres_log(home)


async def test_kill_in_the_middle_of_work_does_not_prevent_the_next_start(home: FleetHome) -> None:
    # A session in a long computation outlives its postmaster and holds the shared memory.
    async with servers(home) as fleet:
        async with postgres(home) as connection:
            busy = asyncio.create_task(
                connection.execute("SELECT count(*) FROM generate_series(1, 2000000000) AS n")
            )
            session = psutil.Process(connection.get_server_pid())
            await asyncio.wait({busy}, timeout=0.1)
            assert not busy.done()
            await kill_and_wait(fleet, "postgres")
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await busy
        assert is_gone(session)
        async with postgres(home) as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_clean_stop_leaves_no_process_and_needs_no_recovery(home: FleetHome) -> None:
    async with servers(home) as fleet:
        family = [
            member
            for status in fleet.status()
            for process in [psutil.Process(status.pid)]
            for member in [process, *process.children(recursive=True)]
        ]
        assert len(family) > 5  # Postgres is a family of its own
        async with postgres(home) as connection:
            await connection.execute("CREATE TABLE fill (quantity bigint)")
    assert all(is_gone(process) for process in family)
    assert postgres_log(home).rstrip().endswith("database system is shut down")
    async with servers(home):
        pass
    log = postgres_log(home)
    assert log.count("LOG:  database system was shut down at") == 2
    assert "recovery" not in log


async def test_stop_does_not_wait_for_idle_sessions(home: FleetHome) -> None:
    connection: asyncpg.Connection | None = None
    async with servers(home):
        connection = await asyncpg.connect(postgres_url(home, driver=""), timeout=10)
    assert "received fast shutdown request" in postgres_log(home)
    assert postgres_log(home).rstrip().endswith("database system is shut down")
    connection.terminate()


async def test_servers_listen_on_loopback_only(home: FleetHome) -> None:
    async with servers(home) as fleet:
        for status in fleet.status():
            listening = [
                connection.laddr
                for connection in psutil.Process(status.pid).net_connections("all")
                if connection.status == psutil.CONN_LISTEN
            ]
            assert [(address.ip, address.port) for address in listening] == [
                ("127.0.0.1", status.port)
            ]
            unix = psutil.Process(status.pid).net_connections("unix")
            assert not any(connection.laddr for connection in unix)


async def test_database_is_closed_without_its_password(home: FleetHome) -> None:
    async with servers(home):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host="127.0.0.1",
                port=home.port("postgres"),
                user="mnt",
                database="mnt",
                password="guess",
            )
        async with postgres(home) as connection:
            stored = await connection.fetchval(
                "SELECT rolpassword FROM pg_authid WHERE rolname = 'mnt'"
            )
            assert stored.startswith("SCRAM-SHA-256$")
    password = home.secrets / PASSWORD_SECRET
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert not list((home.path / "data").glob("*unfinished*"))  # nor a copy of it left behind


async def test_database_is_what_the_fleet_relies_on(home: FleetHome) -> None:
    async with servers(home), postgres(home) as connection, valkey(home) as client:
        for setting, value in {
            "server_encoding": "UTF8",
            "TimeZone": "UTC",
            "synchronous_commit": "on",
            "fsync": "on",
            "full_page_writes": "on",
            "jit": "off",
            "max_connections": "100",
            "shared_buffers": "128MB",
        }.items():
            assert await connection.fetchval(f"SHOW {setting}") == value
        collation = "SELECT datcollate FROM pg_database WHERE datname = 'mnt'"
        assert await connection.fetchval(collation) == "C"
        config = await client.config_get("append*", "save", "maxmemory-policy")
        assert config["appendonly"] == "yes"
        assert config["appendfsync"] == "everysec"
        assert config["maxmemory-policy"] == "noeviction"


async def test_dropped_database_is_made_again(home: FleetHome) -> None:
    async with servers(home):
        admin = postgres_url(home, driver="").removesuffix("/mnt") + "/postgres"
        connection = await asyncpg.connect(admin, timeout=10)
        await connection.execute("DROP DATABASE mnt")
        await connection.close()
    async with servers(home), postgres(home) as connection:
        assert await connection.fetchval("SELECT current_database()") == "mnt"


async def test_interrupted_first_start_is_begun_again(home: FleetHome) -> None:
    home.create()
    unfinished = home.path / "data" / "postgres.unfinished"
    (unfinished / "cluster").mkdir(parents=True)
    (unfinished / "cluster" / "PG_VERSION").write_text("18\n")
    async with servers(home), postgres(home) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    assert not unfinished.exists()


async def test_pid_file_that_names_a_stranger_does_not_prevent_the_start(home: FleetHome) -> None:
    async with servers(home):
        pid_file = home.postgres_data / "postmaster.pid"
        content = pid_file.read_text()
        owner = pid_file.stat()
    with sleeper(owner.st_uid, owner.st_gid) as stranger:
        pid_file.write_text(content.replace(content.split()[0], str(stranger.pid), 1))
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        pid_file.chmod(0o600)
        async with servers(home), postgres(home) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert stranger.poll() is None  # and it was none of ours to end


async def test_lost_password_is_named_as_the_cause(home: FleetHome) -> None:
    async with servers(home):
        pass
    (home.secrets / PASSWORD_SECRET).unlink()
    [spec] = [spec for spec in server_specs(FleetHome(home.path), {}) if spec.name == "postgres"]
    async with Supervisor(home, [spec], QUICK) as fleet:

        async def has_said_why() -> bool:
            reason = await spec.readiness()
            return reason is not None and f"restore secrets/{PASSWORD_SECRET}" in reason

        await eventually_async(has_said_why)
        assert fleet.status()[0].state is ProcessState.STARTING


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of the killed")
def test_killed_supervisor_leaves_no_server_and_the_next_one_starts(home: FleetHome) -> None:
    command = [sys.executable, "-c", FLEET, str(home.path)]
    for _ in range(2):
        with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as fleet:
            assert fleet.stdout is not None
            assert any(line.strip() == "READY" for line in iter(fleet.stdout.readline, ""))
            family = psutil.Process(fleet.pid).children(recursive=True)
            assert len(family) > 5
            fleet.kill()
            fleet.wait(30)
        for process in family:
            eventually(partial(is_gone, process))
    assert "automatic recovery in progress" in postgres_log(home)
    assert json.loads(home.state_file.read_text())["supervisor_pid"] == fleet.pid


@pytest.mark.skipif(not IS_ROOT, reason="only root has to run Postgres as another user")
async def test_root_runs_postgres_as_nobody_without_privileges(open_folder: Path) -> None:
    home = FleetHome(open_folder / "home")
    async with servers(home) as fleet:
        [pid] = [status.pid for status in fleet.status() if status.name == "postgres"]
        process = psutil.Process(pid)
        assert set(process.uids()) == {pwd.getpwnam("nobody").pw_uid}
        assert kernel_status(pid)["Groups"] == []
        programs, uid, gid = Path(process.exe()).parent, process.uids().real, process.gids().real
        if cli.fleet.embedded.first_closed_folder(programs, uid, gid):
            pytest.skip("the installed binaries are closed to nobody, which needs a capability")
        assert int(kernel_status(pid)["CapEff"][0], 16) == 0


@pytest.mark.skipif(not IS_ROOT, reason="only root has to run Postgres as another user")
async def test_root_runs_postgres_in_a_folder_closed_to_others(closed_folder: Path) -> None:
    home = FleetHome(closed_folder / "home")
    async with servers(home) as fleet, postgres(home) as connection:
        assert await connection.fetchval("SELECT 1") == 1
        [pid] = [status.pid for status in fleet.status() if status.name == "postgres"]
        kept = int(kernel_status(pid)["CapEff"][0], 16)
        assert kept.bit_count() == 1  # the one it needs to pass


@pytest.mark.skipif(not IS_ROOT, reason="only root has to run Postgres as another user")
def test_closed_folder_is_named_with_a_remedy_where_nothing_else_helps(
    closed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.fleet.embedded, "_searching_capability", lambda: None)
    with pytest.raises(FleetError, match=rf"chmod o\+x {closed_folder},"):
        postgres_spec(FleetHome(closed_folder / "home"))


def python_for_everyone() -> str | None:
    """Return an interpreter of this version that an ordinary user can run, if there is one."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        program = Path(candidate).resolve()
        if program.exists() and not cli.fleet.embedded.first_closed_folder(
            program.parent, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid
        ):
            return candidate
    return None


@pytest.mark.skipif(not IS_ROOT, reason="every other test has run as an ordinary user")
def test_ordinary_user_runs_both_servers(open_folder: Path) -> None:
    python = python_for_everyone()
    if python is None:
        pytest.skip("there is no interpreter of this version that nobody may run")
    nobody = pwd.getpwnam("nobody")
    packages = Path(asyncpg.__file__).parents[1]
    for needed in (PROJECT, packages):
        if cli.fleet.embedded.first_closed_folder(needed, nobody.pw_uid, nobody.pw_gid):
            pytest.skip(f"{needed} is closed to nobody")
    os.chown(open_folder, nobody.pw_uid, nobody.pw_gid)
    finished = subprocess.run(
        [python, "-c", ROUND, str(open_folder / "home")],
        check=False,
        cwd="/",
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        env={"PYTHONPATH": f"{PROJECT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.rstrip().endswith("kept True")
    assert {path.stat().st_uid for path in (open_folder / "home").rglob("*")} == {nobody.pw_uid}
