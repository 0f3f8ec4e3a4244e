"""A training: samples, models of every family, a backtest, and the best as challenger."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from services.trainer import store
from services.trainer.domain import MODEL_NAME
from services.trainer.stages import Stages
from services.trainer.store import StagedModel
from shared.backtest.candidates import Candidate, fit_candidate, search_candidate
from shared.backtest.evidence import JudgedFamily, fit_terms, judge_families
from shared.bus.consumer import UnitOfWork
from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms
from shared.database.bars import closes_and_volumes
from shared.database.instruments import load_instruments
from shared.errors import DataError
from shared.quant.bar_checks import check_bars
from shared.quant.gates import BACKTEST_GATES, are_passed
from shared.quant.trials import TrialLedger
from shared.registry import ModelRegistry
from shared.settings import Settings
from shared.sleeves.pairs.dataset import Dataset, PairRows, make_dataset, rows_from_history
from shared.sleeves.pairs.features import feature_names, warmup_bars
from shared.sleeves.pairs.following import join_legs
from shared.sleeves.pairs.settings import StrategySettings
from shared.sleeves.pairs.stored_model import StoredModel
from shared.venues.market import RecordedMarket

_DAY_MS = timeframe_ms("1d")


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
class _Fitted:
    """A family's model and its out-of-sample scores."""

    model: StoredModel
    metrics: dict[str, Any]

    @property
    def log_loss(self) -> float:
        return float(self.metrics["log_loss"])


class Training:
    """Trains models of every family and judges them on the record.

    Parameters
    ----------
    settings
        Of the process.
    stages
        Where the best becomes challenger.
    registry
        MLflow, which is told of every model.
    """

    def __init__(self, settings: Settings, stages: Stages, registry: ModelRegistry) -> None:
        self._settings = settings
        self._stages = stages
        self._registry = registry

    async def train(self, unit: UnitOfWork, close_ms: int) -> Trained:
        """Fit every family on the rows up to a close; the same rows give the same models.

        Raises
        ------
        DataError
            If there are too few samples, or only one class of them.
        """
        settings = self._settings.trainer
        bar_ms = timeframe_ms(self._settings.trade_timeframe)
        period_ms = (close_ms - settings.train_window_closes * bar_ms, close_ms)
        dataset = await self._samples(unit.connection, *period_ms)
        ledger = await store.load_ledger(unit.connection)
        judged, not_judged = await self._judge(unit.connection, close_ms, ledger)
        try:
            fitted = await asyncio.to_thread(self._fit, dataset, period_ms, ledger, judged)
        finally:  # a search that came to nothing was tried all the same
            await store.save_ledger(unit.connection, ledger, unit.lineage)
        await store.insert_dataset(
            unit.connection,
            dataset,
            MODEL_NAME,
            settings.labels,
            period_ms,
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
        gates = await self._stages.gates_of(unit.connection, challenger, close_ms)
        if (
            settings.auto_promote
            and challenger.stage == "challenger"
            and are_passed(gates, BACKTEST_GATES)
            and await store.model_at(unit.connection, "shadow") is None
        ):
            await self._stages.place(
                unit, challenger, "shadow", close_ms, gates=gates, decided_by="trainer",
                reason="passed every gate of the backtest", gates_passed=True,
            )  # fmt: skip
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

    async def _samples(self, connection: AsyncConnection, after_ms: int, up_to_ms: int) -> Dataset:
        """Return the labelled rows of a period, where there are enough of both classes."""
        settings = self._settings.trainer
        read_rows = self._rows_from_bars if settings.in_sample else store.feature_rows
        names, pairs = await read_rows(connection, after_ms, up_to_ms)
        dataset = make_dataset(
            pairs,
            names,
            bar_ms=timeframe_ms(self._settings.trade_timeframe),
            spread_space=self._settings.features.spread_space,
            settings=settings.labels,
        )
        n_samples, n_positive = len(dataset.labels), int(dataset.labels.sum())
        if n_samples < settings.min_samples:
            raise DataError(
                f"{n_samples} labelled rows, {settings.min_samples} are needed: wait for more "
                "features or lower trainer.min_samples"
            )
        if n_positive in {0, n_samples}:
            raise DataError(
                f"all {n_samples} labels are {n_positive // n_samples}: one class cannot be "
                "learnt; wait for more features or change trainer.labels"
            )
        return dataset

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
                (self._settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
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

    async def _make_challenger(
        self, unit: UnitOfWork, best: _Fitted, judged: JudgedFamily | None, close_ms: int
    ) -> StagedModel:
        """Let the best model of a training challenge, in place of the one before."""
        sha256 = best.model.sha256
        if judged is not None:
            await store.save_evidence(
                unit.connection, sha256, judged.end_ms, judged.evidence, unit.lineage
            )
        model = await self._stages.require_model(unit.connection, sha256)
        if model.stage == "candidate":
            reason = "best Sharpe ratio of the validation" if judged else "least log loss"
            model = await self._stages.place(
                unit, model, "challenger", close_ms, reason=reason, decided_by="trainer"
            )
        return model


def _metrics(candidate: Candidate) -> dict[str, Any]:
    """Return the scores of a candidate's family over the folds."""
    found = candidate.validation
    mean = {} if found.mean is None else asdict(found.mean)
    return {"folds": len(found.folds), "folds_skipped": found.n_skipped, **mean}
