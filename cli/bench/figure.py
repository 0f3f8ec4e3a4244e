"""What a benchmark reports, and how time is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.clock import monotonic_seconds


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure beside its reference.

    Attributes
    ----------
    name
        Of the benchmark.
    figure, unit
        What was measured.
    reference
        The same for the reference, in the same unit; `None` where it is not there.
    ratio
        How many times better than the reference; of an exactness, the difference itself.
    data
        What was worked on.
    reason
        Why there is no reference.
    """

    name: str
    figure: float
    unit: str
    reference: float | None
    ratio: float | None
    data: str
    reason: str = ""


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the shortest time a piece of work took; the first time is not counted."""
    work()
    shortest = float("inf")
    for _ in range(repeats):
        began = monotonic_seconds()
        work()
        shortest = min(shortest, monotonic_seconds() - began)
    return shortest


def faster(name: str, seconds: float, reference: float, unit: str, data: str) -> Figure:
    """Return a figure in microseconds whose ratio is how many times the reference is slower."""
    return Figure(name, seconds * 1e6, unit, reference * 1e6, reference / seconds, data)
