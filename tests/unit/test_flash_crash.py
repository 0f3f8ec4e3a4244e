"""A bar that falls by nearly a third, on its way from the checks to the account's limits."""

from __future__ import annotations

import numpy as np

from shared.book.execution import Execution
from shared.book.ledger import Ledger, OrderReport, Settlement, acknowledge
from shared.book.limits import Guard, RiskLimits, RiskView
from shared.book.orders import OrderState
from shared.book.sizing import SizingSettings
from shared.book.targets import plan_intents
from shared.events.ingest import BarsClosed
from shared.quant.bar_checks import BarCheckSettings, PriorBar, check_bars
from shared.quant.bars import RawBars
from shared.sleeves.pairs.features import FeatureSettings
from shared.sleeves.pairs.following import JoinedHistory, PairFollower, followed_at
from shared.sleeves.pairs.rules import SignalSettings, decide_signals
from shared.venues.market import bars_closed
from tests.support import BAR_MS, INSTRUMENTS, MIDNIGHT_MS, opening, roster, settle

FEATURES = FeatureSettings(beta_window=10, z_window=10, lags=2, volume_window=4, trend_window=3)
PAIR = ("Y/USDT", "X/USDT")
CAPITAL_E8 = 10_000 * 10**8
BOUGHT_MS = MIDNIGHT_MS + BAR_MS
CALM_MS, CRASH_MS = BOUGHT_MS + BAR_MS, BOUGHT_MS + 2 * BAR_MS
LIMITS = RiskLimits(max_daily_loss=0.0002)
"""Two: a fifth of what is held of Y."""


def held() -> Ledger:
    """Return a book that has bought 1 Y at 10 and sold 1 X at 100."""
    sent = settle(Ledger(CAPITAL_E8), BOUGHT_MS, intents=[opening("p")])
    accepted = [OrderReport(o.client_order_id, OrderState.ACCEPTED) for o in sent.submit]
    ledger, _ = acknowledge(sent.ledger, accepted)
    y, x = sent.submit
    return settle(
        ledger,
        CALM_MS,
        reports=[
            OrderReport(y.client_order_id, OrderState.FILLED, ((0, Execution(1_000, 1_000, 0)),)),
            OrderReport(x.client_order_id, OrderState.FILLED, ((0, Execution(1, 100, 0)),)),
        ],
    ).ledger


def arriving(close_y: float) -> BarsClosed:
    """Return what the checks of ingest let through of the bars of a close; X stands still."""
    prices = np.array([100.0, close_y])
    opens = np.array([100.0, 10.0])
    checked = check_bars(
        RawBars(
            "binance",
            "5m",
            ("X/USDT", "Y/USDT"),
            np.array([0, 1], np.int32),
            np.array([CRASH_MS, CRASH_MS], np.int64),
            opens,
            opens,
            prices,
            prices,
            np.array([100.0, 100.0]),
        ),
        now_ms=CRASH_MS,
        known=None,
        settings=BarCheckSettings(),
        prior={"X/USDT": PriorBar(CALM_MS, 100.0), "Y/USDT": PriorBar(CALM_MS, 10.0)},
    )
    return bars_closed(checked.accepted)


def settled_after(closed: BarsClosed) -> Settlement:
    """Take a close through features, signals and portfolio to the book that holds the pair."""
    rng = np.random.default_rng(5)
    follower = PairFollower(FEATURES, "5m")
    screens = [roster(MIDNIGHT_MS, {PAIR: "active"})]
    followed, screened = followed_at(screens, CRASH_MS)
    follower.unknown_pairs(followed, closed)
    columns = (10.0, 100.0, 100.0, 100.0)
    noise = np.exp(rng.normal(0, 0.002, (follower.history_bars, 4)))
    history = JoinedHistory(*np.ascontiguousarray((noise * columns).T))
    follower.learn(PAIR, CRASH_MS, history)
    computed = follower.compute(closed, followed, screened)
    raised, _ = decide_signals({}, computed, SignalSettings(), FEATURES.spread_space, None, None)
    plan = plan_intents({}, raised, INSTRUMENTS, SizingSettings(), FEATURES.spread_space)
    return settle(
        held(),
        plan.requested.closes_at_ms,
        marks=plan.requested.marks,
        guard=Guard(LIMITS, CAPITAL_E8, RiskView(day_start_e8=CAPITAL_E8, peak_e8=CAPITAL_E8)),
    )


def test_a_flash_crash_breaks_the_loss_limit_at_its_own_close() -> None:
    settled = settled_after(arriving(7.0))
    assert settled.ledger.closes_at_ms == CRASH_MS
    assert settled.equity_e8 == CAPITAL_E8 - 3 * 10**8
    assert settled.breach is not None
    assert "max_daily_loss" in settled.breach


def test_a_calm_close_breaks_nothing() -> None:
    assert settled_after(arriving(9.9)).breach is None
