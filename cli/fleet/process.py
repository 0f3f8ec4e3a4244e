"""What the supervisor must know of a process, and how one is begun and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from cli.fleet.home import FleetError

Probe = Callable[[], Awaitable[str | None]]
"""Asks a process how it is: `None` when well, else the reason why not."""

LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, slots=True)
class Account:
    """The user a process runs as, where it may not run as the supervisor's.

    Attributes
    ----------
    uid, gid
        Numeric ids of the user and its group.
    capability
        Number of the one Linux capability the process keeps, if any.
    """

    uid: int
    gid: int
    capability: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process of the fleet.

    Attributes
    ----------
    name
        Unique in the fleet; names the log file.
    argv
        Program, as an absolute path, and its arguments.
    readiness
        Well as soon as the process can be used by those that depend on it.
    env
        Added to the supervisor's own environment.
    port
        The loopback port it listens on, for `mnt status`.
    liveness
        Polled for as long as the process runs; a process that does not answer it is killed.
    depends_on
        Names of the processes that must be ready before each start, and are stopped later.
    prepare
        Awaited before each start.
    account
        The user to run as, where it is not the supervisor's.
    stop_signal
        Asks the process to end.
    grace_seconds
        How long it may take to end before its whole group is killed.
    ready_seconds
        How long it may take to become ready, or to give a first sign of life.
    """

    name: str
    argv: tuple[str, ...]
    readiness: Probe
    env: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    liveness: Probe | None = None
    depends_on: tuple[str, ...] = ()
    prepare: Callable[[], Awaitable[None]] | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 15.0
    ready_seconds: float = 120.0


def http_probe(url: str, timeout_seconds: float = 4.0) -> Probe:
    """Return a probe that is well when a GET of `url` answers 200."""

    async def probe() -> str | None:
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url) as response,
            ):
                if response.status == 200:
                    return None
                answer = (await response.text(errors="replace"))[:500]
                return f"GET {url} answered {response.status}: {answer}"
        except TimeoutError:
            return f"GET {url} had no answer within {timeout_seconds} s"
        except aiohttp.ClientError as error:
            return f"GET {url} failed: {error}"

    return probe


async def spawn(
    argv: tuple[str, ...],
    *,
    account: Account | None,
    env: Mapping[str, str],
    output: int,
) -> asyncio.subprocess.Process:
    """Begin a process in a session of its own that does not outlive this one (on Linux).

    Must be called from the main thread: the kernel's promise is tied to the thread that forks.

    Parameters
    ----------
    argv
        Absolute path of the program, and its arguments.
    account
        The user to run as; `None` is the present one.
    env
        Added to the present environment.
    output
        Descriptor that receives its stdout and stderr.
    """
    identity = "-"
    if account is not None:
        capability = "" if account.capability is None else account.capability
        identity = f"{account.uid}:{account.gid}:{capability}"
    # -I and -S: the launcher needs nothing but the standard library.
    launcher = (sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), identity)
    return await asyncio.create_subprocess_exec(
        *launcher,
        *argv,
        env={**os.environ, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def kill_group(pid: int) -> None:
    """Kill a process and whatever it has begun in its own process group."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


async def run_to_end(argv: tuple[str, ...], *, account: Account | None, log: Path) -> None:
    """Run a program that ends by itself, its output appended to a log.

    Raises
    ------
    FleetError
        If it ends with another code than 0.
    """
    with log.open("ab") as output:
        process = await spawn(argv, account=account, env={}, output=output.fileno())
        try:
            code = await process.wait()
        finally:
            kill_group(process.pid)
    if code != 0:
        raise FleetError(f"{argv[0]} {describe_exit(code)}: see {log}")


def describe_exit(code: int) -> str:
    """Return an exit code of a process in words."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"exited with code {code}"


def log_tail(log: Path, n_lines: int = 20, n_bytes: int = 16_384) -> str:
    """Return the last lines of a log, indented, to be shown in an error."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - n_bytes))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in lines[-n_lines:]) or "    (empty)"
