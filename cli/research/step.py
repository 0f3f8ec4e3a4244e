"""A step makes its files once for one content, and its manifest says what they were made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from cli.cycle.artefacts import MANIFEST, lineage, read_json, sha256_of
from cli.fleet.home import write_atomically
from shared.errors import DataError

FOLDER_MANIFEST = "_manifest.json"
_MANIFESTS = (FOLDER_MANIFEST, MANIFEST)


def manifest_beside(path: Path) -> Path:
    """Return the manifest of a step whose result is one file."""
    return path.with_name(f"{path.name}.{MANIFEST}")


def make_once(
    step: str,
    manifest: Path,
    inputs: Sequence[Path],
    request: Mapping[str, Any],
    make: Callable[[], Mapping[str, Any]],
    files: Callable[[], Iterable[Path]],
) -> tuple[dict[str, Any], bool]:
    """Make the files of a step, or find them made from the same content.

    Parameters
    ----------
    step
        Name of the command.
    manifest
        Where its manifest is or will be; its files are in the same folder or below.
    inputs
        Files that it reads, known by content. Where one is the result of another step, the
        run of that step is named.
    request
        Options and settings that decide the content.
    make
        Writes the files and returns what is worth knowing of them.
    files
        Lists them, once they are made.

    Returns
    -------
    tuple of dict, bool
        The manifest, and whether anything had to be made.

    Raises
    ------
    DataError
        If an input cannot be read or a file cannot be written.
    """
    made_from = lineage(inputs, {"step": step, **request})
    known = _made(manifest, made_from["run_id"])
    if known is not None:
        return known, False
    try:
        manifest.parent.mkdir(parents=True, exist_ok=True)
        # A folder that is being written has no manifest: it would vouch for what is not there.
        manifest.unlink(missing_ok=True)
        found = make()
        document = {
            **made_from,
            "step": step,
            "parents": parents_of(inputs),
            "found": dict(found),
            "files": {
                path.relative_to(manifest.parent).as_posix(): sha256_of(path)
                for path in sorted(files())
            },
        }
        text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
        write_atomically(manifest, text + "\n")
    except OSError as error:
        raise DataError(
            f"{manifest.parent} cannot be written: {error}; choose another --out"
        ) from error
    return read_json(manifest), True


def find_made(
    step: str, manifest: Path, inputs: Sequence[Path], request: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the manifest of a step that was made from this very content and is whole.

    Parameters
    ----------
    step, manifest, inputs, request
        As `make_once`.
    """
    return _made(manifest, lineage(inputs, {"step": step, **request})["run_id"])


def _made(manifest: Path, run_id: str) -> dict[str, Any] | None:
    if not manifest.exists():
        return None
    known = read_json(manifest)
    if known.get("run_id") != run_id:
        return None
    is_whole = all(
        (manifest.parent / name).is_file() and sha256_of(manifest.parent / name) == sha256
        for name, sha256 in known["files"].items()
    )
    return known if is_whole else None


def parents_of(inputs: Sequence[Path]) -> dict[str, str]:
    """Return the runs that made the inputs, by the name of the input, where one is known."""
    found = {}
    for path in inputs:
        candidates = [manifest_beside(path), *(path.parent / name for name in _MANIFESTS)]
        for candidate in candidates:
            if candidate.is_file():
                manifest = read_json(candidate)
                name = path.relative_to(candidate.parent).as_posix()
                if name in manifest.get("files", {}):
                    found[path.name] = str(manifest["run_id"])
                    break
    return found
