"""The wire between ccxt and the venue: unmodified ccxt, with a session that has no socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import yarl
from ccxt.async_support import binanceusdm

from services.paper_exchange.gate import Answer
from shared.venues.connection import TIMEOUT_MS, open_exchange
from tests.simulation.world import World

Inspect = Callable[[dict[str, str], bool], Awaitable[None]]
"""Told of an order that is about to reach the venue, and again when it was taken there."""


@dataclass(frozen=True, slots=True)
class _Response:
    """What ccxt reads of a response."""

    answer: Answer
    reason: str = ""

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Content-Type": self.answer.content_type, **self.answer.headers}

    async def text(self, errors: str = "strict") -> str:
        return self.answer.body.decode(errors=errors)


class _Call:
    """A request on its way, as a context that ends with its response."""

    def __init__(self, wire: Wire, method: str, url: yarl.URL, body: bytes | None) -> None:
        self._wire, self._method, self._url, self._body = wire, method, url, body

    async def __aenter__(self) -> _Response:
        return _Response(await self._wire.send(self._method, self._url, self._body))

    async def __aexit__(self, *error: object) -> None:
        pass


class Wire:
    """What ccxt takes for its session.

    Parameters
    ----------
    world
        Where the venue is.
    inspect
        Who sees every new order.
    """

    def __init__(self, world: World, inspect: Inspect) -> None:
        self.headers: dict[str, str] = {}
        self._world = world
        self._inspect = inspect
        self._random = world.chance("wire")
        self._stalls = self._random.choice((0.0, 0.02, 0.1))

    def get(self, url: yarl.URL, data: bytes | None, **_: object) -> _Call:
        return _Call(self, "GET", url, data)

    def post(self, url: yarl.URL, data: bytes | None, **_: object) -> _Call:
        return _Call(self, "POST", url, data)

    def delete(self, url: yarl.URL, data: bytes | None, **_: object) -> _Call:
        return _Call(self, "DELETE", url, data)

    async def send(self, method: str, url: yarl.URL, body: bytes | None) -> Answer:
        world, name = self._world, f"{method} {url.path.rpartition('/')[2]}"
        world.side_effect(f"{name}, before it is sent")
        delay_ms = self._random.randint(5, 60)
        if not world.is_healed and self._random.random() < self._stalls:
            delay_ms = self._random.randint(500, 4_000)
        world.pass_time(delay_ms)
        query = url.raw_query_string or (body or b"").decode()
        asked = dict(parse_qsl(query))
        asked.pop("signature", None)
        is_order = name == "POST order"
        if is_order:
            await self._inspect(asked, False)
        n_before = world.venue.exchange.store.counts()["orders"]
        answer = world.venue.request(method, url.path, asked)
        # The log keeps out of the weights that answers carry, but has all that was decided.
        about = asked.get("newClientOrderId") or asked.get("origClientOrderId") or ""
        world.note(f"{name} {about[:8]} {asked.get('quantity', '')}: {answer.status}")
        if is_order and world.venue.exchange.store.counts()["orders"] > n_before:
            await self._inspect(asked, True)
        world.side_effect(f"{name}, before its answer is read")
        world.pass_time(min(answer.late_ms, TIMEOUT_MS))
        if answer.late_ms > TIMEOUT_MS:
            raise TimeoutError
        if answer.is_lost or not answer.status:
            raise aiohttp.ServerDisconnectedError
        return answer


class Client:
    """One client of ccxt for all processes of all runs: to make one takes as long as a run."""

    def __init__(self) -> None:
        self._exchange = open_exchange(
            binanceusdm, "http://venue", apiKey="key", secret="secret", session=object()
        )

    def connect(self, world: World, wire: Wire) -> None:
        """Send what follows over a wire, and tell the time of a world."""
        self._exchange.session = wire
        self._exchange.milliseconds = lambda: world.now_ms
        self._exchange.close = self._close

    def disconnect(self) -> None:
        """Let go of the wire, or the client asks at its end for what has no end."""
        self._exchange.session = None

    async def _close(self) -> None:
        """Keep it for the next process."""

    def open(self, _kind: object, _url: str, **config: Any) -> Any:
        """Return the client as a new process would make it: knowing nothing."""
        exchange = self._exchange
        exchange.markets = exchange.markets_by_id = exchange.markets_loading = None
        exchange.reloading_markets = False
        exchange.options |= {"timeDifference": 0, **config["options"]}
        return exchange
