"""The executor in simulated worlds, one for each seed."""

from __future__ import annotations

import os

from shared.database.engine import create_engine
from tests.simulation.run import simulator

FIRST = int(os.environ.get("SIM_FIRST", "1"))
N_SEEDS = int(os.environ.get("SIM_SEEDS", "150"))


async def test_no_seed_breaks_a_rule(database_url: str) -> None:
    engine = create_engine(database_url, application="simulation")
    try:
        async with simulator(engine) as simulate:
            for seed in range(FIRST, FIRST + N_SEEDS):
                outcome = await simulate(seed)
                assert outcome.broken is None, outcome.told()
    finally:
        await engine.dispose()
