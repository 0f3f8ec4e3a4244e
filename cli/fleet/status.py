"""What runs in a home, as `mnt status` shows it, and how `mnt stop` ends it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import psutil

from cli.fleet.home import FleetError, FleetHome, write_atomically
from cli.fleet.process import kill_group
from shared.clock import monotonic_seconds

# The kernel's start of a process is told relative to a boot time that wavers by a second.
START_TOLERANCE_SECONDS = 3.0
KILL_SECONDS = 10.0
POLL_SECONDS = 0.02


class ProcessState(StrEnum):
    """Where a process of the fleet is in its life."""

    STARTING = "starting"
    """Begun for the first time, or waiting for what it depends on."""
    READY = "ready"
    RESTARTING = "restarting"
    """Has died and is begun again, or waits for its next try."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the fleet, as far as `run/fleet.json` and the kernel know.

    Attributes
    ----------
    name
        Its name in the fleet.
    pid
        Its process id, if it runs.
    port
        The loopback port it listens on, if it does.
    state
        Where it is in its life.
    restarts
        How often it has died and been begun again under the present supervisor.
    started_at
        When the kernel says it began, in seconds since 1970, to tell its id from a reused one.
    """

    name: str
    pid: int | None
    port: int | None
    state: ProcessState
    restarts: int
    started_at: float | None = None

    def is_alive(self) -> bool:
        """Tell whether this very process runs, not another that was given its number."""
        if self.pid is None or self.started_at is None:
            return False
        try:
            process = psutil.Process(self.pid)
            return (
                not _is_gone(process)
                and abs(process.create_time() - self.started_at) < START_TOLERANCE_SECONDS
            )
        except psutil.NoSuchProcess:
            return False


def write_status(
    home: FleetHome, supervisor_pid: int | None, processes: Sequence[ProcessStatus]
) -> None:
    """Replace `run/fleet.json`."""
    record = {"supervisor_pid": supervisor_pid, "processes": [asdict(p) for p in processes]}
    write_atomically(home.state_file, json.dumps(record, indent=1) + "\n")


def read_status(home: FleetHome) -> list[ProcessStatus]:
    """Return every process of the home's fleet, as it is and not only as it was written down.

    A process that has died is `stopped` when no supervisor runs, else about to be begun again.
    Empty if no fleet was ever started here.
    """
    is_supervised = home.supervisor_pid() is not None
    return [_as_it_is(written, is_supervised) for written in _read(home)]


def _as_it_is(written: ProcessStatus, is_supervised: bool) -> ProcessStatus:
    if written.is_alive():
        return written
    state = written.state if is_supervised else ProcessState.STOPPED
    if state is ProcessState.READY:
        state = ProcessState.RESTARTING
    return ProcessStatus(written.name, None, written.port, state, written.restarts)


def _read(home: FleetHome) -> list[ProcessStatus]:
    try:
        record: dict[str, Any] = json.loads(home.state_file.read_text())
    except FileNotFoundError:
        return []
    return [
        ProcessStatus(**{**process, "state": ProcessState(process["state"])})
        for process in record["processes"]
    ]


def kill_leftovers(home: FleetHome) -> None:
    """Kill what a supervisor that was itself killed has left running.

    On Linux nothing is: the kernel kills the children of a killed supervisor. Call it only
    while no supervisor runs on the home.

    Raises
    ------
    FleetError
        If a process does not go away.
    """
    leftovers = [written for written in _read(home) if written.is_alive()]
    processes = []
    for leftover in leftovers:
        assert leftover.pid is not None  # noqa: S101 - alive means it has one
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(leftover.pid))
            kill_group(leftover.pid)
    if alive := wait_until_gone(processes, KILL_SECONDS):
        raise FleetError(f"processes {[p.pid for p in alive]} of {home.path} do not end: kill them")


def wait_until_gone(
    processes: Sequence[psutil.Process], timeout_seconds: float
) -> list[psutil.Process]:
    """Wait for processes to end, and return those that have not within the timeout.

    A process that has ended and was not waited for by its parent counts as gone: in a
    container nobody may ever wait for it.
    """
    deadline = monotonic_seconds() + timeout_seconds
    while True:
        alive = [process for process in processes if not _is_gone(process)]
        if not alive or monotonic_seconds() > deadline:
            return alive
        time.sleep(POLL_SECONDS)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stop_fleet(home: FleetHome, timeout_seconds: float = 120.0) -> bool:
    """Stop the fleet that runs on a home and wait until all its processes are gone.

    The supervisor is asked first; if it has not ended within the timeout it is killed, and its
    processes with it.

    Parameters
    ----------
    home
        The home whose fleet is to stop.
    timeout_seconds
        How long the fleet may take to stop in order.

    Returns
    -------
    bool
        Whether there was a fleet to stop.
    """
    if not home.state_file.exists():
        return False
    pid = home.supervisor_pid()
    if pid is not None:
        with suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(pid)
            supervisor.terminate()
            if wait_until_gone([supervisor], timeout_seconds):
                supervisor.kill()
                wait_until_gone([supervisor], KILL_SECONDS)
    with home.lock():
        kill_leftovers(home)
        stopped = [_as_it_is(written, is_supervised=False) for written in _read(home)]
        write_status(home, None, stopped)
    return pid is not None
