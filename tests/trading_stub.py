"""A venue like Binance USD-M as far as trading goes, whose market and faults a test controls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from aiohttp import web

from tests.stub_venue import listing

Fault = Callable[[web.Request, dict[str, str]], web.Response | None]

LOST = web.HTTPServiceUnavailable


def refused(code: int, message: str = "") -> web.Response:
    return web.json_response({"code": code, "msg": message}, status=400)


@dataclass
class StubOrder:
    """An order at the venue; `listed` is how many of its fills are shown."""

    order_id: int
    client_order_id: str
    symbol: str
    side: str
    quantity: Decimal
    reduce_only: bool
    status: str = "NEW"
    fills: list[dict[str, Any]] = field(default_factory=list)
    n_listed: int | None = None

    @property
    def filled(self) -> Decimal:
        return sum((Decimal(fill["qty"]) for fill in self.fills), Decimal(0))

    @property
    def is_open(self) -> bool:
        return self.status in {"NEW", "PARTIALLY_FILLED"}

    def shown(self) -> dict[str, Any]:
        return {
            "orderId": self.order_id,
            "clientOrderId": self.client_order_id,
            "symbol": self.symbol,
            "side": self.side,
            "status": self.status,
            "origQty": str(self.quantity),
            "executedQty": str(self.filled),
            "reduceOnly": self.reduce_only,
        }


@dataclass(eq=False)
class TradingStub:
    """The venue.

    Attributes
    ----------
    now_ms
        Its clock.
    prices
        Of each symbol; orders trade at them when told to.
    faults
        Asked before every answer: a response stands in its place. One is given method and
        path by its key, such as `DELETE order`, and may act first and lose the answer.
    calls
        Every call: method and last part of the path.
    """

    now_ms: int
    prices: dict[str, Decimal]
    wallet: Decimal = Decimal(100_000)
    orders: dict[str, StubOrder] = field(default_factory=dict)
    held: dict[str, Decimal] = field(default_factory=dict)
    cost: dict[str, Decimal] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    smallest: Decimal = Decimal(5)
    url: str = ""

    # --- what a test does -----------------------------------------------------------------

    def trade(self, share: Decimal = Decimal(1)) -> None:
        """Fill a share of what every open order still wants."""
        for order in self.orders.values():
            if order.is_open:
                self.fill(order, (order.quantity - order.filled) * share)

    def fill(self, order: StubOrder, quantity: Decimal) -> None:
        """Fill an order; a reduce-only one is cut to the position, and expires."""
        signed = quantity if order.side == "BUY" else -quantity
        if order.reduce_only:
            position = self.held.get(order.symbol, Decimal(0))
            if position * signed >= 0:
                order.status = "EXPIRED"
                return
            if abs(signed) > abs(position):
                signed, order.status = -position, "EXPIRED"
        price = self.prices[order.symbol]
        order.fills.append(
            {
                "id": sum(len(each.fills) for each in self.orders.values()) + 1,
                "price": str(price),
                "qty": str(abs(signed)),
                "commission": "0.01",
                "time": self.now_ms,
            }
        )
        self.take(order.symbol, signed, price, Decimal("0.01"))
        if order.status != "EXPIRED":
            order.status = "FILLED" if order.filled == order.quantity else "PARTIALLY_FILLED"

    def take(self, symbol: str, signed: Decimal, price: Decimal, fee: Decimal = Decimal(0)) -> None:
        """Change a position; all profit is realised at once, so the cost follows the price."""
        held, cost = self.held.get(symbol, Decimal(0)), self.cost.get(symbol, Decimal(0))
        self.wallet += held * price - cost - fee
        self.held[symbol] = held + signed
        self.cost[symbol] = (held + signed) * price

    def place(self, client_order_id: str, symbol: str, side: str, quantity: Decimal) -> StubOrder:
        """Place an order, as anybody with the keys may."""
        order = StubOrder(
            len(self.orders) + 1, client_order_id, symbol, side, quantity, reduce_only=False
        )
        self.orders[client_order_id] = order
        return order

    def open_orders(self) -> list[StubOrder]:
        return [order for order in self.orders.values() if order.is_open]

    # --- routes ---------------------------------------------------------------------------

    async def answer(self, request: web.Request) -> web.Response:
        name = f"{request.method} {request.path.rpartition('/')[2]}"
        self.calls.append(name)
        body = dict(await request.post()) if request.method == "POST" else {}
        asked = {key: str(value) for key, value in (*request.query.items(), *body.items())}
        fault = self.faults.get(name)
        if fault is not None and (instead := fault(request, asked)) is not None:
            return instead
        return self.respond(name, asked)

    def respond(self, name: str, asked: dict[str, str]) -> web.Response:
        """Answer a call as a venue without faults does."""
        if name == "GET exchangeInfo":
            return web.json_response({"symbols": [listing(s, 0) for s in self.prices]})
        if name == "GET time":
            return web.json_response({"serverTime": self.now_ms})
        if name == "GET account":
            return web.json_response(self.account())
        if name == "GET openOrders":
            return web.json_response([order.shown() for order in self.open_orders()])
        if name == "POST order":
            return self.submit(asked)
        order = self.orders.get(asked.get("origClientOrderId", ""))
        if name == "GET userTrades":
            [order] = [o for o in self.orders.values() if str(o.order_id) == asked["orderId"]]
            return web.json_response(order.fills[: order.n_listed])
        if name == "GET order":
            return refused(-2013) if order is None else web.json_response(order.shown())
        if name == "DELETE order":
            if order is None or not order.is_open:
                return refused(-2011)
            order.status = "CANCELED"
            return web.json_response(order.shown())
        return web.Response(status=404)

    def submit(self, asked: dict[str, str]) -> web.Response:
        symbol, quantity = asked["symbol"], Decimal(asked["quantity"])
        reduce_only = asked.get("reduceOnly") == "true"
        signed = quantity if asked["side"] == "BUY" else -quantity
        if reduce_only and self.held.get(symbol, Decimal(0)) * signed >= 0:
            return refused(-2022, "ReduceOnly Order is rejected.")
        if not reduce_only and quantity * self.prices[symbol] < self.smallest:
            return refused(-4164, "notional must be no smaller than 5")
        order = self.place(asked["newClientOrderId"], symbol, asked["side"], quantity)
        order.reduce_only = reduce_only
        return web.json_response(order.shown())

    def account(self) -> dict[str, Any]:
        positions = []
        for symbol, held in self.held.items():
            notional = held * self.prices[symbol]
            positions.append(
                {
                    "symbol": symbol,
                    "positionAmt": str(held),
                    "notional": str(notional),
                    "unrealizedProfit": str(notional - self.cost[symbol]),
                }
            )
        return {"totalWalletBalance": str(self.wallet), "positions": positions}


@asynccontextmanager
async def serving(venue: TradingStub) -> AsyncIterator[TradingStub]:
    """Serve a venue on a free port; its `url` is set."""
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", venue.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    venue.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield venue
    finally:
        await runner.cleanup()
