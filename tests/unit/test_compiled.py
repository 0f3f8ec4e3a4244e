from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SHOW = "import numba, shared.quant.compiled; print(numba.config.CACHE_DIR)"


def cache_folder(given: Path) -> Path:
    shown = subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**os.environ, "NUMBA_CACHE_DIR": str(given)},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(shown.stdout.strip())


def test_kernels_of_other_sources_are_not_found_in_a_folder_that_outlives_a_release(
    tmp_path: Path,
) -> None:
    folder = cache_folder(tmp_path)
    assert folder.parent == tmp_path
    assert len(folder.name) == 16
