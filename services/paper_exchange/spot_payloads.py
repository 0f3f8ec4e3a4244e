"""The venue's answers, field for field as Binance spot gives them."""

from __future__ import annotations

from services.paper_exchange.market import Listing, Market
from services.paper_exchange.matching import PaperOrder, TimeInForce, Trade
from services.paper_exchange.payloads import (
    Payload,
    amount,
    decimal,
    fee_rate,
    filters,
    limit_price,
    order_type,
)
from services.paper_exchange.spot_wallet import SpotWallet
from shared.book.instrument import NOTIONAL_DECIMALS
from shared.book.orders import Side


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


def order(placed: PaperOrder, listing: Listing) -> Payload:
    """Return an order."""
    return {
        **_order(placed, listing),
        "stopPrice": "0",
        "icebergQty": "0",
        "time": placed.created_at_ms,
        "updateTime": placed.updated_at_ms,
        "isWorking": True,
    }


def accepted(placed: PaperOrder, listing: Listing) -> Payload:
    """Return the answer to a new order, which has not traded yet."""
    return {**_order(placed, listing), "transactTime": placed.created_at_ms, "fills": []}


def cancelled(placed: PaperOrder, listing: Listing) -> Payload:
    """Return the answer to a withdrawal."""
    return {
        **_order(placed, listing),
        "origClientOrderId": placed.client_order_id,
        "transactTime": placed.updated_at_ms,
    }


def _order(placed: PaperOrder, listing: Listing) -> Payload:
    instrument = listing.instrument
    is_maker = placed.time_in_force is TimeInForce.GTX
    return {
        "symbol": placed.symbol,
        "orderId": placed.order_id,
        "orderListId": -1,
        "clientOrderId": placed.client_order_id,
        "price": limit_price(placed, listing),
        "origQty": decimal(instrument.quantity_of(placed.quantity_lots)),
        "executedQty": decimal(instrument.quantity_of(placed.filled_lots)),
        "origQuoteOrderQty": amount(0),
        "cummulativeQuoteQty": amount(placed.quote_e8),
        "status": placed.status.value,
        "timeInForce": "GTC" if is_maker else placed.time_in_force.value,
        "type": order_type(placed),
        "side": placed.side.value.upper(),
        "workingTime": placed.created_at_ms,
        "selfTradePreventionMode": "NONE",
    }


def trade(done: Trade, listing: Listing) -> Payload:
    """Return a trade of the account; its fee is always taken in the quote."""
    instrument = listing.instrument
    return {
        "symbol": done.symbol,
        "id": done.trade_id,
        "orderId": done.order_id,
        "orderListId": -1,
        "price": decimal(instrument.price_of(done.price_ticks)),
        "qty": decimal(instrument.quantity_of(done.lots)),
        "quoteQty": amount(done.quote_e8),
        "commission": amount(done.fee_e8),
        "commissionAsset": listing.quote,
        "time": done.traded_at_ms,
        "isBuyer": done.side is Side.BUY,
        "isMaker": done.is_maker,
        "isBestMatch": True,
    }


def account(wallet: SpotWallet, fee_ppm: int, now_ms: int) -> Payload:
    """Return the balances: the quote, and every base that is held."""
    rate = fee_rate(fee_ppm)
    basis_points = fee_ppm // 100
    return {
        "makerCommission": basis_points,
        "takerCommission": basis_points,
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {"maker": rate, "taker": rate, "buyer": "0", "seller": "0"},
        "canTrade": True,
        "canWithdraw": False,
        "canDeposit": False,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": now_ms,
        "accountType": "SPOT",
        "balances": [
            {"asset": each.asset, "free": decimal(each.free), "locked": decimal(each.locked)}
            for each in wallet.balances()
        ],
        "permissions": ["SPOT"],
    }


def trade_fee(symbol: str, fee_ppm: int) -> Payload:
    """Return the fee of a symbol."""
    rate = fee_rate(fee_ppm)
    return {"symbol": symbol, "makerCommission": rate, "takerCommission": rate}
