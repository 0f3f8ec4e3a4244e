"""What tests share: waiting until something is true, and no longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psutil

T = TypeVar("T")

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
