"""What a backtest needs that does not depend on thresholds, sizes and costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from shared.backtest.digests import bars_digest
from shared.backtest.feature_table import FeatureTable, compute_feature_table
from shared.backtest.trading import TradeInputs, trade_inputs
from shared.clock import instant_of_ms
from shared.errors import DataError
from shared.events.screener import PairsScreened
from shared.quant.bars import Bars
from shared.sleeves.pairs.screener import PairScreener
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME, StrategySettings
from shared.venues.market import RecordedMarket, bars_closed

_SECTIONS = ("trade_timeframe", "ingest", "screener", "features")
"""Settings that screens and features depend on."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Screens and features of a period.

    Attributes
    ----------
    settings
        It was prepared with.
    start_ms, end_ms
        The period: the first close traded is the first after the start, the last one at or
        before the end.
    """

    market: RecordedMarket
    settings: StrategySettings
    start_ms: int | None
    end_ms: int | None
    screens: tuple[PairsScreened, ...]
    table: FeatureTable
    inputs: TradeInputs

    @cached_property
    def seen(self) -> list[Bars]:
        """The bars up to the end of the period, of each timeframe."""
        return [each.accepted.between(None, self.end_ms) for each in self.market.checked.values()]

    @cached_property
    def bars_digest(self) -> str:
        """Digest of the bars seen."""
        return bars_digest(self.seen)

    def fits(self, settings: StrategySettings) -> bool:
        """Tell whether settings would have given the same screens and features."""
        return all(getattr(settings, s) == getattr(self.settings, s) for s in _SECTIONS)


def prepare(
    market: RecordedMarket,
    settings: StrategySettings,
    *,
    start_ms: int | None,
    end_ms: int | None,
) -> Prepared:
    """Screen recorded bars and compute the features of the pairs found.

    Parameters
    ----------
    market
        Checked bars and instruments.
    settings
        What decides.
    start_ms, end_ms
        The period; bars up to the start are history.
    """
    screens = tuple(_screen(market, settings, start_ms, end_ms))
    return prepare_with(market, settings, screens, start_ms=start_ms, end_ms=end_ms)


def prepare_with(
    market: RecordedMarket,
    settings: StrategySettings,
    screens: Sequence[PairsScreened],
    *,
    start_ms: int | None,
    end_ms: int | None,
) -> Prepared:
    """Compute the features of the pairs that given screens found.

    Parameters
    ----------
    market, settings, start_ms, end_ms
        As for `prepare`.
    screens
        In order of their closes; each is in force after its own close until the next.
    """
    bars = market.checked[settings.trade_timeframe].accepted
    closes = bars.between(start_ms, end_ms).closes()
    table = compute_feature_table(bars, closes, screens, settings.features)
    inputs = trade_inputs(table, bars, market.instruments, settings.features.spread_space)
    return Prepared(market, settings, start_ms, end_ms, tuple(screens), table, inputs)


def screens_up_to(
    market: RecordedMarket, settings: StrategySettings, instants_ms: Sequence[int]
) -> Iterator[PairsScreened]:
    """Yield the roster at a few instants, each from the bars up to it.

    Before each instant as many closes are screened as it takes a pair to enter or to leave;
    the closes between are history. A roster made at every close costs a hundred times as much.

    Parameters
    ----------
    market, settings
        As for `prepare`.
    instants_ms
        Ascending; one roster comes of each.

    Raises
    ------
    DataError
        If no bar closes up to the first instant.
    """
    rules = settings.screener
    n_screened = max(rules.enter_after_screens, rules.leave_after_screens)
    screener = PairScreener(rules, SCREEN_TIMEFRAME)
    bars = market.checked[SCREEN_TIMEFRAME].accepted
    tradable = frozenset(market.instruments)
    closes = bars.between(None, instants_ms[-1]).closes()
    ends = closes.searchsorted(instants_ms, "right").tolist()
    if not ends[0]:
        raise DataError(
            f"no bar of {SCREEN_TIMEFRAME} closes up to {instant_of_ms(instants_ms[0])}: start "
            "later or give older bars"
        )
    done = max(0, ends[0] - screener.window.history_bars - n_screened)
    for end in ends:
        event = None
        for place in range(done, end):
            closed = bars_closed(bars.at(int(closes[place])))
            if place < end - n_screened:
                screener.push(closed)
            else:
                event = screener.screen(closed, tradable).event
        done = end
        if event is not None:  # no bar since the instant before: its roster stays in force
            yield event


def _screen(
    market: RecordedMarket, settings: StrategySettings, start_ms: int | None, end_ms: int | None
) -> Iterator[PairsScreened]:
    """Yield the screen of every close of the period; bars up to its start are history."""
    screener = PairScreener(settings.screener, SCREEN_TIMEFRAME)
    bars = market.checked[SCREEN_TIMEFRAME].accepted
    if start_ms is not None:
        closes = bars.between(None, start_ms).closes()
        for closes_at_ms in closes[-screener.window.history_bars :].tolist():
            screener.push(bars_closed(bars.at(closes_at_ms)))
    tradable = frozenset(market.instruments)
    for closes_at_ms in bars.between(start_ms, end_ms).closes().tolist():
        yield screener.screen(bars_closed(bars.at(closes_at_ms)), tradable).event
