"""Keeps the processes of a fleet running, each an OS process of its own.

    async with Supervisor(home) as fleet:
        await fleet.start(servers)
        await migrate_the_database()
        await fleet.start(services)
        await fleet.run_until_signalled()

A process that ends is begun again, one that no longer answers is killed first. Those that
depend on a process start after it is ready and stop before it. Whatever ends the supervisor
ends the fleet: in order on SIGINT, SIGTERM and errors, by the kernel's hand when the
supervisor is killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import structlog

from cli.fleet.home import FleetError, FleetHome
from cli.fleet.process import (
    Probe,
    ProcessSpec,
    describe_exit,
    kill_group,
    log_tail,
    spawn,
)
from cli.fleet.status import ProcessState, ProcessStatus, kill_leftovers, write_status
from shared.clock import monotonic_seconds
from shared.errors import MntError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a process is begun again, and when it counts as dead though it runs.

    Attributes
    ----------
    first_pause_seconds, longest_pause_seconds
        Pause before the first restart; it doubles with each further failure up to the longest.
    healthy_seconds
        A process that was ready for so long has earned a first pause again.
    start_tries
        After so many deaths without once being ready, `Supervisor.ready` reports a failure;
        the process is tried on.
    probe_pause_seconds
        Between two questions whether a starting process is ready.
    liveness_interval_seconds, liveness_failures
        A process is killed after so many questions, so far apart, without a good answer.
    """

    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 30.0
    healthy_seconds: float = 30.0
    start_tries: int = 5
    probe_pause_seconds: float = 0.05
    liveness_interval_seconds: float = 5.0
    liveness_failures: int = 6

    def pause_seconds(self, n_failures: int) -> float:
        """Return the pause after the given number of failures in a row, at least one."""
        doublings = min(n_failures - 1, 32)
        return min(self.first_pause_seconds * 2.0**doublings, self.longest_pause_seconds)


@dataclass(slots=True)
class _Managed:
    """A process as the supervisor sees it."""

    spec: ProcessSpec
    log: Path
    state: ProcessState = ProcessState.STARTING
    pid: int | None = None
    started_at: float | None = None
    n_restarts: int = 0
    n_failures: int = 0
    ready_since: float | None = None
    trouble: str = "it was never started"
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    is_settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Is ready, or has failed so often that waiting on is pointless."""

    def status(self) -> ProcessStatus:
        return ProcessStatus(
            self.spec.name,
            self.pid,
            self.spec.port,
            self.state,
            self.n_restarts,
            self.started_at,
        )


class Supervisor:
    """An asynchronous context in which the processes of a fleet run.

    Parameters
    ----------
    home
        The home; no other supervisor may run on it.
    specs
        Processes to begin at once; more can follow with `start`.
    policy
        When processes are begun again.

    Raises
    ------
    FleetError
        On entering: if another supervisor runs on the home, or the processes depend on each
        other in a circle or on unknown ones.
    """

    def __init__(
        self,
        home: FleetHome,
        specs: Sequence[ProcessSpec] = (),
        policy: RestartPolicy = RestartPolicy(),
    ) -> None:
        self._home = home
        self._first_specs = specs
        self._policy = policy
        self._managed: dict[str, _Managed] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stack = AsyncExitStack()
        self._body: asyncio.Task[object] | None = None
        self._is_signalled = False
        self._is_leaving = False
        self._defect: BaseException | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._home.lock())
            kill_leftovers(self._home)
            self._body = asyncio.current_task()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._interrupt)
                stack.callback(loop.remove_signal_handler, number)
            self.launch(self._first_specs)
            self._record()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._is_leaving = True
        async with self._stack:  # the lock goes last, when everything has stopped
            await self._stop_all()
            write_status(self._home, None, self.status())
        is_ours = kind is asyncio.CancelledError and (self._is_signalled or self._defect)
        if is_ours and self._body is not None:
            self._body.uncancel()
        if self._defect is not None:
            raise self._defect
        return bool(is_ours)

    def launch(self, specs: Sequence[ProcessSpec]) -> None:
        """Begin processes, each as soon as those it depends on are ready, and return at once.

        Raises
        ------
        FleetError
            If a name is taken, a dependency unknown, or processes depend on each other in a
            circle.
        """
        batch = {spec.name: spec for spec in specs}
        known = self._managed.keys() | batch.keys()
        if len(batch) < len(specs) or self._managed.keys() & batch.keys():
            raise FleetError(f"a process is named twice: {sorted(spec.name for spec in specs)}")
        for spec in specs:
            if unknown := set(spec.depends_on) - known:
                raise FleetError(f"{spec.name} depends on {sorted(unknown)}: start these too")
        try:
            order = list(
                TopologicalSorter({n: s.depends_on for n, s in batch.items()}).static_order()
            )
        except CycleError as error:
            raise FleetError(
                f"processes depend on each other in a circle: {error.args[1]}"
            ) from error
        for name in order:
            if name in batch:
                log_file = self._home.logs / f"{name}.log"
                self._managed[name] = _Managed(batch[name], log_file)
                task = asyncio.create_task(self._keep_running(self._managed[name]), name=name)
                task.add_done_callback(self._notice_defect)
                self._tasks[name] = task

    async def start(self, specs: Sequence[ProcessSpec]) -> None:
        """Begin processes and wait until everything begun so far is ready.

        Raises
        ------
        FleetError
            As `launch` and `ready` do.
        """
        self.launch(specs)
        await self.ready()

    async def ready(self) -> None:
        """Wait until every process is ready.

        Raises
        ------
        FleetError
            If a process does not become ready in its time, or dies too often before it does.
            It has the end of the process's log. The process is tried on all the same, until
            this context is left.
        """
        for managed in list(self._managed.values()):  # in order of dependence: the cause first
            spec = managed.spec
            is_hopeless = False
            try:
                async with asyncio.timeout(spec.ready_seconds):
                    while not managed.is_ready.is_set() and not is_hopeless:
                        await managed.is_settled.wait()
                        is_hopeless = managed.n_failures >= self._policy.start_tries
                why = f"has died {managed.n_failures} times in a row"
            except TimeoutError:
                why = f"is not ready after {spec.ready_seconds:g} s"
            if not managed.is_ready.is_set():
                raise FleetError(
                    f"{spec.name} {why}: {managed.trouble}; {managed.log} ends with\n"
                    f"{log_tail(managed.log)}"
                )

    async def run_until_signalled(self) -> None:
        """Return on SIGINT or SIGTERM.

        A signal that comes while the body of the context does something else leaves the body
        there and then, as if it had been cancelled, and the context quietly.
        """
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not self._is_signalled or self._body is None:
                raise
            self._body.uncancel()

    def status(self) -> list[ProcessStatus]:
        """Return every process as it is now."""
        return [managed.status() for managed in self._managed.values()]

    def _interrupt(self) -> None:
        if not self._is_signalled:
            self._is_signalled = True
            self._leave()

    def _notice_defect(self, task: asyncio.Task[None]) -> None:
        # A process may fail, its supervision may not: better no fleet than one unattended.
        if not task.cancelled() and task.exception() is not None and self._defect is None:
            self._defect = task.exception()
            self._leave()

    def _leave(self) -> None:
        if not self._is_leaving and self._body is not None:
            self._is_leaving = True
            self._body.cancel()

    def _record(self) -> None:
        try:
            write_status(self._home, os.getpid(), self.status())
        except OSError as error:
            # A full disk must not end the fleet: what is on the record waits for space.
            log.error(
                "the process table could not be written",
                file=str(self._home.state_file),
                reason=error.strerror,
                remedy="make space on the disk",
            )

    def _enter(self, managed: _Managed, state: ProcessState, trouble: str) -> None:
        """Change the state of a process and tell everyone who waits for it."""
        managed.state = state
        managed.trouble = trouble
        if state is ProcessState.READY:
            managed.ready_since = monotonic_seconds()
            managed.is_ready.set()
            managed.is_settled.set()
        else:
            managed.is_ready.clear()
            if managed.n_failures < self._policy.start_tries:
                managed.is_settled.clear()
            else:
                managed.is_settled.set()
        self._record()

    async def _keep_running(self, managed: _Managed) -> None:
        spec = managed.spec
        while True:
            for name in spec.depends_on:
                managed.trouble = f"it waits for {name}"
                await self._managed[name].is_ready.wait()
            managed.ready_since = None
            try:
                reason = await self._run_once(managed)
            except (MntError, OSError) as error:  # it could not even be begun
                reason = str(error)
            managed.pid = managed.started_at = None
            was_healthy_for = (
                0.0 if managed.ready_since is None else monotonic_seconds() - managed.ready_since
            )
            if was_healthy_for >= self._policy.healthy_seconds:
                managed.n_failures = 0
            managed.n_failures += 1
            managed.n_restarts += 1
            pause = self._policy.pause_seconds(managed.n_failures)
            log.warning("process died", process=spec.name, reason=reason, restart_in_seconds=pause)
            self._enter(managed, ProcessState.RESTARTING, reason)
            await asyncio.sleep(pause)

    async def _run_once(self, managed: _Managed) -> str:
        """Run a process until it ends or has to be killed; return why it is no more."""
        spec = managed.spec
        if spec.prepare is not None:
            await spec.prepare()
        with managed.log.open("ab") as output:
            process = await spawn(
                spec.argv, account=spec.account, env=spec.env, output=output.fileno()
            )
        exited = asyncio.create_task(process.wait())
        watched = asyncio.create_task(self._watch(managed))
        try:
            managed.pid = process.pid
            managed.started_at = _started_at(process.pid)
            self._record()
            await asyncio.wait({exited, watched}, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return f"it {describe_exit(exited.result())}"
            reason = watched.result()
            kill_group(process.pid)  # it does not answer: no use in asking it to end
            return reason
        finally:
            watched.cancel()
            await asyncio.wait({watched})
            await self._end(spec, process, exited)

    async def _watch(self, managed: _Managed) -> str:
        """Announce a process once it is ready; return, with the reason, if it must be killed."""
        spec, policy = managed.spec, self._policy
        began = monotonic_seconds()
        while (trouble := await spec.readiness()) is not None:
            managed.trouble = trouble
            # Not ready is no fault while it shows life: a backfill may take its time.
            is_overdue = monotonic_seconds() - began > spec.ready_seconds
            if is_overdue and spec.liveness is not None and await spec.liveness() is not None:
                return f"no sign of life {spec.ready_seconds:g} s after its start: {trouble}"
            await asyncio.sleep(policy.probe_pause_seconds)
        self._enter(managed, ProcessState.READY, "")
        log.info("process ready", process=spec.name, pid=managed.pid, port=spec.port)
        if spec.liveness is None:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")
        return await self._watch_liveness(spec.liveness)

    async def _watch_liveness(self, liveness: Probe) -> str:
        n_failures = 0
        while True:
            await asyncio.sleep(self._policy.liveness_interval_seconds)
            trouble = await liveness()
            n_failures = 0 if trouble is None else n_failures + 1
            if n_failures >= self._policy.liveness_failures:
                return f"no good answer to {n_failures} questions in a row: {trouble}"

    async def _end(
        self, spec: ProcessSpec, process: asyncio.subprocess.Process, exited: asyncio.Task[int]
    ) -> None:
        """End a process if it still runs, in order if it will, and whatever it has begun."""
        if not exited.done():
            with suppress(ProcessLookupError):  # it has ended this very moment
                process.send_signal(spec.stop_signal)
            await asyncio.wait({exited}, timeout=spec.grace_seconds)
            if not exited.done():
                log.warning(
                    "process killed, it did not end in its time",
                    process=spec.name,
                    grace_seconds=spec.grace_seconds,
                )
        kill_group(process.pid)
        await exited

    async def _stop_all(self) -> None:
        """Stop what nothing depends on any more, until nothing is left."""
        running = dict(self._managed)
        while running:
            needed = {name for managed in running.values() for name in managed.spec.depends_on}
            leaves = running.keys() - needed
            await asyncio.gather(*(self._stop(running.pop(name)) for name in leaves))

    async def _stop(self, managed: _Managed) -> None:
        task = self._tasks[managed.spec.name]
        task.cancel()
        await asyncio.wait({task})
        managed.pid = managed.started_at = None
        self._enter(managed, ProcessState.STOPPED, "it was stopped")


def _started_at(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:  # it has ended already, and been waited for
        return None
