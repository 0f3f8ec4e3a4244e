"""What every event has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, ValidationError

from shared.clock import ms_of_instant
from shared.errors import ContractError

MAX_EVENT_BYTES = 1_048_576
"""Largest accepted payload; a bar event of a thousand symbols has about 150 kB."""


def _whole_milliseconds(instant: AwareDatetime) -> AwareDatetime:
    if instant.microsecond % 1000:
        raise ValueError(f"{instant.isoformat()} is finer than a millisecond")
    return instant


Instant = Annotated[AwareDatetime, AfterValidator(_whole_milliseconds)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Symbol = Annotated[str, Field(min_length=1, max_length=40)]


class Fact(BaseModel, frozen=True, extra="forbid"):
    """A part of an event."""


class Event(Fact):
    """A frozen, versioned fact about one close.

    Attributes
    ----------
    version
        Version of the payload's schema; a consumer refuses one it does not know.
    closes_at
        The close the event speaks of; streams are merged by it.
    """

    merge_timeframe: ClassVar[str | None] = None

    version: Literal[1] = 1
    closes_at: Instant

    @property
    def closes_at_ms(self) -> int:
        """The close in milliseconds since 1970."""
        return ms_of_instant(self.closes_at)

    def to_bytes(self) -> bytes:
        """Return the payload as it travels and is recorded."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Decode a payload.

        Raises
        ------
        ContractError
            If it is too large, undecodable, of an unknown version or of the wrong shape;
            the message lists what is wrong with which value.
        """
        if len(payload) > MAX_EVENT_BYTES:
            raise ContractError(
                f"{cls.__name__}: payload of {len(payload)} bytes exceeds {MAX_EVENT_BYTES}; "
                "split it into several events of the same close"
            )
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            raise ContractError(f"{cls.__name__}: {describe_faults(error)}") from error


def require_one_length(columns: Mapping[str, Sequence[object]]) -> None:
    """Check that the columns of an event have an entry for each row.

    Raises
    ------
    ValueError
        If one is longer than another; with the length of each.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"the columns have different lengths: {told}")


def describe_faults(error: ValidationError) -> str:
    """Return a validation error as one line: place, what is wrong, the value."""
    faults = []
    for fault in error.errors(include_url=False)[:5]:
        place = ".".join(str(part) for part in fault["loc"]) or "payload"
        # The input of a missing field is all that surrounds it, secrets included.
        given = "" if fault["type"] == "missing" else f" (got {fault['input']!r:.80})"
        faults.append(f"{place}: {fault['msg']}{given}")
    return "; ".join(faults)
