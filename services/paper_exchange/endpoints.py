"""What may be asked of the venue: each route, who may, what it weighs, and what answers it.

The table knows no web server: a request that came over a socket and one made in the same
process find their use case here alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple

from services.paper_exchange.authentication import Credentials
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.faults import Family
from services.paper_exchange.limits import Weight, by_symbol, flat, of_klines
from services.paper_exchange.matching import Product
from services.paper_exchange.parameters import Parameters
from services.paper_exchange.public import PublicData
from services.paper_exchange.spot import SpotDesk
from services.paper_exchange.usdm import UsdmDesk

MAX_KLINES = {Product.USDM: 1_500, Product.SPOT: 1_000}
STATUS_PATH = "/sapi/v1/system/status"

UseCase = Callable[[Parameters], Any]


class Access(Enum):
    """Who may ask: anybody, whoever has the account's key, or who signs with its secret."""

    PUBLIC = "public"
    KEYED = "keyed"
    SIGNED = "signed"


class Endpoint(NamedTuple):
    """One route.

    Attributes
    ----------
    use_case
        Takes the parameters; returns what is answered, or an awaitable of it.
    """

    method: str
    path: str
    access: Access
    family: Family
    use_case: UseCase
    weight: Weight = flat(1)

    @property
    def name(self) -> str:
        """The route in words."""
        return f"{self.method} {self.path}"

    @property
    def product(self) -> Product:
        """Whose limits count it."""
        return Product.USDM if self.path.startswith("/fapi") else Product.SPOT

    @property
    def n_orders(self) -> int:
        """How many new orders it asks for."""
        return 1 if self.family is Family.ORDERS else 0


def build_endpoints(exchange: PaperExchange, credentials: Credentials) -> list[Endpoint]:
    """Return every route that Binance has too.

    Parameters
    ----------
    exchange
        The venue.
    credentials
        Of the account, whose listen keys are told.
    """
    public = PublicData(exchange)
    return [
        *_market(public),
        *_usdm_orders(UsdmDesk(exchange)),
        *_usdm_account(UsdmDesk(exchange)),
        *_spot(SpotDesk(exchange)),
        *_listen_keys("/fapi/v1/listenKey", credentials.listen_key(Product.USDM), 1),
        *_listen_keys("/api/v3/userDataStream", credentials.listen_key(Product.SPOT), 2),
    ]


def _market(public: PublicData) -> Iterable[Endpoint]:
    def get(path: str, use_case: UseCase, weight: Weight = flat(1)) -> Endpoint:
        return Endpoint("GET", path, Access.PUBLIC, Family.MARKET, use_case, weight)

    def klines(product: Product) -> UseCase:
        return lambda asked: public.klines(asked, MAX_KLINES[product])

    return [
        get("/fapi/v1/ping", lambda _: {}),
        get("/fapi/v1/time", lambda _: public.time()),
        get("/fapi/v1/klines", klines(Product.USDM), of_klines),
        get("/fapi/v1/ticker/price", public.prices, by_symbol(1, 2)),
        get("/fapi/v2/ticker/price", public.prices, by_symbol(1, 2)),
        get("/fapi/v1/ticker/24hr", public.tickers, by_symbol(1, 40)),
        get("/fapi/v1/exchangeInfo", lambda _: public.usdm_exchange_info()),
        get("/fapi/v1/premiumIndex", public.premium_index, by_symbol(1, 10)),
        get("/fapi/v1/fundingRate", public.past_funding),
        get("/fapi/v1/fundingInfo", lambda _: public.funding_info()),
        get("/api/v3/ping", lambda _: {}),
        get("/api/v3/time", lambda _: public.time()),
        get("/api/v3/klines", klines(Product.SPOT), flat(2)),
        get("/api/v3/ticker/price", public.prices, by_symbol(2, 4)),
        get("/api/v3/ticker/24hr", public.tickers, by_symbol(2, 80)),
        get("/api/v3/exchangeInfo", lambda _: public.spot_exchange_info(), flat(20)),
        get(STATUS_PATH, lambda _: public.system_status()),
        # What load_markets also asks for: other products of the exchange, none of them here.
        get("/dapi/v1/exchangeInfo", lambda _: {"symbols": []}),
        get("/sapi/v1/capital/config/getall", lambda _: []),
        get("/sapi/v1/margin/allPairs", lambda _: []),
        get("/sapi/v1/margin/isolated/allPairs", lambda _: []),
    ]


def _signed(
    family: Family, method: str, path: str, use_case: UseCase, weight: Weight = flat(1)
) -> Endpoint:
    return Endpoint(method, path, Access.SIGNED, family, use_case, weight)


def _usdm_orders(desk: UsdmDesk) -> Iterable[Endpoint]:
    orders, cancels, queries = Family.ORDERS, Family.CANCELS, Family.QUERIES
    return [
        # A new order is counted by the limits of orders and weighs nothing.
        _signed(orders, "POST", "/fapi/v1/order", desk.place_order, flat(0)),
        _signed(cancels, "DELETE", "/fapi/v1/order", desk.cancel_order),
        _signed(cancels, "DELETE", "/fapi/v1/allOpenOrders", desk.cancel_all_orders),
        _signed(
            cancels, "POST", "/fapi/v1/countdownCancelAll", desk.countdown_cancel_all, flat(10)
        ),
        _signed(queries, "GET", "/fapi/v1/order", desk.fetch_order),
        _signed(queries, "GET", "/fapi/v1/openOrder", desk.fetch_open_order),
        _signed(queries, "GET", "/fapi/v1/openOrders", desk.fetch_open_orders, by_symbol(1, 40)),
        _signed(queries, "GET", "/fapi/v1/allOrders", desk.fetch_all_orders, flat(5)),
        _signed(queries, "GET", "/fapi/v1/userTrades", desk.fetch_trades, flat(5)),
    ]


def _usdm_account(desk: UsdmDesk) -> Iterable[Endpoint]:
    def of(method: str, path: str, use_case: UseCase, weight: Weight = flat(1)) -> Endpoint:
        return _signed(Family.ACCOUNT, method, f"/fapi/{path}", use_case, weight)

    def account(*, is_every_symbol: bool) -> UseCase:
        return lambda _: desk.account().account(is_every_symbol=is_every_symbol)

    def position_risk(*, is_every_symbol: bool) -> UseCase:
        return lambda asked: desk.fetch_position_risk(asked, is_every_symbol=is_every_symbol)

    versions = [
        endpoint
        for version, is_every_symbol in ((2, True), (3, False))
        for endpoint in (
            of("GET", f"v{version}/account", account(is_every_symbol=is_every_symbol), flat(5)),
            of("GET", f"v{version}/balance", lambda _: desk.account().balance(), flat(5)),
            of(
                "GET",
                f"v{version}/positionRisk",
                position_risk(is_every_symbol=is_every_symbol),
                flat(5),
            ),
        )
    ]
    return [
        *versions,
        of("GET", "v1/income", desk.fetch_income, flat(30)),
        of("GET", "v1/commissionRate", desk.commission_rate, flat(20)),
        of("GET", "v1/leverageBracket", desk.leverage_brackets),
        of("GET", "v1/symbolConfig", desk.symbol_config, flat(5)),
        of("POST", "v1/leverage", desk.set_leverage),
        of("POST", "v1/marginType", desk.set_margin_type),
        of("GET", "v1/multiAssetsMargin", lambda _: {"multiAssetsMargin": False}, flat(30)),
        of("POST", "v1/multiAssetsMargin", desk.set_multi_assets_margin),
        of("GET", "v1/positionSide/dual", lambda _: {"dualSidePosition": False}, flat(30)),
        of("POST", "v1/positionSide/dual", desk.set_position_mode),
    ]


def _spot(desk: SpotDesk) -> Iterable[Endpoint]:
    orders, cancels, queries = Family.ORDERS, Family.CANCELS, Family.QUERIES
    return [
        _signed(orders, "POST", "/api/v3/order", desk.place_order),
        _signed(cancels, "DELETE", "/api/v3/order", desk.cancel_order),
        _signed(cancels, "DELETE", "/api/v3/openOrders", desk.cancel_all_orders),
        _signed(queries, "GET", "/api/v3/order", desk.fetch_order, flat(4)),
        _signed(queries, "GET", "/api/v3/openOrders", desk.fetch_open_orders, by_symbol(6, 80)),
        _signed(queries, "GET", "/api/v3/allOrders", desk.fetch_all_orders, flat(20)),
        _signed(queries, "GET", "/api/v3/myTrades", desk.fetch_trades, flat(20)),
        _signed(Family.ACCOUNT, "GET", "/api/v3/account", desk.account, flat(20)),
        _signed(Family.ACCOUNT, "GET", "/sapi/v1/asset/tradeFee", desk.trade_fees),
    ]


def _listen_keys(path: str, listen_key: str, weight: int) -> Iterable[Endpoint]:
    """Return the routes of a listen key, which never expires: to renew it changes nothing."""

    def of(method: str, use_case: UseCase) -> Endpoint:
        return Endpoint(method, path, Access.KEYED, Family.ACCOUNT, use_case, flat(weight))

    return [
        of("POST", lambda _: {"listenKey": listen_key}),
        of("PUT", lambda _: {"listenKey": listen_key}),
        of("DELETE", lambda _: {}),
    ]
