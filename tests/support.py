"""What tests share: waiting until something is true, and no longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import psutil

from shared.quant.typing import Float1D
from shared.sleeves.pairs.features import FeatureSettings, FeatureStreams

T = TypeVar("T")
Columns = tuple[Float1D, Float1D, Float1D, Float1D]

POLL_SECONDS = 0.02


def eventually(check: Callable[[], T], within_seconds: float = 30.0) -> T:
    """Return the first truthy answer of `check`, polling it until a deadline.

    An `AssertionError` raised by `check` counts as "not yet" and is the one reported at the
    deadline; any other exception is a defect and passes through.
    """
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            answer = check()
            if answer:
                return answer
            failure = AssertionError(f"still {answer!r} after {within_seconds} s")
        except AssertionError as not_yet:
            failure = not_yet
        if time.monotonic() > deadline:
            raise failure
        time.sleep(POLL_SECONDS)


async def eventually_async(check: Callable[[], Awaitable[T]], within_seconds: float = 30.0) -> T:
    """Do what `eventually` does for a check that is awaited, leaving the loop free meanwhile."""
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            answer = await check()
            if answer:
                return answer
            failure = AssertionError(f"still {answer!r} after {within_seconds} s")
        except AssertionError as not_yet:
            failure = not_yet
        if time.monotonic() > deadline:
            raise failure
        await asyncio.sleep(POLL_SECONDS)


def is_gone(process: psutil.Process) -> bool:
    """Tell whether a process has ended, be it that nobody has waited for it yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class OneStream:
    """The feature stream of a single pair, between two others that must not matter."""

    def __init__(self, history: Columns, settings: FeatureSettings) -> None:
        self._streams = FeatureStreams(settings)
        nothing = np.empty(0)
        for pair in (("A", "B"), ("C", "D"), ("E", "F")):
            columns = history if pair == ("C", "D") else (nothing,) * 4
            self._streams.learn(pair, *columns)

    def update(self, *bar: float) -> Float1D | None:
        """Append a bar: two closes, two volumes; return its row if it is complete."""
        columns = [np.array([value]) for value in bar]
        row: Float1D = self._streams.update([("C", "D")], *columns)[0]
        return None if np.isnan(row).all() else row
