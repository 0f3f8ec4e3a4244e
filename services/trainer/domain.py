"""Which model a rollback goes back to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChampionChange:
    """A recorded change of the champion: to a model, or back to the one before it."""

    sha256: str | None
    is_rollback: bool


def reign(changes: Iterable[ChampionChange]) -> list[str]:
    """Return the champions that a rollback can still go back through, the present one last.

    Parameters
    ----------
    changes
        In the order in which they were decided.

    Notes
    -----
    A rollback takes the last champion away for good, so that two in a row go back two
    champions, not there and back again. A champion that is promoted once more did not change.

    Examples
    --------
    >>> a, b = ChampionChange("a", is_rollback=False), ChampionChange("b", is_rollback=False)
    >>> back = ChampionChange("a", is_rollback=True)
    >>> reign([a, b]), reign([a, b, back]), reign([a, b, back, back])
    (['a', 'b'], ['a'], [])
    """
    champions: list[str] = []
    for change in changes:
        if change.is_rollback:
            del champions[-1:]
        elif change.sha256 is not None and champions[-1:] != [change.sha256]:
            champions.append(change.sha256)
    return champions
