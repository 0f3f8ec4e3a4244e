"""Who has guessed too often is not listened to for a while."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

FAILURES = 10
WITHIN_SECONDS = 60.0
LOCKED_SECONDS = 60.0
_MOST_ADDRESSES = 1_024


@dataclass(slots=True)
class _Guesser:
    failed_at: deque[float] = field(default_factory=lambda: deque(maxlen=FAILURES))
    locked_until: float = 0.0


class LockOut:
    """Counts wrong tokens by client address and locks an address out.

    The lock ends by itself: what is tried during it does not prolong it, or a forgotten
    program with an old token would keep everybody on its machine out for good.
    """

    def __init__(self) -> None:
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def seconds_left(self, address: str, now: float) -> int:
        """Return for how many seconds an address is still locked out, 0 where it is not."""
        guesser = self._guessers.get(address)
        return 0 if guesser is None else max(0, math.ceil(guesser.locked_until - now))

    def note_failure(self, address: str, now: float) -> None:
        """Count a wrong token."""
        guesser = self._guessers.setdefault(address, _Guesser())
        self._guessers.move_to_end(address)
        while len(self._guessers) > _MOST_ADDRESSES:
            self._guessers.popitem(last=False)
        if now < guesser.locked_until:
            return
        guesser.failed_at.append(now)
        if len(guesser.failed_at) == FAILURES and now - guesser.failed_at[0] <= WITHIN_SECONDS:
            guesser.locked_until = now + LOCKED_SECONDS
            guesser.failed_at.clear()
