"""The one way this project compiles a numeric kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

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


def compiled_parallel(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile a kernel like `compiled`, its `numba.prange` loops over all cores.

    To stay the same to the bit on every run, an iteration may write only what no other
    iteration reads or writes: no sums across iterations.
    """
    compile_kernel: Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]] = (
        numba.njit(cache=True, nogil=True, parallel=True)
    )
    return compile_kernel(kernel)
