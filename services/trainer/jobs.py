"""Jobs: cycles with options under a name, so that the same one can be asked for again.

A job is configuration. It is applied as a whole: the same definition again changes nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from services.trainer.cycles import Kind
from shared.errors import DataError, StoreError

NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_FEWEST_SCREEN_DAYS, _MOST_SCREEN_DAYS = 1, 365


class CycleOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of a cycle; the bars are those of the record.

    Attributes
    ----------
    start, test_start, end
        Bounds of training and test.
    settings
        As `key=value`, such as `screener.method=p_value`.
    """

    start: AwareDatetime | None = None
    test_start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    screen_every_days: int = Field(7, ge=_FEWEST_SCREEN_DAYS, le=_MOST_SCREEN_DAYS)
    settings: tuple[Annotated[str, Field(max_length=200)], ...] = Field((), max_length=50)

    def arguments(self) -> list[str]:
        """Return them as options of `mnt cycle`."""
        instants = {"start": self.start, "test-start": self.test_start, "end": self.end}
        return [
            *(f"--{name}={at.isoformat()}" for name, at in instants.items() if at is not None),
            f"--screen-every-days={self.screen_every_days}",
            *(f"--set={each}" for each in self.settings),
        ]


class JobDefinition(BaseModel, frozen=True, extra="forbid"):
    """What a job starts."""

    kind: Kind
    options: CycleOptions = CycleOptions()


class Job(BaseModel, frozen=True):
    """A job and its definition.

    Attributes
    ----------
    sha256
        Of the definition: another one is another job under the same name.
    """

    name: str
    sha256: str
    definition: JobDefinition


class AppliedJob(Job, frozen=True):
    """A job and what applying its definition changed."""

    outcome: Literal["created", "updated", "unchanged"]


class Jobs:
    """The jobs of a home, each a file.

    Parameters
    ----------
    home
        Folder of the fleet's state.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home.resolve() / "jobs"

    def apply(self, name: str, definition: JobDefinition) -> AppliedJob:
        """Create a job, change it to a definition, or find that it has it already.

        Raises
        ------
        StoreError
            If the folder cannot be written.
        """
        before = self.find(name)
        job = _job(name, definition)
        outcome: Literal["created", "updated", "unchanged"] = "created"
        if before is not None:
            outcome = "unchanged" if before.sha256 == job.sha256 else "updated"
        if outcome != "unchanged":
            path = self._folder / f"{name}.json"
            whole = path.with_suffix(".new")
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                whole.write_text(definition.model_dump_json(indent=1) + "\n")
                whole.replace(path)
            except OSError as error:
                raise StoreError(f"job {name} cannot be kept ({error!r}): see {path}") from error
        return AppliedJob(**dict(job), outcome=outcome)

    def find(self, name: str) -> Job | None:
        """Return a job by its name, None where there is none."""
        return next((job for job in self.find_all() if job.name == name), None)

    def find_all(self) -> list[Job]:
        """Return every job, by name.

        Raises
        ------
        DataError
            If a file holds none.
        """
        return [_read(path) for path in sorted(self._folder.glob("*.json"))]


def _read(path: Path) -> Job:
    try:
        definition = JobDefinition.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} holds no job ({error}): apply it anew") from error
    return _job(path.stem, definition)


def _job(name: str, definition: JobDefinition) -> Job:
    sha256 = hashlib.sha256(definition.model_dump_json().encode()).hexdigest()
    return Job(name=name, sha256=sha256, definition=definition)
