"""When the trainer trains without being asked, and what for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.sleeves.pairs.settings import TrainerSettings

FIRST_TRAINING_CLOSES = 12
"""Closes between tries while the schedule has not made a first model yet."""

OccasionKind = Literal["request", "first", "schedule", "roster", "drift", "age"]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a training is for, and the numbers behind it."""

    kind: OccasionKind
    reason: str


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where things stand since the last training.

    Attributes
    ----------
    closes
        Trade closes since then, whether it made a model or not; since the first without one.
    has_model
        Whether any training has ever made one.
    pairs
        Active pairs at it.
    """

    closes: int = 0
    has_model: bool = False
    pairs: frozenset[Pair] = frozenset()


def is_rested(settings: TrainerSettings, progress: TrainingProgress) -> bool:
    """Tell whether an event may bring about a training, so soon after the last one."""
    return progress.closes >= settings.retrain_cooldown_closes


def occasion_to_train(
    settings: TrainerSettings,
    progress: TrainingProgress,
    *,
    pairs: frozenset[Pair],
    champion_age_closes: int | None,
    drift: str | None,
) -> Occasion | None:
    """Return what to train for at a close, or None.

    Parameters
    ----------
    settings
        Schedule, cool-down and thresholds.
    progress
        Since the last training, this close included.
    pairs
        Active at this close.
    champion_age_closes
        Trade closes since the last bar the champion was trained on; None without a champion.
    drift
        Why a tripped wire asks for a training; None where none does.

    Notes
    -----
    A model that is not good enough leaves the champion as old and the roster as new as they
    were, so whatever an event brings about waits for the cool-down first. Where there is no
    schedule, only a wire that was told to trains.
    """
    may_react = is_rested(settings, progress)
    if drift is not None and may_react:
        return Occasion("drift", drift)
    every = settings.train_every_closes
    if not every:
        return None
    if not progress.has_model:
        every = min(every, FIRST_TRAINING_CLOSES)
        return Occasion("first", "there is no model yet") if progress.closes >= every else None
    if progress.closes >= every:
        return Occasion("schedule", f"{progress.closes} closes since the last training")
    if not may_react:
        return None
    n_new, share = len(pairs - progress.pairs), settings.retrain_roster_share
    if share and n_new and n_new >= share * len(pairs):
        return Occasion("roster", f"{n_new} of {len(pairs)} pairs are new since the last training")
    oldest = settings.retrain_age_closes
    if oldest and champion_age_closes is not None and champion_age_closes >= oldest:
        return Occasion("age", f"the champion was trained {champion_age_closes} closes ago")
    return None
