"""Every combination of what may become of two legs: no pair is left on one of them."""

from __future__ import annotations

import os
from itertools import product
from unittest.mock import patch

import pytest

import shared.book.ledger as ledger
from shared.book.compensation import Compensation, Remedy
from tests.simulation.leg_failures import Legs, Outcome

FIRST = int(os.environ.get("SIM_FIRST", "1"))
N_SEEDS = int(os.environ.get("SIM_LEG_SEEDS", "40"))


@pytest.mark.parametrize("outcomes", list(product(Outcome, Outcome)), ids="-".join)
def test_no_pair_is_left_on_one_leg(outcomes: tuple[Outcome, Outcome]) -> None:
    for seed in range(FIRST, FIRST + N_SEEDS):
        assert (wrong := Legs(seed, outcomes).run()) is None, f"seed {seed}: {wrong}"


def test_a_book_that_does_not_compensate_is_caught() -> None:
    def nothing(*_: object, **__: object) -> Compensation:
        return Compensation(Remedy.NONE)

    with patch.object(ledger, "compensate", nothing):
        rejected = Legs(FIRST, (Outcome.FILLED, Outcome.REJECTED)).run()
        partial = Legs(FIRST, (Outcome.PARTIAL, Outcome.FILLED)).run()
    assert rejected is not None
    assert "single-legged" in rejected
    assert partial is not None
    assert "net exposure" in partial
