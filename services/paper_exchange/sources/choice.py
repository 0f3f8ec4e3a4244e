"""Which source the settings name."""

from __future__ import annotations

from services.paper_exchange.settings import Settings
from services.paper_exchange.sources.interface import Source
from services.paper_exchange.sources.live import Live
from services.paper_exchange.sources.paced import Paced
from services.paper_exchange.sources.recorded import Lockstep, RecordedFeed, read_recording
from services.paper_exchange.sources.simulated import SimulatedFeed
from shared.clock import timeframe_ms
from shared.errors import SettingsError


def make_source(settings: Settings) -> Source:
    """Return the source that the settings name; a replay goes before everything else.

    Raises
    ------
    DataError
        If a recording cannot be used.
    SettingsError
        If the recorded market has no file.
    """
    market = settings.market
    if settings.replay.bars:
        replay = settings.replay
        return Lockstep(
            read_recording(replay.bars, settings.trade_timeframe, settings.ingest, replay.end_ms)
        )
    if market.source == "recorded":
        if not market.bars:
            raise SettingsError(
                "MNT_MARKET__SOURCE is recorded but no file is named: set MNT_MARKET__BARS, or "
                "MNT_MARKET__SOURCE=simulated"
            )
        recorded = read_recording(market.bars, settings.trade_timeframe, settings.ingest, None)
        start_ms = market.start_ms // recorded.bar_ms * recorded.bar_ms
        return Paced(RecordedFeed(recorded), max(start_ms, recorded.opens_at_ms), market.speed)
    if market.source == "live":
        return Live(market.exchange, market.exchange_url, market.symbols, settings.trade_timeframe)
    bar_ms = timeframe_ms(settings.trade_timeframe)
    start_ms = market.start_ms // bar_ms * bar_ms
    feed = SimulatedFeed(market.seed, start_ms, market.history_days, settings.trade_timeframe)
    return Paced(feed, start_ms, market.speed)
