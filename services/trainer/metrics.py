"""What Prometheus sees of the trainer."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

STABILITY_INDEX = Gauge(
    "mnt_trainer_feature_stability_index_ratio",
    "Population stability index of the champion's features at the last check",
    ["feature"],
)
CALIBRATION_GAP = Gauge(
    "mnt_trainer_calibration_gap_ratio",
    "Mean forecast of the champion less the share of outcomes, at the last check",
)
WALK_LOG_ODDS = Gauge(
    "mnt_trainer_walk_log_odds",
    "Logarithm of the odds that the champion's spreads wander, at the last check",
)
SLIPPAGE = Gauge(
    "mnt_trainer_slippage_ratio",
    "Distance of the fills of late from the opens of their bars, against us, at the last check",
    ["kind"],
)
TRAININGS = Counter(
    "mnt_trainer_trainings_total", "Trainings, tries included", ["occasion", "outcome"]
)
TRIPWIRES = Counter("mnt_trainer_tripwires_total", "Checks of drift that tripped", ["action"])
