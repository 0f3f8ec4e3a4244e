from __future__ import annotations

import pytest

from shared.bus.retry import RetryDecision, RetryPolicy, Verdict
from shared.errors import (
    ContractError,
    FatalError,
    PermanentError,
    RetryableError,
    StoreError,
    VenueRejectedError,
    VenueUnknownError,
)

POLICY = RetryPolicy(first_wait_seconds=0.5, longest_wait_seconds=3.0, attempts_for_defects=3)


def test_the_wait_doubles_up_to_the_ceiling() -> None:
    waits = [POLICY.decide(StoreError("down"), attempt).wait_seconds for attempt in range(1, 7)]
    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("error", [StoreError("down"), VenueUnknownError("timeout")])
def test_a_retryable_error_is_never_given_up(error: RetryableError) -> None:
    assert POLICY.decide(error, 10**9) == RetryDecision(Verdict.RETRY, 3.0)


def test_an_error_that_names_its_wait_is_obeyed() -> None:
    error = RetryableError("rate limit", retry_after=42.0)
    assert POLICY.decide(error, 1) == RetryDecision(Verdict.RETRY, 42.0)


@pytest.mark.parametrize(
    "error", [PermanentError("no"), ContractError("no"), VenueRejectedError("no")]
)
def test_a_permanent_error_is_not_tried_again(error: PermanentError) -> None:
    assert POLICY.decide(error, 1) == RetryDecision(Verdict.DEAD_LETTER)


def test_a_fatal_error_stops_the_service() -> None:
    assert POLICY.decide(FatalError("broken"), 1) == RetryDecision(Verdict.STOP)


def test_a_defect_is_tried_as_often_as_it_may() -> None:
    decisions = [POLICY.decide(ZeroDivisionError(), attempt) for attempt in (1, 2, 3, 4)]
    assert [decision.verdict for decision in decisions] == [
        Verdict.RETRY,
        Verdict.RETRY,
        Verdict.DEAD_LETTER,
        Verdict.DEAD_LETTER,
    ]
    assert [decision.wait_seconds for decision in decisions] == [0.5, 1.0, 0.0, 0.0]
