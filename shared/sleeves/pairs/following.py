"""Which pairs are followed at a close, and their features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from shared.events.features import FeaturesComputed, PairStatus
from shared.events.ingest import BarsClosed
from shared.events.screener import PairsScreened
from shared.quant.typing import Float1D
from shared.sleeves.pairs.features import (
    FeatureSettings,
    FeatureStreams,
    Pair,
    feature_names,
    warmup_bars,
)


@dataclass(frozen=True, slots=True)
class JoinedHistory:
    """The last bars that both legs of a pair have, oldest first, each of shape (T,)."""

    close_y: Float1D
    close_x: Float1D
    volume_y: Float1D
    volume_x: Float1D


def join_legs(
    bars_y: Mapping[datetime, tuple[float, float]],
    bars_x: Mapping[datetime, tuple[float, float]],
    most: int | None = None,
) -> tuple[list[datetime], JoinedHistory]:
    """Join two legs on the closes that both have.

    Parameters
    ----------
    bars_y, bars_x
        Close and volume by instant, in order of time.
    most
        Keep only the newest bars.

    Returns
    -------
    tuple of list of datetime, JoinedHistory
        The common closes and their bars.
    """
    instants = [instant for instant in bars_y if instant in bars_x]
    if most is not None:
        instants = instants[-most:]
    columns = np.array([(*bars_y[at], *bars_x[at]) for at in instants]).reshape(-1, 4)
    close_y, volume_y, close_x, volume_x = (np.ascontiguousarray(c) for c in columns.T)
    return instants, JoinedHistory(close_y, close_x, volume_y, volume_x)


@dataclass(frozen=True, slots=True)
class Followed:
    """The pairs in force at a trade close and the screen that named them."""

    roster_closes_at_ms: int | None
    pairs: Mapping[Pair, PairStatus]


def followed_at(
    rosters: Sequence[PairsScreened], trade_closes_at_ms: int
) -> tuple[Followed, PairsScreened | None]:
    """Return what is followed at a trade close: the newest roster made before it.

    Parameters
    ----------
    rosters
        In order of their closes.
    trade_closes_at_ms
        The close. A roster made from the same close applies only from the next one on.
    """
    in_force = [roster for roster in rosters if roster.closes_at_ms < trade_closes_at_ms]
    if not in_force:
        return Followed(None, {}), None
    roster = in_force[-1]
    pairs: dict[Pair, PairStatus] = {}
    for pair in roster.pairs:
        if pair.status != "candidate":
            pairs[(pair.y, pair.x)] = pair.status
    return Followed(roster.closes_at_ms, pairs), roster


class PairFollower:
    """Keeps a feature stream per followed pair and advances them close by close.

    What it keeps is a cache: every value is a function of the bars in its window, so a
    follower rebuilt at any bar gives the same bits.

    Parameters
    ----------
    settings, timeframe
        Windows, and the trade timeframe.
    last_closes_at_ms
        Last close that was computed, with or without rows; an earlier one is late and
        computes none.
    """

    def __init__(
        self, settings: FeatureSettings, timeframe: str, last_closes_at_ms: int | None = None
    ) -> None:
        self._settings = settings
        self._timeframe = timeframe
        self._streams = FeatureStreams(settings)
        self._closes_at_ms: dict[Pair, int] = {}
        self._last_closes_at_ms = last_closes_at_ms
        self.feature_names = feature_names(settings)
        self.history_bars = warmup_bars(settings)

    def unknown_pairs(self, followed: Followed, closed: BarsClosed) -> list[Pair]:
        """Return the followed pairs for which `learn` needs the history before this close.

        A late bar changes windows that were computed without it: the pairs of its symbol
        are forgotten here and learnt anew at the next close.
        """
        if self._is_late(closed):
            late = {bar.symbol for bar in closed.bars}
            self._forget(pair for pair in self._closes_at_ms if late.intersection(pair))
            return []
        self._forget(self._closes_at_ms.keys() - followed.pairs.keys())
        return [pair for pair in followed.pairs if pair not in self._closes_at_ms]

    def _forget(self, pairs: Iterable[Pair]) -> None:
        for pair in tuple(pairs):
            self._streams.forget(pair)
            del self._closes_at_ms[pair]

    def _is_late(self, closed: BarsClosed) -> bool:
        last = self._last_closes_at_ms
        return last is not None and closed.closes_at_ms < last

    def learn(self, pair: Pair, before_ms: int, history: JoinedHistory) -> None:
        """Begin to follow a pair from its joined bars that closed before `before_ms`."""
        self._streams.learn(
            pair, history.close_y, history.close_x, history.volume_y, history.volume_x
        )
        self._closes_at_ms[pair] = before_ms - 1

    def compute(
        self, closed: BarsClosed, followed: Followed, roster: PairsScreened | None
    ) -> FeaturesComputed:
        """Return the features of every followed pair both of whose legs have this close.

        Parameters
        ----------
        closed
            All bars stored so far of the close, also those that came in an earlier event.
        followed, roster
            What `followed_at` said of the close.
        """
        bars = {bar.symbol: bar for bar in closed.bars}
        is_late, closes_at_ms = self._is_late(closed), closed.closes_at_ms
        waiting = [
            pair
            for pair in ([] if is_late else sorted(followed.pairs))
            if self._closes_at_ms[pair] < closes_at_ms
        ]
        joined = [
            (pair, bars[pair[0]], bars[pair[1]])
            for pair in waiting
            if pair[0] in bars and pair[1] in bars
        ]
        columns = np.array([(y.close, x.close, y.volume, x.volume) for _, y, x in joined])
        columns = columns.reshape(-1, 4)
        values = self._streams.update(
            [pair for pair, _, _ in joined], *np.ascontiguousarray(columns.T)
        )
        for pair, _, _ in joined:
            self._closes_at_ms[pair] = closes_at_ms
        is_full = ~np.isnan(values[:, 0])
        pairs = [
            pair for (pair, _, _), is_row in zip(joined, is_full.tolist(), strict=True) if is_row
        ]
        columns, values = columns[is_full], values[is_full]
        complete = set(pairs)
        warming_up = [f"{y}~{x}" for y, x in waiting if (y, x) not in complete]
        if not is_late:
            self._last_closes_at_ms = closed.closes_at_ms
        return FeaturesComputed(
            closes_at=closed.closes_at,
            timeframe=self._timeframe,
            roster_closes_at=roster.closes_at if roster is not None else None,
            feature_names=self.feature_names,
            y=tuple(y for y, _ in pairs),
            x=tuple(x for _, x in pairs),
            status=tuple(followed.pairs[pair] for pair in pairs),
            close_y=tuple(columns[:, 0].tolist()),
            close_x=tuple(columns[:, 1].tolist()),
            values=tuple(map(tuple, values.tolist())),
            warming_up=tuple(warming_up),
        )
