"""One rung, one seed: a market of known truth through the whole pipeline, and what came of it.

The pipeline is that of `mnt cycle`: screens, features, labels, models, backtests, evidence and
gates. Promoted means that every gate of the backtest was passed; the gates of the shadow, which
come after, could only refuse more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from cli.cycle.pipeline import Cycle, cycle_of_market
from cli.cycle.request import CycleRequest
from shared.quant.gate_power import power_among
from shared.quant.gate_settings import GateSettings
from shared.quant.sharpe_ratio import track_record
from shared.quant.trials import TrialLedger
from shared.quant.typing import Float1D, Float2D
from shared.settings import strategy_of
from shared.venues.market import RecordedMarket
from tests.honesty.markets import (
    DAY,
    cointegrated_pairs,
    correlated_walks,
    independent_walks,
    market_of,
    real_log_prices,
    shuffled,
    told_pairs,
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
# Where there is something to find, every pair that was planted is to be on the roster.
PLANTED = ("screener.method=p_value", "screener.level=0.01", "screener.hurst_max=1")
FAMILIES = ("logistic_regression", "lightgbm")
N_SYMBOLS = 12
N_PAIRS = 6
N_DAYS = 120
COST_OF_A_TRADE = 0.0012
"""Fees and slippage of entering and leaving, as a share of gross notional, by the defaults."""


@dataclass(frozen=True)
class Edge:
    """An edge that is planted.

    Attributes
    ----------
    half_life_bars, spread_std
        Of the spreads.
    is_told
        Whether volume tells when they come home; else they always do, and the z rule knows all
        there is to know.
    test_days
        Length of the test, after 150 days to learn from.
    n_markets
        Markets of it that `make honesty` runs.
    """

    half_life_bars: float
    spread_std: float
    is_told: bool = True
    test_days: int = 150
    n_markets: int = 20


EDGES = {
    "always home, half-life 4 h": Edge(4, 0.006, is_told=False),
    "told, half-life 2 h, strong": Edge(2, 0.006),
    "told, half-life 2 h, weak": Edge(2, 0.003),
    "told, half-life 4 h, strong": Edge(4, 0.008),
    "told, half-life 2 h, a year": Edge(2, 0.004, test_days=365, n_markets=60),
}
# From two deviations to a half of one, over two legs: half of what a trade costs.
EATEN = Edge(6, COST_OF_A_TRADE / 0.75 / 2, is_told=False, test_days=60)


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
    rivals
        Daily, of the other models and last of the z rule, a column each.
    n_trials
        What deflated the candidate's Sharpe ratio.
    """

    rung: str
    seed: int
    n_pairs: float
    has_candidate: bool
    is_promoted: bool
    refused_by: tuple[str, ...]
    returns: Float1D
    rivals: Float2D
    n_trials: int

    @property
    def sharpe(self) -> float:
        """Annual Sharpe ratio of the candidate over its test, 0 without one."""
        return sharpe_of(self.returns) if self.has_candidate else 0.0

    @property
    def z_sharpe(self) -> float:
        """Annual Sharpe ratio of the z rule over the test."""
        return sharpe_of(self.rivals[:, -1])


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
        rivals=np.column_stack(
            [
                *(each.track.returns for each in cycle.columns if each is not column),
                cycle.z_track.returns,
            ]
        ),
        n_trials=ledger.n_trials,
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


def climb_edge(name: str, seed: int, edge: Edge, *settings: str) -> Finding:
    """Run the pipeline on pairs with an edge."""
    rng = np.random.default_rng([seed, edge.test_days])
    n_bars = (150 + edge.test_days) * DAY
    half_life_bars, spread_std = edge.half_life_bars, edge.spread_std
    if edge.is_told:
        prices, volumes = told_pairs(
            n_bars, N_PAIRS, rng, half_life_bars=half_life_bars, spread_std=spread_std
        )
        market = market_of(prices, rng, volumes)
    else:
        market = market_of(
            cointegrated_pairs(
                n_bars, N_PAIRS, rng, half_life_bars=half_life_bars, spread_std=spread_std
            ),
            rng,
        )
    return climb(name, seed, market, *PLANTED, *settings, test_days=edge.test_days)


@dataclass(frozen=True)
class Share:
    """How many of an edge's markets promoted, beside what the length allows.

    Attributes
    ----------
    sharpe, z_sharpe
        Annual, over the days of all tests together: what the edge is worth to the candidates
        and to the z rule.
    promoted
        Share of markets.
    analytic
        Mean power of the gates where candidate, other models and z rule have the Sharpe ratios
        and the correlations of all tests together.
    refusals
        How often each gate refused.
    """

    sharpe: float
    z_sharpe: float
    promoted: float
    analytic: float
    refusals: Mapping[str, int]


def share_of(findings: Sequence[Finding]) -> Share:
    """Summarise the markets of one edge that have a candidate."""
    reached = [each for each in findings if each.has_candidate]
    columns = np.concatenate([np.column_stack([f.returns, f.rivals]) for f in reached])
    sharpes = np.array([sharpe_of(column) for column in columns.T])
    # Two models that trade alike would leave the correlation without an inverse.
    correlation = 0.999 * np.corrcoef(columns.T) + 0.001 * np.eye(len(sharpes))

    def power(each: Finding) -> float:
        if (each.returns == each.rivals[:, -1]).all():
            return 0.0  # it trades as the rule does: no luck makes it better
        return power_among(
            sharpes,
            correlation,
            n_returns=len(each.returns),
            periods_per_year=365,
            n_trials=each.n_trials,
            settings=GateSettings(),
        )

    return Share(
        sharpe=float(sharpes[0]),
        z_sharpe=float(sharpes[-1]),
        promoted=float(np.mean([each.is_promoted for each in findings])),
        analytic=float(np.mean([power(each) for each in reached])),
        refusals=Counter(gate for each in reached for gate in each.refused_by),
    )
