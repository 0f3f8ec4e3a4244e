"""Use cases of signals."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.signals import store
from shared.bus.consumer import Routes, UnitOfWork
from shared.bus.log import newest_consumed_close
from shared.clock import ms_of_instant
from shared.errors import ContractError, DataError, PermanentError
from shared.events.features import FeaturesComputed
from shared.events.signals import SignalsRaised
from shared.events.trainer import ModelPromoted
from shared.settings import Settings
from shared.sleeves.pairs.rules import PairTrade, decide_signals
from shared.sleeves.pairs.stored_model import StoredModel

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
    model: StoredModel | None
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
        self._shadow: Promotion | None = None
        self._shadow_trades: Mapping[tuple[str, str], PairTrade] = {}
        self._last_closes_at_ms: int | None = None

    @property
    def routes(self) -> Routes:
        """What signals does with what it reads."""
        return Routes(
            handlers={"models.promoted": self.take_model, "features.computed": self.decide},
            adopters={"signals.raised": self.adopt},
            reload=self.reload,
            at_once=frozenset({"features.computed"}),
            recorders={"signals.raised": store.signal_rows},
        )

    @property
    def champion(self) -> Promotion | None:
        """What decides the next close, if anybody was ever promoted."""
        return self._champions[-1] if self._champions else None

    @property
    def challenger(self) -> Promotion | None:
        """The newest challenger."""
        return self._challenger

    @property
    def shadow(self) -> Promotion | None:
        """The model that decides beside the champion without effect."""
        return self._shadow

    async def reload(self, connection: AsyncConnection) -> None:
        """Take open trades and models from the record."""
        self._trades = await store.load_trades(connection)
        last = await newest_consumed_close(connection, "signals", "features.computed")
        self._last_closes_at_ms = None if last is None else ms_of_instant(last)
        found = await _load_promotions(connection, _load_or_refuse)
        self._champions, self._challenger, self._shadow = found
        self._shadow_trades = await _shadow_trades(connection, self._shadow)

    async def reload_models(self, unit: UnitOfWork) -> None:
        """Load every model anew by the hash its promotion recorded.

        Raises
        ------
        ContractError
            If a model is missing or its bytes have another hash; the models in use stay.
        """
        champions, challenger, shadow = await _load_promotions(unit.connection, _load)
        trades = await _shadow_trades(unit.connection, shadow)

        def keep() -> None:
            self._champions, self._challenger, self._shadow = champions, challenger, shadow
            self._shadow_trades = trades

        unit.after_commit(keep)

    async def take_model(self, promoted: ModelPromoted, unit: UnitOfWork) -> None:
        """Take a promoted model; a champion decides from the first close after the promotion."""
        taken = await _load(unit.connection, promoted)
        champions, challenger, shadow = self._champions, self._challenger, self._shadow
        if promoted.alias == "champion":
            champions = _by_close([*champions, taken])
            shadow = _still_in_shadow(shadow, promoted)
        elif promoted.alias == "shadow":
            shadow = taken
        else:
            challenger = taken
        trades = self._shadow_trades if shadow is self._shadow else {}

        def keep() -> None:
            self._champions, self._challenger, self._shadow = champions, challenger, shadow
            self._shadow_trades = trades

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
        """Decide and publish the signals of a close, and record what is remembered of them."""
        shadow_trades = await self._decide_in_shadow(computed, unit)
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
        unit.record(*store.memory_rows(self._trades, trades))
        unit.publish("signals.raised", raised)

        def keep() -> None:
            self._trades = trades
            self._shadow_trades = shadow_trades
            self._last_closes_at_ms = last_closes_at_ms

        unit.after_commit(keep)

    async def _decide_in_shadow(
        self, computed: FeaturesComputed, unit: UnitOfWork
    ) -> Mapping[tuple[str, str], PairTrade]:
        """Record what the shadow would have decided; return what it remembers."""
        shadow = self._shadow
        if (
            shadow is None
            or shadow.model is None
            or shadow.promoted.closes_at_ms >= computed.closes_at_ms
        ):
            return self._shadow_trades
        connection = unit.connection  # asked for before anything is computed
        try:
            raised, trades = decide_signals(
                self._shadow_trades,
                computed,
                self._settings.signals.model_copy(update={"signals_from": "model"}),
                self._settings.features.spread_space,
                shadow.model,
                self._last_closes_at_ms,
            )
        except (ContractError, DataError) as error:
            # What has no effect may stop nothing: the close is not counted for the shadow.
            logger.error("shadow cannot decide", sha256=shadow.model.sha256, error=str(error))
            return self._shadow_trades
        await store.save_shadow(
            connection, shadow.model.sha256, raised, len(computed.y), trades, unit.lineage
        )
        return trades

    async def adopt(self, raised: SignalsRaised, unit: UnitOfWork) -> None:
        """Take in signals that somebody published by hand; the rule's own trades stay."""
        unit.publish("signals.raised", raised)


Promotions = tuple[list[Promotion], Promotion | None, Promotion | None]
"""Champions in order of their closes, the newest challenger and the shadow."""


Load = Callable[[AsyncConnection, ModelPromoted], Awaitable[Promotion]]


async def _load_promotions(connection: AsyncConnection, load: Load) -> Promotions:
    promotions = await store.consumed_promotions(connection)
    champions = [await load(connection, p) for p in promotions if p.alias == "champion"]
    challengers = [p for p in promotions if p.alias == "challenger"]
    challenger = await load(connection, challengers[-1]) if challengers else None
    in_shadow: ModelPromoted | None = None
    for promoted in promotions:
        if promoted.alias == "shadow":
            in_shadow = promoted
        elif promoted.alias == "champion" and in_shadow and promoted.sha256 == in_shadow.sha256:
            in_shadow = None
    shadow = await load(connection, in_shadow) if in_shadow else None
    return _by_close(champions), challenger, shadow


def _still_in_shadow(shadow: Promotion | None, crowned: ModelPromoted) -> Promotion | None:
    """Return the shadow, unless it is what became champion."""
    return None if shadow and shadow.promoted.sha256 == crowned.sha256 else shadow


async def _shadow_trades(
    connection: AsyncConnection, shadow: Promotion | None
) -> Mapping[tuple[str, str], PairTrade]:
    promoted = None if shadow is None else shadow.promoted
    if promoted is None or promoted.sha256 is None:
        return {}
    return await store.load_shadow_trades(connection, promoted.sha256, promoted.closes_at)


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
    return Promotion(promoted, StoredModel.from_json_bytes(document))


async def _load_or_refuse(connection: AsyncConnection, promoted: ModelPromoted) -> Promotion:
    """Load a model, or take the promotion without it: exits must go on whatever became of it."""
    try:
        return await _load(connection, promoted)
    except ContractError as error:
        logger.error("promoted model refused", sha256=promoted.sha256, error=str(error))
        return Promotion(promoted, None, str(error))
