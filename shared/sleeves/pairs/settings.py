"""Everything that decides what the pairs sleeve does: the same in research, replay and live."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from shared.book.execution import FillTerms
from shared.book.sizing import SizingSettings
from shared.quant.bar_checks import BarCheckSettings
from shared.quant.gate_settings import GateSettings
from shared.quant.scorers import STORED_FAMILIES
from shared.sleeves.pairs.drift_settings import DriftSettings
from shared.sleeves.pairs.features import FeatureSettings
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.rules import SignalSettings
from shared.sleeves.pairs.screening import ScreenSettings

SCREEN_TIMEFRAME = "1h"


class TrainerSettings(BaseModel, frozen=True, extra="forbid"):
    """When and on what the trainer trains.

    Attributes
    ----------
    train_every_closes
        Trade closes between trainings; 0 trains on request only, or where a tripwire is told to.
    retrain_cooldown_closes
        Trade closes after a training, whatever it made, before an event brings about another.
    retrain_roster_share
        Trains sooner where so large a share of the active pairs was not there at the last
        training; 0 never does.
    retrain_age_closes
        Trains sooner where the champion is older than so many trade closes; 0 never does.
    in_sample
        Train also on bars from before a pair was on the roster. They took part in choosing
        it, so the model and its dataset are labelled; the gates accept no such evidence.
    train_window_closes
        Trade closes a training looks back on.
    min_samples
        Fewest labelled rows a model is fitted on.
    n_splits, gap_bars
        Folds of the purged time-series cross-validation and the bars kept free between
        training and test.
    families
        Model families that every training fits, with commas between; the best becomes
        challenger. `lightgbm` needs the system's libgomp, which the images have; `xgboost` and
        `catboost` need the extra `boosting`.
    n_trials
        Choices of parameters tried for each, its defaults first. All are on the ledger.
    calibration, seed
        How probabilities are corrected; of the families' own randomness.
    evidence_days
        Days that the backtest of a training looks back on, where so many are recorded.
    auto_promote
        Whether a challenger that passed the gates goes into the shadow, and a shadow that
        passed all of them becomes champion, without a person.
    gates
        Thresholds of the gates.
    drift
        Tripwires of the champion.
    """

    train_every_closes: int = Field(0, ge=0)
    retrain_cooldown_closes: int = Field(72, gt=0)
    retrain_roster_share: float = Field(0.5, ge=0, le=1)
    retrain_age_closes: int = Field(8064, ge=0)
    in_sample: bool = False
    train_window_closes: int = Field(8064, gt=0)
    min_samples: int = Field(200, ge=20)
    n_splits: int = Field(5, ge=2)
    gap_bars: int = Field(24, ge=0)
    families: str = "logistic_regression,random_forest,hist_gradient_boosting"
    n_trials: int = Field(1, ge=1)
    calibration: Literal["platt", "isotonic"] = "platt"
    seed: int = Field(0, ge=0)
    evidence_days: int = Field(120, gt=0)
    auto_promote: bool = True
    gates: GateSettings = GateSettings()
    drift: DriftSettings = DriftSettings()
    labels: LabelSettings = LabelSettings()

    @field_validator("families")
    @classmethod
    def _families_can_be_traded(cls, value: str) -> str:
        names = value.split(",")
        if set(names) - set(STORED_FAMILIES) or len(set(names)) != len(names):
            raise ValueError(
                f"{value!r}: name each family once, with commas between, of "
                f"{', '.join(STORED_FAMILIES)}"
            )
        return value

    @property
    def family_names(self) -> tuple[str, ...]:
        """The families, one by one."""
        return tuple(self.families.split(","))


class StrategySettings(BaseModel, frozen=True, extra="forbid"):
    """The sleeve's settings; each section belongs to the service of its name.

    Attributes
    ----------
    trade_timeframe
        Timeframe of features, signals and orders.
    """

    trade_timeframe: Literal["5m", "15m", "1h"] = "5m"
    ingest: BarCheckSettings = BarCheckSettings()
    screener: ScreenSettings = ScreenSettings()
    features: FeatureSettings = FeatureSettings()
    signals: SignalSettings = SignalSettings()
    portfolio: SizingSettings = SizingSettings()
    execution: FillTerms = FillTerms()
    trainer: TrainerSettings = TrainerSettings()

    def run_id(self, start_ms: int | None) -> str:
        """Name a run by what it decides on, so that the same run makes the same order ids."""
        document = f"{self.model_dump_json()}@{start_ms}"
        return hashlib.sha256(document.encode()).hexdigest()[:16]
