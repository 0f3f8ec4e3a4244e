"""Use cases of signals."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from services.signals import store
from shared.bus.consumer import UnitOfWork
from shared.bus.log import newest_consumed_close
from shared.clock import ms_of_instant
from shared.errors import ContractError
from shared.events.features import FeaturesComputed
from shared.events.signals import SignalsRaised
from shared.events.trainer import ModelPromoted
from shared.settings import Settings
from shared.sleeves.pairs.model import LogisticModel
from shared.sleeves.pairs.rules import PairTrade, decide_signals

Champions = list[tuple[int, LogisticModel]]


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
        self._champions: Champions = []
        self._last_closes_at_ms: int | None = None

    async def reload(self, connection: AsyncConnection) -> None:
        """Take open trades and champions from the record."""
        self._trades = await store.load_trades(connection)
        last = await newest_consumed_close(connection, "signals", "features.computed")
        self._last_closes_at_ms = None if last is None else ms_of_instant(last)
        self._champions = [
            (promoted.closes_at_ms, await _load_model(connection, promoted))
            for promoted in await store.consumed_promotions(connection)
            if promoted.alias == "champion"
        ]

    async def take_model(self, promoted: ModelPromoted, unit: UnitOfWork) -> None:
        """Take a promoted champion; it decides from the first close after the promotion."""
        if promoted.alias != "champion":
            return
        model = await _load_model(unit.connection, promoted)
        champions = sorted(
            [*self._champions, (promoted.closes_at_ms, model)], key=lambda champion: champion[0]
        )

        def keep() -> None:
            self._champions = champions

        unit.after_commit(keep)

    async def decide(self, computed: FeaturesComputed, unit: UnitOfWork) -> None:
        """Decide, record and publish the signals of a close."""
        in_force = [m for from_ms, m in self._champions if from_ms < computed.closes_at_ms]
        raised, trades = decide_signals(
            self._trades,
            computed,
            self._settings.signals,
            self._settings.features.spread_space,
            in_force[-1] if in_force else None,
            self._last_closes_at_ms,
        )
        last_closes_at_ms = max(computed.closes_at_ms, self._last_closes_at_ms or 0)
        await store.insert_signals(unit.connection, raised, unit.lineage)
        await store.save_trades(unit.connection, self._trades, trades)
        unit.publish("signals.raised", raised)

        def keep() -> None:
            self._trades = trades
            self._last_closes_at_ms = last_closes_at_ms

        unit.after_commit(keep)

    async def adopt(self, raised: SignalsRaised, unit: UnitOfWork) -> None:
        """Take in signals that somebody published by hand; the rule's own trades stay."""
        await store.insert_signals(unit.connection, raised, unit.lineage)
        unit.publish("signals.raised", raised)


async def _load_model(connection: AsyncConnection, promoted: ModelPromoted) -> LogisticModel:
    """Load a model by the hash its promotion recorded.

    Raises
    ------
    ContractError
        If there is no such model, or its bytes have another hash.
    """
    document = await store.model_document(connection, promoted.sha256)
    if document is None:
        raise ContractError(
            f"promotion of model {promoted.sha256}, which is not recorded: train it first"
        )
    model = LogisticModel.from_json_bytes(document)
    if model.sha256 != promoted.sha256:
        raise ContractError(
            f"model {promoted.sha256} has the hash {model.sha256}: it was changed and is refused"
        )
    return model
