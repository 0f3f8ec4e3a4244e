"""Requests of people, done in turn with the handlers of events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from shared.bus.consumer import Consumer, UnitOfWork
from shared.errors import FatalError, MntError

Job = Callable[[UnitOfWork], Awaitable[dict[str, Any]]]


class RequestQueue:
    """Hands jobs from REST routes to the consumer, which alone may open its transactions."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Job, asyncio.Future[dict[str, Any]]]] = deque()
        self._consumer: Callable[[], Consumer] | None = None

    def attach(self, consumer: Callable[[], Consumer]) -> None:
        """Name the consumer that serves the queue."""
        self._consumer = consumer

    async def do(self, name: str, job: Job) -> dict[str, Any]:
        """Have a job done in a transaction of its own and return its answer.

        Raises
        ------
        MntError
            Whatever the job raised; nothing of it was recorded.
        """
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((name, job, done))
        self._served_by().wake()
        return await done

    async def serve_one(self) -> bool:
        """Do the oldest job, if any; True when there was one."""
        if not self._waiting:
            return False
        name, job, done = self._waiting.popleft()
        answer: dict[str, Any] = {}

        async def work(unit: UnitOfWork) -> None:
            answer.update(await job(unit))

        try:
            await self._served_by().work(f"request:{name}", work)
        except MntError as error:
            if not done.cancelled():
                done.set_exception(error)
        else:
            if not done.cancelled():
                done.set_result(answer)
        return True

    def _served_by(self) -> Consumer:
        if self._consumer is None:
            raise FatalError("the request queue has no consumer: the service did not start")
        return self._consumer()
