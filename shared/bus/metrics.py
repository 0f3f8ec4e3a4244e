"""What Prometheus sees of the bus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

HANDLED = Counter("mnt_bus_events_handled_total", "Events handled", ["consumer", "topic"])
HANDLE_SECONDS = Histogram(
    "mnt_bus_handle_seconds",
    "Time from taking an event to its commit and publication",
    ["consumer", "topic"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
_HOP_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.5, 2.5)
WAIT_SECONDS = Histogram(
    "mnt_bus_wait_seconds",
    "Time from an event's addition to its stream until its handling began",
    ["consumer", "topic"],
    buckets=_HOP_BUCKETS,
)
COMMIT_SECONDS = Histogram(
    "mnt_bus_commit_seconds",
    "Time from the beginning of an event's handling to its commit",
    ["consumer", "topic"],
    buckets=_HOP_BUCKETS,
)
RECORD_SECONDS = Histogram(
    "mnt_bus_record_seconds",
    "Time to record the rows that repeat an event",
    ["consumer", "topic"],
    buckets=_HOP_BUCKETS,
)
ADOPTED = Counter("mnt_bus_entries_adopted_total", "Foreign entries adopted", ["consumer", "topic"])
WITHOUT_EFFECT = Counter(
    "mnt_bus_entries_without_effect_total", "Duplicates and phantoms", ["consumer", "topic"]
)
RETRIES = Counter("mnt_bus_retries_total", "Handler tries repeated", ["consumer", "topic"])
DEAD_LETTERS = Counter("mnt_bus_dead_letters_total", "Dead letters", ["consumer", "topic"])
LOG_READS = Counter("mnt_bus_log_reads_total", "Reads of the log in Postgres", ["consumer"])
PUBLISH_FAILURES = Counter(
    "mnt_bus_publish_failures_total", "Events Redis did not take", ["consumer", "topic"]
)
LAG = Gauge("mnt_bus_lag_events", "Events not yet handled", ["consumer", "topic"])
