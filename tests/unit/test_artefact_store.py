"""Artefacts in a folder, and in a store that speaks S3."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.progress import Progress

from cli.research.store import open_store, upload
from shared.errors import DataError, SettingsError, StoreError
from shared.settings import ArtefactSettings
from tests.stub_store import serving_store

QUIET = Progress(disable=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "cycle"
    (found / "datasets").mkdir(parents=True)
    (found / "report.html").write_bytes(b"<p>")
    (found / "datasets" / "large.parquet").write_bytes(bytes(range(256)) * 50_000)
    (found / "empty").write_bytes(b"")
    return found


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_a_folder_is_copied_to_a_bucket_once_and_what_changed_again(folder: Path) -> None:
    with serving_store("artefacts") as stub:
        store = open_store(ArtefactSettings(store="s3://artefacts/runs", endpoint=stub.url))
        assert upload(folder, store, "/one/", QUIET)["copied"] == 3
        for path in folder.rglob("*"):
            if path.is_file():
                name = f"artefacts/runs/one/{path.relative_to(folder).as_posix()}"
                assert stub.objects[name] == path.read_bytes()
        n_written = len(stub.written)
        again = upload(folder, store, "one", QUIET)
        assert (again["copied"], again["known"]) == (0, 3)
        assert len(stub.written) == n_written
        (folder / "report.html").write_bytes(b"<p>more")
        # Cut short between a file and its hash: it is copied again.
        del stub.objects["artefacts/runs/one/empty.sha256"]
        assert upload(folder, store, "one", QUIET)["copied"] == 2
        assert stub.objects["artefacts/runs/one/report.html"] == b"<p>more"


def test_a_store_that_refuses_is_named_with_the_remedy(folder: Path) -> None:
    with serving_store("artefacts") as stub:
        stub.is_refusing = True
        store = open_store(ArtefactSettings(store="s3://artefacts", endpoint=stub.url))
        with pytest.raises(StoreError, match=r"s3://artefacts cannot be written.*the keys"):
            upload(folder, store, "", QUIET)


def test_a_folder_is_a_store_as_well(folder: Path, tmp_path: Path) -> None:
    store = open_store(ArtefactSettings(), str(tmp_path / "store"))
    assert upload(folder, store, "run", QUIET)["copied"] == 3
    assert (tmp_path / "store" / "run" / "report.html").read_bytes() == b"<p>"
    assert upload(folder, store, "run", QUIET)["copied"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ArtefactSettings(), "no artefact store"),
        (ArtefactSettings(store="ftp://x"), "s3://bucket"),
        (ArtefactSettings(store="s3://x", endpoint="host:1"), "https://host:port"),
    ],
)
def test_a_store_that_cannot_be_is_refused(settings: ArtefactSettings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_store(settings)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file"):
        upload(tmp_path, open_store(ArtefactSettings(), str(tmp_path)), "", QUIET)
