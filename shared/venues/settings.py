"""Settings of the market the fleet trades on: what the paper venue shows, what ingest follows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field

from shared.clock import ms_of_instant


class MarketSettings(BaseModel, frozen=True, extra="forbid"):
    """Where the paper venue takes its market from.

    Attributes
    ----------
    source
        `simulated`: made from a seed. `recorded`: the files of `bars`. `live`: the public
        data of a real exchange; only the fills are paper.
    speed
        Seconds of the market in a second of ours; a live market always has its own.
    start
        Where a simulated or recorded market stands when its venue first starts; what lies
        before it is history.
    seed, history_days
        Of the simulated market: what it is made from and how far back its bars go.
    bars
        Parquet files of the recorded market.
    exchange, exchange_url, symbols
        Of the live market: ccxt's name of the exchange, an address in place of its own, and
        the symbols to list (`BTC/USDT:USDT`).
    """

    source: Literal["simulated", "recorded", "live"] = "simulated"
    speed: float = Field(300.0, gt=0, le=100_000)
    start: AwareDatetime = datetime(2024, 1, 1, tzinfo=UTC)
    seed: int = Field(7, ge=0)
    history_days: int = Field(60, ge=1, le=3_650)
    bars: tuple[Path, ...] = ()
    exchange: Literal["binanceusdm"] = "binanceusdm"
    exchange_url: str = ""
    symbols: tuple[str, ...] = ()

    @property
    def start_ms(self) -> int:
        """Start in milliseconds since 1970."""
        return ms_of_instant(self.start)


class FollowSettings(BaseModel, frozen=True, extra="forbid"):
    """What ingest follows at the venue.

    Attributes
    ----------
    enabled
        Without it ingest only adopts what others publish.
    symbols
        The universe; empty for everything the venue lists.
    since
        First bar of the screen timeframe to fetch.
    trade_history_bars
        Bars of the trade timeframe to fetch of a symbol that enters the roster.
    grace_seconds
        How long a close waits for symbols that are late before it is published without them.
    """

    enabled: bool = True
    symbols: tuple[str, ...] = ()
    since: AwareDatetime = datetime(2025, 1, 1, tzinfo=UTC)
    trade_history_bars: int = Field(10_000, ge=0)
    grace_seconds: float = Field(2.0, ge=0, le=600)

    @property
    def since_ms(self) -> int:
        """Start of the history in milliseconds since 1970."""
        return ms_of_instant(self.since)
