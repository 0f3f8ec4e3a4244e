"""When the trainer trains without being asked."""

from __future__ import annotations

from typing import Any

import pytest

from services.trainer.occasions import TrainingProgress, occasion_to_train
from shared.sleeves.pairs.settings import TrainerSettings

A, B, C, D = (("A", "X"), ("B", "X"), ("C", "X"), ("D", "X"))
SETTINGS = TrainerSettings(
    train_every_closes=300,
    retrain_cooldown_closes=20,
    retrain_roster_share=0.5,
    retrain_age_closes=1_000,
)
CALM: dict[str, Any] = {"pairs": frozenset({A, B}), "champion_age_closes": 900, "drift": None}


def kind_at(closes: int, settings: TrainerSettings = SETTINGS, **changes: Any) -> str | None:
    progress = TrainingProgress(closes, changes.pop("has_model", True), frozenset({A, B}))
    found = occasion_to_train(settings, progress, **(CALM | changes))
    return None if found is None else found.kind


@pytest.mark.parametrize(
    ("closes", "changes", "kind"),
    [
        (299, {}, None),
        (300, {}, "schedule"),
        (11, {"has_model": False}, None),
        (12, {"has_model": False}, "first"),
        (20, {"pairs": frozenset({A, B, C})}, None),  # a third of them is new
        (20, {"pairs": frozenset({A, C})}, "roster"),
        (20, {"pairs": frozenset({A})}, None),  # one has left, none is new
        (20, {"pairs": frozenset()}, None),
        (19, {"pairs": frozenset({C, D})}, None),
        (20, {"champion_age_closes": 1_000}, "age"),
        (19, {"champion_age_closes": 1_000}, None),
        (20, {"champion_age_closes": None}, None),
        (20, {"drift": "features have moved"}, "drift"),
        (19, {"drift": "features have moved"}, None),
        (300, {"drift": "features have moved"}, "drift"),
    ],
)
def test_an_event_brings_about_a_training_once_the_last_one_has_cooled_down(
    closes: int, changes: dict[str, Any], kind: str | None
) -> None:
    assert kind_at(closes, **changes) == kind


def test_without_a_schedule_only_a_tripped_wire_trains() -> None:
    by_hand = SETTINGS.model_copy(update={"train_every_closes": 0})
    every_reason = {"pairs": frozenset({C, D}), "champion_age_closes": 10**6}
    assert kind_at(10**6, by_hand, **every_reason) is None
    assert kind_at(10**6, by_hand, **every_reason, has_model=False) is None
    assert kind_at(20, by_hand, **every_reason, drift="features have moved") == "drift"


def test_a_share_or_an_age_of_zero_never_trains() -> None:
    off = SETTINGS.model_copy(update={"retrain_roster_share": 0.0, "retrain_age_closes": 0})
    assert kind_at(20, off, pairs=frozenset({C, D}), champion_age_closes=10**6) is None


def test_an_occasion_tells_its_numbers() -> None:
    progress = TrainingProgress(20, True, frozenset({A, B}))
    found = occasion_to_train(
        SETTINGS, progress, pairs=frozenset({B, C, D}), champion_age_closes=0, drift=None
    )
    assert found is not None
    assert found.reason == "2 of 3 pairs are new since the last training"
