"""The ledger of trials on disk, one line a trial, shared by all cycles of a home."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import orjson

from shared.errors import DataError
from shared.quant.trials import Outcome, Trial, TrialLedger


class LedgerFile(TrialLedger):
    """A ledger that appends every trial to a file as soon as it is made.

    Parameters
    ----------
    path
        The file; made with the first trial.

    Raises
    ------
    DataError
        If a line of the file is no trial.
    """

    def __init__(self, path: Path) -> None:
        self._path: Path | None = None
        super().__init__(_read(path))
        self._path = path

    def add(self, trial: Trial) -> bool:
        """Record a trial; False where it is recorded already.

        Raises
        ------
        DataError
            If the file cannot be written.
        """
        is_new = super().add(trial)
        if is_new and self._path is not None:
            line = asdict(trial) | {"parameters": dict(trial.parameters)}
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab") as file:
                    file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            except OSError as error:
                raise DataError(
                    f"{self._path} cannot be written: {error}; choose another --ledger"
                ) from error
        return is_new

    @property
    def sha256(self) -> str:
        """Hash of which trials were made, in whatever order."""
        total = hashlib.sha256()
        for trial_id in sorted(trial.trial_id for trial in self.trials):
            total.update(trial_id.encode())
        return total.hexdigest()


def _read(path: Path) -> Iterator[Trial]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            document = orjson.loads(line)
            yield Trial(**(document | {"outcome": Outcome(**document["outcome"])}))
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} line {number} is no trial ({error}): restore the ledger from a copy; "
                "without it the count of trials is not honest"
            ) from error
