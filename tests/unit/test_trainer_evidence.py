"""What the trainer's backtest of families finds on markets with known truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.trainer.domain import net_return
from shared.backtest.evidence import FEWEST_DAYS, judge_families
from shared.backtest.track import DAY_MS
from shared.errors import DataError
from shared.quant.trials import TrialLedger
from shared.settings import strategy_of
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME
from shared.venues.market import load_market
from tests.research_market import FIRST_MS, QUICK, write_market
from tests.support import roster

START_MS = FIRST_MS + 10 * DAY_MS
END_MS = START_MS + FEWEST_DAYS * DAY_MS


def test_the_family_is_judged_on_days_that_chose_nothing_and_every_trial_is_counted(
    tmp_path: Path,
) -> None:
    strategy = strategy_of([*QUICK, "trainer.families=logistic_regression,hist_gradient_boosting"])
    files = write_market(tmp_path, n_days=55, n_pairs=1, half_life_bars=20, seed=4)
    market = load_market(
        files, (SCREEN_TIMEFRAME,), strategy.trade_timeframe, strategy.ingest, END_MS * 2
    )
    screens = [roster(START_MS, {("Y0/USDT", "X0/USDT"): "active"})]
    ledger = TrialLedger()
    judged = judge_families(
        market, strategy, screens, ledger,
        start_ms=START_MS, end_ms=END_MS, is_out_of_sample=True, account="test",
    )  # fmt: skip
    assert judged.test_start_ms == END_MS - 32 * DAY_MS
    assert judged.family in strategy.trainer.family_names
    # Of each family one fit, one validation and one test; the z rule and holding nothing.
    assert ledger.n_trials == judged.evidence.n_trials == 2 * 3 + 2
    assert judged.evidence.is_out_of_sample
    with pytest.raises(DataError, match=f"needs {FEWEST_DAYS}"):
        judge_families(
            market, strategy, screens, ledger,
            start_ms=START_MS + 1, end_ms=END_MS, is_out_of_sample=True, account="test",
        )  # fmt: skip


def test_a_trade_that_is_open_or_was_entered_before_earns_nothing() -> None:
    entry = {
        "y": "A",
        "x": "B",
        "action": "enter",
        "side": -1,
        "hedge_ratio": 1.0,
        "close_y": 100.0,
        "close_x": 50.0,
    }
    left = {**entry, "action": "exit", "close_y": 98.0}
    other = {**entry, "y": "C"}
    # -1 x ln(0.98) / 2 less twice the cost.
    assert net_return([left, entry, other, left], 0.001) == pytest.approx(0.0081013537)
    assert net_return([left, entry], 0.001) == 0.0
