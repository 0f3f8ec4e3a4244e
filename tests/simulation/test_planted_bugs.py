"""Bugs that the simulation must catch, and the first seed that catches each."""

from __future__ import annotations

import pytest

from tests.simulation.planted import BUGS
from tests.simulation.run import simulator

CAUGHT_BY: dict[str, int] = {}


@pytest.mark.parametrize("bug", BUGS)
async def test_a_planted_bug_is_caught_by_its_seed(bug: str, database_url: str) -> None:
    async with simulator(database_url) as simulated:
        with BUGS[bug]():
            outcome = await simulated.run(CAUGHT_BY[bug])
    assert outcome.broken is not None, outcome.told()
