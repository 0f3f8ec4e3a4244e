"""The whole fleet in simulated worlds, one for each seed."""

from __future__ import annotations

import os

import pytest

from tests.simulation.fleet import FleetSimulator

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIRST = int(os.environ.get("SIM_FIRST", "1"))
N_SEEDS = int(os.environ.get("SIM_FLEET_SEEDS", "10"))


async def test_no_seed_changes_what_the_fleet_decides(simulated_fleet: FleetSimulator) -> None:
    for seed in range(FIRST, FIRST + N_SEEDS):
        outcome = await simulated_fleet.run(seed)
        assert outcome.broken is None, outcome.told()


async def test_a_seed_of_the_fleet_is_the_same_run_again(simulated_fleet: FleetSimulator) -> None:
    digests = [(await simulated_fleet.run(seed)).digest for seed in (2, 3, 2)]
    assert digests[0] == digests[2] != digests[1]
