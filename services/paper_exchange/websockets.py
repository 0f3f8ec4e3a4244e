"""Routes of the websockets, and what a client may say on them.

Binance has them on hosts of their own; here they share one, and paths tell them apart. Spot
is at `/ws` and `/stream`, USD-M below `/market`, `/public` and `/private`, which is where
clients that know the split look for it. `/stream/ws` stands for the host `stream.binance.com`:
ccxt takes a stream for a spot one only where it finds `/stream` in its address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from services.paper_exchange.authentication import Credentials, check_key, check_signature
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.faults import Fault
from services.paper_exchange.matching import Product
from services.paper_exchange.refusals import RefusalError, closed_for_maintenance
from services.paper_exchange.streams import MAX_STREAMS, Connection, Envelope, Hub

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_RAW = ("/ws", "/stream/ws", "/market/ws", "/public/ws", "/private/ws")
_COMBINED = ("/stream", "/market/stream", "/public/stream", "/private/stream")


def build_websockets(
    exchange: PaperExchange, hub: Hub, credentials: Credentials
) -> list[web.RouteDef]:
    """Return the websocket routes of the venue.

    Parameters
    ----------
    exchange, hub
        The venue, and who listens to it.
    credentials
        What requests on the websocket API are signed with.
    """

    def serve(envelope: Envelope) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            _refuse_during_maintenance(exchange)
            control = _Control(exchange, hub)
            return await hub.serve(
                request, envelope, lambda each: control.join(each, _named(request)), control.hear
            )

        return handle

    async def api(request: web.Request) -> web.StreamResponse:
        _refuse_during_maintenance(exchange)
        control = _Api(exchange, hub, credentials)
        return await hub.serve(request, Envelope.API, lambda _: None, control.hear)

    return [
        web.get("/ws-api/v3", api),
        *(web.get(path, serve(Envelope.RAW)) for path in _RAW),
        *(web.get(f"{path}/{{streams:.*}}", serve(Envelope.RAW)) for path in _RAW),
        *(web.get(path, serve(Envelope.COMBINED)) for path in _COMBINED),
    ]


def _refuse_during_maintenance(exchange: PaperExchange) -> None:
    reopens_at = exchange.closed_until()
    if reopens_at is not None:
        exchange.faults.count(Fault.MAINTENANCE, "streams", route="websocket")
        raise closed_for_maintenance(reopens_at)


def _named(request: web.Request) -> list[str]:
    """Return the streams that an address names; ccxt writes the number of its connection there."""
    parts = (
        request.match_info.get("streams", ""),
        request.query.get("streams", ""),
        request.query.get("listenKey", ""),
    )
    names = "/".join(parts).split("/")
    return [name for name in names if name.isascii() and name and not name.isdigit()]


class _Control:
    """Answers SUBSCRIBE, UNSUBSCRIBE and LIST_SUBSCRIPTIONS."""

    def __init__(self, exchange: PaperExchange, hub: Hub) -> None:
        self._exchange = exchange
        self._hub = hub

    def hear(self, connection: Connection, text: str) -> None:
        """Answer a request."""
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            connection.answer(_fault(None, 3, f"Invalid JSON: {error}"))
            return
        if not isinstance(request, dict) or not isinstance(request.get("id"), int | str | None):
            connection.answer(_fault(None, 2, "Invalid request: send an object with an id"))
            return
        number, method, named = request.get("id"), request.get("method"), request.get("params")
        if method == "LIST_SUBSCRIPTIONS":
            connection.answer({"result": list(connection.streams), "id": number})
        elif method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            message = f"Invalid request: unknown method {str(method)[:60]!r}"
            connection.answer(_fault(number, 2, message))
        elif not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            message = "Invalid request: params must be a list of stream names"
            connection.answer(_fault(number, 2, message))
        elif method == "UNSUBSCRIBE":
            self._hub.unsubscribe(connection, named)
            connection.answer({"result": None, "id": number})
        elif len(connection.streams) + len(named) > MAX_STREAMS:
            connection.answer(_fault(number, 2, f"Invalid request: at most {MAX_STREAMS} streams"))
        else:
            connection.answer({"result": None, "id": number})
            self.join(connection, named)

    def join(self, connection: Connection, names: list[str]) -> None:
        """Let a connection hear streams, and tell it what is, so that nobody waits a bar for it."""
        self._hub.subscribe(connection, names)
        for name in names:
            for event in self._exchange.present(name):
                self._hub.send_to(connection, name, event)


class _Api:
    """Answers requests on the websocket API of spot: the ones that lead to the account's stream."""

    def __init__(self, exchange: PaperExchange, hub: Hub, credentials: Credentials) -> None:
        self._exchange = exchange
        self._hub = hub
        self._credentials = credentials

    def hear(self, connection: Connection, text: str) -> None:
        """Answer a request."""
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            request = {"id": None, "method": f"unreadable: {error}"}
        if not isinstance(request, dict) or not isinstance(request.get("id"), int | str | None):
            request = {"id": None, "method": "none: send an object with an id"}
        number = request.get("id")
        try:
            result = self._result(connection, request)
        except RefusalError as refusal:
            fault = {"code": refusal.code, "msg": refusal.message}
            connection.answer({"id": number, "status": refusal.status, "error": fault})
        else:
            connection.answer({"id": number, "status": 200, "result": result})

    def _result(self, connection: Connection, request: dict[str, Any]) -> dict[str, Any]:
        method, stream = request.get("method"), self._credentials.listen_key(Product.SPOT)
        if method == "ping":
            return {}
        if method == "time":
            return {"serverTime": self._exchange.shown_ms()}
        if method == "userDataStream.subscribe.signature":
            self._authenticate(request.get("params"))
            self._hub.subscribe(connection, [stream])
            return {"subscriptionId": 0}
        if method == "userDataStream.unsubscribe":
            self._hub.unsubscribe(connection, [stream])
            return {}
        raise RefusalError(-1000, f"Unknown method {str(method)[:60]!r}.")

    def _authenticate(self, params: object) -> None:
        """Refuse parameters that are not signed: all but the signature, in order of names."""
        given = params if isinstance(params, dict) else {}
        parameters = {str(name): str(value) for name, value in given.items()}
        check_key(parameters.get("apiKey"), self._credentials)
        signed = sorted((n, v) for n, v in parameters.items() if n != "signature")
        text = "&".join(f"{name}={value}" for name, value in signed)
        exchange = self._exchange
        check_signature(
            text, parameters, self._credentials, exchange.shown_ms(), exchange.client_ms()
        )


def _fault(number: object, code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "msg": message}, "id": number}
