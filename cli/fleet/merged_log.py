"""One readable log of all processes, merged from the files each of them writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

_MAX_LINE_BYTES = 65_536
_SERVER_TROUBLE = re.compile(r"\b(ERROR|FATAL|PANIC|CRITICAL)\b")
_NOT_SHOWN = frozenset({"event", "level", "timestamp", "service"})


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line as it is shown: who says it, how grave it is, and the words."""

    process: str
    level: str
    words: str


class MergedLog:
    """Reads what processes have written since the last look.

    Parameters
    ----------
    folder
        With one `<process>.log` each; only what is written from now on is read.
    structured
        Processes that write JSON lines, all of which are shown; of the others only trouble.
    """

    def __init__(self, folder: Path, structured: Iterable[str]) -> None:
        self._folder = folder
        self._structured = frozenset(structured)
        self._read_up_to = {file: file.stat().st_size for file in folder.glob("*.log")}

    def read(self) -> Iterator[LogLine]:
        """Yield the new lines, process by process."""
        for file in sorted(self._folder.glob("*.log")):
            process = file.stem
            for line in self._new_lines(file):
                if process in self._structured:
                    yield _structured_line(process, line)
                elif _SERVER_TROUBLE.search(line):
                    yield LogLine(process, "error", line)

    def _new_lines(self, file: Path) -> list[str]:
        """Return the complete lines added to a file; a file that was cut is begun anew."""
        place = self._read_up_to.get(file, 0)
        size = file.stat().st_size
        if size < place:
            place = 0
        with file.open("rb") as opened:
            opened.seek(place)
            added = opened.read(size - place)
        end = added.rfind(b"\n") + 1
        if not end and len(added) > _MAX_LINE_BYTES:
            end = len(added)
        self._read_up_to[file] = place + end
        return [line for line in added[:end].decode(errors="replace").splitlines() if line]


def _structured_line(process: str, line: str) -> LogLine:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        return LogLine(process, "raw", line)
    if not isinstance(document, dict):
        return LogLine(process, "raw", line)
    details = " ".join(
        f"{name}={value}" for name, value in document.items() if name not in _NOT_SHOWN
    )
    words = f"{document.get('event', '')} {details}".strip()
    return LogLine(process, str(document.get("level", "info")), words)
