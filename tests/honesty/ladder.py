"""One rung, one seed: a market of known truth through the whole pipeline, and what came of it.

The pipeline is that of `mnt cycle`: screens, features, labels, models, backtests, evidence and
gates. Promoted means that every gate of the backtest was passed; the gates of the shadow, which
come after, could only refuse more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from cli.cycle.pipeline import Cycle, cycle_of_market
from cli.cycle.request import CycleRequest
from shared.quant.sharpe_ratio import track_record
from shared.quant.trials import TrialLedger
from shared.quant.typing import Float1D
from shared.settings import strategy_of
from shared.venues.market import RecordedMarket
from tests.honesty.markets import (
    DAY,
    correlated_walks,
    independent_walks,
    market_of,
    real_log_prices,
    shuffled,
)

ANNUAL = 365**0.5
NULLS = ("independent", "correlated", "shuffled")

# Hours instead of five minutes and windows as short, so that a market takes seconds.
COMPACT = (
    "trade_timeframe=1h",
    "screener.window_bars=500",
    "screener.null_copies=19",
    "screener.enter_after_screens=1",
    "screener.leave_after_screens=2",
    "screener.quote_volume_min_usdt=0",
    "features.beta_window=200",
    "features.z_window=100",
    "trainer.min_samples=50",
)
# Where nothing is cointegrated the screen of the product finds nothing, which proves the screen.
# This one lets pairs through, and models need not be sure, so that the gates must refuse.
CARELESS = (
    "screener.method=p_value",
    "screener.level=0.1",
    "screener.correlation_min=-1",
    "screener.hurst_max=1",
    "screener.crossings_min=0",
    "screener.hedge_ratio_min=0.05",
    "screener.hedge_ratio_max=20",
    "signals.probability_threshold=0.3",
)
FAMILIES = ("logistic_regression", "lightgbm")
N_SYMBOLS = 12
N_DAYS = 120


@dataclass(frozen=True)
class Finding:
    """What the pipeline made of one market.

    Attributes
    ----------
    n_pairs
        Mean number of pairs on the rosters.
    has_candidate
        Whether a model was trained, so that the gates were reached.
    is_promoted
        Whether it passed all of them that a backtest can pass.
    refused_by
        The gates it did not pass.
    returns
        Daily, of the candidate's test; empty without one.
    z_sharpe
        Annual, of the z rule over the test.
    n_trials, variance_of_trials
        Of the ledger.
    """

    rung: str
    seed: int
    n_pairs: float
    has_candidate: bool
    is_promoted: bool
    refused_by: tuple[str, ...]
    returns: Float1D
    z_sharpe: float
    n_trials: int
    variance_of_trials: float

    @property
    def sharpe(self) -> float:
        """Annual Sharpe ratio of the candidate over its test, 0 without one."""
        return sharpe_of(self.returns) if self.has_candidate else 0.0


def sharpe_of(returns: Float1D) -> float:
    """Return the annual Sharpe ratio of daily returns."""
    return track_record(returns).sharpe_ratio * ANNUAL


def climb(
    rung: str, seed: int, market: RecordedMarket, *settings: str, test_days: int | None = None
) -> Finding:
    """Run the pipeline on a market, with settings beyond the compact ones."""
    closes = market.checked["1h"].accepted.closes()
    request = CycleRequest(
        kind="short",
        bars=(),
        families=FAMILIES,
        n_splits=3,
        screen_every_days=14,
        seed=seed,
        test_start_ms=None if test_days is None else int(closes[-1 - test_days * DAY]),
    )
    ledger = TrialLedger()
    cycle = cycle_of_market(
        market, request, strategy_of([*COMPACT, *settings]), ledger, Progress(disable=True)
    )
    return finding(rung, seed, cycle, ledger)


def finding(rung: str, seed: int, cycle: Cycle, ledger: TrialLedger) -> Finding:
    """Summarise a cycle."""
    column = cycle.selected
    returns = np.zeros(0) if column is None else column.track.returns
    return Finding(
        rung=rung,
        seed=seed,
        n_pairs=float(np.mean([len(screen.pairs) for screen in cycle.screens])),
        has_candidate=column is not None,
        is_promoted=cycle.is_fit_for_shadow,
        refused_by=tuple(
            gate.gate
            for gate in cycle.gates
            if not gate.gate.startswith("shadow") and gate.verdict != "passed"
        ),
        returns=returns,
        z_sharpe=sharpe_of(cycle.z_track.returns),
        n_trials=ledger.n_trials,
        variance_of_trials=ledger.variance_of_sharpe_ratios(len(cycle.z_track.returns)),
    )


def null_market(rung: str, seed: int, real: Path | None) -> RecordedMarket:
    """Return a market without any edge."""
    rng = np.random.default_rng([NULLS.index(rung), seed])
    n_bars = N_DAYS * DAY
    if rung == "independent":
        prices = independent_walks(n_bars, N_SYMBOLS, rng)
    elif rung == "correlated":
        prices = correlated_walks(n_bars, N_SYMBOLS, rng)
    else:
        assert real is not None
        prices = shuffled(real_log_prices(real), n_bars, N_SYMBOLS, rng)
    return market_of(prices, rng)


def climb_null(rung: str, seed: int, real: Path | None) -> Finding:
    """Run the pipeline on a null; every second one with the careless screen."""
    settings = CARELESS if seed % 2 else ()
    return climb(rung, seed, null_market(rung, seed, real), *settings)
