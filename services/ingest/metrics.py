"""What Prometheus sees of following a venue."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# The source is one of history, close, late, or stream for bars that others published.
BARS = Counter("mnt_ingest_bars_total", "Bars recorded", ["timeframe", "source"])
QUARANTINED = Counter("mnt_ingest_quarantined_bars_total", "Bars refused", ["timeframe", "reason"])
CLOSES = Counter("mnt_ingest_closes_published_total", "Closes published", ["timeframe"])
LATE_BARS = Counter(
    "mnt_ingest_late_bars_total", "Bars published after their close had passed", ["timeframe"]
)
LATENESS_SECONDS = Histogram(
    "mnt_ingest_close_lateness_seconds",
    "From the venue's clock reaching a close to its publication",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
FETCHED_BARS = Counter(
    "mnt_ingest_fetched_bars_total", "Bars the websocket did not bring, fetched by REST"
)
RECONNECTS = Counter("mnt_ingest_websocket_reconnects_total", "Websocket connections lost")
VENUE_ERRORS = Counter("mnt_ingest_venue_errors_total", "Calls the venue did not answer")
IS_STREAMING = Gauge("mnt_ingest_websocket_connected", "1 while the websocket brings candles")
BACKFILL_RATIO = Gauge(
    "mnt_ingest_backfill_progress_ratio", "Share of the present backfill that is done"
)
