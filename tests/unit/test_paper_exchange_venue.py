"""The paper venue as one object: who is told when, late orders, clocks, and whose store it is."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from services.paper_exchange import streams
from services.paper_exchange.authentication import Credentials, authenticate
from services.paper_exchange.candles import Candle, Candles
from services.paper_exchange.exchange import LATE_ORDER_MS, PaperExchange
from services.paper_exchange.market import Listing, Market
from services.paper_exchange.matching import Product, TimeInForce
from services.paper_exchange.order_entry import OrderRequest
from services.paper_exchange.refusals import RefusalError
from services.paper_exchange.sources.interface import Source
from services.paper_exchange.sources.paced import Paced
from services.paper_exchange.sources.recorded import Lockstep, RecordedFeed
from services.paper_exchange.sources.simulated import SimulatedFeed
from services.paper_exchange.store import Store, VenueState
from services.paper_exchange.streams import Connection, Envelope, Hub
from shared.book.execution import FillTerms
from shared.book.instrument import Instrument
from shared.book.orders import Side
from shared.clock import instant_of_ms
from shared.errors import SettingsError
from shared.venues.faults import FaultSettings

BAR_MS = 300_000
T0 = 1_704_067_200_000
COIN = Instrument("AAA/USDT", 2, 3, 500_000_000, "perpetual")
TERMS = FillTerms(fee_ppm=0, slippage_ppm=0, max_participation_ppm=1_000_000, funding_ppm=0)
CREDENTIALS = Credentials(SecretStr("key"), SecretStr("secret"))
LISTEN_KEYS = {product: product.value for product in Product}
FRESH = VenueState(T0, T0, 10**13, 10**13)


def close_ms(number: int) -> int:
    return T0 + (number + 1) * BAR_MS


def market(n_bars: int = 8) -> Market:
    """Return a market of one symbol whose bar i opens at 10 + i and stays there."""
    candles = [
        Candle(close_ms(i) - BAR_MS, close_ms(i), 10.0 + i, 10.0 + i, 10.0 + i, 10.0 + i, 100.0)
        for i in range(n_bars)
    ]
    bars = Candles.of(candles)
    return Market({"AAAUSDT": Listing("AAAUSDT", COIN, BAR_MS, bars)}, bars.closes_at_ms, BAR_MS)


def request(venue: PaperExchange, client_order_id: str = "one") -> OrderRequest:
    listing = venue.market.listings["AAAUSDT"]
    return OrderRequest(listing, Side.BUY, 1_000, False, client_order_id, None, TimeInForce.GTC)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds on the monotonic clock, to be set by the test."""
    now = [50.0]
    monkeypatch.setattr("services.paper_exchange.clock.monotonic_seconds", lambda: now[0])
    return now


class Venues:
    """Opens venues on one store, one after another."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "venue.sqlite3"
        self._store: Store | None = None
        self.hub = Hub()

    def open(self, source: Source, fresh: VenueState = FRESH) -> PaperExchange:
        self.close()
        self._store = Store(self._file, fresh, source.identity)
        return PaperExchange(source, TERMS, self._store, self.hub, LISTEN_KEYS)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


@pytest.fixture
def venues(tmp_path: Path) -> Iterator[Venues]:
    opened = Venues(tmp_path)
    yield opened
    opened.close()


def paced(n_bars: int = 8) -> Paced:
    return Paced(RecordedFeed(market(n_bars)), T0, 1.0)


# --- who is told, and when --------------------------------------------------------------------


class Transport(asyncio.Transport):
    """A transport that only knows whether it was cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted


class Socket:
    """A websocket whose reader may be slow."""

    def __init__(self, *, is_slow: bool = False) -> None:
        self.heard: list[Any] = []
        self._may_write = asyncio.Event()
        if not is_slow:
            self._may_write.set()

    async def send_str(self, text: str) -> None:
        await self._may_write.wait()
        self.heard.append(json.loads(text))


def listening(hub: Hub, stream: str) -> Connection:
    connection = Connection(Socket(), Transport(), Envelope.RAW)  # type: ignore[arg-type]
    hub.subscribe(connection, [stream])
    return connection


async def heard(connection: Connection) -> list[Any]:
    """Write out what waits for a connection and return it."""
    socket: Any = connection._socket
    writer = asyncio.create_task(connection.write())
    for _ in range(50):
        await asyncio.sleep(0)
    writer.cancel()
    return list(socket.heard)


async def test_nobody_hears_of_an_order_before_it_is_on_disk(venues: Venues) -> None:
    venue = venues.open(Lockstep(market()))
    venue.move(close_ms(0))
    connection = listening(venues.hub, LISTEN_KEYS[Product.USDM])
    venue.place(Product.USDM, request(venue))
    assert await heard(connection) == []
    await venue.committed()
    (event,) = await heard(connection)
    assert (event["e"], event["o"]["X"]) == ("ORDER_TRADE_UPDATE", "NEW")


async def test_nobody_hears_of_an_order_that_was_undone(venues: Venues) -> None:
    venue = venues.open(Lockstep(market()))
    venue.move(close_ms(0))
    connection = listening(venues.hub, LISTEN_KEYS[Product.USDM])
    venue.place(Product.USDM, request(venue))
    with pytest.raises(OverflowError):
        venue.place(Product.USDM, request(venue, "two")._replace(quantity_lots=2**70))
    venue.store.commit()
    assert await heard(connection) == []
    assert venue.store.open_orders(Product.USDM) == []


async def test_an_order_that_comes_after_a_commit_does_not_slip_out_with_it(
    venues: Venues,
) -> None:
    venue = venues.open(Lockstep(market()))
    venue.move(close_ms(0))
    connection = listening(venues.hub, LISTEN_KEYS[Product.USDM])
    venue.place(Product.USDM, request(venue, "one"))
    venue.store.commit()
    venue.place(Product.USDM, request(venue, "two"))
    assert [event["o"]["c"] for event in await heard(connection)] == ["one"]


async def test_bars_are_told_once_the_market_stands_at_their_close(venues: Venues) -> None:
    venue = venues.open(Lockstep(market()))
    connection = listening(venues.hub, "aaausdt@kline_5m")
    venue.move(close_ms(1))
    told = [(event["k"]["t"], event["k"]["x"]) for event in await heard(connection)]
    assert told == [(T0, True), (close_ms(0), False), (close_ms(0), True), (close_ms(1), False)]


async def test_a_slow_reader_is_cut_off_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "QUEUE_MESSAGES", 3)
    hub = Hub()
    slow_transport = Transport()
    slow = Connection(Socket(is_slow=True), slow_transport, Envelope.RAW)  # type: ignore[arg-type]
    hub.subscribe(slow, ["a"])
    quick = listening(hub, "a")
    for number in range(5):
        hub.publish("a", {"n": number})
        assert len(await heard(quick)) == number + 1
    assert slow_transport.is_aborted
    assert not quick._transport.is_closing()


# --- orders that come late --------------------------------------------------------------------


def test_soon_after_a_close_an_order_trades_at_the_open_that_follows_it(
    venues: Venues, seconds: list[float]
) -> None:
    venue = venues.open(paced())
    venue.move(close_ms(0))
    seconds[0] += LATE_ORDER_MS / 1000
    venue.place(Product.USDM, request(venue))
    venue.move(close_ms(1))
    (trade,) = venue.store.trades(Product.USDM, "AAAUSDT", None, None, None, None, 9)
    assert (trade.price_ticks, trade.traded_at_ms) == (1100, close_ms(0))


def test_later_an_order_does_not_trade_at_an_open_of_the_past(
    venues: Venues, seconds: list[float]
) -> None:
    venue = venues.open(paced())
    venue.move(close_ms(0))
    seconds[0] += LATE_ORDER_MS / 1000 + 0.001
    venue.place(Product.USDM, request(venue))
    assert venue.move(close_ms(1)) == 0
    assert venue.move(close_ms(2)) == 1
    (trade,) = venue.store.trades(Product.USDM, "AAAUSDT", None, None, None, None, 9)
    assert (trade.price_ticks, trade.traded_at_ms) == (1200, close_ms(1))


def test_while_the_market_is_led_by_the_hand_no_order_is_late(
    venues: Venues, seconds: list[float]
) -> None:
    venue = venues.open(Lockstep(market()))
    venue.move(close_ms(0))
    seconds[0] += 200.0
    venue.place(Product.USDM, request(venue))
    assert venue.move(close_ms(1)) == 1


# --- clocks -----------------------------------------------------------------------------------


def test_a_client_may_sign_by_its_own_clock_where_the_venues_runs_away_from_it(
    venues: Venues, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, near = instant_of_ms(T0 + 10**10), instant_of_ms(T0 + 3_600_000)
    now: list[datetime] = [far]
    monkeypatch.setattr("services.paper_exchange.exchange.utc_now", lambda: now[0])
    venue = venues.open(paced())
    assert venue.client_ms() == T0 + 10**10
    venue.faults.change(FaultSettings(clock_skew_ms=7_000))
    assert venue.client_ms() == T0 + 10**10 + 7_000
    # Near the time outside there is one clock alone: a request is fresh by one or by none.
    now[0] = near
    assert venue.client_ms() is None
    assert venues.open(Lockstep(market()), FRESH).client_ms() is None


@pytest.mark.parametrize(
    ("timestamp_ms", "is_accepted"),
    [(T0, True), (T0 - 5_001, False), (T0 + 10**9, True), (T0 + 10**9 - 5_001, False)],
)
def test_a_request_is_fresh_by_either_clock_or_refused(
    timestamp_ms: int, is_accepted: bool
) -> None:
    query = f"timestamp={timestamp_ms}"
    sent = (f"{query}&signature={CREDENTIALS.sign(query)}", "", "key", CREDENTIALS)
    if is_accepted:
        assert authenticate(*sent, T0, T0 + 10**9)["timestamp"] == str(timestamp_ms)
    else:
        with pytest.raises(RefusalError) as refused:
            authenticate(*sent, T0, T0 + 10**9)
        assert refused.value.code == -1021


def test_the_clock_waits_for_a_market_that_moves_by_itself(
    venues: Venues, seconds: list[float]
) -> None:
    venue = venues.open(paced(2))
    seconds[0] += 10_000.0
    assert venue.now_ms() == close_ms(0) - 1
    venue.move(close_ms(0))
    assert venue.now_ms() == close_ms(0)
    venue.move(close_ms(1))  # the last one: nothing to wait for any more
    seconds[0] += 1_000.0
    assert venue.now_ms() == close_ms(1) + 1_000_000


# --- whose store it is ------------------------------------------------------------------------


def simulated(seed: int) -> Paced:
    return Paced(SimulatedFeed(seed, T0, 1, "5m"), T0, 1.0)


def test_a_store_with_orders_of_another_market_is_refused(venues: Venues) -> None:
    venue = venues.open(simulated(1))
    listing = venue.market.listings["ASHUSDT"]
    order = OrderRequest(listing, Side.BUY, 1_000, False, "one", None, TimeInForce.GTC)
    venue.place(Product.USDM, order)
    venue.store.commit()
    for other in (simulated(2), Lockstep(market())):
        with pytest.raises(SettingsError, match="has orders of market 'simulated, seed 1"):
            venues.open(other)
    assert len(venues.open(simulated(1)).store.open_orders(Product.USDM)) == 1


def test_a_store_without_orders_begins_afresh_in_another_market(venues: Venues) -> None:
    venues.open(simulated(1)).move(close_ms(5))
    later = VenueState(close_ms(2), close_ms(2), 7, 8)
    assert venues.open(simulated(2), later).market_at_ms == close_ms(2)
    assert venues.open(simulated(2), FRESH).market_at_ms == close_ms(2)  # it has a past now


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "venue.sqlite3"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE venue (id INTEGER)")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    with pytest.raises(SettingsError, match=r"is of version 1, this venue's is 2.*move it away"):
        Store(file, FRESH)


def test_units_of_what_was_listed_are_kept_for_a_start_without_a_market(tmp_path: Path) -> None:
    other = Instrument("BBB/USDT", 4, 0, 10**8, "perpetual")
    store = Store(tmp_path / "venue.sqlite3", FRESH)
    store.enlist({"AAAUSDT": COIN, "BBBUSDT": other})
    assert store.instruments() == {"AAAUSDT": COIN, "BBBUSDT": other}
    assert store.enlist({"AAAUSDT": COIN}) == {}
    assert store.instruments() == {"AAAUSDT": COIN}
    store.close()


def test_a_symbol_with_orders_may_leave_a_live_market_and_no_other(venues: Venues) -> None:
    venue = venues.open(Lockstep(market()))
    venue.move(close_ms(0))
    venue.place(Product.USDM, request(venue))
    venue.store.commit()
    assert venue.enlist({}) == {"AAAUSDT": COIN}
    with pytest.raises(SettingsError, match=r"orders of AAAUSDT.*lists it not"):
        venue.store.enlist({})
    finer = Instrument("AAA/USDT", 3, 3, 500_000_000, "perpetual")
    with pytest.raises(SettingsError, match="in units"):
        venue.enlist({"AAAUSDT": finer})


def test_money_is_moved_by_trades_of_its_own_product_alone(venues: Venues) -> None:
    venue = venues.open(Lockstep(market()))
    venue.move(close_ms(0))
    for product in Product:
        venue.place(product, request(venue))
    venue.move(close_ms(1))
    state = venue.store.state()
    assert (state.wallet_e8, state.spot_e8) == (10**13, 10**13 - 11 * 10**8)
    assert np.unique([venue.positions(product)["AAAUSDT"].lots for product in Product]) == [1_000]
