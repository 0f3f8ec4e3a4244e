"""Bugs that the simulation must catch, and a seed that catches each."""

from __future__ import annotations

import pytest

from tests.simulation.planted import BUGS, seeds_to_try
from tests.simulation.run import Simulator

CAUGHT_BY = {
    "send before the commit": 1,
    "acknowledge before the commit": 1,
    "handle what was handled": 8,
    "trust the transport": 1,
    "keep a lease whose taking was undone": 7,
    "go on from memory after a lost commit": 2,
    "retry under a new id": 5,
    "send again without asking": 5,
    "skip reconciliation": 2,
    "take a timeout for a rejection": 5,
    "believe that an order has ended": 5,
    "quantities in floating point": 1,
    "forget the second leg": 1,
    "leave legs out of proportion": 9,
    "book fills anew after a restart": 1,
    "forget orders in flight at a restart": 5,
    "trade a replayed event again": 4,
    "open while halted": 42,
    "ignore the limits": 15,
    "close the wrong way": 1,
    "forget the fees": 1,
    "book prices a tick off": 7,
    "record no positions": 1,
}
"""The seed to try first, by what the bug does."""


def test_every_planted_bug_is_on_the_list() -> None:
    assert CAUGHT_BY.keys() == BUGS.keys()
    assert len(BUGS) >= 20


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("bug", CAUGHT_BY)
async def test_a_planted_bug_is_caught(bug: str, simulated: Simulator) -> None:
    for seed in seeds_to_try(CAUGHT_BY[bug]):
        with BUGS[bug]():
            outcome = await simulated.run(seed)
        if outcome.broken is not None:
            return
    pytest.fail(f"no seed catches it; the last one: {outcome.told()}")
