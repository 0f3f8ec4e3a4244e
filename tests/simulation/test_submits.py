"""No order twice and none forgotten at a venue that drops three in ten and is late with one.

`SIM_SUBMITS=10000` gives as many orders; `make chaos` does.
"""

from __future__ import annotations

import os

from tests.simulation.database import simulated_database
from tests.simulation.submits import submit_many

SEED = int(os.environ.get("SIM_FIRST", "1"))
N_ORDERS = int(os.environ.get("SIM_SUBMITS", "500"))
BOUND_MS = 60_000
"""Longest that an order may keep its instrument waiting, in venue time."""


async def test_orders_whose_answers_are_dropped_are_placed_once_and_resolved_within_a_minute(
    database_url: str,
) -> None:
    async with simulated_database(database_url) as (engine, connection):
        found = await submit_many(engine, connection, SEED, N_ORDERS)
    assert found.n_orders >= N_ORDERS
    assert found.n_at_venue == found.n_orders
    assert len(found.blocked_ms) == found.n_orders
    struck = found.faults["orders.disconnect"] + found.faults["orders.lost_answer"]
    assert struck > 0.25 * found.n_sent
    assert found.faults["orders.late_answer"] > 0.07 * found.n_sent
    assert max(found.blocked_ms.values()) <= BOUND_MS
