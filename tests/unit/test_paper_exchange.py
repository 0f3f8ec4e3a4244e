"""The pure parts of the paper venue, and its store."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from services.paper_exchange.authentication import Credentials, authenticate
from services.paper_exchange.candles import Candles
from services.paper_exchange.clock import VenueClock
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.market import Listing, Market, list_market
from services.paper_exchange.matching import (
    FLAT,
    Matching,
    NetPosition,
    OrderStatus,
    PaperOrder,
    Product,
    Step,
    match_closes,
    trade_position,
)
from services.paper_exchange.parameters import parse_parameters
from services.paper_exchange.refusals import RefusalError
from services.paper_exchange.settings import Settings, load_settings, read_token
from services.paper_exchange.sources.recorded import Lockstep
from services.paper_exchange.store import (
    DuplicateOrderError,
    NewOrder,
    Store,
    VenueState,
)
from services.paper_exchange.streams import Hub
from shared.book.execution import FillTerms
from shared.book.instrument import Instrument, instruments_from_bars
from shared.book.orders import Side
from shared.errors import DataError, SettingsError
from shared.quant.bars import BarRow, Bars, RawBars

BAR_MS = 300_000
T0 = 1_704_067_200_000
COIN = Instrument("AAA/USDT", 2, 3, 500_000_000, "perpetual")
NO_COSTS = FillTerms(fee_ppm=0, slippage_ppm=0, max_participation_ppm=1_000_000, funding_ppm=0)


def close_ms(number: int) -> int:
    return T0 + (number + 1) * BAR_MS


def listing(opens: Sequence[float], volume: float = 100.0) -> Listing:
    closes = np.array([close_ms(i) for i in range(len(opens))], dtype=np.int64)
    prices = np.array(opens, dtype=np.float64)
    volumes = np.full(len(opens), volume)
    bars = Candles(closes, prices, prices + 0.5, prices, prices + 0.5, volumes)
    return Listing("AAAUSDT", COIN, BAR_MS, bars)


def order(
    lots: int,
    side: Side = Side.BUY,
    *,
    market_at_ms: int = T0,
    reduce_only: bool = False,
    order_id: int = 1,
) -> PaperOrder:
    return PaperOrder(
        order_id,
        f"client-{order_id}",
        "AAAUSDT",
        side,
        lots,
        0,
        0,
        reduce_only,
        OrderStatus.NEW,
        market_at_ms,
        market_at_ms + 40,
        market_at_ms + 40,
    )


def walk(
    orders: Sequence[PaperOrder],
    market: Listing,
    terms: FillTerms = NO_COSTS,
    position: NetPosition = FLAT,
) -> Matching:
    closes = market.bars.closes_at_ms.tolist()
    positions, listings = {"AAAUSDT": position}, {"AAAUSDT": market}
    return match_closes(Product.USDM, orders, closes, positions, listings, terms)


# --- matching ---------------------------------------------------------------------------------


def test_an_order_never_trades_at_an_open_before_it_was_accepted() -> None:
    matching = walk([order(1000, market_at_ms=close_ms(1))], listing([10.0, 11.0, 12.0, 13.0]))
    (trade,) = matching.trades
    assert (trade.price_ticks, trade.traded_at_ms) == (1200, close_ms(1))


def test_an_order_accepted_a_moment_after_the_close_trades_at_the_open_that_follows() -> None:
    placed = order(1000)
    assert placed.created_at_ms > T0
    matching = walk([placed], listing([10.0, 11.0]))
    assert [trade.traded_at_ms for trade in matching.trades] == [T0]
    assert matching.orders[1].updated_at_ms == placed.updated_at_ms


def test_the_rest_of_an_order_goes_on_to_the_next_bars() -> None:
    terms = FillTerms(fee_ppm=0, slippage_ppm=0, max_participation_ppm=500_000)
    matching = walk([order(1200)], listing([10.0, 11.0, 12.0], volume=1.0), terms)
    assert [(t.lots, t.price_ticks) for t in matching.trades] == [
        (500, 1000),
        (500, 1100),
        (200, 1200),
    ]
    done = matching.orders[1]
    assert (done.status, done.filled_lots) == (OrderStatus.FILLED, 1200)
    # 0.5 at 10, 0.5 at 11, 0.2 at 12
    assert done.quote_e8 == 1_290_000_000


def test_a_bar_without_volume_fills_nothing() -> None:
    matching = walk([order(10)], listing([10.0, 11.0], volume=0.0))
    assert (matching.trades, matching.orders) == ([], {})


def test_orders_trade_in_order_of_arrival() -> None:
    orders = [order(10, order_id=1), order(20, Side.SELL, order_id=2), order(5, order_id=3)]
    assert [trade.order_id for trade in walk(orders, listing([10.0])).trades] == [1, 2, 3]


def test_a_reduce_only_order_stops_at_flat_and_expires() -> None:
    held = NetPosition(lots=300, cost_e8=300_000_000)
    sell = order(1000, Side.SELL, reduce_only=True)
    matching = walk([sell], listing([10.0, 11.0, 12.0]), position=held)
    assert [trade.lots for trade in matching.trades] == [300]
    assert matching.positions["AAAUSDT"] == FLAT
    expired = matching.orders[1]
    assert (expired.status, expired.filled_lots) == (OrderStatus.EXPIRED, 300)


def test_the_wallet_changes_by_realised_profit_less_fees() -> None:
    held = NetPosition(lots=1000, cost_e8=900_000_000)
    terms = NO_COSTS.model_copy(update={"fee_ppm": 1000})
    matching = walk([order(1000, Side.SELL)], listing([10.0]), terms, held)
    assert matching.wallet_change_e8 == 100_000_000 - 1_000_000


# --- positions --------------------------------------------------------------------------------


def test_a_position_turned_over_realises_the_old_side_and_opens_the_new() -> None:
    long = NetPosition(lots=1000, cost_e8=1_000_000_000)  # one at 10
    after, realised_e8 = trade_position(long, Side.SELL, 3000, 1200, COIN)
    assert realised_e8 == 200_000_000
    assert after == NetPosition(lots=-2000, cost_e8=-2_400_000_000)


def test_a_short_gains_when_bought_back_lower() -> None:
    short = NetPosition(lots=-2000, cost_e8=-2_400_000_000)
    after, realised_e8 = trade_position(short, Side.BUY, 500, 1000, COIN)
    assert realised_e8 == 100_000_000
    assert after == NetPosition(lots=-1500, cost_e8=-1_800_000_000)


def test_profits_of_a_position_that_came_home_add_up_to_its_cash_flows() -> None:
    rng = np.random.default_rng(20240301)
    for _ in range(200):
        position, realised_e8, cash_e8 = FLAT, 0, 0
        trades = [
            (Side.BUY if rng.random() < 0.5 else Side.SELL, int(rng.integers(1, 50)))
            for _ in range(12)
        ]
        net = sum(side.sign * lots for side, lots in trades)
        if net:
            trades.append((Side.SELL if net > 0 else Side.BUY, abs(net)))
        for side, lots in trades:
            ticks = int(rng.integers(900, 1100))
            position, profit_e8 = trade_position(position, side, lots, ticks, COIN)
            realised_e8 += profit_e8
            cash_e8 -= side.sign * COIN.notional_e8(ticks, lots)
        assert position == FLAT
        assert realised_e8 == cash_e8


# --- the market -------------------------------------------------------------------------------


def bars_of(rows: Sequence[tuple[str, int, float]]) -> Bars:
    full: list[BarRow] = [
        (symbol, close_ms(number), price, price, price, price + 0.5, 10.0)
        for symbol, number, price in rows
    ]
    adjusted = [(s, at, o, c, low, c, v) for s, at, o, _, low, c, v in full]
    return Bars.from_raw(RawBars.from_rows("binance", "5m", adjusted))


def market_of(rows: Sequence[tuple[str, int, float]]) -> Market:
    bars = bars_of(rows)
    return list_market(bars, instruments_from_bars(bars))


def test_bars_are_found_by_symbol_and_close() -> None:
    market = market_of([("B/USDT", 0, 5.0), ("A/USDT", 0, 1.0), ("A/USDT", 2, 3.0)])
    first, second = market.listings["AUSDT"], market.listings["BUSDT"]
    assert first.bar_at(close_ms(1)) is None
    assert first.bar_at(close_ms(2)) == (close_ms(1), 3.0, 3.5, 3.0, 10.0)
    assert second.bar_at(close_ms(2)) is None
    assert market.closes_between(T0, close_ms(2)) == [close_ms(0), close_ms(2)]
    assert market.closes_between(close_ms(0), close_ms(1)) == []
    assert market.opens_at_ms == T0


def test_the_last_price_is_the_close_of_the_last_bar_and_never_a_later_one() -> None:
    only = market_of([("A/USDT", 0, 1.0), ("A/USDT", 2, 3.0)]).listings["AUSDT"]
    ticks = [only.last_price_ticks(at) for at in (T0, close_ms(0), close_ms(1), close_ms(2))]
    assert ticks == [None, 150_000, 150_000, 350_000]


def test_two_symbols_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="are both AUSDT at the venue"):
        market_of([("A/USDT", 0, 1.0), ("A/USDT:USDT", 0, 1.0)])


def test_bars_of_two_quotes_are_refused() -> None:
    with pytest.raises(DataError, match="priced in BTC, USDT but the account has one currency"):
        market_of([("A/USDT", 0, 1.0), ("A/BTC", 0, 1.0)])


# --- authentication ---------------------------------------------------------------------------

CREDENTIALS = Credentials(SecretStr("key"), SecretStr("secret"))
LISTEN_KEYS = {product: CREDENTIALS.listen_key(product) for product in Product}


def signed(text: str) -> str:
    return hmac.new(b"secret", text.encode(), hashlib.sha256).hexdigest()


def test_the_signature_covers_query_and_body_together() -> None:
    query, body = "symbol=A&timestamp=1000", "quantity=1"
    signature = signed(query + body)
    expected = {"symbol": "A", "timestamp": "1000", "quantity": "1", "signature": signature}
    for parts in (
        (query, f"{body}&signature={signature}"),
        (f"{query}&signature={signature}", body),
    ):
        assert authenticate(*parts, "key", CREDENTIALS, 1000) == expected


def test_the_query_goes_before_the_body() -> None:
    assert parse_parameters("a=1", "a=2&b=3") == {"a": "1", "b": "3"}


def test_an_example_of_the_venues_documentation_verifies() -> None:
    # Binance, "SIGNED Endpoint Examples for POST /fapi/v1/order", its test key and secret.
    key = "dbefbc809e3e83c283a984c3a1459732ea7db1360ca80c5c2c8867408d28cc83"
    secret = "2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9"
    query = (
        "symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC"
        "&recvWindow=5000&timestamp=1591702613943"
    )
    signature = "3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9"
    credentials = Credentials(SecretStr(key), SecretStr(secret))
    parameters = authenticate(f"{query}&signature={signature}", "", key, credentials, 1591702613943)
    assert parameters["price"] == "9000"


@pytest.mark.parametrize(
    ("timestamp_ms", "now_ms", "is_accepted"),
    [
        (10_000, 15_000, True),
        (10_000, 15_001, False),
        (10_999, 10_000, True),
        (11_000, 10_000, False),
    ],
)
def test_the_receive_window_is_exact(timestamp_ms: int, now_ms: int, is_accepted: bool) -> None:
    query = f"timestamp={timestamp_ms}&recvWindow=5000"
    request = (f"{query}&signature={signed(query)}", "", "key", CREDENTIALS, now_ms)
    if is_accepted:
        assert authenticate(*request)["recvWindow"] == "5000"
    else:
        with pytest.raises(RefusalError) as refused:
            authenticate(*request)
        assert refused.value.code == -1021


@pytest.mark.parametrize("text", ["\udcff", "a=\udcff", "signature=\udcff&timestamp=1"])
def test_octets_that_are_no_text_are_refused(text: str) -> None:
    with pytest.raises(RefusalError):
        authenticate(text, text, "key", CREDENTIALS, 1)
    with pytest.raises(RefusalError):
        authenticate("", "", "\udcff", CREDENTIALS, 1)


# --- the clock --------------------------------------------------------------------------------


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds on the monotonic clock, to be set by the test."""
    now = [50.0]
    monkeypatch.setattr("services.paper_exchange.clock.monotonic_seconds", lambda: now[0])
    return iter([now])


def test_the_clock_runs_from_the_close_and_never_goes_back(seconds: Iterator[list[float]]) -> None:
    now = next(seconds)
    clock = VenueClock(T0)
    assert clock.now_ms() == T0
    now[0] += 1.2345
    assert clock.now_ms() == T0 + 1234
    clock.reach(close_ms(0))
    assert clock.now_ms() == close_ms(0)
    now[0] += 400  # longer than a bar: the market is the slower of the two
    clock.reach(close_ms(1))
    assert clock.now_ms() == close_ms(0) + 400_000


def test_after_a_kill_the_clock_is_not_behind_what_it_showed(
    tmp_path: Path, seconds: Iterator[list[float]]
) -> None:
    now = next(seconds)
    market = market_of([("A/USDT", 0, 1.0)])
    fresh = VenueState(T0, T0, 0, 0)
    for wait_seconds in (0.0, 0.004, 4.9, 5.1, 60.0):
        store = Store(tmp_path / "venue.sqlite3", fresh)
        exchange = PaperExchange(Lockstep(market), NO_COSTS, store, Hub(), LISTEN_KEYS)
        now[0] += wait_seconds
        shown_ms = exchange.now_ms()
        store.commit()
        store.close()
        store = Store(tmp_path / "venue.sqlite3", fresh)
        again = PaperExchange(Lockstep(market), NO_COSTS, store, Hub(), LISTEN_KEYS)
        assert again.now_ms() >= shown_ms
        store.close()


# --- the store --------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    # Waiting for the lock of another process would only make the tests slow.
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0))
    opened = Store(tmp_path / "venue.sqlite3", VenueState(T0, T0, 1_000, 2_000))
    opened.enlist({"AAAUSDT": COIN})
    yield opened
    opened.close()


def new_order(client_order_id: str) -> NewOrder:
    return NewOrder(client_order_id, "AAAUSDT", Side.BUY, 5, False, T0, T0)


def committed_orders(tmp_path: Path) -> int:
    """Count the orders that another process sees."""
    reader = sqlite3.connect(tmp_path / "venue.sqlite3")
    (n,) = reader.execute("SELECT count(*) FROM orders").fetchone()
    reader.close()
    return int(n)


async def test_changes_made_together_share_one_commit(store: Store, tmp_path: Path) -> None:
    async def place(number: int) -> None:
        store.insert_order(new_order(f"order-{number}"))
        assert committed_orders(tmp_path) == 0
        await store.committed()
        assert committed_orders(tmp_path) == 10

    await asyncio.gather(*(place(number) for number in range(10)))


async def test_a_duplicate_takes_nothing_else_down(store: Store, tmp_path: Path) -> None:
    store.insert_order(new_order("one"))
    with pytest.raises(DuplicateOrderError):
        store.insert_order(new_order("one"))
    await store.committed()
    assert committed_orders(tmp_path) == 1


async def test_whoever_waits_for_a_change_that_was_undone_is_told(
    store: Store, tmp_path: Path
) -> None:
    async def place() -> None:
        store.insert_order(new_order("one"))
        await store.committed()

    async def fail() -> None:
        with pytest.raises(OverflowError):
            store.insert_order(new_order("two")._replace(quantity_lots=2**70))

    waiting = asyncio.create_task(place())
    await asyncio.gather(asyncio.sleep(0), fail(), return_exceptions=False)
    with pytest.raises(sqlite3.OperationalError, match="was undone"):
        await waiting
    assert committed_orders(tmp_path) == 0
    store.insert_order(new_order("three"))
    await store.committed()
    assert committed_orders(tmp_path) == 1


def test_a_store_that_another_writer_holds_fails_and_recovers(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "venue.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        store.insert_order(new_order("one"))
    other.execute("ROLLBACK")
    other.close()
    assert store.insert_order(new_order("one")).order_id == 1


def test_an_advance_is_recorded_whole_or_not_at_all(store: Store) -> None:
    placed = store.insert_order(new_order("one"))
    matching = walk([placed], listing([10.0]))
    step = matching.steps[0]
    assert step.trade is not None
    bad = replace(step.trade, lots=0)  # against a check of the table
    matching.steps.append(Step(step.order, bad))
    with pytest.raises(sqlite3.IntegrityError):
        store.save_matching(close_ms(0), close_ms(0), [matching])
    assert store.state() == (T0, T0, 1_000, 2_000)
    assert store.open_orders(Product.USDM) == [placed]
    assert store.positions(Product.USDM) == {}


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "venue.sqlite3"
    file.write_text("a note, and no database, but long enough to be looked at as one" * 20)
    with pytest.raises(SettingsError, match="cannot be used as the venue's store"):
        Store(file, VenueState(T0, T0, 0, 0))


# --- settings ---------------------------------------------------------------------------------


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNT_VENUE_API_KEY", "key")
    monkeypatch.setenv("MNT_VENUE_API_SECRET", "hush")


@pytest.mark.usefixtures("_environment")
def test_the_environment_of_the_fleet_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MNT_REPLAY__BARS": '["a.parquet", "b.parquet"]',
        "MNT_REPLAY__START": "2024-01-01T00:00:00+00:00",
        "MNT_REPLAY__END": "2024-01-02T00:00:00+00:00",
        "MNT_EXECUTION__FEE_PPM": "7",
        "MNT_PORTFOLIO__CAPITAL_USDT": "5",
        "MNT_INGEST__MAX_LOG_CHANGE": "0.25",
        "MNT_HOST": "0.0.0.0",
        "MNT_MARKET__SOURCE": "recorded",
        "MNT_MARKET__BARS": '["c.parquet"]',
        "MNT_MARKET__SPEED": "60",
        "MNT_MARKET__START": "2024-01-01T00:00:00+00:00",
        "MNT_SCREENER__METHOD": "of another service",
        "MNT_DATABASE_URL": "of another service",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert [path.name for path in settings.replay.bars] == ["a.parquet", "b.parquet"]
    assert settings.replay.end_ms == T0 + 86_400_000
    assert settings.execution.fee_ppm == 7
    assert settings.portfolio.capital_e8 == 500_000_000
    assert settings.ingest.max_log_change == 0.25
    assert settings.host == "0.0.0.0"
    assert (settings.market.source, settings.market.speed) == ("recorded", 60.0)
    assert [path.name for path in settings.market.bars] == ["c.parquet"]
    assert settings.market.start_ms == T0
    assert "hush" not in repr(settings)


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MNT_PORT", "0", "MNT_PORT: "),
        ("MNT_EXECUTION__FEE_PPM", "-1", "MNT_EXECUTION__FEE_PPM: "),
        ("MNT_VENUE_API_SECRET", "", "MNT_VENUE_API_SECRET: "),
        ("MNT_REPLAY__BARS", "a.parquet", "as JSON|MNT_REPLAY__BARS: "),
    ],
)
def test_a_bad_setting_is_named_and_no_secret_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message) as refused:
        load_settings()
    assert "hush" not in str(refused.value)


@pytest.mark.usefixtures("_environment")
def test_a_token_file_that_is_empty_or_absent_is_refused(tmp_path: Path) -> None:
    assert read_token(None) == ""
    with pytest.raises(SettingsError, match="cannot be read"):
        read_token(tmp_path / "none")
    (tmp_path / "blank").write_text(" \n")
    with pytest.raises(SettingsError, match="is empty"):
        read_token(tmp_path / "blank")
    assert Settings().store_file == Path(".mnt/data/paper_exchange/venue.sqlite3")
