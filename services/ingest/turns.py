"""Turns of the consumer, which alone may open the service's transactions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from shared.bus.consumer import Consumer, UnitOfWork
from shared.errors import MntError

Work = Callable[[UnitOfWork], Awaitable[None]]


class Turns:
    """Hands the work of other tasks to the consumer, which does one piece between two events.

    Nothing is done while the consumer is paused.

    Parameters
    ----------
    consumer
        Returns the consumer; asked late, because routes are built before it.
    """

    def __init__(self, consumer: Callable[[], Consumer]) -> None:
        self._consumer = consumer
        self._waiting: deque[tuple[str, Work, asyncio.Future[None]]] = deque()

    async def take(self, source_uri: str, work: Work) -> None:
        """Have something done in a transaction of its own.

        Raises
        ------
        MntError
            Whatever it raised; nothing of it was recorded.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((source_uri, work, done))
        self._consumer().wake()
        await done

    async def serve_one(self) -> bool:
        """Do what has waited longest, if anything; True when there was something."""
        while self._waiting:
            source_uri, work, done = self._waiting.popleft()
            if done.cancelled():
                continue
            try:
                await self._consumer().work(source_uri, work)
            except MntError as error:
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(None)
            return True
        return False
