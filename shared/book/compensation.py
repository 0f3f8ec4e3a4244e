"""What to do about a pair whose legs have not filled in proportion.

A pair is one position: what one leg lacks is completed, taken off the other leg, or the
pair is unwound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from shared.book.instrument import Instrument
from shared.book.positions import PairPosition

COMPLETE_WITHIN_MS = 900_000
"""A pair out of proportion for longer than this is not completed any more: prices moved on."""

_COMPLETE_FROM_TENTHS = 9


class Remedy(StrEnum):
    """The ways out of a disproportion."""

    NONE = "none"
    """The legs are in proportion."""
    COMPLETE = "complete"
    """Order what the emptier leg lacks."""
    RESIZE = "resize"
    """Take the excess off the fuller leg."""
    UNWIND = "unwind"
    """Close both legs."""


@dataclass(frozen=True, slots=True)
class Compensation:
    """A remedy; `leg` and unsigned `lots` are what it orders, none where it closes the pair."""

    remedy: Remedy
    leg: str = ""
    lots: int = 0


_IN_PROPORTION = Compensation(Remedy.NONE)
_UNWIND = Compensation(Remedy.UNWIND)


def compensate(
    position: PairPosition,
    marks_ticks: Mapping[str, int],
    instruments: Mapping[str, Instrument],
    *,
    may_open: bool,
) -> Compensation:
    """Return what a position needs whose orders have all ended.

    Parameters
    ----------
    position
        Not flat.
    marks_ticks, instruments
        Of its legs.
    may_open
        Whether a leg may be completed; taking off is always allowed.

    Notes
    -----
    In whole numbers throughout. With f the fuller and e the emptier leg by share of what was
    decided, the excess is ``held_f - target_f * held_e // target_e``. It is in proportion when
    it stands for less than one lot of the emptier leg or is below the smallest notional. Else
    a leg with nine tenths of the other's share is completed, one with half of it has the other
    resized to it, and below that, or on one leg only, the pair is unwound.
    """
    if position.is_single_legged:
        return _UNWIND
    held = {"y": abs(position.lots_y), "x": abs(position.lots_x)}
    target = {"y": abs(position.target_lots_y), "x": abs(position.target_lots_x)}
    if not all(target.values()):
        return _IN_PROPORTION
    fuller, emptier = "y", "x"
    if held["y"] * target["x"] < held["x"] * target["y"]:
        fuller, emptier = "x", "y"
    symbol = position.holding(fuller)[0]
    excess = held[fuller] - target[fuller] * held[emptier] // target[emptier]
    is_a_rounding = held[fuller] * target[emptier] < (held[emptier] + 1) * target[fuller]
    excess_e8 = instruments[symbol].notional_e8(marks_ticks[symbol], excess)
    if is_a_rounding or excess_e8 < instruments[symbol].min_notional_e8:
        return _IN_PROPORTION
    share, of = held[emptier] * target[fuller], held[fuller] * target[emptier]
    if may_open and 10 * share >= _COMPLETE_FROM_TENTHS * of:
        symbol = position.holding(emptier)[0]
        missing = target[emptier] * held[fuller] // target[fuller] - held[emptier]
        missing_e8 = instruments[symbol].notional_e8(marks_ticks[symbol], missing)
        if missing and missing_e8 >= instruments[symbol].min_notional_e8:
            return Compensation(Remedy.COMPLETE, emptier, missing)
    if 2 * share >= of and excess < held[fuller]:
        return Compensation(Remedy.RESIZE, fuller, excess)
    return _UNWIND
