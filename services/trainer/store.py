"""SQL of the trainer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from sqlalchemy import exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.trainer.domain import ChampionChange, Stage
from services.trainer.occasions import Occasion, Pair, TrainingProgress
from services.trainer.watch import DriftFound
from shared.book.instrument import Instrument
from shared.book.orders import Side
from shared.book.slippage import FilledInBar
from shared.bus import log
from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms
from shared.database.engine import insert_rows
from shared.database.filters import within
from shared.database.tables import (
    bars,
    datasets,
    drift_checks,
    event_log,
    feature_sets,
    features,
    model_evidence,
    models,
    promotions,
    shadow_closes,
    signals,
    trainings,
    trials,
)
from shared.events.screener import PairsScreened
from shared.quant.bars import RawBars
from shared.quant.gates import BacktestEvidence, GateResult, ShadowEvidence
from shared.quant.trials import Outcome, Trial, TrialLedger
from shared.sleeves.pairs.dataset import Dataset, PairRows
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.stored_model import StoredModel


async def has_bars(connection: AsyncConnection, venue: str, timeframe: str) -> bool:
    """Tell whether there is any bar of a venue and timeframe."""
    some = exists().where(bars.c.venue == venue, bars.c.timeframe == timeframe)
    return bool((await connection.execute(select(some))).scalar_one())


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the trainer is.

    Attributes
    ----------
    last_close_ms
        The last close consumed; None before the first.
    pairs
        Active at it.
    training
        Since the last training.
    closes_since_check
        Trade closes since drift was last looked for.
    """

    last_close_ms: int | None = None
    pairs: frozenset[Pair] = frozenset()
    training: TrainingProgress = field(default_factory=TrainingProgress)
    closes_since_check: int = 0


async def load_progress(connection: AsyncConnection) -> Progress:
    """Return how far the trainer is by the record."""
    last = await log.newest_consumed_close(connection, "trainer", "features.computed")
    if last is None:
        return Progress()
    await log.wait_for_rows(connection, "features.computed", last)
    last_ms = ms_of_instant(last)
    model_at = (await connection.execute(select(func.max(models.c.trained_at_close)))).scalar()
    tried_at = (await connection.execute(select(func.max(trainings.c.closes_at)))).scalar()
    # A record from before trainings had rows knows only those that made a model.
    since_ms = max((ms_of_instant(each) for each in (model_at, tried_at) if each), default=0)
    checked_at = (await connection.execute(select(func.max(drift_checks.c.closes_at)))).scalar()
    check_ms = 0 if checked_at is None else ms_of_instant(checked_at)
    return Progress(
        last_ms,
        await _active_pairs(connection, last_ms),
        TrainingProgress(
            await count_closes(connection, since_ms, last_ms),
            model_at is not None,
            await _active_pairs(connection, since_ms),
        ),
        await count_closes(connection, check_ms, last_ms),
    )


async def _active_pairs(connection: AsyncConnection, close_ms: int) -> frozenset[Pair]:
    rows = await connection.execute(
        select(features.c.y, features.c.x)
        .where(features.c.closes_at == instant_of_ms(close_ms))
        .where(features.c.status == "active")
    )
    return frozenset((row.y, row.x) for row in rows)


async def insert_training(
    connection: AsyncConnection,
    close_ms: int,
    occasion: Occasion,
    lineage: Mapping[str, str],
    *,
    sha256: str | None = None,
    fault: str | None = None,
) -> None:
    """Record what a training was for, and the model it made or why it made none."""
    row = {
        "closes_at": instant_of_ms(close_ms),
        "occasion": occasion.kind,
        "reason": occasion.reason,
        "sha256": sha256,
        "fault": fault,
        **lineage,
    }
    await connection.execute(insert(trainings).values(**row))


async def list_trainings(connection: AsyncConnection, limit: int) -> Sequence[Any]:
    """Return trainings, newest first, those that made no model included."""
    rows = await connection.execute(
        select(trainings).order_by(trainings.c.training_id.desc()).limit(limit)
    )
    return rows.all()


async def feature_rows(
    connection: AsyncConnection, after_ms: int, up_to_ms: int
) -> tuple[tuple[str, ...], list[PairRows]]:
    """Return the newest feature set's names and its rows by pair, ascending in time."""
    await log.wait_for_rows(connection, "features.computed", instant_of_ms(up_to_ms))
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
    await log.wait_for_rows(connection, "features.computed", instant_of_ms(up_to_ms))
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


async def insert_dataset(
    connection: AsyncConnection,
    dataset: Dataset,
    name: str,
    label: LabelSettings,
    period_ms: tuple[int, int],
    lineage: Mapping[str, str],
    *,
    is_in_sample: bool,
) -> None:
    """Record what models were trained on; the same rows are the same dataset."""
    row = {
        "dataset_id": dataset.dataset_id,
        "name": name,
        "from_closes_at": instant_of_ms(max(0, period_ms[0])),
        "to_closes_at": instant_of_ms(period_ms[1]),
        "n_rows": len(dataset.labels),
        "n_positive": int(dataset.labels.sum()),
        "manifest": {
            "feature_names": list(dataset.feature_names),
            "label": label.model_dump(),
            "in_sample": is_in_sample,
        },
        **lineage,
    }
    await insert_rows(connection, datasets, [row])


async def insert_model(
    connection: AsyncConnection,
    dataset_id: str,
    model: StoredModel,
    name: str,
    version: int,
    run_id: str,
    metrics: Mapping[str, Any],
    lineage: Mapping[str, str],
) -> None:
    """Record a model; the same bytes are the same model."""
    known = {
        "sha256": model.sha256,
        "name": name,
        "model_version": version,
        "document": model.to_json_bytes(),
        "dataset_id": dataset_id,
        "trained_at_close": instant_of_ms(model.trained_to_ms),
        "metrics": dict(metrics),
        "mlflow_run_id": run_id,
        **lineage,
    }
    await insert_rows(connection, models, [known])


async def load_ledger(connection: AsyncConnection) -> TrialLedger:
    """Return every trial ever recorded, the oldest first."""
    rows = await connection.execute(select(trials).order_by(trials.c.made))
    return TrialLedger(
        Trial(row.subject, row.parameters, row.dataset_id, Outcome(row.loss, row.sharpe_ratio))
        for row in rows
    )


async def save_ledger(
    connection: AsyncConnection, ledger: TrialLedger, lineage: Mapping[str, str]
) -> None:
    """Record the trials of a ledger; those recorded already stay as they are."""
    rows = [
        {
            "trial_id": trial.trial_id,
            "subject": trial.subject,
            "parameters": dict(trial.parameters),
            "dataset_id": trial.dataset_id,
            "loss": trial.outcome.loss,
            "sharpe_ratio": trial.outcome.sharpe_ratio,
            **lineage,
        }
        for trial in ledger.trials
    ]
    await insert_rows(connection, trials, rows)


async def save_evidence(
    connection: AsyncConnection,
    sha256: str,
    measured_to_ms: int,
    evidence: BacktestEvidence,
    lineage: Mapping[str, str],
) -> None:
    """Record what the backtest of a training showed of the recipe of a model."""
    row = {
        "sha256": sha256,
        "measured_to": instant_of_ms(measured_to_ms),
        "evidence": evidence_document(evidence),
        **lineage,
    }
    await insert_rows(connection, model_evidence, [row])


async def load_evidence(connection: AsyncConnection, sha256: str) -> BacktestEvidence | None:
    """Return what the backtest showed of a model, None where none was made."""
    row = await connection.execute(
        select(model_evidence.c.evidence).where(model_evidence.c.sha256 == sha256)
    )
    found = row.scalar_one_or_none()
    return None if found is None else TypeAdapter(BacktestEvidence).validate_python(found)


def evidence_document(evidence: BacktestEvidence) -> dict[str, Any]:
    """Return evidence as JSON, in which what is not finite is a text: JSON has no such number."""

    def spelled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: spelled(each) for name, each in value.items()}
        if isinstance(value, float) and not math.isfinite(value):
            return repr(value)
        return value

    found: dict[str, Any] = spelled(asdict(evidence))
    return found


async def insert_promotion(
    connection: AsyncConnection,
    *,
    name: str,
    stage: Stage,
    sha256: str | None,
    from_ms: int,
    decided_by: str,
    lineage: Mapping[str, str],
    reason: str,
    gates: Sequence[GateResult] = (),
    gates_passed: bool = False,
    evidence: BacktestEvidence | None = None,
    shadow: ShadowEvidence | None = None,
    shadow_days: int | None = None,
    cv_roc_auc: float | None = None,
    is_override: bool = False,
    is_rollback: bool = False,
) -> None:
    """Record who gave a model a stage, from which close, and on what evidence."""
    row: dict[str, Any] = {
        "name": name,
        "alias": stage,
        "sha256": sha256,
        "from_closes_at": instant_of_ms(from_ms),
        "mode": "paper",
        "cv_roc_auc": cv_roc_auc,
        "gates_passed": gates_passed,
        "is_override": is_override,
        "is_rollback": is_rollback,
        "override_reason": reason if is_override else None,
        "reason": reason,
        "decided_by": decided_by,
        "gates": [asdict(gate) for gate in gates],
        "shadow_days": shadow_days if shadow is not None else None,
        **lineage,
    }
    if evidence is not None:
        row |= {
            "sharpe_net": evidence.performance.sharpe_ratio,
            "max_drawdown": evidence.performance.max_drawdown,
            "deflated_sharpe": evidence.deflated_sharpe,
            "backtest_overfitting_probability": evidence.overfitting_probability,
            "n_trials": evidence.n_trials,
        }
    await connection.execute(insert(promotions).values(**row))


@dataclass(frozen=True, slots=True)
class StagedModel:
    """A recorded model and the stage it is at.

    Attributes
    ----------
    stage
        None of one that was recorded before there were stages.
    since
        The close after which it has the stage.
    """

    name: str
    sha256: str
    version: int
    trained_at_ms: int
    stage: Stage | None
    since_ms: int


_STAGED = """
    SELECT models.name, models.sha256, model_version, trained_at_close, alias, from_closes_at
    FROM models LEFT JOIN LATERAL (
        SELECT alias, from_closes_at FROM promotions WHERE promotions.sha256 = models.sha256
        ORDER BY promotion_id DESC LIMIT 1
    ) AS newest ON true
"""


async def model_at(connection: AsyncConnection, stage: Stage) -> StagedModel | None:
    """Return the newest model at a stage."""
    rows = await connection.execute(
        text(f"{_STAGED} WHERE alias = :stage ORDER BY from_closes_at DESC LIMIT 1"),
        {"stage": stage},
    )
    return _staged(rows.one_or_none())


async def find_model(connection: AsyncConnection, sha256: str) -> StagedModel | None:
    """Return a model and its stage."""
    rows = await connection.execute(
        text(f"{_STAGED} WHERE models.sha256 = :sha256"),
        {"sha256": sha256},
    )
    return _staged(rows.one_or_none())


def _staged(row: Any | None) -> StagedModel | None:
    if row is None:
        return None
    return StagedModel(
        row.name,
        row.sha256,
        row.model_version,
        ms_of_instant(row.trained_at_close),
        row.alias,
        0 if row.from_closes_at is None else ms_of_instant(row.from_closes_at),
    )


async def champions(connection: AsyncConnection) -> list[ChampionChange]:
    """Return every change of the champion, oldest first."""
    rows = await connection.execute(
        select(promotions.c.sha256, promotions.c.is_rollback)
        .where(promotions.c.alias == "champion")
        .order_by(promotions.c.promotion_id)
    )
    return [ChampionChange(row.sha256, row.is_rollback) for row in rows]


async def model_document(connection: AsyncConnection, sha256: str) -> bytes:
    """Return the bytes of a recorded model."""
    found = await connection.execute(select(models.c.document).where(models.c.sha256 == sha256))
    document: bytes = found.scalar_one()
    return document


async def save_drift(
    connection: AsyncConnection,
    sha256: str | None,
    close_ms: int,
    found: DriftFound,
    action: str,
    lineage: Mapping[str, str],
) -> None:
    """Record a check of a model, or of fills, and what a tripped wire did."""
    row = {
        "sha256": sha256,
        "closes_at": instant_of_ms(close_ms),
        "features": [asdict(feature) for feature in found.features],
        "calibration_gap": found.calibration_gap,
        "walk_log_odds": found.walk_log_odds,
        "slippage": None if found.slippage is None else asdict(found.slippage),
        "is_tripped": bool(found.reasons),
        "action": action,
        "reasons": list(found.reasons),
        **lineage,
    }
    await insert_rows(connection, drift_checks, [row])


async def list_drift(connection: AsyncConnection, limit: int) -> Sequence[Any]:
    """Return checks of drift, newest first."""
    rows = await connection.execute(
        select(drift_checks)
        .order_by(drift_checks.c.closes_at.desc(), drift_checks.c.sha256.nulls_last())
        .limit(limit)
    )
    return rows.all()


async def count_closes(connection: AsyncConnection, after_ms: int, up_to_ms: int) -> int:
    """Return how many closes had features after one and up to another."""
    rows = await connection.execute(
        select(func.count(features.c.closes_at.distinct()))
        .where(features.c.closes_at > instant_of_ms(after_ms))
        .where(features.c.closes_at <= instant_of_ms(up_to_ms))
    )
    return rows.scalar_one()


async def fills_in_bars(
    connection: AsyncConnection,
    venue: str,
    timeframe: str,
    instruments: Mapping[str, Instrument],
    after_ms: int,
    before_ms: int,
) -> list[FilledInBar]:
    """Return the fills of a period, each with the bar it came about in.

    Those before trading was last resumed are left out: a person has seen them. So are those
    of a bar that was not recorded, which say nothing of the venue.
    """
    rows = await connection.execute(
        text(
            """
            SELECT fills.symbol, fills.side, fills.lots, fills.price_ticks, bars.open, bars.volume
            FROM fills JOIN bars ON bars.venue = :venue AND bars.timeframe = :timeframe
                AND bars.symbol = fills.symbol
                AND bars.closes_at = CAST(:bar AS interval)
                    + date_bin(CAST(:bar AS interval), filled_at, '1970-01-01T00:00:00Z')
            WHERE filled_at >= greatest(CAST(:after AS timestamptz), (
                      SELECT from_closes_at FROM trading_states
                      WHERE state = 'active' ORDER BY change_id DESC LIMIT 1))
              AND filled_at < :before
            ORDER BY filled_at, client_order_id, fill_number
            """
        ),
        {
            "venue": venue,
            "timeframe": timeframe,
            "bar": timedelta(milliseconds=timeframe_ms(timeframe)),
            "after": instant_of_ms(max(0, after_ms)),
            "before": instant_of_ms(max(0, before_ms)),
        },
    )
    return [
        FilledInBar(
            instruments[row.symbol],
            Side(row.side),
            row.lots,
            row.price_ticks,
            row.open,
            row.volume,
        )
        for row in rows
        if row.symbol in instruments
    ]


async def count_shadow_closes(
    connection: AsyncConnection, sha256: str, after_ms: int, before_ms: int
) -> int:
    """Return how many closes a model has been the shadow at, between two."""
    rows = await connection.execute(
        select(func.count())
        .select_from(shadow_closes)
        .where(shadow_closes.c.sha256 == sha256)
        .where(shadow_closes.c.closes_at > instant_of_ms(after_ms))
        .where(shadow_closes.c.closes_at < instant_of_ms(before_ms))
    )
    return rows.scalar_one()


async def shadow_signals(
    connection: AsyncConnection, sha256: str, after_ms: int, before_ms: int
) -> list[Mapping[str, Any]]:
    """Return what a shadow would have decided between two closes, in order."""
    rows = await connection.execute(
        select(shadow_closes.c.signals)
        .where(shadow_closes.c.sha256 == sha256)
        .where(shadow_closes.c.closes_at > instant_of_ms(after_ms))
        .where(shadow_closes.c.closes_at < instant_of_ms(before_ms))
        .where(shadow_closes.c.signals != [])
        .order_by(shadow_closes.c.closes_at)
    )
    return [signal for found in rows.scalars() for signal in found]


async def real_signals(
    connection: AsyncConnection, after_ms: int, before_ms: int
) -> list[Mapping[str, Any]]:
    """Return what was decided between two closes, by whoever decided, in order."""
    await log.wait_for_rows(connection, "signals.raised", instant_of_ms(before_ms - 1))
    rows = await connection.execute(
        select(
            signals.c.y,
            signals.c.x,
            signals.c.action,
            signals.c.side,
            signals.c.hedge_ratio,
            signals.c.close_y,
            signals.c.close_x,
        )
        .where(signals.c.closes_at > instant_of_ms(after_ms))
        .where(signals.c.closes_at < instant_of_ms(before_ms))
        .order_by(signals.c.closes_at, signals.c.action.desc())
    )
    return [dict(row._mapping) for row in rows]


async def recorded_rosters(
    connection: AsyncConnection, after_ms: int, up_to_ms: int
) -> list[PairsScreened]:
    """Return the rosters of a period, in order of their closes."""
    rows = await connection.execute(
        select(event_log.c.payload)
        .where(event_log.c.topic == "pairs.screened")
        .where(event_log.c.closes_at > instant_of_ms(max(0, after_ms)))
        .where(event_log.c.closes_at <= instant_of_ms(up_to_ms))
        .order_by(event_log.c.seq)
    )
    return [PairsScreened.from_bytes(payload.encode()) for payload in rows.scalars()]


async def recorded_bars(
    connection: AsyncConnection,
    venue: str,
    timeframe: str,
    symbols: Collection[str],
    after_ms: int,
    up_to_ms: int,
) -> RawBars:
    """Return the bars of symbols in a period."""
    rows = await connection.execute(
        select(bars)
        .where(bars.c.venue == venue, bars.c.timeframe == timeframe)
        .where(bars.c.symbol.in_(sorted(symbols)))
        .where(bars.c.closes_at > instant_of_ms(max(0, after_ms)))
        .where(bars.c.closes_at <= instant_of_ms(up_to_ms))
        .order_by(bars.c.closes_at, bars.c.symbol)
    )
    return RawBars.from_rows(
        venue,
        timeframe,
        (
            (r.symbol, ms_of_instant(r.closes_at), r.open, r.high, r.low, r.close, r.volume)
            for r in rows
        ),
    )


async def list_models(connection: AsyncConnection, limit: int) -> Sequence[Any]:
    """Return models with the stages they were given, the last trained first."""
    rows = await connection.execute(
        text(
            """
            SELECT name, model_version, sha256, trained_at_close, metrics, mlflow_run_id,
                   convert_from(document, 'UTF8')::jsonb ->> 'family' AS family,
                   (SELECT alias FROM promotions WHERE promotions.sha256 = models.sha256
                    ORDER BY promotion_id DESC LIMIT 1) AS stage,
                   (SELECT count(*) FROM shadow_closes
                    WHERE shadow_closes.sha256 = models.sha256) AS n_shadow_closes,
                   (SELECT coalesce(json_agg(json_build_object(
                               'alias', alias, 'from', from_closes_at, 'override', is_override,
                               'rollback', is_rollback, 'reason', coalesce(reason, override_reason),
                               'decided_by', decided_by, 'gates_passed', gates_passed,
                               'gates', gates) ORDER BY promotion_id), '[]')
                    FROM promotions WHERE promotions.sha256 = models.sha256) AS promotions
            FROM models ORDER BY trained_at_close DESC, model_version DESC, name LIMIT :limit
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
