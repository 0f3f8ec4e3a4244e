"""Routes: Binance USD-M futures as far as it is simulated, and the venue's own control."""

from __future__ import annotations

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

from services.paper_exchange import metrics
from services.paper_exchange.authentication import Credentials, authenticate, parse_parameters
from services.paper_exchange.handlers import Answer, PaperExchange, Parameters, read_close
from services.paper_exchange.refusals import RefusalError
from shared.clock import monotonic_seconds

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = structlog.get_logger()


def build_routes(
    exchange: PaperExchange, credentials: Credentials, token: str
) -> list[web.RouteDef]:
    """Return every route of the venue.

    Parameters
    ----------
    exchange
        The use cases.
    credentials
        What requests to the account are signed with.
    token
        Bearer token of control routes; while it is empty they refuse.
    """

    def public(use_case: Callable[[], Any]) -> Handler:
        async def handle(_: web.Request) -> web.Response:
            return _json(use_case())

        return handle

    def asked(use_case: Callable[[Parameters], Any]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            return _json(use_case(_query(request)))

        return handle

    def klines(max_limit: int) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            return _json(await exchange.klines(_query(request), max_limit))

        return handle

    def signed(use_case: Callable[[Parameters], Answer]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            body = await _text(request)
            parameters = authenticate(
                request.raw_path.partition("?")[2],
                body,
                request.headers.get("X-MBX-APIKEY"),
                credentials,
                exchange.now_ms(),
            )
            return _json(use_case(parameters))

        return handle

    async def advance(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not token or not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise RefusalError(
                -2015, "this route changes state: send 'Authorization: Bearer <token>'", 401
            )
        try:
            document = json.loads(await _text(request))
        except (ValueError, RecursionError) as error:
            raise RefusalError(
                -1135, 'send JSON such as {"closes_at_ms": 1704067500000}'
            ) from error
        return _json(exchange.advance(read_close(document)))

    return [
        *(
            route
            for prefix, most_klines in (("/fapi/v1", 1_500), ("/api/v3", 1_000))
            for route in (
                web.get(f"{prefix}/ping", public(dict)),
                web.get(f"{prefix}/time", public(lambda: {"serverTime": exchange.now_ms()})),
                web.get(f"{prefix}/klines", klines(most_klines)),
                web.get(f"{prefix}/ticker/price", asked(exchange.prices)),
                web.get(f"{prefix}/ticker/24hr", asked(exchange.tickers)),
            )
        ),
        web.get("/fapi/v1/exchangeInfo", public(exchange.exchange_info)),
        web.get("/api/v3/exchangeInfo", public(exchange.spot_exchange_info)),
        # What load_markets also asks for: other products of the exchange, none of them here.
        web.get("/dapi/v1/exchangeInfo", public(lambda: {"symbols": []})),
        web.get("/sapi/v1/capital/config/getall", public(list)),
        web.get("/sapi/v1/margin/allPairs", public(list)),
        web.get("/sapi/v1/margin/isolated/allPairs", public(list)),
        web.get("/fapi/v2/ticker/price", asked(exchange.prices)),
        web.get("/fapi/v1/premiumIndex", asked(exchange.premium_index)),
        web.get("/fapi/v1/fundingRate", asked(exchange.past_funding)),
        web.get("/fapi/v1/fundingInfo", public(exchange.funding_info)),
        web.post("/fapi/v1/order", signed(exchange.place_order)),
        web.get("/fapi/v1/order", signed(exchange.fetch_order)),
        web.delete("/fapi/v1/order", signed(exchange.cancel_order)),
        web.get("/fapi/v1/openOrder", signed(exchange.fetch_open_order)),
        web.get("/fapi/v1/openOrders", signed(exchange.fetch_open_orders)),
        web.delete("/fapi/v1/allOpenOrders", signed(exchange.cancel_all_orders)),
        web.get("/fapi/v1/userTrades", signed(exchange.fetch_trades)),
        web.get("/fapi/v1/leverageBracket", signed(exchange.leverage_brackets)),
        web.get("/fapi/v1/positionSide/dual", signed(lambda _: {"dualSidePosition": False})),
        *(
            web.get(f"/fapi/v{version}/{name}", signed(use_case))
            for version in (2, 3)
            for name, use_case in _account_routes(exchange, is_every_symbol=version == 2).items()
        ),
        web.post("/paper/advance", advance),
        web.get("/status", public(exchange.status)),
        web.get("/health", public(lambda: {"service": "paper_exchange", "healthy": True})),
        web.get("/ready", public(lambda: {"service": "paper_exchange", "ready": True})),
        web.get("/metrics", _show_metrics(exchange)),
    ]


def _account_routes(
    exchange: PaperExchange, *, is_every_symbol: bool
) -> dict[str, Callable[[Parameters], Answer]]:
    return {
        "account": lambda _: exchange.account().account(is_every_symbol=is_every_symbol),
        "balance": lambda _: exchange.account().balance(),
        "positionRisk": lambda parameters: exchange.fetch_position_risk(
            parameters, is_every_symbol=is_every_symbol
        ),
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


def _query(request: web.Request) -> Parameters:
    return parse_parameters(request.raw_path.partition("?")[2], "")


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
