"""Which limits are in force at a close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.book.sizing import SizingSettings


@dataclass(frozen=True, slots=True)
class LimitChange:
    """Limits that a person decided on.

    Attributes
    ----------
    from_ms
        The last close handled before the decision, in milliseconds since 1970; `None` where
        none had been.
    """

    from_ms: int | None
    limits: SizingSettings


def limits_at(
    changes: Sequence[LimitChange], closes_at_ms: int, otherwise: SizingSettings
) -> SizingSettings:
    """Return the limits in force at a close: the last decided before it, if any.

    Parameters
    ----------
    changes
        In the order in which they were decided.
    closes_at_ms
        The close.
    otherwise
        The limits of the settings.
    """
    for change in reversed(changes):
        if change.from_ms is None or change.from_ms < closes_at_ms:
            return change.limits
    return otherwise
