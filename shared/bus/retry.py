"""What to do with a handler that failed: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shared.errors import FatalError, PermanentError, RetryableError


class Verdict(StrEnum):
    """The three ways on."""

    RETRY = "retry"
    DEAD_LETTER = "dead_letter"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """A verdict, and how long to wait where it is to try again."""

    verdict: Verdict
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Back-off that doubles up to a ceiling.

    Attributes
    ----------
    first_wait_seconds, longest_wait_seconds
        Bounds of the back-off.
    attempts_for_defects
        Tries given to an error nobody foresaw, before the event goes to the dead letters.
    """

    first_wait_seconds: float = 0.05
    longest_wait_seconds: float = 5.0
    attempts_for_defects: int = 3

    def decide(self, error: Exception, attempt: int) -> RetryDecision:
        """Decide on the `attempt`-th failure (from 1) of one event.

        A retryable error is tried for as long as it lasts: the database or the venue being
        down must not cost an event. A permanent one goes to the dead letters at once.
        """
        if isinstance(error, FatalError):
            return RetryDecision(Verdict.STOP)
        if isinstance(error, PermanentError):
            return RetryDecision(Verdict.DEAD_LETTER)
        wait = min(self.first_wait_seconds * 2.0 ** min(attempt - 1, 16), self.longest_wait_seconds)
        if isinstance(error, RetryableError):
            return RetryDecision(Verdict.RETRY, error.retry_after or wait)
        if attempt >= self.attempts_for_defects:
            return RetryDecision(Verdict.DEAD_LETTER)
        return RetryDecision(Verdict.RETRY, wait)
