from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.errors import NumbaError

from shared.quant.compiled import compiled_in_place
from shared.quant.typing import Float1D

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


def test_a_kernel_that_makes_an_array_cannot_be_compiled_in_place() -> None:
    @compiled_in_place
    def turn_around(values: Float1D) -> None:
        values[:] = values[::-1]

    with pytest.raises(NumbaError, match="NRT required"):
        turn_around(np.ones(2))
