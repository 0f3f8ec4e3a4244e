"""The paper venue through unmodified ccxt, as the executor and ingest use it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ccxt.async_support import binanceusdm

from services.paper_exchange.settings import Settings
from shared.book.execution import FillTerms, execute_market_order
from shared.book.orders import OrderState, Side
from shared.errors import (
    SettingsError,
    VenueNotFoundError,
    VenueRejectedError,
    VenueUnknownError,
)
from shared.venues.paper_control import PaperControl
from tests.paper_venue import (
    KEY,
    SECRET,
    RecordedBar,
    calm_bars,
    close_ms,
    connected,
    controlled,
    open_ms,
    raw_client,
    serving,
    settings_in,
)
from tests.support import eventually, eventually_async

SYMBOL = "AAA/USDT"
TERMS = FillTerms(fee_ppm=500, slippage_ppm=100)


# --- fills ------------------------------------------------------------------------------------


async def test_an_order_fills_at_the_next_open_with_the_numbers_of_the_kernel(
    tmp_path: Path,
) -> None:
    async with (
        serving(settings_in(tmp_path, terms=TERMS)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(2))
        await gateway.synchronise()
        placed = await gateway.submit_market_order("one", SYMBOL, Side.SELL, Decimal("2.5"))
        assert (placed.state, placed.filled) == (OrderState.ACCEPTED, Decimal(0))
        assert await control.advance(close_ms(3)) == 1
        await gateway.synchronise()

        found = await gateway.fetch_order("one", SYMBOL)
        (fill,) = await gateway.fetch_fills(found.venue_order_id, SYMBOL)
        instrument = gateway.instruments()[SYMBOL]
        expected = execute_market_order(Side.SELL, 2500, 103.0, 1000.0, instrument, TERMS)
        assert expected is not None
        assert (found.state, found.filled) == (OrderState.FILLED, Decimal("2.5"))
        assert fill.quantity == instrument.quantity_of(expected.lots) == Decimal("2.5")
        # 103 less one hundredth of a percent is 102.9897, in ticks of 0.001 102.990
        assert fill.price == instrument.price_of(expected.price_ticks) == Decimal("102.990")
        # 102.99 * 2.5 * 0.0005
        assert fill.fee == Decimal(expected.fee_e8).scaleb(-8) == Decimal("0.1287375")
        assert fill.traded_at_ms == open_ms(3)
        account = await gateway.fetch_account()
        assert account.wallet_balance == Decimal(100_000) - fill.fee
        assert account.positions == {SYMBOL: Decimal("-2.5")}


async def test_an_order_is_filled_bar_by_bar_as_volume_allows(tmp_path: Path) -> None:
    bars = [bar._replace(volume=10.0) for bar in calm_bars()]
    async with (
        serving(settings_in(tmp_path, bars, FillTerms(max_participation_ppm=100_000))) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(0))
        await gateway.synchronise()
        await gateway.submit_market_order("big", SYMBOL, Side.BUY, Decimal("2.5"))
        await control.advance(close_ms(2))
        await gateway.synchronise()
        half = await gateway.fetch_order("big", SYMBOL)
        assert (half.state, half.filled) == (OrderState.PARTIALLY_FILLED, Decimal(2))
        await control.advance(close_ms(9))
        await gateway.synchronise()
        whole = await gateway.fetch_order("big", SYMBOL)
        fills = await gateway.fetch_fills(whole.venue_order_id, SYMBOL)
        assert whole.state is OrderState.FILLED
        assert [fill.quantity for fill in fills] == [Decimal(1), Decimal(1), Decimal("0.5")]
        assert [fill.traded_at_ms for fill in fills] == [open_ms(1), open_ms(2), open_ms(3)]


async def test_an_order_waits_for_a_bar_of_its_own_symbol(tmp_path: Path) -> None:
    bars = [bar for bar in calm_bars() if (bar.symbol, bar.number) != (SYMBOL, 3)]
    async with (
        serving(settings_in(tmp_path, bars)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(2))
        await gateway.synchronise()
        await gateway.submit_market_order("wait", SYMBOL, Side.BUY, Decimal(1))
        assert await control.advance(close_ms(3)) == 0
        assert await control.advance(close_ms(4)) == 1
        await gateway.synchronise()
        found = await gateway.fetch_order("wait", SYMBOL)
        (fill,) = await gateway.fetch_fills(found.venue_order_id, SYMBOL)
        assert fill.traded_at_ms == open_ms(4)


async def test_a_round_trip_leaves_its_profit_less_fees_in_the_wallet(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path, terms=FillTerms(fee_ppm=1000, slippage_ppm=0))) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        for number, side in ((0, Side.BUY), (4, Side.SELL)):
            await control.advance(close_ms(number))
            await gateway.synchronise()
            await gateway.submit_market_order(f"{side}", SYMBOL, side, Decimal(10))
        await control.advance(close_ms(5))
        await gateway.synchronise()
        account = await gateway.fetch_account()
        # bought at 101, sold at 105: 40, less 0.1 % of 1010 and of 1050
        assert account.wallet_balance == Decimal(100_000) + 40 - Decimal("1.01") - Decimal("1.05")
        assert account.positions == {}


# --- time -------------------------------------------------------------------------------------


async def test_advancing_again_or_back_changes_nothing(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        connected(url) as gateway,
        controlled(url) as control,
        raw_client(url) as raw,
    ):
        await control.advance(close_ms(3))
        await gateway.synchronise()
        await gateway.submit_market_order("one", SYMBOL, Side.BUY, Decimal(1))
        assert await control.advance(close_ms(4)) == 1
        before = await gateway.fetch_account()
        assert await control.advance(close_ms(4)) == 0
        assert await control.advance(close_ms(1)) == 0
        assert await gateway.fetch_account() == before
        _, status = await raw.get("/status")
        assert (status["market_at_ms"], status["trades"]) == (close_ms(4), 1)


async def test_the_clock_stands_at_the_close_and_runs_on_in_milliseconds(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        assert open_ms(0) <= await gateway.venue_time_ms() < close_ms(0)
        await control.advance(close_ms(5))
        first = await gateway.synchronise()
        assert close_ms(5) <= first < close_ms(6)

        async def has_moved() -> bool:
            return first < await gateway.venue_time_ms() < close_ms(6)

        assert await eventually_async(has_moved)


async def test_a_restart_keeps_orders_account_and_time(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with (
        serving(settings) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(1))
        await gateway.synchronise()
        await gateway.submit_market_order("done", SYMBOL, Side.BUY, Decimal(1))
        await control.advance(close_ms(2))
        await gateway.synchronise()
        await gateway.submit_market_order("working", SYMBOL, Side.BUY, Decimal(3))
        account = await gateway.fetch_account()
        shown_ms = await gateway.venue_time_ms()
    async with (
        serving(settings) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        assert shown_ms <= await gateway.venue_time_ms() < close_ms(3)
        assert await gateway.fetch_account() == account
        assert (await gateway.fetch_order("done", SYMBOL)).state is OrderState.FILLED
        assert (await gateway.fetch_order("working", SYMBOL)).state is OrderState.ACCEPTED
        assert await control.advance(close_ms(2)) == 0
        assert await control.advance(close_ms(3)) == 1


async def test_a_store_is_refused_when_its_lots_would_change_their_meaning(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as url, connected(url) as gateway, controlled(url) as control:
        await control.advance(close_ms(1))
        await gateway.synchronise()
        await gateway.submit_market_order("one", SYMBOL, Side.BUY, Decimal(1))
    dearer = [bar._replace(open=bar.open * 1000, close=bar.close * 1000) for bar in calm_bars()]
    other = settings_in(tmp_path, dearer)
    with pytest.raises(SettingsError, match=r"orders of AAAUSDT in units .*another MNT_HOME"):
        async with serving(other):
            pass


async def test_two_venues_do_not_share_a_store(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings):
        with pytest.raises(SettingsError, match="belongs to a running paper venue"):
            async with serving(settings):
                pass


# --- orders -----------------------------------------------------------------------------------


async def test_what_is_left_of_an_order_can_be_cancelled_once(tmp_path: Path) -> None:
    bars = [bar._replace(volume=10.0) for bar in calm_bars()]
    async with (
        serving(settings_in(tmp_path, bars)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(0))
        await gateway.synchronise()
        await gateway.submit_market_order("big", SYMBOL, Side.BUY, Decimal(5))
        await control.advance(close_ms(1))
        await gateway.synchronise()
        cancelled = await gateway.cancel_order("big", SYMBOL)
        assert (cancelled.state, cancelled.filled) == (OrderState.CANCELLED, Decimal(1))
        assert await control.advance(close_ms(2)) == 0
        with pytest.raises(VenueNotFoundError, match="-2011"):
            await gateway.cancel_order("big", SYMBOL)


async def test_a_client_order_id_is_unique_among_open_orders_only(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(0))
        await gateway.synchronise()
        await gateway.submit_market_order("same", SYMBOL, Side.BUY, Decimal(1))
        # An order of this id works at the venue: it must be asked for, not given up.
        with pytest.raises(VenueUnknownError, match="-4116"):
            await gateway.submit_market_order("same", SYMBOL, Side.BUY, Decimal(2))
        await control.advance(close_ms(1))
        await gateway.synchronise()
        again = await gateway.submit_market_order("same", SYMBOL, Side.BUY, Decimal(2))
        assert await gateway.fetch_order("same", SYMBOL) == again


async def test_orders_sent_at_once_all_arrive(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(0))
        await gateway.synchronise()
        ids = [f"order-{i}" for i in range(40)]
        sent = await asyncio.gather(
            *(gateway.submit_market_order(i, SYMBOL, Side.BUY, Decimal(1)) for i in ids)
        )
        assert len({order.venue_order_id for order in sent}) == len(ids)
        assert await control.advance(close_ms(1)) == len(ids)
        await gateway.synchronise()
        assert (await gateway.fetch_account()).positions == {SYMBOL: Decimal(40)}


@pytest.mark.parametrize(
    ("symbol", "quantity", "code"),
    [
        (SYMBOL, "0.04", "-4164"),
        (SYMBOL, "0.0001", "-1111"),
        (SYMBOL, "0", "-4003"),
        ("NONE/USDT", "1", "-1121"),
        (SYMBOL, "100000000", "-2027"),
    ],
)
async def test_a_refused_order_is_rejected_with_the_code_of_the_venue(
    tmp_path: Path, symbol: str, quantity: str, code: str
) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        connected(url) as gateway,
        controlled(url) as control,
        raw_client(url) as raw,
    ):
        await control.advance(close_ms(0))
        await gateway.synchronise()
        with pytest.raises(VenueRejectedError, match=code):
            await gateway.submit_market_order("bad", symbol, Side.BUY, Decimal(quantity))
        _, status = await raw.get("/status")
        assert status["orders"] == 0


async def test_an_order_before_the_first_close_of_its_symbol_is_refused(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as url, connected(url) as gateway:
        with pytest.raises(VenueRejectedError, match="-4140"):
            await gateway.submit_market_order("early", SYMBOL, Side.BUY, Decimal(1))


async def test_an_order_nobody_placed_is_not_found(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as url, connected(url) as gateway:
        with pytest.raises(VenueNotFoundError, match="-2013"):
            await gateway.fetch_order("nobody", SYMBOL)


async def test_after_a_jump_of_the_clock_questions_are_answered_and_orders_are_not_placed(
    tmp_path: Path,
) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(3))
        # Sent by the old clock it is outside its window; nothing is wrong with the order.
        with pytest.raises(VenueUnknownError, match="-1021"):
            await gateway.submit_market_order("late", SYMBOL, Side.BUY, Decimal(1))
        with pytest.raises(VenueNotFoundError):
            await gateway.fetch_order("late", SYMBOL)
        sent = await gateway.submit_market_order("late", SYMBOL, Side.BUY, Decimal(1))
        assert sent.state is OrderState.ACCEPTED


async def test_an_order_signed_at_a_recorded_instant_dies_with_its_window(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(0))
        recorded_ms = await gateway.synchronise()
        order = ("one", SYMBOL, Side.BUY, Decimal(1))
        with pytest.raises(VenueUnknownError, match="-1021"):
            await gateway.submit_market_order(*order, signed_at_ms=recorded_ms - 5_001)
        placed = await gateway.submit_market_order(*order, signed_at_ms=recorded_ms)
        assert placed.state is OrderState.ACCEPTED


# --- credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"key": None}, 401, -2014),
        ({"key": "another"}, 401, -2015),
        ({"secret": "another"}, 400, -1022),
        ({"time_shift_ms": 2_000}, 400, -1021),
        ({"time_shift_ms": -5_100}, 400, -1021),
        ({"parameters": {"timestamp": None}}, 400, -1102),
        ({"parameters": {"recvWindow": "60001"}}, 400, -1131),
        ({"parameters": {"timestamp": "now"}}, 400, -1100),
    ],
)
async def test_a_badly_signed_request_is_refused(
    tmp_path: Path, changed: dict[str, Any], status: int, code: int
) -> None:
    parameters = {"symbol": "AAAUSDT", **changed.pop("parameters", {})}
    async with serving(settings_in(tmp_path)) as url, raw_client(url) as raw:
        answer = await raw.send("GET", "/fapi/v1/openOrders", parameters, **changed)
        assert (answer[0], answer[1]["code"]) == (status, code)
        assert (await raw.send("GET", "/fapi/v1/openOrders", {}))[0] == 200


async def test_the_market_moves_for_the_bearer_of_the_token_alone(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as url, raw_client(url) as raw:
        stranger = PaperControl(url, "another token")
        with pytest.raises(VenueRejectedError, match="401"):
            await stranger.advance(close_ms(3))
        await stranger.close()
        assert (await raw.request("POST", "/paper/advance", data=b"{}"))[0] == 401
        _, status = await raw.get("/status")
        assert status["market_at_ms"] == open_ms(0)


# --- the rest of the world --------------------------------------------------------------------


async def test_ccxt_speaks_to_it_by_its_unified_calls(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path, terms=FillTerms(slippage_ppm=0))) as url,
        controlled(url) as control,
    ):
        await control.advance(close_ms(0))
        options = {"fetchCurrencies": False, "adjustForTimeDifference": True}
        client = binanceusdm({"apiKey": KEY, "secret": SECRET, "options": options})
        client.urls["api"] = {
            name: address.replace("https://fapi.binance.com", url)
            for name, address in client.urls["api"].items()
        }
        try:
            markets = await client.load_markets()
            market = markets["AAA/USDT:USDT"]
            assert (market["swap"], market["linear"], market["active"]) == (True, True, True)
            assert (market["precision"]["amount"], market["precision"]["price"]) == (0.001, 0.001)
            assert market["limits"]["cost"]["min"] == 5.0
            symbol = market["symbol"]
            placed = await client.create_order(
                symbol, "market", "buy", 2, None, {"newClientOrderId": "by-hand"}
            )
            assert (placed["status"], placed["clientOrderId"]) == ("open", "by-hand")
            (waiting,) = await client.fetch_open_orders(symbol)
            assert waiting["id"] == placed["id"]
            await control.advance(close_ms(1))
            await client.load_time_difference()
            filled = await client.fetch_order(placed["id"], symbol)
            assert (filled["status"], filled["filled"], filled["average"]) == ("closed", 2, 101)
            (trade,) = await client.fetch_my_trades(symbol)
            assert (trade["order"], trade["price"], trade["fee"]["cost"]) == (
                placed["id"],
                101,
                0.101,
            )
            (position,) = await client.fetch_positions()
            assert (position["symbol"], position["side"], position["contracts"]) == (
                symbol,
                "long",
                2,
            )
            assert position["unrealizedPnl"] == 1.0  # marked at the close, 101.5
            balance = await client.fetch_balance()
            assert balance["USDT"]["total"] == 99_999.899 + 1.0
            last = await client.create_order(symbol, "market", "sell", 1)
            gone = await client.cancel_order(last["id"], symbol)
            assert gone["status"] == "canceled"
            await client.cancel_all_orders(symbol)
        finally:
            await client.close()


async def test_a_recorded_perpetual_keeps_the_name_of_the_recording(tmp_path: Path) -> None:
    bars = [bar._replace(symbol="BTC/USDT:USDT") for bar in calm_bars() if bar.symbol == SYMBOL]
    async with (
        serving(settings_in(tmp_path, bars)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        instrument = gateway.instruments()["BTC/USDT:USDT"]
        assert (instrument.symbol, instrument.price_source) == ("BTC/USDT:USDT", "perpetual")
        await control.advance(close_ms(0))
        await gateway.synchronise()
        await gateway.submit_market_order("one", "BTC/USDT:USDT", Side.BUY, Decimal(1))
        await control.advance(close_ms(1))
        assert (await gateway.fetch_account()).positions == {"BTC/USDT:USDT": Decimal(1)}


# --- a process of its own ---------------------------------------------------------------------


class VenueProcess:
    """`python -m services.paper_exchange` with the environment a fleet gives it."""

    def __init__(self, settings: Settings) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        recorded = ", ".join(f'"{path}"' for path in settings.replay.bars)
        self._env = os.environ | {
            "MNT_HOME": str(settings.home),
            "MNT_PORT": str(self.port),
            "MNT_API_TOKEN_FILE": str(settings.api_token_file),
            "MNT_VENUE_API_KEY": KEY,
            "MNT_VENUE_API_SECRET": SECRET,
            "MNT_REPLAY__BARS": f"[{recorded}]",
            "MNT_REPLAY__START": "2024-01-01T00:00:00+00:00",
            "MNT_EXECUTION__FEE_PPM": "0",
            "MNT_REDIS_URL": "redis://of-another-service",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it can be used."""
        command = [sys.executable, "-m", "services.paper_exchange"]
        self._process = subprocess.Popen(command, env=self._env, stdout=subprocess.DEVNULL)
        eventually(self._is_ready)

    def end(self, number: signal.Signals) -> int:
        """Send it a signal and return its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(20)
        self._process = None
        return code

    def close(self) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ready") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def venue_process(tmp_path: Path) -> Iterator[VenueProcess]:
    process = VenueProcess(settings_in(tmp_path))
    process.start()
    yield process
    process.close()


async def test_an_order_that_was_answered_survives_a_kill(venue_process: VenueProcess) -> None:
    url = venue_process.url
    async with connected(url) as gateway, controlled(url) as control:
        await control.advance(close_ms(0))
        await gateway.synchronise()
        sent = [
            await gateway.submit_market_order(f"order-{i}", SYMBOL, Side.BUY, Decimal(1))
            for i in range(5)
        ]
        shown_ms = await gateway.venue_time_ms()
        assert venue_process.end(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(VenueUnknownError):
            await gateway.submit_market_order("lost", SYMBOL, Side.BUY, Decimal(1))
        with pytest.raises(VenueUnknownError):
            await control.advance(close_ms(1))
        venue_process.start()
        assert shown_ms <= await gateway.synchronise()
        assert [await gateway.fetch_order(f"order-{i}", SYMBOL) for i in range(5)] == sent
        with pytest.raises(VenueNotFoundError):
            await gateway.fetch_order("lost", SYMBOL)
        assert await control.advance(close_ms(1)) == 5
        await gateway.synchronise()
        (fill,) = await gateway.fetch_fills(sent[0].venue_order_id, SYMBOL)
        assert fill.fee == 0


def test_it_ends_in_order_when_asked_to(venue_process: VenueProcess) -> None:
    assert venue_process.end(signal.SIGTERM) == 0


def test_without_credentials_it_says_which_settings_are_missing(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MNT_")}
    ended = subprocess.run(
        [sys.executable, "-m", "services.paper_exchange"],
        env=env | {"MNT_HOME": str(tmp_path), "MNT_VENUE_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "MNT_VENUE_API_SECRET: Field required" in ended.stderr
    assert KEY not in ended.stderr


async def test_bars_the_fleet_refuses_do_not_trade(tmp_path: Path) -> None:
    bars = [
        *(bar for bar in calm_bars() if (bar.symbol, bar.number) != (SYMBOL, 3)),
        RecordedBar(SYMBOL, 3, 103.0, 1030.0),  # a spike: quarantined
    ]
    async with (
        serving(settings_in(tmp_path, bars)) as url,
        connected(url) as gateway,
        controlled(url) as control,
    ):
        await control.advance(close_ms(2))
        await gateway.synchronise()
        await gateway.submit_market_order("one", SYMBOL, Side.BUY, Decimal(1))
        assert await control.advance(close_ms(3)) == 0
        assert await control.advance(close_ms(4)) == 1
