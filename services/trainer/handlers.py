"""Use cases of the trainer."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.trainer import store
from services.trainer.domain import reign
from shared.bus.consumer import UnitOfWork
from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms
from shared.database.bars import closes_and_volumes
from shared.errors import ContractError, DataError, PermanentError
from shared.events.base import Event
from shared.events.features import FeaturesComputed
from shared.events.trainer import ModelPromoted
from shared.registry import ModelRegistry
from shared.settings import Settings
from shared.sleeves.pairs.dataset import Dataset, PairRows, make_dataset, rows_from_history
from shared.sleeves.pairs.features import feature_names, warmup_bars
from shared.sleeves.pairs.following import join_legs
from shared.sleeves.pairs.model import CrossValidation, LogisticModel, cross_validate, fit_logistic

MODEL_NAME = "pairs-logistic"
FIRST_TRAINING_CLOSES = 12
"""Closes between tries while the schedule has not made a first model yet."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that a training made challenger.

    Attributes
    ----------
    in_sample
        Whether bars from before a pair was on the roster were among the samples.
    metrics
        Out-of-sample scores of the cross-validation; counts only where no fold could be scored.
    """

    name: str
    version: int
    sha256: str
    n_samples: int
    in_sample: bool
    metrics: dict[str, Any]
    mlflow_run_id: str
    alias: Literal["challenger"] = "challenger"


@dataclass(frozen=True, slots=True)
class Promoted:
    """The champion from the first close after `decides_after` on.

    Attributes
    ----------
    version, sha256
        Of the model; empty where a rollback left none, so that the z rule decides.
    is_override
        That no gates were passed.
    """

    name: str
    version: int | None
    sha256: str | None
    is_rollback: bool
    decides_after: datetime
    alias: Literal["champion"] = "champion"
    is_override: bool = True


class Trainer:
    """Trains challengers, and promotes on an operator's word.

    Parameters
    ----------
    settings
        Of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last_close_ms: int | None = None
        self._closes_since_training = 0
        self._has_trained = False
        folder = (settings.home / "mlflow").resolve()
        uri = settings.mlflow_url or f"sqlite:///{folder / 'mlflow.db'}"
        self._folder = folder
        # A server passes artifacts on to its own store; its folders are not ours to write to.
        artifacts = "mlflow-artifacts:/" if uri.startswith("http") else str(folder / "artifacts")
        self._registry = ModelRegistry(uri, artifacts)

    async def reload(self, connection: AsyncConnection) -> None:
        """Take the last close and the closes since the last training from the record."""
        progress = await store.load_progress(connection)
        self._last_close_ms, self._closes_since_training, self._has_trained = progress

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

    async def observe(self, computed: FeaturesComputed, unit: UnitOfWork) -> None:
        """Count a close, and train when the schedule says so."""
        last_close_ms = max(computed.closes_at_ms, self._last_close_ms or 0)
        closes = self._closes_since_training + (1 if computed.rows else 0)
        if computed.rows and self._is_due(closes):
            try:
                await self._train(unit, last_close_ms)
                closes = 0
            except DataError as error:
                # Too few samples is an outcome of a scheduled training, not a failure.
                logger.info("not trained", reason=str(error))

        def keep() -> None:
            self._last_close_ms, self._closes_since_training = last_close_ms, closes

        unit.after_commit(keep)

    def _is_due(self, closes: int) -> bool:
        """Whether the schedule trains after so many closes; it looks sooner for a first model."""
        every = self._settings.trainer.train_every_closes
        if every and not self._has_trained:
            every = min(every, FIRST_TRAINING_CLOSES)
        return bool(every) and closes % every == 0

    async def train_on_request(self, unit: UnitOfWork) -> Trained:
        """Train on everything up to the last close seen.

        Raises
        ------
        PermanentError
            If no close has been seen.
        DataError
            If there are too few samples, or only one class of them.
        """
        return await self._train(unit, self._require_close())

    def _require_close(self) -> int:
        if self._last_close_ms is None:
            raise PermanentError("no close has been seen yet: wait for features, then ask again")
        return self._last_close_ms

    async def _train(self, unit: UnitOfWork, close_ms: int) -> Trained:
        """Fit a challenger on the rows up to a close; the same rows give the same model."""
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
        scores, model = await asyncio.to_thread(self._fit, dataset, from_ms, close_ms)
        mean = None if scores.mean is None else asdict(scores.mean)
        metrics = {"folds": len(scores.folds), "folds_skipped": scores.n_skipped, **(mean or {})}
        version, run_id = await self._register(model, dataset, metrics)
        await store.insert_model(
            unit.connection,
            dataset,
            model,
            MODEL_NAME,
            version,
            run_id,
            metrics,
            unit.lineage,
            is_in_sample=settings.in_sample,
        )
        await store.insert_promotion(
            unit.connection,
            name=MODEL_NAME,
            alias="challenger",
            sha256=model.sha256,
            from_ms=close_ms,
            cv_roc_auc=None if scores.mean is None else scores.mean.roc_auc,
            override_reason=None,
            decided_by="trainer",
            lineage=unit.lineage,
        )
        unit.publish(
            "models.promoted",
            ModelPromoted(
                closes_at=instant_of_ms(close_ms),
                name=MODEL_NAME,
                alias="challenger",
                model_version=version,
                sha256=model.sha256,
            ),
        )
        unit.after_commit(self._note_training)
        return Trained(
            name=MODEL_NAME,
            version=version,
            sha256=model.sha256,
            n_samples=len(dataset.labels),
            in_sample=settings.in_sample,
            metrics=metrics,
            mlflow_run_id=run_id,
        )

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

    def _note_training(self) -> None:
        self._closes_since_training, self._has_trained = 0, True

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

    def _fit(
        self, dataset: Dataset, from_ms: int, to_ms: int
    ) -> tuple[CrossValidation, LogisticModel]:
        settings = self._settings.trainer
        scores = cross_validate(
            dataset.features,
            dataset.labels,
            dataset.starts,
            dataset.ends,
            regularisation=settings.regularisation,
            n_splits=settings.n_splits,
            gap=settings.gap_bars,
        )
        model = fit_logistic(
            dataset.features,
            dataset.labels,
            dataset.feature_names,
            regularisation=settings.regularisation,
            label=settings.labels,
            trained_from_ms=from_ms,
            trained_to_ms=to_ms,
        )
        return scores, model

    async def _register(
        self, model: LogisticModel, dataset: Dataset, metrics: dict[str, Any]
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
                    "regularisation": settings.regularisation,
                    "n_splits": settings.n_splits,
                    "gap_bars": settings.gap_bars,
                    "dataset_id": dataset.dataset_id,
                    "n_samples": len(dataset.labels),
                    "in_sample": settings.in_sample,
                },
                metrics={name: float(value) for name, value in metrics.items()},
                model_bytes=model.to_json_bytes(),
                sha256=model.sha256,
                name=MODEL_NAME,
            )
            self._registry.set_alias(MODEL_NAME, "challenger", registered.version)
            return registered.version, registered.run_id

        return await asyncio.to_thread(register)

    async def promote(
        self, unit: UnitOfWork, sha256: str | None, reason: str, operator: str
    ) -> Promoted:
        """Make a model champion on an operator's word; it decides from the next close on.

        Parameters
        ----------
        unit
            The transaction.
        sha256
            The model; the newest challenger when not given.
        reason, operator
            Why the gates are overridden, and who says so; recorded.

        Raises
        ------
        PermanentError
            If there is no such model, or no close has been seen.
        """
        found = await store.find_model(unit.connection, MODEL_NAME, sha256)
        if found is None:
            raise PermanentError(
                f"no model {sha256 or 'is challenger'}: train one with POST /train, "
                "GET /models lists them"
            )
        return await self._crown(unit, found, reason, operator, is_rollback=False)

    async def roll_back(self, unit: UnitOfWork, reason: str, operator: str) -> Promoted:
        """Make the champion before the present one champion again, or none where none was.

        Parameters
        ----------
        unit
            The transaction.
        reason, operator
            Why, and who says so; recorded.

        Raises
        ------
        PermanentError
            If there is no champion, or no close has been seen.
        """
        champions = reign(await store.champions(unit.connection, MODEL_NAME))
        if not champions:
            raise PermanentError(
                "no model is champion, so there is none to roll back: the z rule decides; "
                "POST /promote makes a champion"
            )
        earlier = None
        if len(champions) > 1:
            earlier = await store.find_model(unit.connection, MODEL_NAME, champions[-2])
        return await self._crown(unit, earlier, reason, operator, is_rollback=True)

    async def _crown(
        self,
        unit: UnitOfWork,
        model: tuple[str, int] | None,
        reason: str,
        operator: str,
        *,
        is_rollback: bool,
    ) -> Promoted:
        """Record, publish and show in MLflow who is champion from the next close on."""
        close_ms = self._require_close()
        sha256, version = model or (None, None)
        await store.insert_promotion(
            unit.connection,
            name=MODEL_NAME,
            alias="champion",
            sha256=sha256,
            from_ms=close_ms,
            cv_roc_auc=None,
            override_reason=reason,
            decided_by=operator,
            lineage=unit.lineage,
            is_rollback=is_rollback,
        )
        unit.publish(
            "models.promoted",
            ModelPromoted(
                closes_at=instant_of_ms(close_ms),
                name=MODEL_NAME,
                alias="champion",
                model_version=version,
                sha256=sha256,
                override_reason=reason,
                is_rollback=is_rollback,
            ),
        )
        if version is None:
            await asyncio.to_thread(self._registry.delete_alias, MODEL_NAME, "champion")
        else:
            await asyncio.to_thread(self._registry.set_alias, MODEL_NAME, "champion", version)
        return Promoted(
            name=MODEL_NAME,
            version=version,
            sha256=sha256,
            is_rollback=is_rollback,
            decides_after=instant_of_ms(close_ms),
        )
