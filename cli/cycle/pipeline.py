"""The cycle: screen, features, labels, models, backtests, evidence, gates.

Time is cut in three. Models are fitted on the first part and compared on the second; the one
that earned the best Sharpe ratio there, fitted anew on both, is judged on the third, which took
no part in any choice. All columns are traded there as well, for the probability that choosing
among them overfits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from cli.cycle.ledger_file import LedgerFile
from cli.cycle.request import CycleRequest, Periods, periods_of
from shared.backtest.candidates import Candidate, fit_candidate, search_candidate, training_set
from shared.backtest.engine import run_backtest
from shared.backtest.preparation import Prepared, prepare_with, screens_up_to
from shared.backtest.result import BacktestResult
from shared.backtest.track import DAY_MS, DAYS_PER_YEAR, DailyTrack, daily_track
from shared.clock import instant_of_ms, ms_of_instant, utc_now
from shared.errors import DataError, SettingsError
from shared.events.screener import PairsScreened
from shared.quant.gates import (
    BACKTEST_GATES,
    BacktestEvidence,
    GateResult,
    GateSettings,
    are_passed,
    judge,
    measure_backtest,
)
from shared.quant.model_families import Parameters
from shared.quant.sharpe_ratio import track_record
from shared.quant.trials import Outcome, Trial
from shared.quant.typing import Float1D
from shared.sleeves.pairs.dataset import Dataset
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME, StrategySettings
from shared.venues.market import RecordedMarket, load_market

ACCOUNT = "research"
Z_RULE = "z rule"
IDLE = "buy nothing"


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
class Cycle:
    """Everything a cycle found.

    Attributes
    ----------
    columns
        In the order of the request, without those that could not be trained.
    untrained
        Why the others could not be, by name.
    selected
        The candidate's column, if there is one.
    z_rule, z_track
        The z rule over the test.
    evidence
        Of the candidate; None without one.
    gates
        Every gate with its verdict; the shadow's are missing until there was one.
    """

    request: CycleRequest
    strategy: StrategySettings
    gate_settings: GateSettings
    periods: Periods
    market: RecordedMarket
    screens: tuple[PairsScreened, ...]
    test: Prepared
    columns: tuple[Column, ...]
    untrained: Mapping[str, str]
    selected: Column | None
    z_rule: BacktestResult
    z_track: DailyTrack
    evidence: BacktestEvidence | None
    gates: tuple[GateResult, ...]

    @property
    def is_fit_for_shadow(self) -> bool:
        """Whether the candidate passed every gate of the backtest."""
        return are_passed(self.gates, BACKTEST_GATES)

    @property
    def is_in_sample(self) -> bool:
        """Whether pairs were chosen on bars past the start."""
        return _is_late(self.request, self.screens, self.periods)


def run_cycle(
    request: CycleRequest,
    strategy: StrategySettings,
    ledger: LedgerFile,
    progress: Progress,
    gate_settings: GateSettings | None = None,
) -> Cycle:
    """Run a cycle on recorded bars.

    Parameters
    ----------
    request, strategy
        What is asked for, and the settings that decide.
    ledger
        Every trial is added to it; those of earlier cycles count.
    progress
        Where the steps are shown.
    gate_settings
        Thresholds of the gates.

    Raises
    ------
    DataError
        If the files are unusable or too short.
    SettingsError
        If the periods are out of order, or the roster was screened on bars past the start and
        `in_sample` does not allow it.
    """
    gate_settings = gate_settings or GateSettings()
    market = _market(request, strategy)
    periods = periods_of(request, strategy, market)
    screens = _screens(request, strategy, market, periods, progress)
    in_force = in_force_from(screens, periods.start_ms)
    fitting, validation, training, test = (
        prepare_with(market, strategy, in_force, start_ms=start_ms, end_ms=end_ms)
        for start_ms, end_ms in (
            (periods.start_ms, periods.validation_ms),
            (periods.validation_ms, periods.test_start_ms),
            (periods.start_ms, periods.test_start_ms),
            (periods.test_start_ms, periods.end_ms),
        )
    )
    columns: list[Column] = []
    untrained: dict[str, str] = {}
    for family, label in progress.track(request.columns, description="train and trade"):
        name = f"{family}/{label.kind}"
        early, whole = training_set(fitting, label), training_set(training, label)
        reason = _untrainable(early, strategy)
        if reason is not None:
            untrained[name] = reason
            continue
        first = search_candidate(
            family, label, early, request.terms, n_trials=request.trials_a_column, ledger=ledger
        )
        _, track = _trade(validation, strategy, first)
        validated = _sharpe(track)
        _record(ledger, name, first.parameters, validation, strategy, validated)
        candidate = fit_candidate(family, label, whole, request.terms, first.parameters)
        result, track = _trade(test, strategy, candidate)
        _record(ledger, name, candidate.parameters, test, strategy, _sharpe(track))
        columns.append(Column(candidate, whole, validated * DAYS_PER_YEAR**0.5, result, track))
    z_rule, z_track = _trade(test, strategy, None)
    _record(ledger, Z_RULE, {}, test, strategy, _sharpe(z_track))
    _record(ledger, IDLE, {}, test, strategy, 0.0)
    selected = max(columns, key=lambda column: column.validation_sharpe, default=None)
    evidence = None
    if selected is not None:
        evidence = _evidence(
            selected, columns, z_track, ledger, request, gate_settings,
            is_out_of_sample=not _is_late(request, screens, periods),
        )  # fmt: skip
    return Cycle(
        request=request,
        strategy=strategy,
        gate_settings=gate_settings,
        periods=periods,
        market=market,
        screens=screens,
        test=test,
        columns=tuple(columns),
        untrained=untrained,
        selected=selected,
        z_rule=z_rule,
        z_track=z_track,
        evidence=evidence,
        gates=judge(evidence, None, gate_settings),
    )


def _market(request: CycleRequest, strategy: StrategySettings) -> RecordedMarket:
    return load_market(
        request.bars,
        (SCREEN_TIMEFRAME,),
        strategy.trade_timeframe,
        strategy.ingest,
        ms_of_instant(utc_now()),
    )


def read_roster(path: Path) -> PairsScreened:
    """Read a roster that `mnt screen --out` wrote.

    Raises
    ------
    DataError
        If the file cannot be read.
    ContractError
        If it holds no roster.
    """
    try:
        return PairsScreened.from_bytes(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; name a file that can") from error


def _screens(
    request: CycleRequest,
    strategy: StrategySettings,
    market: RecordedMarket,
    periods: Periods,
    progress: Progress,
) -> tuple[PairsScreened, ...]:
    if request.roster is None:
        every_ms = request.screen_every_days * DAY_MS
        instants = list(range(periods.start_ms, periods.end_ms, every_ms))
        found = screens_up_to(market, strategy, instants)
        return tuple(progress.track(found, total=len(instants), description="screen"))
    roster = read_roster(request.roster)
    if roster.closes_at_ms > periods.start_ms and not request.in_sample:
        raise SettingsError(
            f"{request.roster.name} was screened on bars up to {roster.closes_at:%Y-%m-%d %H:%M}, "
            f"past the start {instant_of_ms(periods.start_ms):%Y-%m-%d %H:%M}: screen with --end "
            "at the start, start later, or accept with --in-sample that nothing is proven"
        )
    return (roster,)


def in_force_from(screens: Sequence[PairsScreened], start_ms: int) -> tuple[PairsScreened, ...]:
    """Return the rosters with the first in force from the start on, however late it was made."""
    first, *others = screens
    if first.closes_at_ms > start_ms:
        first = first.model_copy(update={"closes_at": instant_of_ms(start_ms)})
    return (first, *others)


def _is_late(request: CycleRequest, screens: Sequence[PairsScreened], periods: Periods) -> bool:
    # Rosters made on the way are each in force only after the bars they saw.
    return request.roster is not None and screens[0].closes_at_ms > periods.start_ms


def _untrainable(dataset: Dataset, strategy: StrategySettings) -> str | None:
    """Return why nothing can be learnt from a dataset, None where something can."""
    n_samples = len(dataset.labels)
    fewest = strategy.trainer.min_samples
    if n_samples < fewest:
        return f"{n_samples} labelled rows, trainer.min_samples is {fewest}"
    share = float(dataset.labels.mean())
    return None if 0 < share < 1 else f"all {n_samples} labels are {share:.0f}"


def _trade(
    prepared: Prepared, strategy: StrategySettings, candidate: Candidate | None
) -> tuple[BacktestResult, DailyTrack]:
    """Trade a period on the word of a candidate, or by the z rule without one."""
    source = "z" if candidate is None else "model"
    signals = strategy.signals.model_copy(update={"signals_from": source})
    settings = strategy.model_copy(update={"signals": signals})
    result = run_backtest(prepared, settings, account=ACCOUNT, champion=candidate)
    return result, daily_track(result, settings.portfolio.capital_e8)


def _sharpe(track: DailyTrack) -> float:
    """Return the Sharpe ratio of a day."""
    return track_record(track.returns).sharpe_ratio


def _record(
    ledger: LedgerFile,
    subject: str,
    parameters: Parameters,
    prepared: Prepared,
    strategy: StrategySettings,
    sharpe_ratio: float,
) -> None:
    history = f"{prepared.bars_digest}:{strategy.run_id(prepared.start_ms)}"
    ledger.add(Trial(subject, parameters, history, Outcome(None, sharpe_ratio)))


def _evidence(
    selected: Column,
    columns: Sequence[Column],
    z_track: DailyTrack,
    ledger: LedgerFile,
    request: CycleRequest,
    settings: GateSettings,
    *,
    is_out_of_sample: bool,
) -> BacktestEvidence:
    returns = selected.track.returns
    return measure_backtest(
        returns,
        z_track.returns,
        np.column_stack([*_returns_of(columns), z_track.returns, np.zeros(len(returns))]),
        n_trials=ledger.n_trials,
        variance_of_trials=ledger.variance_of_sharpe_ratios(len(returns)),
        is_out_of_sample=is_out_of_sample,
        periods_per_year=DAYS_PER_YEAR,
        settings=settings,
        rng=np.random.default_rng(request.seed),
    )


def _returns_of(columns: Sequence[Column]) -> Iterator[Float1D]:
    for column in columns:
        yield column.track.returns
