"""Use cases of features."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from services.features import store
from shared.bus.consumer import Routes, UnitOfWork
from shared.bus.log import newest_consumed_close
from shared.clock import ms_of_instant
from shared.events.features import FeaturesComputed
from shared.events.ingest import BarsClosed
from shared.events.screener import PairsScreened
from shared.settings import Settings
from shared.sleeves.pairs.following import PairFollower, followed_at

_ROSTERS_KEPT = 4


class Features:
    """Follows the roster and computes its features.

    Parameters
    ----------
    settings
        Of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._follower = PairFollower(settings.features, settings.trade_timeframe)
        self._rosters: list[PairsScreened] = []

    @property
    def routes(self) -> Routes:
        """What features does with what it reads."""
        bars = f"bars.{self._settings.trade_timeframe}"
        return Routes(
            handlers={"pairs.screened": self.follow_roster, bars: self.compute_close},
            adopters={"features.computed": self.adopt},
            reload=self.reload,
            at_once=frozenset({bars}),
            recorders={"features.computed": store.feature_rows},
        )

    async def reload(self, connection: AsyncConnection) -> None:
        """Take the rosters from the log; feature streams are learnt again when needed."""
        self._rosters = await store.consumed_rosters(connection, _ROSTERS_KEPT)
        timeframe = self._settings.trade_timeframe
        last = await newest_consumed_close(connection, "features", f"bars.{timeframe}")
        self._follower = PairFollower(
            self._settings.features, timeframe, None if last is None else ms_of_instant(last)
        )

    async def follow_roster(self, roster: PairsScreened, unit: UnitOfWork) -> None:
        """Remember a roster; it is in force from the first trade close after its own."""
        rosters = sorted([*self._rosters, roster], key=lambda r: r.closes_at)[-_ROSTERS_KEPT:]

        def keep() -> None:
            self._rosters = rosters

        unit.after_commit(keep)

    async def compute_close(self, closed: BarsClosed, unit: UnitOfWork) -> None:
        """Compute and publish the features of a close."""
        followed, roster = followed_at(self._rosters, closed.closes_at_ms)
        legs = {symbol for pair in followed.pairs for symbol in pair}
        absent = legs - {bar.symbol for bar in closed.bars}
        if absent:
            earlier = await store.bars_at(unit.connection, closed, absent)
            closed = closed.model_copy(update={"bars": (*closed.bars, *earlier)})
        unknown = self._follower.unknown_pairs(followed, closed)
        if unknown:
            histories = await store.joined_histories(
                unit.connection, closed, unknown, self._follower.history_bars
            )
            for pair, history in histories.items():
                self._follower.learn(pair, closed.closes_at_ms, history)
        computed = self._follower.compute(closed, followed, roster)
        unit.publish("features.computed", computed)

    async def adopt(self, computed: FeaturesComputed, unit: UnitOfWork) -> None:
        """Take in features that somebody published by hand."""
        unit.publish("features.computed", computed)
