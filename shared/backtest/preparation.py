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
    return Prepared(market, settings, start_ms, end_ms, screens, table, inputs)


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
