"""Bugs of the services before the executor, and a seed that catches each."""

from __future__ import annotations

import pytest

from tests.simulation.fleet import FleetSimulator
from tests.simulation.fleet_planted import BUGS
from tests.simulation.planted import seeds_to_try

CAUGHT_BY = {
    "acknowledge features before the commit": 2,
    "move the cursor after the commit": 2,
    "publish before the commit": 16,
    "handle a close again after a lost commit": 14,
    "leave rows out that were not recorded before a restart": 3,
    "adopt an entry again": 1,
    "let a revision replace a bar": 1,
    "forget the roster at a restart": 2,
    "use bars of the next close": 1,
    "forget how long a pair is held at a restart": 1,
    "never free a slot": 1,
}
"""The seed to try first, by what the bug does."""


def test_every_planted_bug_of_the_fleet_is_on_the_list() -> None:
    assert CAUGHT_BY.keys() == BUGS.keys()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("bug", CAUGHT_BY)
async def test_a_planted_bug_of_the_fleet_is_caught(
    bug: str, simulated_fleet: FleetSimulator
) -> None:
    for seed in seeds_to_try(CAUGHT_BY[bug]):
        await simulated_fleet.remember(seed)
        with BUGS[bug]():
            outcome = await simulated_fleet.run(seed)
        if outcome.broken is not None:
            return
    pytest.fail(f"no seed catches it; the last one: {outcome.told()}")
