"""Cycles that the service starts: processes of their own, known by what lies in their folders.

A cycle outlives the service that started it. Its folder says what was asked for and by whom, and
how it ended; so a service that was restarted knows of it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import orjson
import psutil
from pydantic import BaseModel, Field, ValidationError

from shared.clock import utc_now
from shared.errors import DataError, PermanentError, StoreError

Kind = Literal["short", "full"]
State = Literal["running", "finished", "failed", "lost"]

_STARTED, _OUTCOME, _LOG, _RESULT = "started.json", "outcome.json", "log.txt", "result"
_JOB_MODULE = "cli.cycle.job"
_MOST_LOG = 4000
"""Last characters of the log that are told."""
_children: set[subprocess.Popen[bytes]] = set()
"""Processes that this one must ask about, so that none that ended stays a zombie."""


class CycleRunningError(PermanentError):
    """Another cycle runs: wait for it, since two would share the memory of one."""


class Started(BaseModel, frozen=True, extra="forbid"):
    """What a folder says of the start of its cycle.

    Attributes
    ----------
    process_started
        When the operating system says the process began; a number may be given out again.
    """

    cycle_id: str
    kind: Kind
    started_at: datetime
    started_by: str
    arguments: tuple[str, ...]
    pid: int
    process_started: float


class CycleRun(BaseModel, frozen=True):
    """A cycle that was started.

    Attributes
    ----------
    state
        `lost` where its process is gone and left no exit code behind.
    verdict
        Decision and reasons of one that finished.
    log
        The last lines it printed.
    """

    cycle_id: str
    kind: Kind
    state: State
    started_at: datetime
    started_by: str
    arguments: tuple[str, ...]
    exit_code: int | None = None
    verdict: dict[str, Any] | None = None
    log: str = ""


class Artefact(BaseModel, frozen=True):
    """A file that a finished cycle made."""

    cycle_id: str
    path: str
    n_bytes: int = Field(ge=0)
    sha256: str


class Cycles:
    """The cycles of a home.

    Parameters
    ----------
    home
        Folder of the fleet's state.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home.resolve() / "cycles"
        self._home = home.resolve()

    def start(self, kind: Kind, options: Sequence[str], started_by: str) -> CycleRun:
        """Start a cycle on the bars of the record.

        Parameters
        ----------
        kind, options
            As of `mnt cycle`.
        started_by
            Label of the token that asked.

        Raises
        ------
        CycleRunningError
            If one runs already.
        StoreError
            If the folder cannot be written or no process be started.
        """
        running = next((run for run in self.find_all() if run.state == "running"), None)
        if running is not None:
            raise CycleRunningError(f"cycle {running.cycle_id} still runs: wait until it has ended")
        now = utc_now()
        cycle_id = f"{now:%Y%m%dT%H%M%S%f}-{kind}"
        folder = self._folder / cycle_id
        arguments = [
            "cycle", kind, "--out", str(folder / _RESULT), "--home", str(self._home), *options,
        ]  # fmt: skip
        try:
            folder.mkdir(parents=True)
            with (folder / _LOG).open("wb") as log:
                process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-m", _JOB_MODULE, str(folder), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            _children.add(process)
            started = Started(
                cycle_id=cycle_id, kind=kind, started_at=now, started_by=started_by,
                arguments=tuple(options), pid=process.pid,
                process_started=psutil.Process(process.pid).create_time(),
            )  # fmt: skip
            (folder / _STARTED).write_text(started.model_dump_json())
        except (OSError, psutil.Error) as error:
            raise StoreError(
                f"cycle {cycle_id} could not be started ({error!r}): see {folder}"
            ) from error
        return self._run(folder)

    def find(self, cycle_id: str) -> CycleRun | None:
        """Return a cycle by its id, None where there is none."""
        return next((run for run in self.find_all() if run.cycle_id == cycle_id), None)

    def find_all(self) -> list[CycleRun]:
        """Return every cycle, newest first."""
        for child in [child for child in _children if child.poll() is not None]:
            _children.discard(child)
        folders = sorted(self._folder.glob(f"*/{_STARTED}"), reverse=True)
        return [self._run(path.parent) for path in folders]

    def artefacts(self, cycle_id: str | None = None) -> list[Artefact]:
        """Return the files of finished cycles, by their manifests, newest cycle first.

        Parameters
        ----------
        cycle_id
            Only those of this cycle.

        Raises
        ------
        DataError
            If a manifest cannot be read.
        """
        found = []
        runs = [run for run in self.find_all() if cycle_id in (None, run.cycle_id)]
        for run in runs:
            for name, sha256 in sorted(self._files(run).items()):
                path = self._folder / run.cycle_id / _RESULT / name
                if path.is_file():
                    found.append(
                        Artefact(
                            cycle_id=run.cycle_id,
                            path=name,
                            n_bytes=path.stat().st_size,
                            sha256=sha256,
                        )
                    )
        return found

    def file(self, cycle_id: str, name: str) -> Path | None:
        """Return a file that the manifest of a finished cycle lists, None for any other.

        Raises
        ------
        DataError
            If the manifest cannot be read.
        """
        run = self.find(cycle_id)
        if run is None or name not in self._files(run):
            return None
        path = self._folder / run.cycle_id / _RESULT / name
        return path if path.is_file() else None

    def _files(self, run: CycleRun) -> dict[str, str]:
        """Return the files of a finished cycle with their hashes, by its manifest."""
        manifest = self._folder / run.cycle_id / _RESULT / "manifest.json"
        if run.state != "finished" or not manifest.is_file():
            return {}
        files: dict[str, str] = _read(manifest).get("files", {})
        return files

    def _run(self, folder: Path) -> CycleRun:
        try:
            started = Started.model_validate_json((folder / _STARTED).read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(f"{folder} holds no cycle ({error}): remove the folder") from error
        state: State
        # Asked before the outcome is looked for: a process that ends in between has left it.
        is_alive = _is_alive(started)
        outcome = folder / _OUTCOME
        exit_code = _read(outcome)["exit_code"] if outcome.is_file() else None
        if exit_code is None:
            state = "running" if is_alive else "lost"
        else:
            state = "failed" if exit_code else "finished"
        summary = folder / _RESULT / "summary.json"
        log = (folder / _LOG).read_text(errors="replace") if (folder / _LOG).is_file() else ""
        return CycleRun(
            **started.model_dump(exclude={"pid", "process_started"}),
            state=state,
            exit_code=exit_code,
            verdict=_read(summary)["verdict"]
            if state == "finished" and summary.is_file()
            else None,
            log=log[-_MOST_LOG:],
        )


def _is_alive(started: Started) -> bool:
    try:
        process = psutil.Process(started.pid)
        is_same = process.create_time() == started.process_started
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove its cycle's folder") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} holds no JSON object: remove its cycle's folder")
    return document
