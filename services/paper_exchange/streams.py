"""Who listens to which stream, and how a connection is fed.

Publishing never waits: every connection has a queue of its own, and one whose reader is too
slow for it is cut off rather than let it hold up the market or grow without end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from typing import Any

import orjson
import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from services.paper_exchange import metrics
from services.paper_exchange.faults import Fault

QUEUE_MESSAGES = 10_000
"""Messages that wait for a reader before it is cut off: the closes of hundreds of symbols."""

HELD_SECONDS = 1.0
"""How long a message waits for the next one, to come after it."""

HEARTBEAT_SECONDS = 30.0
MAX_MESSAGE_BYTES = 262_144
MAX_STREAMS = 1_024

logger = structlog.get_logger()


class Envelope(Enum):
    """How an event is wrapped: as it is, with the name of its stream, or for the API."""

    RAW = "raw"
    COMBINED = "combined"
    API = "api"


class Listener:
    """Who hears streams.

    Parameters
    ----------
    envelope
        How its events are wrapped.
    """

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.streams: dict[str, None] = {}
        self._held: str | None = None

    def send(self, text: str) -> None:
        """Give it a message, and after it the one that was held back for it."""
        self._deliver(text)
        self.release()

    def hold(self, text: str) -> None:
        """Keep a message back until the next one has gone; of two, only the first."""
        if self._held is None:
            self._held = text
        else:
            self.send(text)

    def release(self) -> None:
        """Give it the message that is held back, if any: nothing else has come."""
        held, self._held = self._held, None
        if held is not None:
            self._deliver(held)

    def cut(self) -> None:
        """End it without a word."""
        raise NotImplementedError

    def _deliver(self, text: str) -> None:
        raise NotImplementedError


class Connection(Listener):
    """One websocket and what waits to be written to it.

    Parameters
    ----------
    socket, transport
        A prepared websocket and what it writes to.
    envelope
        How its events are wrapped.
    """

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport, envelope: Envelope
    ) -> None:
        super().__init__(envelope)
        self._socket = socket
        self._transport = transport
        self._waiting: asyncio.Queue[str] = asyncio.Queue(QUEUE_MESSAGES)

    def hold(self, text: str) -> None:
        """Keep a message back until the next one has gone, or for a moment."""
        super().hold(text)
        asyncio.get_running_loop().call_later(HELD_SECONDS, self.release)

    def cut(self) -> None:
        """End the connection without a word."""
        self._transport.abort()

    def _deliver(self, text: str) -> None:
        """Queue a message; a connection whose queue is full is cut off."""
        try:
            self._waiting.put_nowait(text)
        except asyncio.QueueFull:
            if not self._transport.is_closing():
                metrics.SLOW_READERS.inc()
                logger.warning("slow reader cut off", waiting=self._waiting.qsize())
                self.cut()

    def answer(self, document: dict[str, Any]) -> None:
        """Queue an answer to a request."""
        self.send(orjson.dumps(document).decode())

    async def write(self) -> None:
        """Write what is queued, in order, until cancelled or cut off."""
        with suppress(ConnectionError):
            while True:
                await self._socket.send_str(await self._waiting.get())

    async def close(self) -> None:
        """Say goodbye: the venue is going down."""
        await self._socket.close(code=WSCloseCode.GOING_AWAY)


def _nothing(_: str) -> Fault | None:
    return None


class Hub:
    """Everyone who listens, and to which streams.

    Parameters
    ----------
    strikes
        What strikes the next message of a stream.
    """

    def __init__(self, strikes: Callable[[str], Fault | None] = _nothing) -> None:
        self._strikes = strikes
        self._listeners: dict[str, dict[Listener, None]] = {}
        self._connections: dict[Connection, None] = {}

    @property
    def n_connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def streams(self) -> list[str]:
        """Streams that somebody listens to."""
        return list(self._listeners)

    def has(self, stream: str) -> bool:
        """Tell whether anybody listens to a stream."""
        return stream in self._listeners

    def subscribe(self, connection: Listener, streams: Iterable[str]) -> None:
        """Let a connection hear some streams."""
        for stream in streams:
            connection.streams[stream] = None
            self._listeners.setdefault(stream, {})[connection] = None

    def unsubscribe(self, connection: Listener, streams: Iterable[str]) -> None:
        """Let a connection no longer hear some streams."""
        for stream in streams:
            connection.streams.pop(stream, None)
            listeners = self._listeners.get(stream, {})
            listeners.pop(connection, None)
            if not listeners:
                self._listeners.pop(stream, None)

    def publish(self, stream: str, event: Any) -> None:
        """Queue an event for everyone who listens to its stream."""
        listeners = self._listeners.get(stream)
        if not listeners:
            return
        metrics.STREAM_MESSAGES.inc(len(listeners))
        fault = self._strikes(stream)
        wrapped = _wrapped(stream, event)
        for connection in list(listeners):
            text = wrapped[connection.envelope]
            if fault is Fault.DISCONNECT:
                connection.cut()
            elif fault is Fault.REORDER:
                connection.hold(text)
            else:
                connection.send(text)
                if fault is Fault.DUPLICATE:
                    connection.send(text)

    def send_to(self, connection: Connection, stream: str, event: Any) -> None:
        """Queue an event for one connection alone."""
        connection.send(_wrapped(stream, event)[connection.envelope])

    async def serve(
        self,
        request: web.Request,
        envelope: Envelope,
        join: Callable[[Connection], None],
        hear: Callable[[Connection, str], None],
    ) -> web.WebSocketResponse:
        """Serve a connection until it ends.

        Parameters
        ----------
        request, envelope
            The request to upgrade, and how events are wrapped for it.
        join, hear
            Called once at its beginning, and with every text it sends.
        """
        # The heartbeat pings, and ends a connection that answers nothing.
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_MESSAGE_BYTES, compress=False
        )
        await socket.prepare(request)
        transport = request.transport
        if transport is None:  # it has gone already
            return socket
        connection = Connection(socket, transport, envelope)
        self._connections[connection] = None
        join(connection)
        writer = asyncio.create_task(connection.write(), name="websocket writer")
        try:
            message: WSMessage
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    hear(connection, message.data)
        finally:
            self.unsubscribe(connection, list(connection.streams))
            self._connections.pop(connection, None)
            writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer
        return socket

    async def close(self) -> None:
        """End every connection: the venue is going down."""
        await asyncio.gather(*(connection.close() for connection in list(self._connections)))


def _wrapped(stream: str, event: Any) -> dict[Envelope, str]:
    text, name = orjson.dumps(event).decode(), orjson.dumps(stream).decode()
    return {
        Envelope.RAW: text,
        Envelope.COMBINED: f'{{"stream":{name},"data":{text}}}',
        Envelope.API: f'{{"subscriptionId":0,"event":{text}}}',
    }
