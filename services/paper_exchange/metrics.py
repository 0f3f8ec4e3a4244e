"""What Prometheus sees of the paper venue."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "mnt_paper_exchange_requests_total", "Requests answered", ["method", "route", "status"]
)
REQUEST_SECONDS = Histogram(
    "mnt_paper_exchange_request_seconds",
    "Time from reading a request to its answer, the commit included",
    ["method", "route"],
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5),
)
REFUSALS = Counter("mnt_paper_exchange_refusals_total", "Requests refused", ["code"])
ORDERS = Counter("mnt_paper_exchange_orders_total", "Orders accepted", ["side"])
TRADES = Counter("mnt_paper_exchange_trades_total", "Fills", ["side"])
FUNDING = Counter("mnt_paper_exchange_funding_usdt_total", "Funding charged to positions")
OPEN_ORDERS = Gauge("mnt_paper_exchange_open_orders", "Orders that may still trade")
MARKET_TIME = Gauge("mnt_paper_exchange_market_time_seconds", "Close at which the market stands")
CONNECTIONS = Gauge("mnt_paper_exchange_connections", "Open websocket connections")
STREAM_MESSAGES = Counter(
    "mnt_paper_exchange_stream_messages_total", "Messages queued for websocket connections"
)
SLOW_READERS = Counter(
    "mnt_paper_exchange_slow_readers_total", "Websocket connections cut off as too slow"
)
UPSTREAM_FAULTS = Counter(
    "mnt_paper_exchange_upstream_faults_total", "Times a live market lost the exchange"
)
FAULTS = Counter(
    "mnt_paper_exchange_faults_total", "Faults injected on purpose", ["family", "fault"]
)
