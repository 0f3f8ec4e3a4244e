"""Fixtures shared by every kind of test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The first call of a kernel loads or compiles it, which no deadline should judge.
settings.register_profile("mnt", deadline=None)
settings.load_profile("mnt")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of recorded market data: `MNT_DATA`, else `../shared/data` beside the project."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MNT_DATA") or default)
    if not (folder / "crypto").is_dir():
        pytest.skip(f"no recorded market data in {folder}: set MNT_DATA to the folder that has it")
    return folder
