"""The screen of one close, from the event in to the event out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms
from shared.events.ingest import BarsClosed
from shared.events.screener import PairsScreened, RosterPair
from shared.sleeves.pairs.carried import CarriedTests
from shared.sleeves.pairs.screen_window import ScreenWindow
from shared.sleeves.pairs.screening import (
    PairStatistics,
    RosterMember,
    Screen,
    ScreenSettings,
    screen_pairs,
    update_roster,
)


@dataclass(frozen=True, slots=True)
class ScreenedClose:
    """What one close gave.

    Attributes
    ----------
    event, screen
        The event, and the screen behind it.
    excluded
        Symbols left out, each with the reason.
    symbols_by_bars
        How many symbols are tested on how many bars, the longest first.
    """

    event: PairsScreened
    screen: Screen | None
    excluded: dict[str, str]
    symbols_by_bars: dict[int, int]


class PairScreener:
    """Screens the universe close by close.

    Parameters
    ----------
    settings, timeframe
        How to screen, and on which bars.
    roster, last_closes_at_ms
        The roster after the last screen, and its close.
    """

    def __init__(
        self,
        settings: ScreenSettings,
        timeframe: str,
        roster: Sequence[RosterMember] = (),
        last_closes_at_ms: int | None = None,
    ) -> None:
        self._settings = settings
        self._timeframe = timeframe
        self.window = ScreenWindow(
            settings.window_bars, settings.fewest_bars, timeframe_ms(timeframe)
        )
        self._carried = CarriedTests(settings)
        self.roster = tuple(roster)
        self.last_closes_at_ms = last_closes_at_ms

    def push(self, closed: BarsClosed) -> None:
        """Add bars to the window without screening, as history.

        The last `window.history_bars` closes are all that a screen looks at.
        """
        is_changed = self.window.push(
            closed.closes_at_ms,
            [bar.symbol for bar in closed.bars],
            np.array([bar.close for bar in closed.bars]),
            np.array([bar.volume for bar in closed.bars]),
        )
        if is_changed:
            self._carried.forget(closed.closes_at_ms)

    def screen(self, closed: BarsClosed, tradable: Collection[str]) -> ScreenedClose:
        """Screen a close; one that is not newer than the last only completes the window.

        A late symbol of the same close would otherwise count as another screen towards
        stability.
        """
        self.push(closed)
        present = self.window.ragged()
        if self.last_closes_at_ms is not None and closed.closes_at_ms <= self.last_closes_at_ms:
            event = self._event(closed, None)
            return ScreenedClose(event, None, present.excluded, present.symbols_by_bars)
        screen = screen_pairs(
            present.symbols,
            present.log_prices,
            present.quote_volume,
            tradable,
            self._settings,
            longest=self._carried.longest(self.window, present),
            null_smallest=self._carried.null(self.window),
        )
        self.roster = update_roster(self.roster, screen, closed.closes_at_ms, self._settings)
        self.last_closes_at_ms = closed.closes_at_ms
        event = self._event(closed, screen)
        return ScreenedClose(event, screen, present.excluded, present.symbols_by_bars)

    def _event(self, closed: BarsClosed, screen: Screen | None) -> PairsScreened:
        return PairsScreened(
            closes_at=closed.closes_at,
            timeframe=self._timeframe,
            method=self._settings.method,
            level=self._settings.level,
            n_symbols=len(screen.symbols) if screen else 0,
            n_tests=len(screen.tests.p_value) if screen else 0,
            n_accepted=int(np.count_nonzero(screen.tests.accepted)) if screen else 0,
            summary=screen.summary if screen else "not newer than the last screen: no test made",
            pairs=tuple(_roster_pair(member) for member in self.roster),
        )


def _roster_pair(member: RosterMember) -> RosterPair:
    found = member.statistics
    return RosterPair(
        y=member.y,
        x=member.x,
        status=member.status,
        accepted_screens=member.accepted_screens,
        missed_screens=member.missed_screens,
        entered_at=None if member.entered_at_ms is None else instant_of_ms(member.entered_at_ms),
        left_at=None if member.left_at_ms is None else instant_of_ms(member.left_at_ms),
        statistic=found.statistic,
        p_value=found.p_value,
        q_value=found.q_value,
        lag=found.lag,
        hedge_ratio=found.hedge_ratio,
        intercept=found.intercept,
        half_life_bars=found.half_life_bars,
        hurst=found.hurst,
        correlation=found.correlation,
        crossings=found.crossings,
        n_bars=found.n_bars,
    )


def roster_member(pair: RosterPair) -> RosterMember:
    """Return a recorded roster pair as the member it was."""
    return RosterMember(
        y=pair.y,
        x=pair.x,
        status=pair.status,
        accepted_screens=pair.accepted_screens,
        missed_screens=pair.missed_screens,
        entered_at_ms=None if pair.entered_at is None else ms_of_instant(pair.entered_at),
        left_at_ms=None if pair.left_at is None else ms_of_instant(pair.left_at),
        statistics=PairStatistics(
            y=pair.y,
            x=pair.x,
            statistic=pair.statistic,
            p_value=pair.p_value,
            q_value=pair.q_value,
            lag=pair.lag,
            hedge_ratio=pair.hedge_ratio,
            intercept=pair.intercept,
            half_life_bars=pair.half_life_bars,
            hurst=pair.hurst,
            correlation=pair.correlation,
            crossings=pair.crossings,
            n_bars=pair.n_bars,
        ),
    )
