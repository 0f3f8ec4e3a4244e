"""What a recorded market says of models: the evidence that gates are judged by.

Time is cut in three. Each column, a family with a label, is fitted on the first part and traded
on the second; the one that earned the best Sharpe ratio there, fitted anew on both, is judged on
the third, which took no part in any choice. All columns are traded there as well, for the
probability that choosing among them overfits. A cycle and the trainer judge by this one function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from shared.backtest.result import BacktestResult
from shared.backtest.track import DAY_MS, DAYS_PER_YEAR, DailyTrack, daily_track
from shared.errors import DataError
from shared.events.screener import PairsScreened
from shared.quant.gates import BacktestEvidence, measure_backtest
from shared.quant.model_families import Parameters
from shared.quant.sharpe_ratio import track_record
from shared.quant.trials import Outcome, Trial, TrialLedger
from shared.sleeves.pairs.dataset import Dataset
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.settings import StrategySettings
from shared.venues.market import RecordedMarket

FEWEST_TEST_DAYS = 32
"""Two days for each of sixteen blocks, and enough for an interval by resampling."""
FEWEST_DAYS = FEWEST_TEST_DAYS + 12
TEST_SHARE = 0.4
Z_RULE = "z rule"
IDLE = "buy nothing"


@dataclass(frozen=True, slots=True)
class Periods:
    """Bounds of the three periods, each after one instant and up to the next.

    Attributes
    ----------
    start_ms
        Bars up to here only choose pairs and warm windows up.
    validation_ms
        Models are fitted on bars before, and compared on those after.
    test_start_ms, end_ms
        The one candidate is judged on these.
    """

    start_ms: int
    validation_ms: int
    test_start_ms: int
    end_ms: int


@dataclass(frozen=True, eq=False)
class Column:
    """One family with one label, from its training to its test.

    Attributes
    ----------
    candidate
        Fitted on everything before the test.
    validation_sharpe
        Annual, on the second period, of the model fitted on the first; what selects.
    result, track
        Of the test.
    """

    candidate: Candidate
    dataset: Dataset
    validation_sharpe: float
    result: BacktestResult
    track: DailyTrack


@dataclass(frozen=True, eq=False)
class Judged:
    """What the columns came to.

    Attributes
    ----------
    test
        Screens and features of the third period.
    columns
        In the order asked for, without those that could not be trained.
    untrained
        Why the others could not be, by name.
    selected
        The candidate's column, if there is one.
    z_rule, z_track
        The z rule over the test.
    evidence
        Of the candidate; None without one.
    """

    test: Prepared
    columns: tuple[Column, ...]
    untrained: Mapping[str, str]
    selected: Column | None
    z_rule: BacktestResult
    z_track: DailyTrack
    evidence: BacktestEvidence | None


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


def judge_columns(
    market: RecordedMarket,
    strategy: StrategySettings,
    screens: Sequence[PairsScreened],
    periods: Periods,
    columns: Iterable[tuple[str, LabelSettings]],
    terms: FitTerms,
    ledger: TrialLedger,
    *,
    n_trials: int,
    is_out_of_sample: bool,
    account: str,
) -> Judged:
    """Choose one of several columns on recorded bars and measure what it is worth.

    Parameters
    ----------
    market
        Checked bars of the trade timeframe, with those that warm the windows up.
    strategy
        What decides.
    screens
        In order of their closes; each is in force after its own close until the next.
    periods
        How time is cut.
    columns
        Each family with its label.
    terms
        How candidates are fitted; its seed is that of the bootstrap, too.
    ledger
        Every trial is added to it; those of before count.
    n_trials
        Choices of parameters tried for each column.
    is_out_of_sample
        Whether no bar of the test took part in choosing what is traded.
    account
        Name of the account of the backtests.

    Raises
    ------
    DataError
        As `search_candidate`.
    """
    fitting, validation, training, test = (
        prepare_with(market, strategy, screens, start_ms=after_ms, end_ms=up_to_ms)
        for after_ms, up_to_ms in (
            (periods.start_ms, periods.validation_ms),
            (periods.validation_ms, periods.test_start_ms),
            (periods.start_ms, periods.test_start_ms),
            (periods.test_start_ms, periods.end_ms),
        )
    )
    found: list[Column] = []
    untrained: dict[str, str] = {}
    for family, label in columns:
        early, whole = training_set(fitting, label), training_set(training, label)
        reason = _untrainable(early, strategy.trainer.min_samples)
        if reason is not None:
            untrained[f"{family}/{label.kind}"] = reason
            continue
        first = search_candidate(family, label, early, terms, n_trials=n_trials, ledger=ledger)
        _, earned = _trade(validation, strategy, first, account, ledger)
        candidate = fit_candidate(family, label, whole, terms, first.parameters)
        result, track = _trade(test, strategy, candidate, account, ledger)
        validated = track_record(earned.returns).sharpe_ratio * DAYS_PER_YEAR**0.5
        found.append(Column(candidate, whole, validated, result, track))
    z_rule, z_track = _trade(test, strategy, None, account, ledger)
    ledger.add(Trial(IDLE, {}, _history(test, strategy), Outcome(None, 0.0)))
    selected = max(found, key=lambda column: column.validation_sharpe, default=None)
    evidence = None
    if selected is not None:
        returns = selected.track.returns
        traded = [column.track.returns for column in found]
        evidence = measure_backtest(
            returns,
            z_track.returns,
            np.column_stack([*traded, z_track.returns, np.zeros(len(returns))]),
            n_trials=ledger.n_trials,
            is_out_of_sample=is_out_of_sample,
            periods_per_year=DAYS_PER_YEAR,
            settings=strategy.trainer.gates,
            rng=np.random.default_rng(terms.seed),
        )
    return Judged(test, tuple(found), untrained, selected, z_rule, z_track, evidence)


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
    market, screens, ledger, is_out_of_sample, account
        As for `judge_columns`.
    strategy
        What decides; its trainer section names families, terms and thresholds.
    start_ms, end_ms
        The time to be cut in three.

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
    n_test = max(int(n_days * TEST_SHARE), FEWEST_TEST_DAYS)
    periods = Periods(
        start_ms=start_ms,
        validation_ms=start_ms + (n_days - n_test) * 2 // 3 * DAY_MS,
        test_start_ms=end_ms - n_test * DAY_MS,
        end_ms=end_ms,
    )
    judged = judge_columns(
        market, strategy, screens, periods,
        [(family, settings.labels) for family in settings.family_names],
        fit_terms(strategy), ledger,
        n_trials=settings.n_trials, is_out_of_sample=is_out_of_sample, account=account,
    )  # fmt: skip
    if judged.selected is None or judged.evidence is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in judged.untrained.items())
        raise DataError(
            f"no family can be trained before the validation of the backtest ({reasons}): wait "
            "for more, or lower trainer.min_samples"
        )
    candidate = judged.selected.candidate
    return JudgedFamily(
        candidate.family,
        candidate.parameters,
        judged.evidence,
        periods.test_start_ms,
        periods.end_ms,
    )


def fit_terms(strategy: StrategySettings) -> FitTerms:
    """Return how the trainer's settings have candidates validated and calibrated."""
    settings = strategy.trainer
    return FitTerms(settings.n_splits, settings.gap_bars, None, settings.calibration, settings.seed)


def _untrainable(dataset: Dataset, fewest: int) -> str | None:
    """Return why nothing can be learnt from a dataset, None where something can."""
    n_samples = len(dataset.labels)
    if n_samples < fewest:
        return f"{n_samples} labelled rows, trainer.min_samples is {fewest}"
    share = float(dataset.labels.mean())
    return None if 0 < share < 1 else f"all {n_samples} labels are {share:.0f}"


def _trade(
    prepared: Prepared,
    strategy: StrategySettings,
    candidate: Candidate | None,
    account: str,
    ledger: TrialLedger,
) -> tuple[BacktestResult, DailyTrack]:
    """Trade a period on the word of a candidate, or by the z rule without one; a trial."""
    source = "z" if candidate is None else "model"
    signals = strategy.signals.model_copy(update={"signals_from": source})
    settings = strategy.model_copy(update={"signals": signals})
    result = run_backtest(prepared, settings, account=account, champion=candidate)
    track = daily_track(result, settings.portfolio.capital_e8)
    name, parameters = (Z_RULE, {}) if candidate is None else (candidate.name, candidate.parameters)
    outcome = Outcome(None, track_record(track.returns).sharpe_ratio)
    ledger.add(Trial(name, parameters, _history(prepared, strategy), outcome))
    return result, track


def _history(prepared: Prepared, strategy: StrategySettings) -> str:
    return f"{prepared.bars_digest}:{strategy.run_id(prepared.start_ms)}"
