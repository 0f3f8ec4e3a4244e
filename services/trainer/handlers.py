"""Use cases of the trainer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.trainer import artefacts, metrics, store
from services.trainer.domain import ALIAS_OF_STAGE, Stage, alias_left, net_return, reign
from services.trainer.occasions import (
    Occasion,
    Pair,
    TrainingProgress,
    is_rested,
    occasion_to_train,
)
from services.trainer.store import Progress, StagedModel
from services.trainer.watch import DriftFound, watch_champion, watch_fills
from shared.backtest.candidates import Candidate, fit_candidate, search_candidate
from shared.backtest.evidence import JudgedFamily, fit_terms, judge_families
from shared.bus.consumer import UnitOfWork
from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms
from shared.database.bars import closes_and_volumes
from shared.database.instruments import load_instruments
from shared.errors import ContractError, DataError, PermanentError
from shared.events.base import Event
from shared.events.features import FeaturesComputed
from shared.events.trainer import DriftTripped, ModelPromoted, TripwireAction
from shared.quant.bar_checks import check_bars
from shared.quant.gates import (
    ALL_GATES,
    BACKTEST_GATES,
    GateResult,
    ShadowEvidence,
    are_passed,
    judge,
)
from shared.quant.trials import TrialLedger
from shared.registry import ModelRegistry
from shared.settings import Settings
from shared.sleeves.pairs.dataset import Dataset, PairRows, make_dataset, rows_from_history
from shared.sleeves.pairs.features import feature_names, warmup_bars
from shared.sleeves.pairs.following import join_legs
from shared.sleeves.pairs.settings import StrategySettings
from shared.sleeves.pairs.stored_model import StoredModel
from shared.venues.market import RecordedMarket

MODEL_NAME = "pairs"
_DAY_MS = timeframe_ms("1d")

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training made.

    Attributes
    ----------
    name, version, sha256, family
        The best of its models, which is challenger.
    in_sample
        Whether bars from before a pair was on the roster were among the samples.
    metrics
        Out-of-sample scores of its family's cross-validation.
    stage
        Where it stands now: `shadow` where it passed the gates of the backtest.
    families
        Scores of every family, by name.
    gates
        As they stand, one line each.
    not_judged
        Why there was no backtest, where there was none.
    """

    name: str
    version: int
    sha256: str
    family: str
    n_samples: int
    in_sample: bool
    metrics: dict[str, Any]
    mlflow_run_id: str
    stage: str
    families: dict[str, dict[str, Any]]
    gates: list[str]
    not_judged: str | None = None
    alias: Literal["challenger"] = "challenger"


@dataclass(frozen=True, slots=True)
class Promoted:
    """The model that has a stage from the first close after `decides_after` on.

    Attributes
    ----------
    version, sha256
        Of the model; empty where a rollback left none, so that the z rule decides.
    is_override
        That not all gates were passed.
    gates
        As they stood, one line each.
    """

    name: str
    version: int | None
    sha256: str | None
    is_rollback: bool
    decides_after: datetime
    alias: Literal["shadow", "champion"] = "champion"
    is_override: bool = True
    gates: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A family's model and its out-of-sample scores."""

    model: StoredModel
    metrics: dict[str, Any]

    @property
    def log_loss(self) -> float:
        return float(self.metrics["log_loss"])


class Trainer:
    """Trains models of every family, judges them, and lets them rise by stages.

    Parameters
    ----------
    settings
        Of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._progress = Progress()
        folder = (settings.home / "mlflow").resolve()
        uri = settings.mlflow_url or f"sqlite:///{folder / 'mlflow.db'}"
        self._folder = folder
        # A server passes artifacts on to its own store; its folders are not ours to write to.
        artifacts = "mlflow-artifacts:/" if uri.startswith("http") else str(folder / "artifacts")
        self._registry = ModelRegistry(uri, artifacts)

    async def reload(self, connection: AsyncConnection) -> None:
        """Take the last close, and what has passed since trainings and checks, from the record."""
        self._progress = await store.load_progress(connection)

    async def refuse_foreign(self, event: Event, unit: UnitOfWork) -> None:
        """Refuse a promotion that did not come through the gates or an operator.

        Raises
        ------
        ContractError
            Always.
        """
        raise ContractError(
            f"{type(event).__name__} from {unit.source_uri}: a model is promoted with "
            "POST /promote, which records who decided and why"
        )

    async def refuse_foreign_check(self, event: Event, unit: UnitOfWork) -> None:
        """Refuse a tripped wire that is not ours.

        Raises
        ------
        ContractError
            Always.
        """
        raise ContractError(
            f"{type(event).__name__} from {unit.source_uri}: drift is found by the trainer's own "
            "checks; take trading back with POST /reduce-only of the executor"
        )

    async def observe(self, computed: FeaturesComputed, unit: UnitOfWork) -> None:
        """Count a close; judge the shadow, look for drift and train when that is due."""
        before_ms, close_ms = self._progress.last_close_ms, computed.closes_at_ms
        if not computed.y or close_ms <= (before_ms or 0):
            # A close without features, or more of one that was counted.
            progress = replace(self._progress, last_close_ms=max(close_ms, before_ms or 0))
        else:
            followed = zip(computed.y, computed.x, computed.status, strict=True)
            pairs = frozenset((y, x) for y, x, status in followed if status == "active")
            progress = await self._observe_close(unit, close_ms, pairs)

        def keep() -> None:
            self._progress = progress

        unit.after_commit(keep)

    async def _observe_close(
        self, unit: UnitOfWork, close_ms: int, pairs: frozenset[Pair]
    ) -> Progress:
        """Do what is due at a new close, and return how far the trainer is then."""
        settings = self._settings.trainer
        if settings.auto_promote:
            await self._judge_shadow(unit, close_ms)
        training = self._progress.training
        training = replace(training, closes=training.closes + 1)
        closes_since_check = self._progress.closes_since_check + 1
        drift = None
        if settings.drift.every_closes and closes_since_check >= settings.drift.every_closes:
            closes_since_check = 0
            await self._check_fills(unit, close_ms)
            may_train = is_rested(settings, training)
            drift = await self._check_champion(unit, close_ms, may_train=may_train)
        occasion = occasion_to_train(
            settings,
            training,
            pairs=pairs,
            champion_age_closes=await self._champion_age(unit.connection, close_ms, training),
            drift=drift,
        )
        if occasion is not None:
            training = await self._train_for(unit, close_ms, occasion, pairs)
        return Progress(close_ms, pairs, training, closes_since_check)

    async def _champion_age(
        self, connection: AsyncConnection, close_ms: int, training: TrainingProgress
    ) -> int | None:
        """Return how many closes ago the champion was trained, where that may matter."""
        settings = self._settings.trainer
        if not settings.train_every_closes or not is_rested(settings, training):
            return None
        champion = await store.model_at(connection, "champion")
        bar_ms = timeframe_ms(self._settings.trade_timeframe)
        return None if champion is None else (close_ms - champion.trained_at_ms) // bar_ms

    async def _train_for(
        self, unit: UnitOfWork, close_ms: int, occasion: Occasion, pairs: frozenset[Pair]
    ) -> TrainingProgress:
        """Train of our own accord; too few samples is then an outcome, not a failure."""
        try:
            await self._train(unit, close_ms, occasion)
        except DataError as error:
            await store.insert_training(
                unit.connection, close_ms, occasion, unit.lineage, fault=str(error)
            )
            self._tell_training(unit, occasion, "no_model")
            logger.info("not trained", occasion=occasion.kind, reason=str(error))
            return TrainingProgress(0, self._progress.training.has_model, pairs)
        return TrainingProgress(0, True, pairs)

    def _tell_training(self, unit: UnitOfWork, occasion: Occasion, outcome: str) -> None:
        unit.after_commit(lambda: metrics.TRAININGS.labels(occasion.kind, outcome).inc())

    async def train_on_request(self, unit: UnitOfWork, operator: str) -> Trained:
        """Train on everything up to the last close seen.

        Raises
        ------
        PermanentError
            If no close has been seen.
        DataError
            If there are too few samples, or only one class of them.
        """
        occasion = Occasion("request", f"asked for by {operator}")
        trained = await self._train(unit, self._require_close(), occasion)

        def keep() -> None:
            training = TrainingProgress(0, True, self._progress.pairs)
            self._progress = replace(self._progress, training=training)

        unit.after_commit(keep)
        return trained

    def _require_close(self) -> int:
        if self._progress.last_close_ms is None:
            raise PermanentError("no close has been seen yet: wait for features, then ask again")
        return self._progress.last_close_ms

    async def _train(self, unit: UnitOfWork, close_ms: int, occasion: Occasion) -> Trained:
        """Fit every family on the rows up to a close; the same rows give the same models."""
        settings = self._settings.trainer
        bar_ms = timeframe_ms(self._settings.trade_timeframe)
        from_ms = close_ms - settings.train_window_closes * bar_ms
        read_rows = self._rows_from_bars if settings.in_sample else store.feature_rows
        names, pairs = await read_rows(unit.connection, from_ms, close_ms)
        dataset = make_dataset(
            pairs,
            names,
            bar_ms=bar_ms,
            spread_space=self._settings.features.spread_space,
            settings=settings.labels,
        )
        self._require_samples(dataset)
        ledger = await store.load_ledger(unit.connection)
        judged, not_judged = await self._judge(unit.connection, close_ms, ledger)
        try:
            fitted = await asyncio.to_thread(
                self._fit, dataset, (from_ms, close_ms), ledger, judged
            )
        finally:  # a search that came to nothing was tried all the same
            await store.save_ledger(unit.connection, ledger, unit.lineage)
        await store.insert_dataset(
            unit.connection,
            dataset,
            MODEL_NAME,
            settings.labels,
            (from_ms, close_ms),
            unit.lineage,
            is_in_sample=settings.in_sample,
        )
        best = min(
            (each for each in fitted if judged is None or each.model.family == judged.family),
            key=lambda each: each.log_loss,
        )
        answers = {}
        # The best one last: it is the newest version that MLflow shows.
        for each in sorted(fitted, key=lambda each: each is best):
            answers[each.model.family] = await self._record(unit, each, dataset, close_ms)
        version, run_id = answers[best.model.family]
        challenger = await self._make_challenger(unit, best, judged, close_ms)
        gates = await self._gates(unit.connection, challenger, close_ms)
        if (
            settings.auto_promote
            and challenger.stage == "challenger"
            and are_passed(gates, BACKTEST_GATES)
            and await store.model_at(unit.connection, "shadow") is None
        ):
            await self._place(
                unit, challenger, "shadow", close_ms, gates=gates, decided_by="trainer",
                reason="passed every gate of the backtest", gates_passed=True,
            )  # fmt: skip
        await store.insert_training(
            unit.connection, close_ms, occasion, unit.lineage, sha256=best.model.sha256
        )
        self._tell_training(unit, occasion, "model")
        stage = await store.find_model(unit.connection, best.model.sha256)
        return Trained(
            name=MODEL_NAME,
            version=version,
            sha256=best.model.sha256,
            family=best.model.family,
            n_samples=len(dataset.labels),
            in_sample=settings.in_sample,
            metrics=best.metrics,
            mlflow_run_id=run_id,
            stage=(stage and stage.stage) or "challenger",
            families={each.model.family: each.metrics for each in fitted},
            gates=[str(gate) for gate in gates],
            not_judged=not_judged,
        )

    async def _judge(
        self, connection: AsyncConnection, close_ms: int, ledger: TrialLedger
    ) -> tuple[JudgedFamily | None, str | None]:
        """Backtest the families on the record; without enough of it, say why not."""
        settings = self._settings
        since_ms = close_ms - settings.trainer.evidence_days * _DAY_MS
        rosters = await store.recorded_rosters(connection, since_ms, close_ms)
        if not rosters:
            return None, "no roster is recorded: nothing can be backtested"
        timeframe = settings.trade_timeframe
        warm_up_ms = warmup_bars(settings.features) * timeframe_ms(timeframe)
        symbols = {symbol for each in rosters for pair in each.pairs for symbol in (pair.y, pair.x)}
        raw = await store.recorded_bars(
            connection,
            settings.venue_name,
            timeframe,
            symbols,
            rosters[0].closes_at_ms - warm_up_ms,
            close_ms,
        )
        instruments = await load_instruments(connection, settings.venue_name)

        def measure() -> JudgedFamily:
            checked = check_bars(
                raw, now_ms=close_ms, known=None, settings=settings.ingest, prior={}
            )
            market = RecordedMarket(settings.venue_name, {timeframe: checked}, instruments)
            return judge_families(
                market,
                StrategySettings.model_validate(settings.strategy),
                rosters,
                ledger,
                start_ms=rosters[0].closes_at_ms,
                end_ms=close_ms,
                is_out_of_sample=not settings.trainer.in_sample,
                account=settings.account,
            )

        try:
            return await asyncio.to_thread(measure), None
        except DataError as error:
            # Too short a record is an outcome: its gates are missing, which passes none.
            return None, str(error)

    def _fit(
        self,
        dataset: Dataset,
        period_ms: tuple[int, int],
        ledger: TrialLedger,
        judged: JudgedFamily | None,
    ) -> list[_Fitted]:
        """Fit every family on all rows; the one that was judged with the parameters judged."""
        settings = self._settings.trainer
        terms = fit_terms(self._settings.strategy)
        fitted = []
        for family in settings.family_names:
            if judged is not None and family == judged.family:
                candidate = fit_candidate(
                    family, settings.labels, dataset, terms, judged.parameters
                )
            else:
                candidate = search_candidate(
                    family, settings.labels, dataset, terms,
                    n_trials=settings.n_trials, ledger=ledger,
                )  # fmt: skip
            model = StoredModel.of(
                candidate.model,
                dataset.feature_names,
                label=settings.labels,
                trained_from_ms=period_ms[0],
                trained_to_ms=period_ms[1],
                n_samples=len(dataset.labels),
            )
            fitted.append(_Fitted(model, _metrics(candidate)))
        return fitted

    async def _record(
        self, unit: UnitOfWork, fitted: _Fitted, dataset: Dataset, close_ms: int
    ) -> tuple[int, str]:
        """Record a model in MLflow and in the record, as a candidate."""
        model = fitted.model
        version, run_id = await self._register(model, dataset, fitted.metrics)
        await store.insert_model(
            unit.connection,
            dataset.dataset_id,
            model,
            MODEL_NAME,
            version,
            run_id,
            fitted.metrics,
            unit.lineage,
        )
        known = await store.find_model(unit.connection, model.sha256)
        if known is not None and known.stage is None:
            await store.insert_promotion(
                unit.connection,
                name=MODEL_NAME,
                stage="candidate",
                sha256=model.sha256,
                from_ms=close_ms,
                cv_roc_auc=fitted.metrics["roc_auc"],
                reason="trained",
                decided_by="trainer",
                lineage=unit.lineage,
            )
        return version, run_id

    async def _make_challenger(
        self, unit: UnitOfWork, best: _Fitted, judged: JudgedFamily | None, close_ms: int
    ) -> StagedModel:
        """Let the best model of a training challenge, in place of the one before."""
        sha256 = best.model.sha256
        if judged is not None:
            await store.save_evidence(
                unit.connection, sha256, judged.end_ms, judged.evidence, unit.lineage
            )
        model = await self._require_model(unit.connection, sha256)
        if model.stage == "candidate":
            reason = "best Sharpe ratio of the validation" if judged else "least log loss"
            model = await self._place(
                unit, model, "challenger", close_ms, reason=reason, decided_by="trainer"
            )
        return model

    async def _gates(
        self, connection: AsyncConnection, model: StagedModel, close_ms: int
    ) -> tuple[GateResult, ...]:
        """Hold what the record knows of a model against every gate."""
        backtest = await store.load_evidence(connection, model.sha256)
        shadow = await self._shadow_evidence(connection, model, close_ms)
        return judge(backtest, shadow, self._settings.trainer.gates)

    async def _shadow_evidence(
        self, connection: AsyncConnection, model: StagedModel, close_ms: int
    ) -> ShadowEvidence | None:
        """Compare what a shadow would have earned with what was earned meanwhile."""
        if model.stage != "shadow":
            return None
        # Without the present close, which signals may not have decided yet: what is counted
        # must not depend on who is faster.
        period = (model.since_ms, close_ms)
        n_closes = await store.count_shadow_closes(connection, model.sha256, *period)
        costs = self._settings.execution
        cost = (costs.fee_ppm + costs.slippage_ppm) / 1e6
        own = await store.shadow_signals(connection, model.sha256, *period)
        real = await store.real_signals(connection, *period)
        return ShadowEvidence(n_closes, net_return(own, cost) - net_return(real, cost))

    async def _check_fills(self, unit: UnitOfWork, close_ms: int) -> None:
        """Hold the fills of late against the model's, whoever decided on them.

        Those of the bar before this close are left out: the executor may not have booked them
        yet, and what is found must not depend on who is faster.
        """
        settings = self._settings
        drift, bar_ms = settings.trainer.drift, timeframe_ms(settings.trade_timeframe)
        fills = await store.fills_in_bars(
            unit.connection,
            settings.venue_name,
            settings.trade_timeframe,
            await load_instruments(unit.connection, settings.venue_name),
            close_ms - drift.window_closes * bar_ms,
            close_ms - bar_ms,
        )
        found = watch_fills(fills, settings.execution, drift)
        await self._record_check(unit, None, close_ms, found, drift.slippage_action)

    async def _check_champion(
        self, unit: UnitOfWork, close_ms: int, *, may_train: bool
    ) -> str | None:
        """Hold the champion against its training; return why to train anew, if so."""
        drift = self._settings.trainer.drift
        connection = unit.connection
        champion = await store.model_at(connection, "champion")
        if champion is None:
            return None
        model = StoredModel.from_json_bytes(await store.model_document(connection, champion.sha256))
        bar_ms = timeframe_ms(self._settings.trade_timeframe)
        names, present = await store.feature_rows(
            connection, close_ms - drift.window_closes * bar_ms, close_ms
        )
        _, training = await store.feature_rows(
            connection, model.trained_from_ms, model.trained_to_ms
        )

        def watch() -> DriftFound | None:
            outcomes = make_dataset(
                present, names, bar_ms=bar_ms,
                spread_space=self._settings.features.spread_space, settings=model.label,
            )  # fmt: skip
            return watch_champion(model, names, training, present, outcomes, drift)

        found = await asyncio.to_thread(watch)
        if found is None:
            return None
        action = drift.action
        if action == "retrain" and not may_train:
            action = "record"
        await self._record_check(unit, champion.sha256, close_ms, found, action)
        if not found.reasons:
            return None
        reason = "; ".join(found.reasons)
        if action == "rollback":
            await self.roll_back(unit, reason, "tripwire", is_override=False, close_ms=close_ms)
        return reason if action == "retrain" else None

    async def _record_check(
        self,
        unit: UnitOfWork,
        sha256: str | None,
        close_ms: int,
        found: DriftFound,
        action: TripwireAction,
    ) -> None:
        """Record a check, and tell the fleet and Prometheus of it; None checks fills."""
        taken = action if found.reasons else "none"
        await store.save_drift(unit.connection, sha256, close_ms, found, taken, unit.lineage)
        if found.reasons:
            unit.publish(
                "drift.tripped",
                DriftTripped(
                    closes_at=instant_of_ms(close_ms),
                    sha256=sha256,
                    action=action,
                    reasons=found.reasons,
                ),
            )

        def show() -> None:
            for feature in found.features:
                metrics.STABILITY_INDEX.labels(feature.name).set(feature.stability_index)
            if found.calibration_gap is not None:
                metrics.CALIBRATION_GAP.set(found.calibration_gap)
            if found.slippage is not None:
                metrics.SLIPPAGE.labels("realised").set(found.slippage.realised_ppm / 1e6)
                metrics.SLIPPAGE.labels("modelled").set(found.slippage.modelled_ppm / 1e6)
            if found.reasons:
                metrics.TRIPWIRES.labels(action).inc()

        unit.after_commit(show)

    async def _judge_shadow(self, unit: UnitOfWork, close_ms: int) -> None:
        """Promote a shadow that has lasted long enough, or retire it: the record says which."""
        shadow = await store.model_at(unit.connection, "shadow")
        if shadow is None:
            return
        n_closes = await store.count_shadow_closes(
            unit.connection, shadow.sha256, shadow.since_ms, close_ms
        )
        if n_closes < self._settings.trainer.gates.shadow_closes_min:
            return
        gates = await self._gates(unit.connection, shadow, close_ms)
        if are_passed(gates, ALL_GATES):
            await self._place(
                unit, shadow, "champion", close_ms, gates=gates, gates_passed=True,
                reason="passed every gate", decided_by="trainer",
            )  # fmt: skip
            return
        missed = "; ".join(str(gate) for gate in gates if gate.verdict != "passed")
        await self._retire(unit, shadow, close_ms, f"its shadow ended: {missed}", gates)
        unit.publish("models.promoted", alias_left(instant_of_ms(close_ms), shadow.name, "shadow"))

    async def _rows_from_bars(
        self, connection: AsyncConnection, after_ms: int, up_to_ms: int
    ) -> tuple[tuple[str, ...], list[PairRows]]:
        """Compute the rows of every pair seen over the whole period, on the roster or not."""
        pairs = await store.pairs_seen(connection, after_ms, up_to_ms)
        features = self._settings.features
        timeframe = self._settings.trade_timeframe
        bar_ms = timeframe_ms(timeframe)
        bars = await closes_and_volumes(
            connection,
            self._settings.venue_name,
            timeframe,
            {symbol for pair in pairs for symbol in pair},
            instant_of_ms(max(0, after_ms - warmup_bars(features) * bar_ms)),
            instant_of_ms(up_to_ms + 1),
        )

        def compute() -> list[PairRows]:
            rows = []
            for pair in pairs:
                instants, history = join_legs(bars[pair[0]], bars[pair[1]])
                closes_at_ms = np.array([ms_of_instant(at) for at in instants], dtype=np.int64)
                rows.append(
                    rows_from_history(pair, closes_at_ms, history, features, after_ms=after_ms)
                )
            return rows

        return feature_names(features), await asyncio.to_thread(compute)

    def _require_samples(self, dataset: Dataset) -> None:
        n_samples, n_positive = len(dataset.labels), int(dataset.labels.sum())
        least = self._settings.trainer.min_samples
        if n_samples < least:
            raise DataError(
                f"{n_samples} labelled rows, {least} are needed: wait for more features or lower "
                "trainer.min_samples"
            )
        if n_positive in {0, n_samples}:
            raise DataError(
                f"all {n_samples} labels are {n_positive // n_samples}: one class cannot be "
                "learnt; wait for more features or change trainer.labels"
            )

    async def _register(
        self, model: StoredModel, dataset: Dataset, metrics: dict[str, Any]
    ) -> tuple[int, str]:
        """Log the run in MLflow; known bytes return the version they have."""
        # Before MLflow is imported, which happens on the registry's first use.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        settings = self._settings.trainer

        def register() -> tuple[int, str]:
            if self._settings.mlflow_url is None:
                self._folder.mkdir(parents=True, exist_ok=True)
            registered = self._registry.log_training(
                experiment="pairs",
                params={
                    **settings.labels.model_dump(),
                    **model.parameters,
                    "family": model.family,
                    "n_splits": settings.n_splits,
                    "gap_bars": settings.gap_bars,
                    "calibration": settings.calibration,
                    "dataset_id": dataset.dataset_id,
                    "n_samples": len(dataset.labels),
                    "in_sample": settings.in_sample,
                },
                metrics={name: float(value) for name, value in metrics.items()},
                model_bytes=model.to_json_bytes(),
                sha256=model.sha256,
                name=MODEL_NAME,
            )
            return registered.version, registered.run_id

        return await asyncio.to_thread(register)

    async def promote(
        self,
        unit: UnitOfWork,
        sha256: str | None,
        reason: str,
        operator: str,
        *,
        to: Literal["shadow", "champion"] = "champion",
        is_override: bool = True,
    ) -> Promoted:
        """Give a model a stage on an operator's word, from the next close on.

        Parameters
        ----------
        unit
            The transaction.
        sha256
            The model; where not given, the challenger, or the shadow if there is no challenger.
        reason, operator
            Why, and who says so; recorded.
        to
            Shadow or champion.
        is_override
            Whether it is promoted although a gate is failed or missing. A model that passed
            all of them is promoted by its gates either way.

        Raises
        ------
        PermanentError
            If there is no such model, no close has been seen, the model cannot take the stage,
            or a gate is not passed and nothing is overridden.
        """
        close_ms = self._require_close()
        if sha256 is not None:
            model = await store.find_model(unit.connection, sha256)
        else:
            model = await store.model_at(unit.connection, "challenger")
            model = model or await store.model_at(unit.connection, "shadow")
        if model is None:
            raise PermanentError(
                f"no model {sha256 or 'is challenger'}: train one with POST /train, "
                "GET /models lists them"
            )
        gates = await self._gates(unit.connection, model, close_ms)
        needed = BACKTEST_GATES if to == "shadow" else ALL_GATES
        before: Stage = "challenger" if to == "shadow" else "shadow"
        gates_passed = model.stage == before and are_passed(gates, needed)
        if not gates_passed and not is_override:
            missed = "; ".join(
                str(gate) for gate in gates if gate.gate in needed and gate.verdict != "passed"
            )
            raise PermanentError(
                f"model {model.sha256[:12]} is {model.stage} and cannot become {to} by its gates "
                f"({missed or 'all passed'}): wait for the evidence, or override with a reason"
            )
        await self._place(
            unit, model, to, close_ms, gates=gates, reason=reason, decided_by=operator,
            gates_passed=gates_passed, is_override=not gates_passed,
        )  # fmt: skip
        return Promoted(
            name=model.name,
            version=model.version,
            sha256=model.sha256,
            is_rollback=False,
            decides_after=instant_of_ms(close_ms),
            alias=to,
            is_override=not gates_passed,
            gates=[str(gate) for gate in gates],
        )

    async def roll_back(
        self,
        unit: UnitOfWork,
        reason: str,
        operator: str,
        *,
        is_override: bool = True,
        close_ms: int | None = None,
    ) -> Promoted:
        """Make the champion before the present one champion again, or none where none was.

        Parameters
        ----------
        unit
            The transaction.
        reason, operator
            Why, and who says so; recorded.
        is_override
            Whether a person decided it, rather than a tripwire.
        close_ms
            The close after which it holds; the last one handled by default.

        Raises
        ------
        PermanentError
            If there is no champion, or no close has been seen.
        """
        close_ms = self._require_close() if close_ms is None else close_ms
        champions = reign(await store.champions(unit.connection))
        if not champions:
            raise PermanentError(
                "no model is champion, so there is none to roll back: the z rule decides; "
                "POST /promote makes a champion"
            )
        if len(champions) > 1:
            earlier = await self._require_model(unit.connection, champions[-2])
            await self._place(
                unit, earlier, "champion", close_ms, reason=reason, decided_by=operator,
                is_override=is_override, is_rollback=True,
            )  # fmt: skip
            sha256, version = earlier.sha256, earlier.version
        else:
            await self._leave_no_champion(unit, close_ms, reason, operator, is_override=is_override)
            sha256, version = None, None
        return Promoted(
            name=MODEL_NAME,
            version=version,
            sha256=sha256,
            is_rollback=True,
            decides_after=instant_of_ms(close_ms),
            is_override=is_override,
        )

    async def _leave_no_champion(
        self, unit: UnitOfWork, close_ms: int, reason: str, operator: str, *, is_override: bool
    ) -> None:
        present = await store.model_at(unit.connection, "champion")
        if present is not None:
            await self._retire(unit, present, close_ms, reason)
        await store.insert_promotion(
            unit.connection,
            name=MODEL_NAME,
            stage="champion",
            sha256=None,
            from_ms=close_ms,
            reason=reason,
            decided_by=operator,
            lineage=unit.lineage,
            is_override=is_override,
            is_rollback=True,
        )
        unit.publish(
            "models.promoted",
            ModelPromoted(
                closes_at=instant_of_ms(close_ms),
                name=MODEL_NAME,
                alias="champion",
                model_version=None,
                sha256=None,
                override_reason=reason if is_override else None,
                is_rollback=True,
            ),
        )
        await self._write_artefacts(unit)

    async def _place(
        self,
        unit: UnitOfWork,
        model: StagedModel,
        stage: Literal["challenger", "shadow", "champion"],
        close_ms: int,
        *,
        reason: str,
        decided_by: str,
        gates: Sequence[GateResult] = (),
        gates_passed: bool = False,
        is_override: bool = False,
        is_rollback: bool = False,
    ) -> StagedModel:
        """Give a model a stage: record it, publish it, show it in MLflow; retire the holder."""
        connection = unit.connection
        holder = await store.model_at(connection, stage)
        if holder is not None and holder.sha256 != model.sha256:
            await self._retire(unit, holder, close_ms, f"{model.sha256[:12]} became {stage}")
        evidence = await store.load_evidence(connection, model.sha256)
        shadow = await self._shadow_evidence(connection, model, close_ms)
        await store.insert_promotion(
            connection,
            name=model.name,
            stage=stage,
            sha256=model.sha256,
            from_ms=close_ms,
            reason=reason,
            decided_by=decided_by,
            lineage=unit.lineage,
            gates=gates,
            gates_passed=gates_passed,
            evidence=evidence,
            shadow=shadow,
            shadow_days=(close_ms - model.since_ms) // _DAY_MS,
            is_override=is_override,
            is_rollback=is_rollback,
        )
        unit.publish(
            "models.promoted",
            ModelPromoted(
                closes_at=instant_of_ms(close_ms),
                name=model.name,
                alias=ALIAS_OF_STAGE[stage],
                model_version=model.version,
                sha256=model.sha256,
                override_reason=reason if is_override else None,
                is_rollback=is_rollback,
            ),
        )
        tags = {
            "stage": stage,
            "decided_by": decided_by,
            "reason": reason,
            "gates": "\n".join(str(gate) for gate in gates) or "none judged",
        }
        await asyncio.to_thread(self._show_in_mlflow, model, stage, tags)
        await self._write_artefacts(unit)
        return await self._require_model(connection, model.sha256)

    async def _retire(
        self,
        unit: UnitOfWork,
        model: StagedModel,
        close_ms: int,
        reason: str,
        gates: Sequence[GateResult] = (),
    ) -> None:
        await store.insert_promotion(
            unit.connection,
            name=model.name,
            stage="retired",
            sha256=model.sha256,
            from_ms=close_ms,
            reason=reason,
            decided_by="trainer",
            lineage=unit.lineage,
            gates=gates,
        )
        await asyncio.to_thread(
            self._show_in_mlflow, model, "retired", {"stage": "retired", "reason": reason}
        )

    def _show_in_mlflow(self, model: StagedModel, stage: Stage, tags: dict[str, str]) -> None:
        """Move the alias in MLflow from a model's last stage to its new one, and say why."""
        if model.stage is not None and model.stage in ALIAS_OF_STAGE and model.stage != stage:
            self._registry.delete_alias(model.name, ALIAS_OF_STAGE[model.stage])
        if stage in ALIAS_OF_STAGE:
            self._registry.set_alias(model.name, ALIAS_OF_STAGE[stage], model.version)
        self._registry.set_tags(model.name, model.version, tags)

    async def _write_artefacts(self, unit: UnitOfWork) -> None:
        """Write who holds which stage to files, once the decision is recorded."""
        rows = await store.list_models(unit.connection, artefacts.MOST_MODELS)
        folder = self._settings.home / "models"

        async def write() -> None:
            try:
                await asyncio.to_thread(artefacts.write, folder, rows)
            except OSError as error:
                # The record decides and nothing reads the files: a full disk stops no promotion.
                logger.warning("artefacts not written", folder=str(folder), error=str(error))

        unit.errand_after_commit(write)

    async def _require_model(self, connection: AsyncConnection, sha256: str) -> StagedModel:
        found = await store.find_model(connection, sha256)
        if found is None:
            raise PermanentError(f"model {sha256} is not recorded: train it again")
        return found


def _metrics(candidate: Candidate) -> dict[str, Any]:
    """Return the scores of a candidate's family over the folds."""
    found = candidate.validation
    mean = {} if found.mean is None else asdict(found.mean)
    return {"folds": len(found.folds), "folds_skipped": found.n_skipped, **mean}
