"""The venue's wallet and the fleet's book: the same money, to the last unit, on recorded bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.market import list_market
from services.paper_exchange.matching import OrderStatus, PaperOrder, Product, TimeInForce
from services.paper_exchange.order_entry import OrderRequest
from services.paper_exchange.sources.recorded import Lockstep
from services.paper_exchange.store import Store, VenueState
from services.paper_exchange.streams import Hub
from shared.book.execution import Execution, FillTerms
from shared.book.instrument import Instrument, instruments_from_bars, venue_id
from shared.book.ledger import (
    Identity,
    Ledger,
    OrderReport,
    Settlement,
    acknowledge,
    settle_close,
)
from shared.book.orders import Order, OrderState
from shared.clock import instant_of_ms
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder
from shared.quant.bar_checks import BarCheckSettings, check_bars
from shared.quant.bars import Bars
from shared.venues.recorded import read_bar_files

CAPITAL_E8 = 100_000 * 10**8
START_MS = 1_709_251_200_000  # 2024-03-01, a funding instant
DAY_MS = 86_400_000
# Little of each bar's volume, so that orders are filled over many bars and funding instants.
TERMS = FillTerms(fee_ppm=450, slippage_ppm=130, max_participation_ppm=400, funding_ppm=117)
STATES = {
    OrderStatus.NEW: OrderState.ACCEPTED,
    OrderStatus.PARTIALLY_FILLED: OrderState.PARTIALLY_FILLED,
    OrderStatus.FILLED: OrderState.FILLED,
    OrderStatus.CANCELED: OrderState.CANCELLED,
    OrderStatus.EXPIRED: OrderState.EXPIRED,
}


@pytest.fixture(scope="module")
def bars(data_folder: Path) -> Bars:
    (raw,) = read_bar_files([data_folder / "crypto" / "binance_spot_5m_2024.parquet"])
    checked = check_bars(
        raw, now_ms=10**14, known=None, settings=BarCheckSettings(), prior={}
    ).accepted
    return checked.between(START_MS - DAY_MS, START_MS + 2 * DAY_MS)


@pytest.fixture
def exchange(bars: Bars, tmp_path: Path) -> Iterator[PaperExchange]:
    source = Lockstep(list_market(bars, instruments_from_bars(bars)))
    store = Store(
        tmp_path / "venue.sqlite3",
        VenueState(source.starts_at_ms, source.starts_at_ms, CAPITAL_E8, 0),
    )
    listen_keys = {product: product.value for product in Product}
    yield PaperExchange(source, TERMS, store, Hub(), listen_keys)
    store.close()


class Executor:
    """The executor's part without network and record: settles, sends, asks."""

    def __init__(self, exchange: PaperExchange) -> None:
        self.exchange = exchange
        listings = exchange.market.listings.values()
        self.instruments = {each.instrument.symbol: each.instrument for each in listings}
        self.ledger = Ledger(CAPITAL_E8)
        self.settlement: Settlement | None = None

    def settle(
        self, closes_at_ms: int, marks: Mapping[str, float], intents: Sequence[SubmitOrder]
    ) -> None:
        """Take the venue and the book through one close."""
        self.exchange.move(closes_at_ms)
        requested = OrdersRequested(
            closes_at=instant_of_ms(closes_at_ms),
            timeframe="5m",
            intents=tuple(intents),
            marks=dict(marks),
        )
        reports = [self._report(o) for o in self.ledger.orders.values() if o.is_working]
        identity = Identity("paper", "run")
        self.settlement = settle_close(
            self.ledger, requested, reports, self.instruments, TERMS, identity
        )
        for order in self.settlement.cancel:
            self.exchange.cancel([self._at_venue(order)])
        sent = [self._send(order) for order in self.settlement.submit]
        self.ledger, _ = acknowledge(self.settlement.ledger, sent)

    def _send(self, order: Order) -> OrderReport:
        listing = self.exchange.market.listings[venue_id(order.symbol)]
        request = OrderRequest(
            listing,
            order.side,
            order.quantity_lots,
            False,
            order.client_order_id,
            None,
            TimeInForce.GTC,
        )
        self.exchange.place(Product.USDM, request)
        return OrderReport(order.client_order_id, OrderState.ACCEPTED)

    def _at_venue(self, order: Order) -> PaperOrder:
        name = venue_id(order.symbol)
        found = self.exchange.store.find_order(Product.USDM, name, None, order.client_order_id)
        assert found is not None
        return found

    def _report(self, order: Order) -> OrderReport:
        found = self._at_venue(order)
        trades = self.exchange.store.trades(
            Product.USDM, found.symbol, found.order_id, None, None, None, 1_000
        )
        executions = tuple(
            (trade.traded_at_ms, Execution(trade.lots, trade.price_ticks, trade.fee_e8))
            for trade in trades
        )
        return OrderReport(order.client_order_id, STATES[found.status], executions)


def marks_at(bars: Bars, closes_at_ms: int) -> dict[str, float]:
    closed = bars.at(closes_at_ms)
    return {
        closed.symbols[code]: price
        for code, price in zip(closed.symbol_code.tolist(), closed.close.tolist(), strict=True)
    }


def opening(
    closes_at_ms: int, y: str, x: str, sides: tuple[str, str], lots: tuple[int, int]
) -> SubmitOrder:
    intent_id = f"{closes_at_ms}:{y}~{x}:open"
    legs = tuple(
        OrderLeg(leg=leg, symbol=symbol, side=side, quantity_lots=quantity)
        for leg, symbol, side, quantity in zip("yx", (y, x), sides, lots, strict=True)
    )
    return SubmitOrder(
        intent_id=intent_id,
        sleeve="pairs",
        y=y,
        x=x,
        action="open",
        position_id=intent_id,
        reason="test",
        hedge_ratio=1.0,
        legs=legs,
    )


def closing(closes_at_ms: int, opened: SubmitOrder) -> SubmitOrder:
    return opened.model_copy(
        update={"intent_id": f"{closes_at_ms}:{opened.intent_id}", "action": "close", "legs": ()}
    )


def lots_worth(usdt: float, symbol: str, marks: Mapping[str, float], instrument: Instrument) -> int:
    price = marks[symbol]
    return instrument.lots_of(usdt / price)


def costs_e8(exchange: PaperExchange) -> int:
    return sum(held.cost_e8 for held in exchange.positions(Product.USDM).values())


def paid_funding(exchange: PaperExchange) -> dict[str, int]:
    paid: dict[str, int] = {}
    for row in exchange.store.income(None, "FUNDING_FEE", None, None, 1_000):
        paid[row.symbol] = paid.get(row.symbol, 0) - row.income_e8
    return paid


def test_wallet_and_cash_are_equal_at_every_close_and_when_all_is_closed(
    bars: Bars, exchange: PaperExchange
) -> None:
    rng = np.random.default_rng(20240301)
    executor = Executor(exchange)
    symbols = sorted(executor.instruments)
    pairs = list(zip(symbols[::2], symbols[1::2], strict=True))  # no symbol in two of them
    live: dict[tuple[str, str], SubmitOrder] = {}
    closes = [int(close) for close in bars.between(START_MS, None).closes()]
    n_positions = 0
    for number, closes_at_ms in enumerate(closes):
        marks = marks_at(bars, closes_at_ms)
        here = marks.keys()
        intents = []
        is_last_day = number > len(closes) - 288
        for pair in pairs:
            held = next(
                (p for p in executor.ledger.positions.values() if p.pair == "~".join(pair)), None
            )
            if pair in live and held is None:
                del live[pair]
            if pair in live and (is_last_day or rng.random() < 0.01):
                intents.append(closing(closes_at_ms, live[pair]))
            elif pair not in live and not is_last_day and rng.random() < 0.05 and {*pair} <= here:
                sides = ("buy", "sell") if rng.random() < 0.5 else ("sell", "buy")
                quantities = [
                    lots_worth(rng.uniform(200, 6_000), symbol, marks, executor.instruments[symbol])
                    for symbol in pair
                ]
                live[pair] = opening(closes_at_ms, *pair, sides, (quantities[0], quantities[1]))
                intents.append(live[pair])
        executor.settle(closes_at_ms, marks, intents)
        n_positions = max(n_positions, len(executor.ledger.positions))
        wallet_e8 = exchange.store.state().wallet_e8
        # What positions cost is in the wallet as margin, and has left the book's cash.
        assert wallet_e8 - costs_e8(exchange) == executor.ledger.cash_e8
    assert not executor.ledger.positions
    assert exchange.store.state().wallet_e8 == executor.ledger.cash_e8
    assert n_positions > 5
    assert len(paid_funding(exchange)) > 10
    # Many times more than there are orders: they were filled bar by bar.
    assert exchange.store.counts()["trades"] > 5 * exchange.store.counts()["orders"]


def test_of_two_pairs_in_one_symbol_venue_and_book_charge_the_net(
    bars: Bars, exchange: PaperExchange
) -> None:
    """A venue knows one net position; the book shares out what it charges, to the last unit."""
    executor = Executor(exchange)
    first_ms, *closes = [int(close) for close in bars.between(START_MS, None).closes()]
    marks = marks_at(bars, first_ms)
    one, shared, other = "BTC/USDT", "ETH/USDT", "SOL/USDT"
    lots: Mapping[str, int] = {
        symbol: lots_worth(900, symbol, marks, executor.instruments[symbol])
        for symbol in (one, shared, other)
    }
    intents = [
        opening(first_ms, one, shared, ("sell", "buy"), (lots[one], 3 * lots[shared])),
        opening(first_ms, other, shared, ("buy", "sell"), (lots[other], lots[shared])),
    ]
    executor.settle(first_ms, marks, intents)
    instant_ms = START_MS + DAY_MS // 3
    for closes_at_ms in closes:
        if closes_at_ms > instant_ms:
            break
        executor.settle(closes_at_ms, marks_at(bars, closes_at_ms), [])
    listing = exchange.market.listings[venue_id(shared)]
    ticks = listing.last_price_ticks(instant_ms)
    assert ticks is not None
    net_e8 = listing.instrument.notional_e8(ticks, 2 * lots[shared])
    paid = paid_funding(exchange)
    assert paid[venue_id(shared)] == -(-net_e8 * TERMS.funding_ppm // 10**6)
    booked_e8 = sum(position.funding_e8 for position in executor.ledger.positions.values())
    assert booked_e8 == sum(paid.values())
