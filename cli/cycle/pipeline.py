"""The cycle: screen, features, labels, models, backtests, evidence, gates.

How models are chosen and judged is `shared.backtest.evidence`, for a cycle as for the trainer;
here are the files, the rosters and what is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from cli.cycle.request import CycleRequest, periods_of
from shared.backtest.evidence import Judged, Periods, judge_columns
from shared.backtest.preparation import screens_up_to
from shared.backtest.track import DAY_MS
from shared.clock import instant_of_ms, ms_of_instant, utc_now
from shared.errors import DataError, SettingsError
from shared.events.screener import PairsScreened
from shared.quant.gates import (
    BACKTEST_GATES,
    GateResult,
    are_passed,
    judge,
)
from shared.quant.trials import TrialLedger
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME, StrategySettings
from shared.venues.market import RecordedMarket, load_market

ACCOUNT = "research"


@dataclass(frozen=True, eq=False)
class Cycle(Judged):
    """Everything a cycle found, beside what its columns came to.

    Attributes
    ----------
    screens
        In order of their closes.
    gates
        Every gate with its verdict; the shadow's are missing until there was one.
    """

    request: CycleRequest
    strategy: StrategySettings
    periods: Periods
    market: RecordedMarket
    screens: tuple[PairsScreened, ...]
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
    ledger: TrialLedger,
    progress: Progress,
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

    Raises
    ------
    DataError
        If the files are unusable or too short.
    SettingsError
        If the periods are out of order, or the roster was screened on bars past the start and
        `in_sample` does not allow it.
    """
    return cycle_of_market(_market(request, strategy), request, strategy, ledger, progress)


def cycle_of_market(
    market: RecordedMarket,
    request: CycleRequest,
    strategy: StrategySettings,
    ledger: TrialLedger,
    progress: Progress,
) -> Cycle:
    """Run a cycle on a market that is read already; as `run_cycle`."""
    periods = periods_of(request, strategy, market)
    screens = _screens(request, strategy, market, periods, progress)
    judged = judge_columns(
        market,
        strategy,
        in_force_from(screens, periods.start_ms),
        periods,
        progress.track(request.columns, description="train and trade"),
        request.terms,
        ledger,
        n_trials=request.trials_a_column,
        is_out_of_sample=not _is_late(request, screens, periods),
        account=ACCOUNT,
    )
    return Cycle(
        **vars(judged),
        request=request,
        strategy=strategy,
        periods=periods,
        market=market,
        screens=screens,
        gates=judge(judged.evidence, None, strategy.trainer.gates),
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
