"""Checks of drift at closes, and what a tripped wire does."""

from __future__ import annotations

import asyncio

from services.trainer import metrics, store
from services.trainer.promotion import Promotion
from services.trainer.watch import DriftFound, watch_champion, watch_fills
from shared.bus.consumer import UnitOfWork
from shared.clock import instant_of_ms, timeframe_ms
from shared.database.instruments import load_instruments
from shared.events.trainer import DriftTripped, TripwireAction
from shared.settings import Settings
from shared.sleeves.pairs.dataset import make_dataset
from shared.sleeves.pairs.stored_model import StoredModel


class Tripwires:
    """Holds the champion against its training, and fills against the model of them.

    Parameters
    ----------
    settings
        Of the process.
    promotion
        Takes a champion back where a wire says so.
    """

    def __init__(self, settings: Settings, promotion: Promotion) -> None:
        self._settings = settings
        self._promotion = promotion

    async def check_fills(self, unit: UnitOfWork, close_ms: int) -> None:
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

    async def check_champion(
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
            return watch_champion(
                model, names, training, present, outcomes, drift,
                bar_ms=bar_ms, spread_space=self._settings.features.spread_space,
            )  # fmt: skip

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
            await self._promotion.roll_back(unit, close_ms, reason, "tripwire", is_override=False)
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
            if found.walk_log_odds is not None:
                metrics.WALK_LOG_ODDS.set(found.walk_log_odds)
            if found.slippage is not None:
                metrics.SLIPPAGE.labels("realised").set(found.slippage.realised_ppm / 1e6)
                metrics.SLIPPAGE.labels("modelled").set(found.slippage.modelled_ppm / 1e6)
            if found.reasons:
                metrics.TRIPWIRES.labels(action).inc()

        unit.after_commit(show)
