"""Which stage a model may take next, which one a rollback goes back to, what a shadow earned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shared.events.trainer import ModelPromoted

MODEL_NAME = "pairs"
"""Of every model in MLflow and in the record; its versions are of all families."""

Stage = Literal["candidate", "challenger", "shadow", "champion", "retired"]
ALIAS_OF_STAGE: Mapping[Stage, Literal["challenger", "shadow", "champion"]] = {
    "challenger": "challenger",
    "shadow": "shadow",
    "champion": "champion",
}
"""Stages that one model holds at a time; MLflow and events know them."""

_NEXT: Mapping[Stage | None, frozenset[Stage]] = {
    None: frozenset({"candidate"}),
    "candidate": frozenset({"challenger", "retired"}),
    "challenger": frozenset({"shadow", "retired"}),
    "shadow": frozenset({"champion", "retired"}),
    "champion": frozenset({"retired"}),
    "retired": frozenset(),
}


def may_become(
    present: Stage | None, stage: Stage, *, is_override: bool = False, is_rollback: bool = False
) -> bool:
    """Tell whether a model at a stage may take another; the record's trigger says the same.

    Parameters
    ----------
    present
        Its stage; None of a model just trained.
    stage
        The one it is to take.
    is_override
        A person may lift any recorded model into the shadow or make it champion, but not put a
        champion back into its own shadow.
    is_rollback
        A retired champion comes back.
    """
    if stage in _NEXT[present]:
        return True
    if is_override and present is not None:
        return stage == "champion" or (stage == "shadow" and present != "champion")
    return is_rollback and (present, stage) == ("retired", "champion")


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


def net_return(signals: Iterable[Mapping[str, Any]], cost_of_gross: float) -> float:
    """Return what decisions would have earned, as the sum over trades of shares of their gross.

    Parameters
    ----------
    signals
        Entries and exits in order of their closes, as recorded.
    cost_of_gross
        What entering or leaving costs, as a share of the gross notional.

    Returns
    -------
    float
        0 without a finished trade: a trade still open, or entered before, is nobody's yet.

    Notes
    -----
    side x (dln(y) - beta dln(x)) / (1 + |beta|) from the close of the entry to that of the exit,
    beta frozen at entry, less two costs. The champion's decisions are valued alike, so what
    the formula leaves out (fills a bar later, funding) it leaves out of both.

    Examples
    --------
    >>> entry = {"y": "A", "x": "B", "action": "enter", "side": 1, "hedge_ratio": 1.0,
    ...          "close_y": 100.0, "close_x": 100.0}
    >>> exit = {**entry, "action": "exit", "close_y": 102.0}
    >>> round(net_return([entry, exit], 0.0006), 4)
    0.0087
    """
    total = 0.0
    entered: dict[tuple[str, str], Mapping[str, Any]] = {}
    for signal in signals:
        pair = (signal["y"], signal["x"])
        if signal["action"] == "enter":
            entered[pair] = signal
            continue
        entry = entered.pop(pair, None)
        if entry is None:
            continue
        beta = entry["hedge_ratio"]
        change_y = math.log(signal["close_y"] / entry["close_y"])
        change_x = math.log(signal["close_x"] / entry["close_x"])
        gross = 1 + abs(beta)
        total += entry["side"] * (change_y - beta * change_x) / gross - 2 * cost_of_gross
    return total


def alias_left(closes_at: Any, name: str, alias: Literal["shadow"]) -> ModelPromoted:
    """Return the event that leaves an alias without a model."""
    return ModelPromoted(
        closes_at=closes_at,
        name=name,
        alias=alias,
        model_version=None,
        sha256=None,
        is_rollback=True,
    )
