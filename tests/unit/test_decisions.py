"""Which limits are in force at a close, and which model a rollback goes back to."""

from __future__ import annotations

import pytest

from services.portfolio.domain import LimitChange, limits_at
from services.trainer.domain import ChampionChange, reign
from shared.book.sizing import SizingSettings

SETTINGS = SizingSettings()
TIGHT, TIGHTER = SizingSettings(gross_cap=0.5), SizingSettings(gross_cap=0.1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], SETTINGS),
        ([LimitChange(None, TIGHT)], TIGHT),
        ([LimitChange(99, TIGHT)], TIGHT),
        ([LimitChange(100, TIGHT)], SETTINGS),
        ([LimitChange(101, TIGHT)], SETTINGS),
        ([LimitChange(99, TIGHT), LimitChange(99, TIGHTER)], TIGHTER),
        ([LimitChange(99, TIGHT), LimitChange(100, TIGHTER)], TIGHT),
        ([LimitChange(None, TIGHT), LimitChange(98, TIGHTER)], TIGHTER),
    ],
)
def test_a_close_has_the_limits_last_decided_before_it(
    changes: list[LimitChange], expected: SizingSettings
) -> None:
    assert limits_at(changes, 100, SETTINGS) == expected


def promoted(sha256: str) -> ChampionChange:
    return ChampionChange(sha256, is_rollback=False)


BACK = ChampionChange(None, is_rollback=True)


@pytest.mark.parametrize(
    ("changes", "champions"),
    [
        ([], []),
        ([promoted("a")], ["a"]),
        ([promoted("a"), promoted("b")], ["a", "b"]),
        ([promoted("a"), promoted("b"), BACK], ["a"]),
        ([promoted("a"), promoted("b"), BACK, BACK], []),
        ([promoted("a"), promoted("b"), BACK, promoted("c"), BACK], ["a"]),
        ([promoted("a"), promoted("a"), BACK], []),
        ([promoted("a"), promoted("b"), promoted("a"), BACK], ["a", "b"]),
    ],
)
def test_every_rollback_takes_one_champion_away_for_good(
    changes: list[ChampionChange], champions: list[str]
) -> None:
    assert reign(changes) == champions
