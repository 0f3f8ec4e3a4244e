"""What the recorded market says of model families: the evidence that gates are judged by.

Time is cut in three. Each family is fitted on the first part and traded on the second; the one
that earned the best Sharpe ratio there, fitted anew on both, is judged on the third, which took
no part in any choice. All families are traded there as well, for the probability that choosing
among them overfits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.backtest.candidates import (
    Candidate,
    FitTerms,
    fit_candidate,
    search_candidate,
    training_set,
)
from shared.backtest.engine import run_backtest
from shared.backtest.preparation import Prepared, prepare_with
from shared.backtest.track import DAY_MS, DAYS_PER_YEAR, DailyTrack, daily_track
from shared.errors import DataError
from shared.events.screener import PairsScreened
from shared.quant.gates import BacktestEvidence, measure_backtest
from shared.quant.model_families import Parameters
from shared.quant.sharpe_ratio import track_record
from shared.quant.trials import Outcome, Trial, TrialLedger
from shared.sleeves.pairs.settings import StrategySettings
from shared.venues.market import RecordedMarket

FEWEST_TEST_DAYS = 32
"""Two days for each of sixteen blocks, and enough for an interval by resampling."""
FEWEST_DAYS = FEWEST_TEST_DAYS + 12
_TEST_SHARE = 0.4


@dataclass(frozen=True)
class JudgedFamily:
    """The family that was chosen on the second period, and what the third says of it.

    Attributes
    ----------
    family, parameters
        The choice.
    evidence
        Out of sample, net of costs.
    test_start_ms, end_ms
        The period it was judged on.
    """

    family: str
    parameters: Parameters
    evidence: BacktestEvidence
    test_start_ms: int
    end_ms: int


def judge_families(
    market: RecordedMarket,
    strategy: StrategySettings,
    screens: Sequence[PairsScreened],
    ledger: TrialLedger,
    *,
    start_ms: int,
    end_ms: int,
    is_out_of_sample: bool,
    account: str,
) -> JudgedFamily:
    """Choose a family on recorded bars and measure what it is worth.

    Parameters
    ----------
    market
        Checked bars of the trade timeframe, with those that warm the windows up.
    strategy
        What decides; its trainer section names families, terms and thresholds.
    screens
        In order of their closes; each is in force after its own close until the next.
    ledger
        Every trial is added to it; those of before count.
    start_ms, end_ms
        The time to be cut in three.
    is_out_of_sample
        Whether no bar of the test took part in choosing what is traded.
    account
        Name of the account of the backtests.

    Raises
    ------
    DataError
        If the time is too short, or no family can be trained on the first part of it.
    """
    settings = strategy.trainer
    start_ms, end_ms = -(-start_ms // DAY_MS) * DAY_MS, end_ms // DAY_MS * DAY_MS
    n_days = (end_ms - start_ms) // DAY_MS
    if n_days < FEWEST_DAYS:
        raise DataError(
            f"{max(0, n_days)} whole days since the first roster: a backtest that proves anything "
            f"needs {FEWEST_DAYS}; wait, or promote with a reason"
        )
    n_test = max(int(n_days * _TEST_SHARE), FEWEST_TEST_DAYS)
    test_start_ms = end_ms - n_test * DAY_MS
    validation_ms = start_ms + (n_days - n_test) * 2 // 3 * DAY_MS
    fitting, validation, training, test = (
        prepare_with(market, strategy, screens, start_ms=after_ms, end_ms=up_to_ms)
        for after_ms, up_to_ms in (
            (start_ms, validation_ms),
            (validation_ms, test_start_ms),
            (start_ms, test_start_ms),
            (test_start_ms, end_ms),
        )
    )
    terms = fit_terms(strategy)
    early, whole = (training_set(each, settings.labels) for each in (fitting, training))
    if len(early.labels) < settings.min_samples or not 0 < float(early.labels.mean()) < 1:
        raise DataError(
            f"{len(early.labels)} labelled rows before the validation of the backtest, of which "
            f"{int(early.labels.sum())} are 1: {settings.min_samples} rows and both labels are "
            "needed; wait for more, or lower trainer.min_samples"
        )
    best: tuple[float, str, Parameters, DailyTrack] | None = None
    tracks = []
    for family in settings.family_names:
        first = search_candidate(
            family, settings.labels, early, terms, n_trials=settings.n_trials, ledger=ledger
        )
        earned = _trade(validation, strategy, first, account, ledger)
        candidate = fit_candidate(family, settings.labels, whole, terms, first.parameters)
        track = _trade(test, strategy, candidate, account, ledger)
        tracks.append(track.returns)
        sharpe = track_record(earned.returns).sharpe_ratio
        if best is None or sharpe > best[0]:
            best = (sharpe, family, first.parameters, track)
    z_rule = _trade(test, strategy, None, account, ledger)
    if best is None:
        raise DataError("no family to judge: name one in trainer.families")
    _, family, parameters, track = best
    returns = track.returns
    evidence = measure_backtest(
        returns,
        z_rule.returns,
        np.column_stack([*tracks, z_rule.returns, np.zeros(len(returns))]),
        n_trials=max(ledger.n_trials, len(tracks) + 2),
        variance_of_trials=ledger.variance_of_sharpe_ratios(len(returns)),
        is_out_of_sample=is_out_of_sample,
        periods_per_year=DAYS_PER_YEAR,
        settings=settings.gates,
        rng=np.random.default_rng(settings.seed),
    )
    return JudgedFamily(family, parameters, evidence, test_start_ms, end_ms)


def fit_terms(strategy: StrategySettings) -> FitTerms:
    """Return how the trainer's settings have candidates validated and calibrated."""
    settings = strategy.trainer
    return FitTerms(settings.n_splits, settings.gap_bars, None, settings.calibration, settings.seed)


def _trade(
    prepared: Prepared,
    strategy: StrategySettings,
    candidate: Candidate | None,
    account: str,
    ledger: TrialLedger,
) -> DailyTrack:
    """Trade a period on the word of a candidate, or by the z rule without one."""
    source = "z" if candidate is None else "model"
    signals = strategy.signals.model_copy(update={"signals_from": source})
    settings = strategy.model_copy(update={"signals": signals})
    result = run_backtest(prepared, settings, account=account, champion=candidate)
    track = daily_track(result, settings.portfolio.capital_e8)
    history = f"{prepared.bars_digest}:{strategy.run_id(prepared.start_ms)}"
    name, parameters = ("z rule", {}) if candidate is None else (
        candidate.name, candidate.parameters
    )  # fmt: skip
    outcome = Outcome(None, track_record(track.returns).sharpe_ratio)
    ledger.add(Trial(name, parameters, history, outcome))
    return track
