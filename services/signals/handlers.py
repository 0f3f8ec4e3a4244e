"""Use cases of signals."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.signals import store
from shared.bus.consumer import UnitOfWork
from shared.bus.log import newest_consumed_close
from shared.clock import ms_of_instant
from shared.errors import ContractError, PermanentError
from shared.events.features import FeaturesComputed
from shared.events.signals import SignalsRaised
from shared.events.trainer import ModelPromoted
from shared.settings import Settings
from shared.sleeves.pairs.rules import PairTrade, decide_signals
from shared.sleeves.pairs.stored_model import Forecaster, model_from_bytes

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Promotion:
    """An alias taken by a model, or left without one; in force after its close.

    Attributes
    ----------
    model
        Loaded by the hash that the promotion recorded.
    fault
        Why its model was refused, if it was: nobody decides on entries in its place.
    """

    promoted: ModelPromoted
    model: Forecaster | None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of a feature row.

    Attributes
    ----------
    probability
        Of the label the model was trained on.
    is_enough
        Whether it reaches the threshold at which the model lets a pair be entered.
    """

    sha256: str
    version: int
    probability: float
    threshold: float
    is_enough: bool


class Signals:
    """Decides on features with the z rule or the champion model.

    Parameters
    ----------
    settings
        Of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trades: dict[tuple[str, str], PairTrade] = {}
        self._champions: list[Promotion] = []
        self._challenger: Promotion | None = None
        self._last_closes_at_ms: int | None = None

    @property
    def champion(self) -> Promotion | None:
        """What decides the next close, if anybody was ever promoted."""
        return self._champions[-1] if self._champions else None

    @property
    def challenger(self) -> Promotion | None:
        """The newest challenger."""
        return self._challenger

    async def reload(self, connection: AsyncConnection) -> None:
        """Take open trades and models from the record."""
        self._trades = await store.load_trades(connection)
        last = await newest_consumed_close(connection, "signals", "features.computed")
        self._last_closes_at_ms = None if last is None else ms_of_instant(last)
        self._champions, self._challenger = await _load_promotions(connection, _load_or_refuse)

    async def reload_models(self, unit: UnitOfWork) -> None:
        """Load every model anew by the hash its promotion recorded.

        Raises
        ------
        ContractError
            If a model is missing or its bytes have another hash; the models in use stay.
        """
        champions, challenger = await _load_promotions(unit.connection, _load)

        def keep() -> None:
            self._champions, self._challenger = champions, challenger

        unit.after_commit(keep)

    async def take_model(self, promoted: ModelPromoted, unit: UnitOfWork) -> None:
        """Take a promoted model; a champion decides from the first close after the promotion."""
        taken = await _load(unit.connection, promoted)
        champions, challenger = self._champions, self._challenger
        if promoted.alias == "champion":
            champions = _by_close([*champions, taken])
        else:
            challenger = taken

        def keep() -> None:
            self._champions, self._challenger = champions, challenger

        unit.after_commit(keep)

    def predict(self, features: Mapping[str, float]) -> Prediction:
        """Return what the champion says of a feature row; nothing is recorded.

        Raises
        ------
        PermanentError
            If there is no champion.
        ContractError
            If a feature is missing, or one is given that the model does not know.
        """
        champion = self.champion
        if champion is not None and champion.fault is not None:
            raise PermanentError(champion.fault)
        if champion is None or champion.model is None or champion.promoted.model_version is None:
            raise PermanentError(
                "no model is champion: train one with POST /train of the trainer and promote it "
                "with its POST /promote"
            )
        model = champion.model
        unknown = sorted(features.keys() - set(model.feature_names))
        if unknown:
            raise ContractError(
                f"model {model.sha256[:12]} does not know {', '.join(unknown)}: give exactly "
                f"{', '.join(model.feature_names)}"
            )
        probability = model.probability_of_row(list(features), list(features.values()))
        threshold = self._settings.signals.probability_threshold
        return Prediction(
            model.sha256,
            champion.promoted.model_version,
            probability,
            threshold,
            probability >= threshold,
        )

    async def decide(self, computed: FeaturesComputed, unit: UnitOfWork) -> None:
        """Decide, record and publish the signals of a close."""
        in_force = [
            champion
            for champion in self._champions
            if champion.promoted.closes_at_ms < computed.closes_at_ms
        ]
        champion = in_force[-1] if in_force else None
        thresholds = self._settings.signals
        if champion is not None and champion.fault is not None and thresholds.signals_from != "z":
            # Entries wait for a model that can be trusted; exits go on, as they ask no model.
            thresholds = thresholds.model_copy(update={"signals_from": "model"})
        raised, trades = decide_signals(
            self._trades,
            computed,
            thresholds,
            self._settings.features.spread_space,
            None if champion is None else champion.model,
            self._last_closes_at_ms,
        )
        last_closes_at_ms = max(computed.closes_at_ms, self._last_closes_at_ms or 0)
        await store.save_decisions(unit.connection, raised, self._trades, trades, unit.lineage)
        unit.publish("signals.raised", raised)

        def keep() -> None:
            self._trades = trades
            self._last_closes_at_ms = last_closes_at_ms

        unit.after_commit(keep)

    async def adopt(self, raised: SignalsRaised, unit: UnitOfWork) -> None:
        """Take in signals that somebody published by hand; the rule's own trades stay."""
        await store.insert_signals(unit.connection, raised, unit.lineage)
        unit.publish("signals.raised", raised)


Promotions = tuple[list[Promotion], Promotion | None]
"""Champions in order of their closes, and the newest challenger."""


Load = Callable[[AsyncConnection, ModelPromoted], Awaitable[Promotion]]


async def _load_promotions(connection: AsyncConnection, load: Load) -> Promotions:
    promotions = await store.consumed_promotions(connection)
    champions = [await load(connection, p) for p in promotions if p.alias == "champion"]
    challengers = [p for p in promotions if p.alias == "challenger"]
    challenger = await load(connection, challengers[-1]) if challengers else None
    return _by_close(champions), challenger


def _by_close(champions: Sequence[Promotion]) -> list[Promotion]:
    """Sort champions; of two promotions at one close, the later decision stays behind."""
    return sorted(champions, key=lambda champion: champion.promoted.closes_at_ms)


async def _load(connection: AsyncConnection, promoted: ModelPromoted) -> Promotion:
    """Load a model by the hash its promotion recorded.

    Raises
    ------
    ContractError
        If there is no such model, or its bytes have another hash.
    """
    if promoted.sha256 is None:
        return Promotion(promoted, None)
    document = await store.model_document(connection, promoted.sha256)
    if document is None:
        raise ContractError(
            f"promotion of model {promoted.sha256}, which is not recorded: train it first"
        )
    # Before anything of it is read.
    actual = hashlib.sha256(document).hexdigest()
    if actual != promoted.sha256:
        raise ContractError(
            f"model {promoted.sha256} has the hash {actual}: it was changed and is refused; "
            "restore it from a backup and POST /reload-model, or promote another one"
        )
    return Promotion(promoted, model_from_bytes(document))


async def _load_or_refuse(connection: AsyncConnection, promoted: ModelPromoted) -> Promotion:
    """Load a model, or take the promotion without it: exits must go on whatever became of it."""
    try:
        return await _load(connection, promoted)
    except ContractError as error:
        logger.error("promoted model refused", sha256=promoted.sha256, error=str(error))
        return Promotion(promoted, None, str(error))
