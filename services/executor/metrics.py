"""What Prometheus sees of the executor."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

ADJUSTMENTS = Counter(
    "mnt_executor_adjustments_total", "Differences from the venue taken into the book", ["kind"]
)
QUARANTINED_ORDERS = Counter(
    "mnt_executor_quarantined_orders_total", "Orders at the venue that we did not place"
)
RECONCILIATIONS = Counter(
    "mnt_executor_reconciliations_total", "Comparisons of book and venue", ["outcome"]
)
REFUSED_ORDERS = Counter("mnt_executor_refused_orders_total", "Orders that the venue refused")
IN_FLIGHT_SECONDS = Gauge(
    "mnt_executor_in_flight_seconds",
    "For how long the oldest order whose arrival at the venue is not known has been looked for",
)
LEASE = Gauge("mnt_executor_lease", "Whether this process trades the account")
BREACHES = Counter("mnt_executor_limit_breaches_total", "Limits that took trading to reduce-only")
RESTRICTIONS = Counter(
    "mnt_executor_restrictions_total", "Tripwires of drift that took trading to reduce-only"
)
EXPOSURE_SECONDS = Histogram(
    "mnt_executor_exposure_seconds",
    "How long the legs of a pair were out of proportion, in the time of the market",
    buckets=(60, 300, 600, 900, 1_800, 3_600, 14_400, 86_400),
)
