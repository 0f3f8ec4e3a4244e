"""The executor in simulated worlds, one for each seed."""

from __future__ import annotations

import os

from tests.simulation.run import simulator

FIRST = int(os.environ.get("SIM_FIRST", "1"))
N_SEEDS = int(os.environ.get("SIM_SEEDS", "100"))


async def test_no_seed_breaks_a_rule(database_url: str) -> None:
    async with simulator(database_url) as simulated:
        for seed in range(FIRST, FIRST + N_SEEDS):
            outcome = await simulated.run(seed)
            assert outcome.broken is None, outcome.told()
