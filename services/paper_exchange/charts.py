"""What the venue shows of its prices: bars, tickers and funding, in Binance's shapes.

Prices leave as the shortest decimals that read back as the same floats: whoever reads them
holds, to the bit, the bar that orders trade against.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from services.paper_exchange.candles import Candle
from services.paper_exchange.market import Listing
from shared.book.arithmetic import PARTS_PER_MILLION
from shared.book.ledger import FUNDING_INTERVAL_MS
from shared.clock import TIMEFRAME_MS

Payload = dict[str, Any]
KlineRow = list[Any]

DAY_MS = TIMEFRAME_MS["1d"]


def kline(candle: Candle) -> KlineRow:
    """Return a bar as `klines` gives it; what nobody recorded (numbers of trades) is zero."""
    return [
        candle.opens_at_ms,
        shortest(candle.open),
        shortest(candle.high),
        shortest(candle.low),
        shortest(candle.close),
        shortest(candle.volume),
        candle.closes_at_ms - 1,
        _quote_volume(candle),
        0,
        "0",
        "0",
        "0",
    ]


def kline_event(
    listing: Listing, interval: str, candle: Candle, now_ms: int, *, is_closed: bool
) -> Payload:
    """Return a bar as the stream `<symbol>@kline_<interval>` gives it."""
    return {
        "e": "kline",
        "E": now_ms,
        "s": listing.venue_symbol,
        "k": {
            "t": candle.opens_at_ms,
            "T": candle.closes_at_ms - 1,
            "s": listing.venue_symbol,
            "i": interval,
            "f": 0,
            "L": 0,
            "o": shortest(candle.open),
            "c": shortest(candle.close),
            "h": shortest(candle.high),
            "l": shortest(candle.low),
            "v": shortest(candle.volume),
            "n": 0,
            "x": is_closed,
            "q": _quote_volume(candle),
            "V": "0",
            "Q": "0",
            "B": "0",
        },
    }


def price(listing: Listing, at_ms: int) -> Payload:
    """Return the last price as `ticker/price` gives it."""
    last = listing.last_price(at_ms)
    return {"symbol": listing.venue_symbol, "price": shortest(last or 0.0), "time": at_ms}


def ticker(listing: Listing, at_ms: int) -> Payload:
    """Return the last day as `ticker/24hr` gives it, zeros before the first bar."""
    day = _last_day(listing, at_ms)
    change = Decimal(repr(day.close)) - Decimal(repr(day.open))
    percent = change / Decimal(repr(day.open)) * 100 if day.open else Decimal(0)
    return {
        "symbol": listing.venue_symbol,
        "priceChange": f"{change:f}",
        "priceChangePercent": f"{percent:.3f}",
        "weightedAvgPrice": shortest(day.close),
        "prevClosePrice": shortest(day.open),
        "lastPrice": shortest(day.close),
        "lastQty": "0",
        "openPrice": shortest(day.open),
        "highPrice": shortest(day.high),
        "lowPrice": shortest(day.low),
        "volume": shortest(day.volume),
        "quoteVolume": _quote_volume(day),
        "openTime": at_ms - DAY_MS,
        "closeTime": at_ms,
        "firstId": 0,
        "lastId": 0,
        "count": 0,
    }


def mini_ticker_event(listing: Listing, at_ms: int, now_ms: int) -> Payload:
    """Return the last day as the stream `<symbol>@miniTicker` gives it."""
    day = _last_day(listing, at_ms)
    return {
        "e": "24hrMiniTicker",
        "E": now_ms,
        "s": listing.venue_symbol,
        "c": shortest(day.close),
        "o": shortest(day.open),
        "h": shortest(day.high),
        "l": shortest(day.low),
        "v": shortest(day.volume),
        "q": _quote_volume(day),
    }


def ticker_event(listing: Listing, at_ms: int, now_ms: int) -> Payload:
    """Return the last day as the stream `<symbol>@ticker` gives it."""
    shown = ticker(listing, at_ms)
    return {
        **mini_ticker_event(listing, at_ms, now_ms),
        "e": "24hrTicker",
        "p": shown["priceChange"],
        "P": shown["priceChangePercent"],
        "w": shown["weightedAvgPrice"],
        "Q": "0",
        "O": shown["openTime"],
        "C": shown["closeTime"],
        "F": 0,
        "L": 0,
        "n": 0,
    }


def premium_index(listing: Listing, at_ms: int, now_ms: int, funding_ppm: int) -> Payload:
    """Return mark price and funding as `premiumIndex` gives them.

    The mark is the last price. The rate is what every position pays, long or short, because
    no funding series is recorded.
    """
    last = shortest(listing.last_price(at_ms) or 0.0)
    return {
        "symbol": listing.venue_symbol,
        "markPrice": last,
        "indexPrice": last,
        "estimatedSettlePrice": last,
        "lastFundingRate": funding_rate(funding_ppm),
        "interestRate": "0",
        "nextFundingTime": (at_ms // FUNDING_INTERVAL_MS + 1) * FUNDING_INTERVAL_MS,
        "time": now_ms,
    }


def mark_price_event(listing: Listing, at_ms: int, now_ms: int, funding_ppm: int) -> Payload:
    """Return mark price and funding as the stream `<symbol>@markPrice` gives them."""
    shown = premium_index(listing, at_ms, now_ms, funding_ppm)
    return {
        "e": "markPriceUpdate",
        "E": now_ms,
        "s": listing.venue_symbol,
        "p": shown["markPrice"],
        "i": shown["indexPrice"],
        "P": shown["estimatedSettlePrice"],
        "r": shown["lastFundingRate"],
        "T": shown["nextFundingTime"],
    }


def past_funding(
    listing: Listing, start_ms: int | None, end_ms: int, limit: int, funding_ppm: int
) -> list[Payload]:
    """Return funding instants with their marks as `fundingRate` gives them, ascending."""
    earliest_ms = max(listing.opens_at_ms, 0 if start_ms is None else start_ms)
    first = -(-earliest_ms // FUNDING_INTERVAL_MS)
    last = end_ms // FUNDING_INTERVAL_MS
    numbers = range(first, last + 1)
    chosen = numbers[-limit:] if start_ms is None else numbers[:limit]
    instants = [number * FUNDING_INTERVAL_MS for number in chosen]
    return [
        {
            "symbol": listing.venue_symbol,
            "fundingTime": at_ms,
            "fundingRate": funding_rate(funding_ppm),
            "markPrice": shortest(mark),
        }
        for at_ms in instants
        if (mark := listing.last_price(at_ms)) is not None
    ]


def funding_info(listings: Mapping[str, Listing]) -> list[Payload]:
    """Return the funding interval of every symbol as `fundingInfo` gives it."""
    return [
        {
            "symbol": symbol,
            "adjustedFundingRateCap": "0.02",
            "adjustedFundingRateFloor": "-0.02",
            "fundingIntervalHours": FUNDING_INTERVAL_MS // TIMEFRAME_MS["1h"],
            "disclaimer": False,
        }
        for symbol in listings
    ]


def funding_rate(funding_ppm: int) -> str:
    """Return a rate in millionths as a decimal."""
    return f"{Decimal(funding_ppm) / PARTS_PER_MILLION:.8f}"


def shortest(value: float) -> str:
    """Return the shortest decimal that reads back as a float, without an exponent."""
    return f"{Decimal(repr(value)):f}"


def _quote_volume(candle: Candle) -> str:
    """Return the traded value; nobody recorded it, so at the price in the middle of the bar."""
    return f"{candle.volume * (candle.high + candle.low) / 2:.8f}"


def _last_day(listing: Listing, at_ms: int) -> Candle:
    bars = listing.bars.between(at_ms - DAY_MS, at_ms)
    if not len(bars):
        last = listing.last_price(at_ms) or 0.0
        return Candle(at_ms - DAY_MS, at_ms, last, last, last, last, 0.0)
    return Candle(
        at_ms - DAY_MS,
        at_ms,
        float(bars.open[0]),
        float(bars.high.max()),
        float(bars.low.min()),
        float(bars.close[-1]),
        round(float(bars.volume.sum()), 8),
    )
