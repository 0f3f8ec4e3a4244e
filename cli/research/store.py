"""The artefact store: a folder, or a bucket of any S3-compatible store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs
from rich.progress import Progress

from cli.cycle.artefacts import sha256_of
from shared.errors import DataError, SettingsError, StoreError
from shared.settings import ArtefactSettings

_MARK = ".sha256"


@dataclass(frozen=True, slots=True)
class ArtefactStore:
    """Where artefacts are kept.

    Attributes
    ----------
    name
        As it is shown.
    files
        How it is reached.
    root
        Path within.
    """

    name: str
    files: Any
    root: str


def open_store(settings: ArtefactSettings, where: str | None = None) -> ArtefactStore:
    """Open the store of the settings, or another.

    Parameters
    ----------
    settings
        Store, endpoint and region. Keys come from `AWS_ACCESS_KEY_ID` and
        `AWS_SECRET_ACCESS_KEY` or whatever else the AWS client knows, never from here.
    where
        A folder or `s3://bucket/path` in place of the settings' store.

    Raises
    ------
    SettingsError
        If none is named, or it is neither.
    """
    name = where or settings.store
    if not name:
        raise SettingsError(
            "no artefact store is named: give --store or set MNT_ARTEFACTS__STORE to a folder or "
            "to s3://bucket/path"
        )
    if "://" not in name:
        return ArtefactStore(name, fs.LocalFileSystem(), str(Path(name).resolve()))
    parts = urlsplit(name)
    if parts.scheme != "s3" or not parts.netloc:
        raise SettingsError(f"artefact store {name}: give a folder or s3://bucket/path")
    endpoint = urlsplit(settings.endpoint) if settings.endpoint else None
    if endpoint is not None and endpoint.scheme not in {"http", "https"}:
        raise SettingsError(
            f"MNT_ARTEFACTS__ENDPOINT {settings.endpoint}: write it as https://host:port"
        )
    files = fs.S3FileSystem(
        endpoint_override=endpoint.netloc if endpoint else None,
        scheme=endpoint.scheme if endpoint else "https",
        region=settings.region,
        allow_bucket_creation=False,
    )
    return ArtefactStore(name, files, f"{parts.netloc}{parts.path}".rstrip("/"))


def upload(
    folder: Path, store: ArtefactStore, prefix: str, progress: Progress
) -> dict[str, int | str]:
    """Copy a folder to a store.

    Parameters
    ----------
    folder
        Its files keep their paths within it.
    store, prefix
        Where to.
    progress
        Where the files are counted.

    Returns
    -------
    dict
        How many files were copied, and how many were there already with the same content.

    Raises
    ------
    DataError
        If the folder holds no file.
    StoreError
        As `upload_files`.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not paths:
        raise DataError(f"{folder} holds no file: name a folder of artefacts")
    return upload_files(paths, folder, store, prefix, progress)


def upload_files(
    paths: Sequence[Path], folder: Path, store: ArtefactStore, prefix: str, progress: Progress
) -> dict[str, int | str]:
    """Copy files of a folder to a store, as `upload`.

    Raises
    ------
    StoreError
        If the store does not answer or refuses.

    Notes
    -----
    Beside each file stands its sha256, written after it: a copy that was cut short is made
    again.
    """
    place = "/".join(part for part in (store.root, prefix.strip("/")) if part)
    n_copied = 0
    try:
        for path in progress.track(paths, description="upload"):
            target = f"{place}/{path.relative_to(folder).as_posix()}"
            sha256 = sha256_of(path).encode()
            if _read(store, target + _MARK) == sha256:
                continue
            _write(store, target, path.read_bytes())
            _write(store, target + _MARK, sha256)
            n_copied += 1
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{store.name} cannot be written ({error}): see its address, its bucket and the keys"
        ) from error
    return {
        "store": store.name,
        "prefix": prefix,
        "copied": n_copied,
        "known": len(paths) - n_copied,
    }


def _read(store: ArtefactStore, path: str) -> bytes | None:
    if store.files.get_file_info(path).type != fs.FileType.File:
        return None
    with store.files.open_input_stream(path) as stream:
        return bytes(stream.read())


def _write(store: ArtefactStore, path: str, content: bytes) -> None:
    if isinstance(store.files, fs.LocalFileSystem):
        store.files.create_dir(path.rpartition("/")[0], recursive=True)
    with store.files.open_output_stream(path) as stream:
        stream.write(content)
