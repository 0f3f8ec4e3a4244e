"""Limit orders, the spot wallet and funding: what one walk through some bars does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.paper_exchange.candles import Candle, Candles
from services.paper_exchange.market import Listing
from services.paper_exchange.matching import (
    FLAT,
    FundingPayment,
    Matching,
    NetPosition,
    OrderStatus,
    PaperOrder,
    Product,
    TimeInForce,
    affordable_lots,
    match_closes,
)
from shared.book.execution import FillTerms, charge_e8
from shared.book.instrument import Instrument
from shared.book.orders import Side

BAR_MS = 300_000
EIGHT_HOURS_MS = 28_800_000
T0 = 1_704_067_200_000 - BAR_MS  # the first bar closes at midnight
COIN = Instrument("AAA/USDT", 2, 3, 500_000_000, "perpetual")  # ticks of 0.01, lots of 0.001
FREE = FillTerms(fee_ppm=0, slippage_ppm=0, max_participation_ppm=1_000_000, funding_ppm=0)
E8 = 100_000_000

BarTuple = tuple[float, float, float, float]  # open, high, low, volume


def close_ms(number: int) -> int:
    return T0 + (number + 1) * BAR_MS


def listing(*bars: BarTuple) -> Listing:
    """Return a symbol whose bars close where they open."""
    candles = [
        Candle(close_ms(i) - BAR_MS, close_ms(i), opening, high, low, opening, volume)
        for i, (opening, high, low, volume) in enumerate(bars)
    ]
    return Listing("AAAUSDT", COIN, BAR_MS, Candles.of(candles))


def limit(
    lots: int,
    price: float,
    side: Side = Side.BUY,
    time_in_force: TimeInForce = TimeInForce.GTC,
    *,
    product: Product = Product.USDM,
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
        False,
        OrderStatus.NEW,
        T0,
        T0,
        T0,
        product,
        round(price * 100),
        time_in_force,
    )


def market(
    lots: int, side: Side = Side.BUY, *, product: Product = Product.SPOT, order_id: int = 1
) -> PaperOrder:
    return PaperOrder(
        order_id,
        f"client-{order_id}",
        "AAAUSDT",
        side,
        lots,
        0,
        0,
        False,
        OrderStatus.NEW,
        T0,
        T0,
        T0,
        product,
    )


def walk(
    orders: Sequence[PaperOrder],
    shown: Listing,
    terms: FillTerms = FREE,
    position: NetPosition = FLAT,
    *,
    product: Product = Product.USDM,
    quote_e8: int = 0,
    funded_to_ms: int = T0,
) -> Matching:
    closes = shown.bars.closes_at_ms.tolist()
    positions, listings = {"AAAUSDT": position}, {"AAAUSDT": shown}
    return match_closes(
        product,
        orders,
        closes,
        positions,
        listings,
        terms,
        funded_to_ms=funded_to_ms,
        quote_e8=quote_e8,
    )


def fills(matching: Matching) -> list[tuple[int, int, bool]]:
    return [(trade.lots, trade.price_ticks, trade.is_maker) for trade in matching.trades]


# --- limit orders -----------------------------------------------------------------------------


def test_a_limit_order_rests_until_a_bar_goes_through_its_price() -> None:
    bars = ((10.0, 10.2, 9.8, 9.0), (10.0, 10.1, 9.5, 9.0), (10.0, 10.1, 9.49, 9.0))
    matching = walk([limit(1000, 9.5)], listing(*bars))
    # The second bar only touched the price: others may have been in front of us.
    assert fills(matching) == [(1000, 950, True)]
    assert matching.trades[0].traded_at_ms == close_ms(1)


def test_a_resting_sale_is_the_mirror_image() -> None:
    bars = ((10.0, 10.5, 9.8, 9.0), (10.0, 10.51, 9.5, 9.0))
    matching = walk([limit(1000, 10.5, Side.SELL)], listing(*bars))
    assert fills(matching) == [(1000, 1050, True)]
    assert matching.trades[0].traded_at_ms == close_ms(0)


def test_an_open_better_than_the_price_is_what_is_paid() -> None:
    matching = walk([limit(1000, 9.5)], listing((9.2, 9.9, 9.0, 9.0)))
    assert fills(matching) == [(1000, 920, False)]


def test_slippage_never_goes_beyond_the_price() -> None:
    terms = FREE.model_copy(update={"slippage_ppm": 10_000})  # a hundredth: 9.2 becomes 9.292
    assert fills(walk([limit(1, 9.5)], listing((9.2, 9.9, 9.0, 9.0)), terms)) == [(1, 929, False)]
    assert fills(walk([limit(1, 9.25)], listing((9.2, 9.9, 9.0, 9.0)), terms)) == [(1, 925, False)]
    sale = limit(1, 9.15, Side.SELL)
    assert fills(walk([sale], listing((9.2, 9.9, 9.0, 9.0)), terms)) == [(1, 915, False)]


def test_the_volume_of_a_bar_bounds_what_a_limit_order_gets_of_it() -> None:
    terms = FREE.model_copy(update={"max_participation_ppm": 100_000})
    bars = ((10.0, 10.0, 9.0, 4.0), (10.0, 10.0, 9.0, 4.0), (10.0, 10.0, 9.6, 4.0))
    matching = walk([limit(1000, 9.5)], listing(*bars), terms)
    assert fills(matching) == [(400, 950, True), (400, 950, True)]
    assert matching.orders[1].status is OrderStatus.PARTIALLY_FILLED


def test_makers_and_takers_pay_the_same_fee_rounded_up() -> None:
    terms = FREE.model_copy(update={"fee_ppm": 333})
    for opening in (9.0, 10.0):
        (trade,) = walk([limit(7, 9.5)], listing((opening, 10.0, 9.0, 9.0)), terms).trades
        assert trade.fee_e8 == charge_e8(trade.quote_e8, 333)


def test_immediate_or_cancel_takes_the_open_or_nothing() -> None:
    terms = FREE.model_copy(update={"max_participation_ppm": 100_000})
    bars = ((9.4, 10.0, 9.0, 4.0), (9.4, 10.0, 9.0, 4.0))
    matching = walk([limit(1000, 9.5, time_in_force=TimeInForce.IOC)], listing(*bars), terms)
    assert fills(matching) == [(400, 940, False)]
    assert matching.orders[1].status is OrderStatus.EXPIRED
    # Through its price, but not at the open: it does not wait for that.
    missed = walk([limit(1, 9.5, time_in_force=TimeInForce.IOC)], listing((9.6, 9.7, 9.0, 4.0)))
    assert (fills(missed), missed.orders[1].status) == ([], OrderStatus.EXPIRED)


@pytest.mark.parametrize(("volume", "n_fills"), [(1.0, 1), (0.999, 0)])
def test_fill_or_kill_is_filled_whole_or_not_at_all(volume: float, n_fills: int) -> None:
    order = limit(1000, 9.5, time_in_force=TimeInForce.FOK)
    matching = walk([order], listing((9.4, 10.0, 9.0, volume), (9.4, 10.0, 9.0, 9.0)))
    assert len(matching.trades) == n_fills
    expected = OrderStatus.FILLED if n_fills else OrderStatus.EXPIRED
    assert matching.orders[1].status is expected
    assert matching.orders[1].filled_lots == 1000 * n_fills


# --- the spot wallet --------------------------------------------------------------------------


def test_a_purchase_stops_where_the_balance_ends_and_expires() -> None:
    terms = FREE.model_copy(update={"fee_ppm": 1_000})
    bars = ((10.0, 10.0, 10.0, 9.0), (10.0, 10.0, 10.0, 9.0))
    quote_e8 = 10 * E8  # a coin costs 10.01
    matching = walk([market(2000)], listing(*bars), terms, product=Product.SPOT, quote_e8=quote_e8)
    assert fills(matching) == [(999, 1000, False)]
    assert matching.orders[1].status is OrderStatus.EXPIRED
    assert 0 <= quote_e8 + matching.wallet_change_e8 < COIN.notional_e8(1001, 1)
    assert matching.wallet_change_e8 == matching.quote_e8 - quote_e8


def test_purchases_of_one_bar_share_one_balance() -> None:
    orders = [market(600, order_id=1), market(600, order_id=2)]
    shown = listing((10.0, 10.0, 10.0, 9.0))
    matching = walk(orders, shown, product=Product.SPOT, quote_e8=10 * E8)
    assert [trade.lots for trade in matching.trades] == [600, 400]


def test_nothing_is_sold_that_is_not_held() -> None:
    held = NetPosition(lots=300, cost_e8=0)
    orders = [market(200, Side.SELL, order_id=1), market(200, Side.SELL, order_id=2)]
    shown = listing((10.0, 10.0, 10.0, 9.0), (10.0, 10.0, 10.0, 9.0))
    matching = walk(orders, shown, position=held, product=Product.SPOT)
    assert [trade.lots for trade in matching.trades] == [200, 100]
    assert matching.positions["AAAUSDT"].lots == 0
    assert matching.orders[2].status is OrderStatus.EXPIRED
    assert matching.wallet_change_e8 == COIN.notional_e8(1000, 300)


@pytest.mark.parametrize("fee_ppm", [0, 1, 333, 100_000])
def test_affordable_lots_are_the_most_that_can_be_paid_for(fee_ppm: int) -> None:
    terms = FREE.model_copy(update={"fee_ppm": fee_ppm})
    coarse = Instrument("AAA/USDT", 8, 0, 0, "perpetual")
    for quote_e8 in (*range(60), 10**6 + 7):
        for price_ticks in (1, 3, 7):
            lots = affordable_lots(quote_e8, price_ticks, coarse, terms)
            cost = [n * price_ticks + charge_e8(n * price_ticks, fee_ppm) for n in (lots, lots + 1)]
            assert cost[0] <= quote_e8 < cost[1]


# --- funding ----------------------------------------------------------------------------------

FUNDED = FREE.model_copy(update={"funding_ppm": 100})
LONG = NetPosition(lots=2000, cost_e8=20 * E8)


def test_a_position_is_charged_at_the_instant_at_the_close_of_its_bar() -> None:
    # The first bar closes at midnight, at 12; nothing is charged at the next close.
    matching = walk([], listing((12.0, 12.0, 12.0, 9.0), (13.0, 13.0, 13.0, 9.0)), FUNDED, LONG)
    assert matching.funding == [FundingPayment("AAAUSDT", 240_000, close_ms(0))]  # 24 * 0.0001
    assert matching.wallet_change_e8 == -240_000


def test_a_short_pays_as_well_and_a_flat_position_nothing() -> None:
    shown = listing((12.0, 12.0, 12.0, 9.0))
    short = NetPosition(lots=-2000, cost_e8=-20 * E8)
    assert [each.paid_e8 for each in walk([], shown, FUNDED, short).funding] == [240_000]
    assert walk([], shown, FUNDED).funding == []


def test_what_the_bar_before_the_instant_filled_is_charged_and_what_comes_after_it_is_not() -> None:
    shown = listing((12.0, 12.0, 12.0, 9.0), (13.0, 13.0, 13.0, 9.0))
    bought = walk([market(1000, product=Product.USDM)], shown, FUNDED)
    assert [each.paid_e8 for each in bought.funding] == [120_000]
    sold = walk([market(2000, Side.SELL, product=Product.USDM)], shown, FUNDED, LONG)
    assert sold.funding == []


def test_instants_without_a_close_are_charged_at_the_next_one() -> None:
    shown = listing((12.0, 12.0, 12.0, 9.0))
    matching = walk([], shown, FUNDED, LONG, funded_to_ms=close_ms(0) - 2 * EIGHT_HOURS_MS - 1)
    assert [each.paid_e8 for each in matching.funding] == [3 * 240_000]


def test_spot_pays_no_funding() -> None:
    shown = listing((12.0, 12.0, 12.0, 9.0))
    assert walk([], shown, FUNDED, LONG, product=Product.SPOT).funding == []
