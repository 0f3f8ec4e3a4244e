"""Routes: Binance USD-M futures and spot as far as they are simulated, and the venue's control."""

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
from services.paper_exchange.authentication import Credentials, authenticate, check_key
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.matching import Product
from services.paper_exchange.parameters import Parameters, parse_parameters
from services.paper_exchange.public import PublicData
from services.paper_exchange.refusals import RefusalError, missing
from services.paper_exchange.spot import SpotDesk
from services.paper_exchange.usdm import UsdmDesk
from shared.clock import monotonic_seconds

MAX_INSTANT_MS = 10**14

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = structlog.get_logger()


class Routes:
    """How requests reach use cases.

    Parameters
    ----------
    exchange
        The venue.
    credentials
        What requests to the account are signed with.
    """

    def __init__(self, exchange: PaperExchange, credentials: Credentials) -> None:
        self._exchange = exchange
        self._credentials = credentials

    def public(self, use_case: Callable[[], Any]) -> Handler:
        """Return the handler of a question without parameters."""

        async def handle(_: web.Request) -> web.Response:
            return _json(use_case())

        return handle

    def asked(self, use_case: Callable[[Parameters], Any]) -> Handler:
        """Return the handler of a question that anybody may ask."""

        async def handle(request: web.Request) -> web.Response:
            return _json(use_case(_query(request)))

        return handle

    def keyed(self, use_case: Callable[[], Any]) -> Handler:
        """Return the handler of what the account's key alone allows."""

        async def handle(request: web.Request) -> web.Response:
            check_key(request.headers.get("X-MBX-APIKEY"), self._credentials)
            return _json(use_case())

        return handle

    def signed(self, use_case: Callable[[Parameters], Any]) -> Handler:
        """Return the handler of what must be signed."""

        async def handle(request: web.Request) -> web.Response:
            body = await _text(request)
            parameters = authenticate(
                request.raw_path.partition("?")[2],
                body,
                request.headers.get("X-MBX-APIKEY"),
                self._credentials,
                self._exchange.now_ms(),
                self._exchange.client_ms(),
            )
            return _json(use_case(parameters))

        return handle


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
    routes, public = Routes(exchange, credentials), PublicData(exchange)
    return [
        *_public_routes(routes, public),
        *_usdm_routes(routes, UsdmDesk(exchange), credentials),
        *_spot_routes(routes, SpotDesk(exchange), credentials),
        web.post("/paper/advance", _advance(exchange, token)),
        web.get("/status", routes.public(exchange.status)),
        web.get("/health", routes.public(lambda: _health(exchange))),
        web.get("/ready", routes.public(lambda: {"service": "paper_exchange", "ready": True})),
        web.get("/metrics", _show_metrics(exchange)),
    ]


def _public_routes(routes: Routes, public: PublicData) -> list[web.RouteDef]:
    def klines(max_limit: int) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            return _json(await public.klines(_query(request), max_limit))

        return handle

    common = [
        route
        for prefix, most_klines in (("/fapi/v1", 1_500), ("/api/v3", 1_000))
        for route in (
            web.get(f"{prefix}/ping", routes.public(dict)),
            web.get(f"{prefix}/time", routes.public(public.time)),
            web.get(f"{prefix}/klines", klines(most_klines)),
            web.get(f"{prefix}/ticker/price", routes.asked(public.prices)),
            web.get(f"{prefix}/ticker/24hr", routes.asked(public.tickers)),
        )
    ]
    return [
        *common,
        web.get("/fapi/v1/exchangeInfo", routes.public(public.usdm_exchange_info)),
        web.get("/fapi/v2/ticker/price", routes.asked(public.prices)),
        web.get("/fapi/v1/premiumIndex", routes.asked(public.premium_index)),
        web.get("/fapi/v1/fundingRate", routes.asked(public.past_funding)),
        web.get("/fapi/v1/fundingInfo", routes.public(public.funding_info)),
        web.get("/api/v3/exchangeInfo", routes.public(public.spot_exchange_info)),
        # What load_markets also asks for: other products of the exchange, none of them here.
        web.get("/dapi/v1/exchangeInfo", routes.public(lambda: {"symbols": []})),
        web.get("/sapi/v1/capital/config/getall", routes.public(list)),
        web.get("/sapi/v1/margin/allPairs", routes.public(list)),
        web.get("/sapi/v1/margin/isolated/allPairs", routes.public(list)),
    ]


def _usdm_routes(routes: Routes, desk: UsdmDesk, credentials: Credentials) -> list[web.RouteDef]:
    signed = routes.signed
    accounts = [
        route
        for version in (2, 3)
        for route in (
            web.get(f"/fapi/v{version}/account", signed(_usdm_account(desk, version))),
            web.get(f"/fapi/v{version}/balance", signed(lambda _: desk.account().balance())),
            web.get(f"/fapi/v{version}/positionRisk", signed(_position_risk(desk, version))),
        )
    ]
    return [
        *accounts,
        web.post("/fapi/v1/order", signed(desk.place_order)),
        web.get("/fapi/v1/order", signed(desk.fetch_order)),
        web.delete("/fapi/v1/order", signed(desk.cancel_order)),
        web.get("/fapi/v1/openOrder", signed(desk.fetch_open_order)),
        web.get("/fapi/v1/openOrders", signed(desk.fetch_open_orders)),
        web.get("/fapi/v1/allOrders", signed(desk.fetch_all_orders)),
        web.delete("/fapi/v1/allOpenOrders", signed(desk.cancel_all_orders)),
        web.get("/fapi/v1/userTrades", signed(desk.fetch_trades)),
        web.get("/fapi/v1/income", signed(desk.fetch_income)),
        web.get("/fapi/v1/commissionRate", signed(desk.commission_rate)),
        web.get("/fapi/v1/leverageBracket", signed(desk.leverage_brackets)),
        web.get("/fapi/v1/symbolConfig", signed(desk.symbol_config)),
        web.post("/fapi/v1/leverage", signed(desk.set_leverage)),
        web.post("/fapi/v1/marginType", signed(desk.set_margin_type)),
        web.get("/fapi/v1/multiAssetsMargin", signed(lambda _: {"multiAssetsMargin": False})),
        web.post("/fapi/v1/multiAssetsMargin", signed(desk.set_multi_assets_margin)),
        web.get("/fapi/v1/positionSide/dual", signed(lambda _: {"dualSidePosition": False})),
        web.post("/fapi/v1/positionSide/dual", signed(desk.set_position_mode)),
        *_listen_key_routes(routes, "/fapi/v1/listenKey", credentials.listen_key(Product.USDM)),
    ]


def _usdm_account(desk: UsdmDesk, version: int) -> Callable[[Parameters], Any]:
    return lambda _: desk.account().account(is_every_symbol=version == 2)


def _position_risk(desk: UsdmDesk, version: int) -> Callable[[Parameters], Any]:
    return lambda asked: desk.fetch_position_risk(asked, is_every_symbol=version == 2)


def _spot_routes(routes: Routes, desk: SpotDesk, credentials: Credentials) -> list[web.RouteDef]:
    signed = routes.signed
    return [
        web.get("/api/v3/account", signed(desk.account)),
        web.post("/api/v3/order", signed(desk.place_order)),
        web.get("/api/v3/order", signed(desk.fetch_order)),
        web.delete("/api/v3/order", signed(desk.cancel_order)),
        web.get("/api/v3/openOrders", signed(desk.fetch_open_orders)),
        web.delete("/api/v3/openOrders", signed(desk.cancel_all_orders)),
        web.get("/api/v3/allOrders", signed(desk.fetch_all_orders)),
        web.get("/api/v3/myTrades", signed(desk.fetch_trades)),
        web.get("/sapi/v1/asset/tradeFee", signed(desk.trade_fees)),
        *_listen_key_routes(routes, "/api/v3/userDataStream", credentials.listen_key(Product.SPOT)),
    ]


def _listen_key_routes(routes: Routes, path: str, listen_key: str) -> list[web.RouteDef]:
    """Return the routes of a listen key, which never expires: to renew it changes nothing."""
    return [
        web.post(path, routes.keyed(lambda: {"listenKey": listen_key})),
        web.put(path, routes.keyed(lambda: {"listenKey": listen_key})),
        web.delete(path, routes.keyed(dict)),
    ]


def _advance(exchange: PaperExchange, token: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
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
        return _json(exchange.advance(_read_close(document)))

    return handle


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
