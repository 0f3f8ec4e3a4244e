"""SQL of the trainer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.trainer.domain import ChampionChange
from shared.bus import log
from shared.clock import instant_of_ms, ms_of_instant
from shared.database.engine import insert_rows
from shared.database.filters import within
from shared.database.tables import bars, datasets, feature_sets, features, models, promotions
from shared.sleeves.pairs.dataset import Dataset, PairRows
from shared.sleeves.pairs.model import LogisticModel


async def has_bars(connection: AsyncConnection, venue: str, timeframe: str) -> bool:
    """Tell whether there is any bar of a venue and timeframe."""
    some = exists().where(bars.c.venue == venue, bars.c.timeframe == timeframe)
    return bool((await connection.execute(select(some))).scalar_one())


async def load_progress(connection: AsyncConnection) -> tuple[int | None, int, bool]:
    """Return the last close consumed, the closes since the last training, if there was one."""
    last = await log.newest_consumed_close(connection, "trainer", "features.computed")
    if last is None:
        return None, 0, False
    trained_at = (await connection.execute(select(func.max(models.c.trained_at_close)))).scalar()
    since_training = select(func.count(features.c.closes_at.distinct())).where(
        features.c.closes_at <= last
    )
    if trained_at is not None:
        since_training = since_training.where(features.c.closes_at > trained_at)
    closes = (await connection.execute(since_training)).scalar_one()
    return ms_of_instant(last), int(closes), trained_at is not None


async def feature_rows(
    connection: AsyncConnection, after_ms: int, up_to_ms: int
) -> tuple[tuple[str, ...], list[PairRows]]:
    """Return the newest feature set's names and its rows by pair, ascending in time."""
    newest = (
        await connection.execute(
            select(features.c.feature_set)
            .where(features.c.closes_at <= instant_of_ms(up_to_ms))
            .order_by(features.c.closes_at.desc())
            .limit(1)
        )
    ).scalar_one_or_none()
    if newest is None:
        return (), []
    names = await connection.execute(
        select(feature_sets.c.names).where(feature_sets.c.feature_set == newest)
    )
    rows = await connection.execute(
        select(
            features.c.y,
            features.c.x,
            features.c.closes_at,
            features.c.close_y,
            features.c.close_x,
            features.c.feature_values,
        )
        .where(features.c.feature_set == newest)
        .where(features.c.closes_at > instant_of_ms(max(0, after_ms)))
        .where(features.c.closes_at <= instant_of_ms(up_to_ms))
        .order_by(features.c.closes_at)
    )
    by_pair: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        by_pair[(row.y, row.x)].append(row)
    return tuple(names.scalar_one()), [
        PairRows(
            y,
            x,
            np.array([row.feature_values for row in found], dtype=np.float64),
            np.array([row.close_y for row in found], dtype=np.float64),
            np.array([row.close_x for row in found], dtype=np.float64),
            np.array([ms_of_instant(row.closes_at) for row in found], dtype=np.int64),
        )
        for (y, x), found in by_pair.items()
    ]


async def pairs_seen(
    connection: AsyncConnection, after_ms: int, up_to_ms: int
) -> list[tuple[str, str]]:
    """Return the pairs that have rows in a period, and those of the last roster."""
    rows = await connection.execute(
        text(
            """
            SELECT y, x FROM features WHERE closes_at > :after AND closes_at <= :up_to
            UNION
            SELECT y, x FROM roster WHERE status <> 'candidate' AND closes_at =
                (SELECT max(closes_at) FROM screens WHERE closes_at <= :up_to)
            ORDER BY y, x
            """
        ),
        {"after": instant_of_ms(max(0, after_ms)), "up_to": instant_of_ms(up_to_ms)},
    )
    return [(row.y, row.x) for row in rows]


async def insert_model(
    connection: AsyncConnection,
    dataset: Dataset,
    model: LogisticModel,
    name: str,
    version: int,
    run_id: str,
    metrics: Mapping[str, Any],
    lineage: Mapping[str, str],
    *,
    is_in_sample: bool,
) -> None:
    """Record a dataset and the model trained on it; the same bytes are the same model."""
    row = {
        "dataset_id": dataset.dataset_id,
        "name": name,
        "from_closes_at": instant_of_ms(max(0, model.trained_from_ms)),
        "to_closes_at": instant_of_ms(model.trained_to_ms),
        "n_rows": len(dataset.labels),
        "n_positive": int(dataset.labels.sum()),
        "manifest": {
            "feature_names": list(dataset.feature_names),
            "label": model.label.model_dump(),
            "in_sample": is_in_sample,
        },
        **lineage,
    }
    await insert_rows(connection, datasets, [row])
    known = {
        "sha256": model.sha256,
        "name": name,
        "model_version": version,
        "document": model.to_json_bytes(),
        "dataset_id": dataset.dataset_id,
        "trained_at_close": instant_of_ms(model.trained_to_ms),
        "metrics": dict(metrics),
        "mlflow_run_id": run_id,
        **lineage,
    }
    await insert_rows(connection, models, [known])


async def insert_promotion(
    connection: AsyncConnection,
    *,
    name: str,
    alias: str,
    sha256: str | None,
    from_ms: int,
    cv_roc_auc: float | None,
    override_reason: str | None,
    decided_by: str,
    lineage: Mapping[str, str],
    is_rollback: bool = False,
) -> None:
    """Record who gave a model an alias, from which close, and on what evidence."""
    statement = insert(promotions).values(
        name=name,
        alias=alias,
        sha256=sha256,
        from_closes_at=instant_of_ms(from_ms),
        mode="paper",
        cv_roc_auc=cv_roc_auc,
        gates_passed=False,
        is_override=override_reason is not None,
        is_rollback=is_rollback,
        override_reason=override_reason,
        decided_by=decided_by,
        **lineage,
    )
    await connection.execute(statement.on_conflict_do_nothing())


async def champions(connection: AsyncConnection, name: str) -> list[ChampionChange]:
    """Return every change of the champion, oldest first."""
    rows = await connection.execute(
        select(promotions.c.sha256, promotions.c.is_rollback)
        .where(promotions.c.name == name)
        .where(promotions.c.alias == "champion")
        .order_by(promotions.c.promotion_id)
    )
    return [ChampionChange(row.sha256, row.is_rollback) for row in rows]


async def find_model(
    connection: AsyncConnection, name: str, sha256: str | None
) -> tuple[str, int] | None:
    """Return hash and version of a model, or of the newest one."""
    query = select(models.c.sha256, models.c.model_version).where(models.c.name == name)
    if sha256 is not None:
        query = query.where(models.c.sha256 == sha256)
    row = (
        await connection.execute(query.order_by(models.c.model_version.desc()).limit(1))
    ).one_or_none()
    return None if row is None else (row.sha256, row.model_version)


async def list_models(connection: AsyncConnection, limit: int) -> Sequence[Any]:
    """Return models with the aliases they were given, newest first."""
    rows = await connection.execute(
        text(
            """
            SELECT name, model_version, sha256, trained_at_close, metrics, mlflow_run_id,
                   (SELECT coalesce(json_agg(json_build_object(
                               'alias', alias, 'from', from_closes_at, 'override', is_override,
                               'rollback', is_rollback, 'reason', override_reason,
                               'decided_by', decided_by) ORDER BY promotion_id), '[]')
                    FROM promotions WHERE promotions.sha256 = models.sha256) AS promotions
            FROM models ORDER BY model_version DESC, name LIMIT :limit
            """
        ),
        {"limit": limit},
    )
    return rows.all()


async def list_runs(
    connection: AsyncConnection, *, since: datetime | None, until: datetime | None, limit: int
) -> Sequence[Any]:
    """Return trainings with the dataset of each, newest first."""
    rows = await connection.execute(
        select(
            models.c.trained_at_close,
            models.c.name,
            models.c.model_version,
            models.c.sha256,
            models.c.mlflow_run_id,
            models.c.metrics,
            models.c.ingested_at.label("recorded_at"),
            datasets.c.dataset_id,
            datasets.c.from_closes_at,
            datasets.c.to_closes_at,
            datasets.c.n_rows,
            datasets.c.n_positive,
            datasets.c.manifest,
        )
        .join(datasets)
        .where(*within(models.c.trained_at_close, since, until))
        .order_by(models.c.trained_at_close.desc(), models.c.model_version.desc())
        .limit(limit)
    )
    return rows.all()
