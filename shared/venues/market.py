"""A recorded market: files read, checked and cut into closes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.book.instrument import Instrument, instruments_from_bars
from shared.clock import instant_of_ms
from shared.errors import DataError
from shared.events.ingest import Bar, BarsClosed
from shared.quant.bar_checks import BarCheckSettings, CheckedBars, check_bars
from shared.quant.bars import Bars
from shared.venues.recorded import read_bar_files


@dataclass(frozen=True, eq=False, slots=True)
class RecordedMarket:
    """Checked bars of one venue in several timeframes.

    Attributes
    ----------
    checked
        By timeframe, the longest first.
    instruments
        Of the symbols that can be traded: those with bars of the trade timeframe.
    """

    venue: str
    checked: Mapping[str, CheckedBars]
    instruments: Mapping[str, Instrument]

    def closes(self, after_ms: int | None, up_to_ms: int | None) -> list[int]:
        """Return every instant at which a bar of any timeframe closes, in order."""
        found = [
            checked.accepted.between(after_ms, up_to_ms).closes()
            for checked in self.checked.values()
        ]
        return [int(close) for close in np.unique(np.concatenate(found))]

    def events_at(self, closes_at_ms: int) -> Iterator[BarsClosed]:
        """Yield what closed at an instant, the longest timeframe first."""
        for checked in self.checked.values():
            bars = checked.accepted.at(closes_at_ms)
            if len(bars):
                yield bars_closed(bars)


def load_market(
    paths: Iterable[Path],
    timeframes: Sequence[str],
    trade_timeframe: str,
    settings: BarCheckSettings,
    now_ms: int,
) -> RecordedMarket:
    """Read and check recorded bars.

    Parameters
    ----------
    paths
        Parquet files.
    timeframes
        Timeframes that must be among them.
    trade_timeframe
        The one whose symbols can be traded.
    settings, now_ms
        For the checks; no bar closes after `now_ms`.

    Raises
    ------
    DataError
        If a file is unusable, a timeframe is missing, or files are of several venues.
    """
    raw = {bars.timeframe: bars for bars in read_bar_files(paths)}
    for timeframe in (*timeframes, trade_timeframe):
        if timeframe not in raw:
            raise DataError(
                f"the files hold bars of {', '.join(raw)} but {timeframe} is needed: "
                f"add a file of {timeframe} bars or change trade_timeframe"
            )
    venues = sorted({bars.venue for bars in raw.values()})
    if len(venues) > 1:
        raise DataError(f"the files are of several venues, {', '.join(venues)}: replay one")
    checked = {
        timeframe: check_bars(bars, now_ms=now_ms, known=None, settings=settings, prior={})
        for timeframe, bars in raw.items()
    }
    return RecordedMarket(
        venues[0], checked, instruments_from_bars(checked[trade_timeframe].accepted)
    )


def bars_closed(bars: Bars) -> BarsClosed:
    """Return the bars of one close as the event that publishes them."""
    symbols = [bars.symbols[code] for code in bars.symbol_code.tolist()]
    columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return BarsClosed(
        closes_at=instant_of_ms(int(bars.closes_at_ms[0])),
        venue=bars.venue,
        timeframe=bars.timeframe,
        bars=tuple(
            Bar(symbol=symbol, open=o, high=h, low=low, close=c, volume=v)
            for symbol, (o, h, low, c, v) in zip(symbols, values, strict=True)
        ),
    )
