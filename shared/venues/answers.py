"""Reading a venue's answers: every field is checked, and one that is unusable proves nothing."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from shared.errors import VenueUnknownError


def field_of(answer: Any, name: str) -> Any:
    """Return a field of an answer.

    Raises
    ------
    VenueUnknownError
        If the answer is no object or lacks the field.
    """
    if not isinstance(answer, dict) or name not in answer:
        raise VenueUnknownError(f"the venue's answer has no {name}: {str(answer)[:200]}")
    return answer[name]


def text_of(answer: Any, name: str) -> str:
    """Return a field as text.

    Raises
    ------
    VenueUnknownError
        If there is none.
    """
    return str(field_of(answer, name))


def integer_of(answer: Any, name: str) -> int:
    """Return a field as a whole number.

    Raises
    ------
    VenueUnknownError
        If there is none or it is no whole number of at most 18 digits.
    """
    value = text_of(answer, name)
    if not re.fullmatch("-?[0-9]{1,18}", value):
        raise VenueUnknownError(f"the venue's answer has {name} {value[:60]!r}: no whole number")
    return int(value)


def decimal_of(answer: Any, name: str) -> Decimal:
    """Return a field as the decimal that the venue wrote, exactly.

    Raises
    ------
    VenueUnknownError
        If there is none or it is not a finite decimal in a string.
    """
    value = field_of(answer, name)
    try:
        exact = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        exact = None
    if exact is None or not exact.is_finite():
        raise VenueUnknownError(
            f"the venue's answer has {name} {value!r}: expected a decimal in a string"
        )
    return exact
