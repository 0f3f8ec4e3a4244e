"""The venue's answers, field for field as Binance spot gives them."""

from __future__ import annotations

from services.paper_exchange.market import Listing, Market
from services.paper_exchange.payloads import Payload, amount, filters
from shared.book.instrument import NOTIONAL_DECIMALS


def exchange_info(market: Market, source: str, now_ms: int) -> Payload:
    """Return everything that is listed, with its filters."""
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "rateLimits": [],
        "exchangeFilters": [],
        "symbols": [_symbol(listing) for listing in market.listings.values()],
        "marketSource": source,  # Binance has none: where the prices come from
    }


def _symbol(listing: Listing) -> Payload:
    instrument = listing.instrument
    return {
        "symbol": listing.venue_symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": NOTIONAL_DECIMALS,
        "quoteAsset": listing.quote,
        "quotePrecision": NOTIONAL_DECIMALS,
        "quoteAssetPrecision": NOTIONAL_DECIMALS,
        "baseCommissionPrecision": NOTIONAL_DECIMALS,
        "quoteCommissionPrecision": NOTIONAL_DECIMALS,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": False,
        "ocoAllowed": False,
        "otoAllowed": False,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            *filters(instrument),
            {
                "filterType": "NOTIONAL",
                "minNotional": amount(instrument.min_notional_e8),
                "applyMinToMarket": True,
                "maxNotional": "1000000000.00000000",
                "applyMaxToMarket": True,
                "avgPriceMins": 0,
            },
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
        # Two that Binance does not have: where the prices come from, and what they are.
        "recordedSymbol": instrument.symbol,
        "priceSource": instrument.price_source,
    }
