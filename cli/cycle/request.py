"""What a cycle is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from shared.backtest.candidates import FitTerms
from shared.backtest.evidence import FEWEST_TEST_DAYS, TEST_SHARE, Periods
from shared.clock import instant_of_ms, timeframe_ms
from shared.errors import DataError, SettingsError
from shared.quant.calibration import CalibrationMethod
from shared.sleeves.pairs.labels import LabelKind, LabelSettings
from shared.sleeves.pairs.screen_window import ScreenWindow
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME, StrategySettings
from shared.venues.market import RecordedMarket

SHORT_FAMILIES = ("logistic_regression",)
FULL_FAMILIES = ("logistic_regression", "random_forest", "lightgbm")
SHORT_LABELS: tuple[LabelKind, ...] = ("z_threshold",)
FULL_LABELS: tuple[LabelKind, ...] = ("z_threshold", "revert_direction", "held_return")
FULL_TRIALS = 4
_DAY_MS = timeframe_ms("1d")


class CycleRequest(BaseModel, frozen=True, extra="forbid"):
    """Options of a cycle.

    Attributes
    ----------
    kind
        `short`: one family and label with its defaults. `full`: several of both, parameters
        searched.
    bars, roster
        Files that are read; without a roster, one is screened at the start and every so many
        days, always from bars before the time it is in force.
    start_ms, test_start_ms, end_ms
        Training begins after the first, its test after the second.
    in_sample
        Whether a roster screened on bars past the start may be used; every output says so.
    families, labels
        The columns: each family with each label.
    n_trials
        Choices of parameters tried for each column.
    threshold, horizon_bars
        Of the labels.
    n_splits, gap_bars, train_bars, calibration, seed
        As in `FitTerms`.
    screen_every_days
        Days between rosters.
    """

    kind: Literal["short", "full"]
    bars: tuple[Path, ...]
    roster: Path | None = None
    start_ms: int | None = None
    test_start_ms: int | None = None
    end_ms: int | None = None
    in_sample: bool = False
    families: tuple[str, ...] = ()
    labels: tuple[LabelKind, ...] = ()
    n_trials: int | None = Field(None, ge=1)
    threshold: float = Field(1.5, gt=0)
    horizon_bars: int = Field(3, ge=1)
    n_splits: int = Field(5, ge=2)
    gap_bars: int = Field(24, ge=0)
    train_bars: int | None = Field(None, gt=0)
    calibration: CalibrationMethod = "platt"
    seed: int = 0
    screen_every_days: int = Field(7, ge=1)

    @property
    def columns(self) -> tuple[tuple[str, LabelSettings], ...]:
        """Every family with every label."""
        is_full = self.kind == "full"
        return tuple(
            (
                family,
                LabelSettings(kind=kind, threshold=self.threshold, horizon_bars=self.horizon_bars),
            )
            for family in self.families or (FULL_FAMILIES if is_full else SHORT_FAMILIES)
            for kind in self.labels or (FULL_LABELS if is_full else SHORT_LABELS)
        )

    @property
    def trials_a_column(self) -> int:
        """Choices of parameters tried for each column."""
        return self.n_trials or (FULL_TRIALS if self.kind == "full" else 1)

    @property
    def terms(self) -> FitTerms:
        """How candidates are fitted."""
        return FitTerms(self.n_splits, self.gap_bars, self.train_bars, self.calibration, self.seed)

    def document(self, strategy: StrategySettings) -> dict[str, Any]:
        """Return what decides the outcome beside the content of the files."""
        return {
            **self.model_dump(mode="json", exclude={"bars", "roster"}),
            "strategy": strategy.model_dump(mode="json"),
        }


def periods_of(
    request: CycleRequest, strategy: StrategySettings, market: RecordedMarket
) -> Periods:
    """Cut the recorded time into training, validation and test.

    Raises
    ------
    DataError
        If the files hold too few bars.
    SettingsError
        If the instants are out of order or the test is too short to judge anything by.
    """
    hourly = market.checked[SCREEN_TIMEFRAME].accepted.closes()
    rules = strategy.screener
    bar_ms = timeframe_ms(SCREEN_TIMEFRAME)
    needed = ScreenWindow(rules.window_bars, rules.fewest_bars, bar_ms).history_bars
    needed += max(rules.enter_after_screens, rules.leave_after_screens)
    traded = market.checked[strategy.trade_timeframe].accepted.closes()
    end_ms = int(traded[-1]) if request.end_ms is None else request.end_ms
    start_ms = request.start_ms
    if start_ms is None:
        if request.roster is None and len(hourly) <= needed:
            raise DataError(
                f"{len(hourly)} closes of {SCREEN_TIMEFRAME}: a screen needs {needed} before the "
                "start; give older bars or a smaller screener.window_bars"
            )
        first = 0 if request.roster is not None else int(hourly[needed])
        # At noon the closes that a screen before it looks at are of one day, and so share one
        # null: a screen at midnight takes twice as long.
        noon_ms = _DAY_MS // 2
        start_ms = -(-(max(first, int(traded[0])) - noon_ms) // _DAY_MS) * _DAY_MS + noon_ms
    test_start_ms = request.test_start_ms
    if test_start_ms is None:
        length_ms = max(int((end_ms - start_ms) * TEST_SHARE), FEWEST_TEST_DAYS * _DAY_MS)
        # On midnight, so that days are whole.
        test_start_ms = (end_ms - length_ms) // _DAY_MS * _DAY_MS
        if test_start_ms <= start_ms:
            raise DataError(
                f"the bars from {instant_of_ms(start_ms)}, when the first screen is possible, to "
                f"{instant_of_ms(end_ms)} leave no time to train in before a test of "
                f"{FEWEST_TEST_DAYS} days: gather or give more bars"
            )
    if not start_ms < test_start_ms < end_ms:
        raise SettingsError(
            f"start {instant_of_ms(start_ms)}, test from {instant_of_ms(test_start_ms)}, end "
            f"{instant_of_ms(end_ms)}: give --start, --test-start and --end in this order"
        )
    n_days = (end_ms - test_start_ms) // _DAY_MS
    if n_days < FEWEST_TEST_DAYS:
        raise SettingsError(
            f"a test of {n_days} days proves nothing: leave at least {FEWEST_TEST_DAYS} days "
            "between --test-start and --end, or give more bars"
        )
    validation_ms = start_ms + (test_start_ms - start_ms) * 2 // 3 // _DAY_MS * _DAY_MS
    return Periods(
        start_ms=start_ms, validation_ms=validation_ms, test_start_ms=test_start_ms, end_ms=end_ms
    )
