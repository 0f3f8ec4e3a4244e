"""Rosters as files, and whether bars that they are used on came before them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson

from cli.cycle.pipeline import in_force_from, read_roster
from shared.clock import instant_of_ms
from shared.errors import DataError, SettingsError
from shared.events.screener import PairsScreened


def read_rosters(path: Path) -> tuple[PairsScreened, ...]:
    """Read the roster of `mnt screen`, or those of a cycle's `pairs_screened.json`.

    Raises
    ------
    DataError
        If the file cannot be read or holds none.
    ContractError
        If what it holds is no roster.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; name a file that can") from error
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path} holds no JSON: {error}; screen anew") from error
    if not isinstance(document, list):
        return (read_roster(path),)
    found = tuple(PairsScreened.from_bytes(orjson.dumps(each)) for each in document)
    if not found:
        raise DataError(f"{path} holds no roster: screen anew")
    return found


def symbols_of(rosters: Sequence[PairsScreened]) -> tuple[str, ...]:
    """Return the symbols of every pair that was ever active."""
    return tuple(
        sorted(
            {
                symbol
                for roster in rosters
                for pair in roster.pairs
                if pair.status != "candidate"
                for symbol in (pair.y, pair.x)
            }
        )
    )


def rosters_for(
    rosters: tuple[PairsScreened, ...], start_ms: int | None, *, in_sample: bool
) -> tuple[tuple[PairsScreened, ...], int, bool]:
    """Return rosters in force from a start on, that start, and whether it is in sample.

    Parameters
    ----------
    rosters
        In order of their closes.
    start_ms
        Bars up to here are history; `None` starts at the close of the first roster.
    in_sample
        Whether the first roster may have been screened on bars past the start.

    Raises
    ------
    SettingsError
        If it was, and may not.
    """
    made_ms = rosters[0].closes_at_ms
    if start_ms is None or start_ms >= made_ms:
        return rosters, made_ms if start_ms is None else start_ms, False
    if not in_sample:
        raise SettingsError(
            f"the roster was screened on bars up to {rosters[0].closes_at:%Y-%m-%d %H:%M}, past "
            f"the start {instant_of_ms(start_ms):%Y-%m-%d %H:%M}: screen with --end at the start, "
            "start later, or accept with --in-sample that nothing is proven"
        )
    return in_force_from(rosters, start_ms), start_ms, True
