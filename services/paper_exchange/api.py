"""Routes: Binance USD-M futures and spot as far as they are simulated, and the venue's control."""

from __future__ import annotations

import asyncio
import hmac
import json
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import generate_latest
from pydantic import ValidationError

from services.paper_exchange import metrics
from services.paper_exchange.authentication import Credentials
from services.paper_exchange.endpoints import Access, Endpoint, build_endpoints
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.gate import Gate, Request
from services.paper_exchange.refusals import RefusalError, missing
from shared.clock import monotonic_seconds
from shared.venues.faults import FaultSettings

MAX_INSTANT_MS = 10**14
WAIT_STEP_SECONDS = 0.1
NEVER_SENT = 499
"""Status under which an answer is counted that a fault has kept from its client."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = structlog.get_logger()


def build_routes(
    exchange: PaperExchange, credentials: Credentials, token: str
) -> list[web.RouteDef]:
    """Return every REST route of the venue.

    Parameters
    ----------
    exchange
        The venue.
    credentials
        What requests to the account are signed with.
    token
        Bearer token of control routes; while it is empty they refuse.
    """
    gate = Gate(exchange, credentials)
    simulated = [
        web.route(endpoint.method, endpoint.path, _through(gate, endpoint, exchange))
        for endpoint in build_endpoints(exchange, credentials)
    ]
    return [
        *simulated,
        web.post("/paper/advance", _controlled(_advance(exchange), token)),
        web.get("/paper/faults", _controlled(_show_faults(exchange), token)),
        web.put("/paper/faults", _controlled(_change_faults(exchange), token)),
        web.get("/status", _shown(exchange.status)),
        web.get("/health", _shown(lambda: _health(exchange))),
        web.get("/ready", _shown(lambda: {"service": "paper_exchange", "ready": True})),
        web.get("/metrics", _show_metrics(exchange)),
    ]


def _through(gate: Gate, endpoint: Endpoint, exchange: PaperExchange) -> Handler:
    """Return the handler of a route of Binance's; it may answer late, or not at all."""

    async def handle(request: web.Request) -> web.StreamResponse:
        raw_query = request.raw_path.partition("?")[2]
        body = await _text(request) if endpoint.access is Access.SIGNED else ""
        key = request.headers.get("X-MBX-APIKEY")
        answer = await gate.answer(endpoint, Request(raw_query, body, key))
        await exchange.committed()
        if answer.late_ms:
            # Venue time goes by as fast as the market does.
            await _wait(request, answer.late_ms / 1000 / (exchange.source.speed or 1.0))
        if not answer.is_lost:
            return web.Response(
                body=answer.body,
                status=answer.status,
                headers=answer.headers,
                content_type=answer.content_type,
            )
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=NEVER_SENT)

    return handle


async def _wait(request: web.Request, seconds: float) -> None:
    """Let time go by while the client waits too: nobody is waited for who has gone."""
    n_steps = max(1, round(seconds / WAIT_STEP_SECONDS))
    for _ in range(n_steps):
        if request.transport is None:
            return
        await asyncio.sleep(seconds / n_steps)


def _shown(show: Callable[[], Any]) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        return _json(show())

    return handle


def _controlled(control: Callable[[bytes], Any], token: str) -> Handler:
    """Return the handler of what only the bearer of the token may do; it takes the body."""

    async def handle(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not token or not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise RefusalError(
                -2015, "this route is for control: send 'Authorization: Bearer <token>'", 401
            )
        return _json(control(await request.read()))

    return handle


def _advance(exchange: PaperExchange) -> Callable[[bytes], dict[str, int]]:
    def advance(body: bytes) -> dict[str, int]:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RefusalError(
                -1135, 'send JSON such as {"closes_at_ms": 1704067500000}'
            ) from error
        return exchange.advance(_read_close(document))

    return advance


def _show_faults(exchange: PaperExchange) -> Callable[[bytes], dict[str, Any]]:
    def show(_: bytes) -> dict[str, Any]:
        faults = exchange.faults
        return {"settings": faults.settings.model_dump(mode="json"), "injected": faults.injected}

    return show


def _change_faults(exchange: PaperExchange) -> Callable[[bytes], dict[str, Any]]:
    show = _show_faults(exchange)

    def change(body: bytes) -> dict[str, Any]:
        try:
            settings = FaultSettings.model_validate_json(body)
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, each['loc'])) or 'the body'}: {each['msg']}"
                for each in error.errors(include_url=False, include_input=False)
            ]
            raise RefusalError(-1135, f"faults: {'; '.join(faults)}") from error
        exchange.faults.change(settings)
        return show(body)

    return change


def _read_close(document: object) -> int:
    """Return the close that an `advance` request names, in milliseconds since 1970."""
    if not isinstance(document, dict) or "closes_at_ms" not in document:
        raise missing("closes_at_ms")
    closes_at_ms = document["closes_at_ms"]
    if type(closes_at_ms) is not int or not 0 < closes_at_ms < MAX_INSTANT_MS:
        raise RefusalError(
            -1100, f"closes_at_ms {closes_at_ms!r}: send whole milliseconds since 1970"
        )
    return closes_at_ms


def _health(exchange: PaperExchange) -> dict[str, Any]:
    """Return what is wrong. It is never a reason to restart the venue, so it is healthy."""
    fault = exchange.source.fault
    return {
        "service": "paper_exchange",
        "healthy": True,
        "faults": [] if fault is None else [fault],
    }


def answer_in_json(exchange: PaperExchange) -> Middleware:
    """Return the middleware around every route.

    It turns refusals and failures into the venue's JSON, lets no answer leave before what
    it tells of is on disk, and counts and times the answers.
    """

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = monotonic_seconds()
        resource = request.match_info.route.resource
        # An unknown route or method is one label, whatever it was.
        method, route = ("any", "unknown")
        if resource is not None:
            method, route = request.method, resource.canonical
        try:
            response = await _answer_or_refusal(request, handler)
            await exchange.committed()
        except sqlite3.Error as error:
            logger.error("store failed", route=route, error=str(error))
            response = _refusal(
                -1001, "Internal error; unable to process your request. Please try again.", 503
            )
        if isinstance(response, web.WebSocketResponse):
            return response  # it lasted as long as its client liked
        metrics.REQUESTS.labels(method, route, response.status).inc()
        metrics.REQUEST_SECONDS.labels(method, route).observe(monotonic_seconds() - started)
        return response

    return answer


async def _answer_or_refusal(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusalError as refusal:
        metrics.REFUSALS.labels(refusal.code).inc()
        return _refusal(refusal.code, refusal.message, refusal.status)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _no_such_route(request)
    except web.HTTPException as error:
        return _refusal(-1100, error.reason, error.status)


def _no_such_route(request: web.Request) -> web.Response:
    routes = sorted(
        {
            f"{route.method} {route.resource.canonical}"
            for route in request.app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
    )
    message = f"Path {request.path}, Method {request.method} is invalid"
    return _json({"code": -5000, "msg": message, "routes": routes}, 404)


def _refusal(code: int, message: str, status: int) -> web.Response:
    return _json({"code": code, "msg": message}, status)


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


def _show_metrics(exchange: PaperExchange) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        exchange.status()  # brings the gauges up to date
        return web.Response(body=generate_latest(), content_type="text/plain", charset="utf-8")

    return handle


async def _text(request: web.Request) -> str:
    try:
        return (await request.read()).decode()
    except UnicodeDecodeError as error:
        raise RefusalError(-1100, "Illegal characters found in a parameter.") from error
