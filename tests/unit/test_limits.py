from __future__ import annotations

import pytest

from shared.book.execution import Execution
from shared.book.ledger import Ledger, OrderReport, Settlement, acknowledge
from shared.book.limits import Guard, RiskLimits, RiskView
from shared.book.orders import OrderState
from tests.support import BAR_MS, MIDNIGHT_MS, opening, settle

UNIT = 10**8
CAPITAL = 10_000 * UNIT


def asked(limits: RiskLimits, view: RiskView = RiskView(), n_intents: int = 1) -> Settlement:
    """Ask for 10 of Y bought and 100 of X sold, on as many pairs as there are intents."""
    pairs = [("Y/USDT", "X/USDT"), ("X/USDT", "Y/USDT")]
    sizes = [(1_000, 1), (1, 1_000)]
    return settle(
        Ledger(CAPITAL),
        MIDNIGHT_MS + BAR_MS,
        intents=[opening(f"p{n}", *sizes[n], pairs[n]) for n in range(n_intents)],
        guard=Guard(limits, CAPITAL, view),
    )


def reason_of(settled: Settlement) -> str:
    [reason] = {order.reason for order in settled.orders if order.state is OrderState.DENIED}
    assert settled.submit == () or len(settled.orders) > 2
    return reason


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (RiskLimits(order_cap=0.0099), "X/USDT: order_cap of 9900000000e-8 would be exceeded"),
        (RiskLimits(intent_cap=0.0109), "intent_cap of 10900000000e-8"),
        (RiskLimits(symbol_cap=0.0099), "X/USDT: symbol_cap"),
        (RiskLimits(gross_cap=0.0109), "gross_cap"),
        (RiskLimits(net_cap=0.0099), "net_cap"),
    ],
)
def test_an_intent_beyond_a_limit_is_denied_and_trading_goes_on(
    limits: RiskLimits, reason: str
) -> None:
    denied = asked(limits)
    assert reason in reason_of(denied)
    assert (denied.submit, denied.breach) == ((), None)


def test_an_intent_at_its_limits_is_sent() -> None:
    at_them = RiskLimits(
        order_cap=0.01, intent_cap=0.011, symbol_cap=0.01, gross_cap=0.011, net_cap=0.01
    )
    assert len(asked(at_them).submit) == 2


def test_what_works_already_counts_against_a_limit() -> None:
    settled = asked(RiskLimits(gross_cap=0.0219), n_intents=2)
    assert len(settled.submit) == 2
    assert "gross_cap" in reason_of(settled)


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (RiskView(data_age_ms=3_600_001), "the close is 3600001 ms old"),
        (RiskView(data_age_ms=-60_001), "60001 ms ahead of the venue's time"),
        (RiskView(clock_skew_ms=5_001), "our clock is 5001 ms from the venue's"),
        (RiskView(clock_skew_ms=-5_001), "our clock is -5001 ms from the venue's"),
    ],
)
def test_what_is_late_or_early_opens_nothing(view: RiskView, reason: str) -> None:
    settled = asked(RiskLimits(max_clock_skew_seconds=5), view)
    assert reason in reason_of(settled)
    assert settled.breach is None


def test_a_clock_of_another_time_is_no_skew_where_none_is_set() -> None:
    assert len(asked(RiskLimits(), RiskView(clock_skew_ms=10**12)).submit) == 2


@pytest.mark.parametrize(
    ("view", "limits", "reason"),
    [
        (RiskView(recent_orders=9), RiskLimits(max_orders_per_minute=10), "11 orders within a"),
        (
            RiskView(day_start_e8=CAPITAL + 10**11),
            RiskLimits(max_daily_loss=0.0999),
            "max_daily_loss",
        ),
        (RiskView(peak_e8=CAPITAL + 10**11), RiskLimits(max_drawdown=0.0999), "max_drawdown"),
    ],
)
def test_what_the_account_breaks_is_a_breach(
    view: RiskView, limits: RiskLimits, reason: str
) -> None:
    settled = asked(limits, view)
    assert settled.breach is not None
    assert reason in settled.breach
    assert reason_of(settled) == settled.breach


def test_a_producer_gone_mad_is_cut_off_within_one_close() -> None:
    settled = asked(RiskLimits(max_orders_per_minute=3), n_intents=2)
    assert len(settled.submit) == 2
    assert settled.breach is not None
    assert "find out who asks for them" in settled.breach


@pytest.mark.parametrize(
    ("price_ticks", "is_breach"), [(1_010, False), (1_011, True), (500, False)]
)
def test_a_fill_far_from_the_mark_its_order_was_decided_at_is_a_breach(
    price_ticks: int, is_breach: bool
) -> None:
    guard = Guard(RiskLimits(max_slippage_ppm=10_000), CAPITAL)
    sent = settle(Ledger(CAPITAL), MIDNIGHT_MS + BAR_MS, intents=[opening("p")])
    ledger, _ = acknowledge(
        sent.ledger, [OrderReport(o.client_order_id, OrderState.ACCEPTED) for o in sent.submit]
    )
    bought = OrderReport(
        sent.submit[0].client_order_id,
        OrderState.FILLED,
        ((0, Execution(1_000, price_ticks, 0)),),
    )
    # The mark of this close is at the fill: it is the earlier one that counts.
    settled = settle(
        ledger,
        MIDNIGHT_MS + 2 * BAR_MS,
        reports=[bought],
        marks={"Y/USDT": price_ticks / 100},
        guard=guard,
    )
    assert (settled.breach is not None) is is_breach


def test_open_losses_count() -> None:
    sent = settle(Ledger(CAPITAL), MIDNIGHT_MS + BAR_MS, intents=[opening("p")])
    ledger, _ = acknowledge(
        sent.ledger, [OrderReport(o.client_order_id, OrderState.ACCEPTED) for o in sent.submit]
    )
    y, x = sent.submit
    reports = [
        OrderReport(y.client_order_id, OrderState.FILLED, ((0, Execution(1_000, 1_000, 0)),)),
        OrderReport(x.client_order_id, OrderState.FILLED, ((0, Execution(1, 100, 0)),)),
    ]
    guard = Guard(RiskLimits(max_drawdown=0.001), CAPITAL, RiskView(peak_e8=CAPITAL))
    for price_x, is_breach in ((110.0, False), (111.0, True)):
        settled = settle(
            ledger,
            MIDNIGHT_MS + 2 * BAR_MS,
            reports=reports,
            marks={"Y/USDT": 10.0, "X/USDT": price_x},
            guard=guard,
        )
        assert (settled.breach is not None) is is_breach


def test_a_leg_without_a_bar_of_the_close_opens_nothing() -> None:
    held = settle(Ledger(CAPITAL), MIDNIGHT_MS + BAR_MS, intents=[opening("p")])
    settled = settle(
        held.ledger,
        MIDNIGHT_MS + 2 * BAR_MS,
        intents=[opening("q", 1, 1_000, ("X/USDT", "Y/USDT"))],
        marks={"Y/USDT": 10.0},
    )
    assert reason_of(settled) == "X/USDT has no bar of this close"


def test_a_late_close_opens_nothing() -> None:
    now = Ledger(CAPITAL, closes_at_ms=MIDNIGHT_MS + 2 * BAR_MS)
    settled = settle(now, MIDNIGHT_MS + BAR_MS, intents=[opening("p")])
    assert reason_of(settled) == "the close is late: a later one has been settled"
