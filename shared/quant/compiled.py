"""The one way this project compiles a numeric kernel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import numba


def _sources_stamp() -> str:
    """Return a digest of every source that may hold a kernel."""
    shared = Path(__file__).resolve().parents[1]
    stamp = hashlib.sha256()
    for folder in ("backtest", "book", "quant", "sleeves"):
        for source in sorted((shared / folder).rglob("*.py")):
            stamp.update(source.read_bytes())
    return stamp.hexdigest()[:16]


# Numba renews a kernel's machine code when its own file changes, but not when a kernel it
# calls from another file does: the old numbers would live on. A folder per state of the
# sources cannot be stale, also below a NUMBA_CACHE_DIR that outlives a release.
numba.config.CACHE_DIR = str(
    Path(numba.config.CACHE_DIR or Path(__file__).parent / "__pycache__") / _sources_stamp()
)

# Off by default in numba. Kernels that work on eight lanes at once are written for it: three to
# four times as fast.
numba.config.SLP_VECTORIZE = 1

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile a kernel to machine code on its first call and keep it on disk.

    The interpreter lock is released while the kernel runs. Floating point keeps the order
    written (no `fastmath`), so a result is the same to the bit on every run.
    """
    compile_kernel: Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]] = (
        numba.njit(cache=True, nogil=True)
    )
    return compile_kernel(kernel)


def compiled_in_place(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile a kernel like `compiled` that only works on arrays it is given and makes none.

    Such a kernel need not count who refers to an array, which costs a locked instruction for
    each array of each call: of tables with many columns, as much as all the rest. One that
    does make an array is refused when it is compiled.
    """
    # A private option of numba: without it, results are the same and come later.
    compile_kernel: Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]] = (
        numba.njit(cache=True, nogil=True, _nrt=False)
    )
    return compile_kernel(kernel)


def compiled_parallel(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile a kernel like `compiled`, its `numba.prange` loops over all cores.

    To stay the same to the bit on every run, an iteration may write only what no other
    iteration reads or writes: no sums across iterations.
    """
    compile_kernel: Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]] = (
        numba.njit(cache=True, nogil=True, parallel=True)
    )
    return compile_kernel(kernel)


def compiled_fused(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile a kernel like `compiled`, each product fused with the sum it is added to.

    The order of sums stays as written; what fusing spares is the rounding of the product.
    """
    compile_kernel: Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]] = (
        numba.njit(cache=True, nogil=True, fastmath={"contract"})
    )
    return compile_kernel(kernel)


def interpreted(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a compiled kernel's own source as the interpreter runs it.

    For one call at a time, with whole numbers that know no bounds.
    """
    source: Callable[Arguments, Result] = kernel.py_func  # type: ignore[attr-defined]
    return source
