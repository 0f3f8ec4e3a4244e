"""The whole fleet in simulated worlds, one for each seed."""

from __future__ import annotations

import os

from tests.simulation.fleet import fleet_simulator

FIRST = int(os.environ.get("SIM_FIRST", "1"))
N_SEEDS = int(os.environ.get("SIM_FLEET_SEEDS", "25"))


async def test_no_seed_changes_what_the_fleet_decides(database_url: str) -> None:
    async with fleet_simulator(database_url) as simulated:
        for seed in range(FIRST, FIRST + N_SEEDS):
            outcome = await simulated.run(seed)
            assert outcome.broken is None, outcome.told()


async def test_a_seed_of_the_fleet_is_the_same_run_again(database_url: str) -> None:
    async with fleet_simulator(database_url) as simulated:
        digests = [(await simulated.run(seed)).digest for seed in (2, 3, 2)]
    assert digests[0] == digests[2] != digests[1]
