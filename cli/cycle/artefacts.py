"""Files of a cycle, and the manifest that says what they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from cli.fleet.home import write_atomically
from shared.errors import DataError

MANIFEST = "manifest.json"


def sha256_of(path: Path) -> str:
    """Return the hash of a file.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; name a file that can") from error


def code_version() -> dict[str, str]:
    """Return the version of the project and the hash of the source that decides results."""
    root = Path(__file__).resolve().parents[2]
    total = hashlib.sha256()
    for folder in ("cli", "shared"):
        for path in sorted((root / folder).rglob("*.py")):
            total.update(path.relative_to(root).as_posix().encode())
            total.update(path.read_bytes())
    return {"version": version("mntrading"), "source_sha256": total.hexdigest()}


def lineage(inputs: Sequence[Path], request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the content of a cycle's files, and its hash as `run_id`.

    Parameters
    ----------
    inputs
        Files that are read; known by content, not by where they lie.
    request
        Settings and options.
    """
    document: dict[str, Any] = {
        "inputs": [{"name": path.name, "sha256": sha256_of(path)} for path in inputs],
        "request": dict(request),
        "code": code_version(),
    }
    content = {
        **document,
        "inputs": sorted(entry["sha256"] for entry in document["inputs"]),
    }
    packed = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return {"run_id": hashlib.sha256(packed).hexdigest(), **document}


def write_manifest(folder: Path, made_from: Mapping[str, Any], ledger_sha256: str) -> None:
    """Write the manifest over every file of a folder, last of all.

    Raises
    ------
    DataError
        If the folder cannot be written.
    """
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    document = {**made_from, "ledger_sha256": ledger_sha256, "files": files}
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
    try:
        write_atomically(folder / MANIFEST, text)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; choose another --out") from error


def is_made(folder: Path, run_id: str, ledger_sha256: str) -> bool:
    """Tell whether a folder holds this very run, whole, and no trial was made since."""
    path = folder / MANIFEST
    if not path.exists():
        return False
    manifest = read_json(path)
    if (manifest.get("run_id"), manifest.get("ledger_sha256")) != (run_id, ledger_sha256):
        return False
    return all(
        (folder / name).is_file() and sha256_of(folder / name) == sha256
        for name, sha256 in manifest["files"].items()
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON document.

    Raises
    ------
    DataError
        If the file cannot be read or holds no JSON object.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; name a file that can") from error
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path} holds no JSON: {error}; make it anew") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} holds no JSON object: make it anew")
    return document
