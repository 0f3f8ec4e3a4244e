"""The venue's answers, field for field as Binance USD-M futures gives them.

Amounts leave as decimal strings, instants as milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from services.paper_exchange.market import Listing, Market
from services.paper_exchange.matching import (
    FLAT,
    NetPosition,
    PaperOrder,
    Product,
    TimeInForce,
    Trade,
)
from services.paper_exchange.order_entry import MAX_ORDER_LOTS, MAX_PRICE_TICKS
from services.paper_exchange.store import HeldPosition, Income
from shared.book.arithmetic import PARTS_PER_MILLION
from shared.book.instrument import NOTIONAL_DECIMALS, Instrument
from shared.book.orders import Side

Payload = dict[str, Any]

MAX_NOTIONAL = "1000000000"

_NEVER_DELIVERED_MS = 4_133_404_800_000
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_ONE_E8 = Decimal(1).scaleb(-NOTIONAL_DECIMALS)


def exchange_info(market: Market, source: str, now_ms: int) -> Payload:
    """Return everything that is listed, with its filters."""
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": [],
        "exchangeFilters": [],
        "assets": [{"asset": market.asset, "marginAvailable": True, "autoAssetExchange": None}],
        "symbols": [_symbol(listing) for listing in market.listings.values()],
        "marketSource": source,  # Binance has none: where the prices come from
    }


def _symbol(listing: Listing) -> Payload:
    instrument = listing.instrument
    return {
        "symbol": listing.venue_symbol,
        "pair": listing.venue_symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": _NEVER_DELIVERED_MS,
        "onboardDate": listing.opens_at_ms,
        "status": "TRADING",
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.quote,
        "pricePrecision": instrument.price_decimals,
        "quantityPrecision": instrument.lot_decimals,
        "baseAssetPrecision": NOTIONAL_DECIMALS,
        "quotePrecision": NOTIONAL_DECIMALS,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "liquidationFee": "0",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10000,
        "maintMarginPercent": "0",
        "requiredMarginPercent": "100",
        "orderTypes": ["LIMIT", "MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        "filters": [
            *filters(instrument),
            {"filterType": "MIN_NOTIONAL", "notional": amount(instrument.min_notional_e8)},
        ],
        # Two that Binance does not have: what the recording calls it and what its prices are.
        "recordedSymbol": instrument.symbol,
        "priceSource": instrument.price_source,
    }


def filters(instrument: Instrument) -> list[Payload]:
    """Return the steps and bounds of price and quantity."""
    tick, lot = decimal(instrument.price_of(1)), decimal(instrument.quantity_of(1))
    largest = decimal(instrument.quantity_of(MAX_ORDER_LOTS))
    highest = decimal(instrument.price_of(MAX_PRICE_TICKS))
    sizes = {"minQty": lot, "maxQty": largest, "stepSize": lot}
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": highest, "tickSize": tick},
        {"filterType": "LOT_SIZE", **sizes},
        {"filterType": "MARKET_LOT_SIZE", **sizes},
    ]


def order(placed: PaperOrder, listing: Listing) -> Payload:
    """Return an order."""
    instrument = listing.instrument
    filled = decimal(instrument.quantity_of(placed.filled_lots))
    average = "0.00"
    if placed.filled_lots:
        average = average_price(placed.quote_e8, placed.filled_lots, listing)
    return {
        "orderId": placed.order_id,
        "symbol": placed.symbol,
        "status": placed.status.value,
        "clientOrderId": placed.client_order_id,
        "price": limit_price(placed, listing),
        "avgPrice": average,
        "origQty": decimal(instrument.quantity_of(placed.quantity_lots)),
        "executedQty": filled,
        "cumQty": filled,
        "cumQuote": amount(placed.quote_e8),
        "timeInForce": placed.time_in_force.value,
        "type": order_type(placed),
        "reduceOnly": placed.reduce_only,
        "closePosition": False,
        "side": placed.side.value.upper(),
        "positionSide": "BOTH",
        "stopPrice": "0",
        "workingType": "CONTRACT_PRICE",
        "priceProtect": False,
        "origType": order_type(placed),
        "priceMatch": "NONE",
        "selfTradePreventionMode": "NONE",
        "goodTillDate": 0,
        "time": placed.created_at_ms,
        "updateTime": placed.updated_at_ms,
    }


def order_type(placed: PaperOrder) -> str:
    """Return the type of an order in the words of its product."""
    if placed.price_ticks is None:
        return "MARKET"
    is_maker = placed.time_in_force is TimeInForce.GTX and placed.product is Product.SPOT
    return "LIMIT_MAKER" if is_maker else "LIMIT"


def limit_price(placed: PaperOrder, listing: Listing) -> str:
    """Return the price of a limit order; that of a market order is zero."""
    if placed.price_ticks is None:
        return "0"
    return decimal(listing.instrument.price_of(placed.price_ticks))


def trade(done: Trade, listing: Listing) -> Payload:
    """Return a trade of the account."""
    instrument = listing.instrument
    return {
        "symbol": done.symbol,
        "id": done.trade_id,
        "orderId": done.order_id,
        "side": done.side.value.upper(),
        "price": decimal(instrument.price_of(done.price_ticks)),
        "qty": decimal(instrument.quantity_of(done.lots)),
        "realizedPnl": amount(done.realised_e8),
        "quoteQty": amount(done.quote_e8),
        "commission": amount(done.fee_e8),
        "commissionAsset": listing.quote,
        "time": done.traded_at_ms,
        "positionSide": "BOTH",
        "buyer": done.side is Side.BUY,
        "maker": done.is_maker,
    }


class Account:
    """The account at one instant, as its three routes show it.

    Parameters
    ----------
    market
        Listings and the currency of the account.
    market_at_ms
        Where the market stands: positions are marked at the last close up to it.
    wallet_e8
        Capital plus realised profit less fees.
    held
        Positions by symbol.
    now_ms
        Venue time.
    """

    def __init__(
        self,
        market: Market,
        market_at_ms: int,
        wallet_e8: int,
        held: Mapping[str, HeldPosition],
        now_ms: int,
    ) -> None:
        self._market = market
        self._wallet_e8 = wallet_e8
        self._held = held
        self._now_ms = now_ms
        self._mark_ticks = {
            symbol: listing.last_price_ticks(market_at_ms)
            for symbol, listing in market.listings.items()
        }
        open_symbols = [symbol for symbol, (position, _) in held.items() if position.lots]
        self._unrealised_e8 = sum(self._profit_e8(symbol) for symbol in open_symbols)
        self._margin_e8 = sum(abs(self._notional_e8(symbol)) for symbol in open_symbols)

    def account(self, *, is_every_symbol: bool) -> Payload:
        """Return `account`; version 2 lists every symbol, version 3 the open positions."""
        totals = {
            "totalInitialMargin": amount(self._margin_e8),
            "totalMaintMargin": amount(0),
            "totalWalletBalance": amount(self._wallet_e8),
            "totalUnrealizedProfit": amount(self._unrealised_e8),
            "totalMarginBalance": amount(self._wallet_e8 + self._unrealised_e8),
            "totalPositionInitialMargin": amount(self._margin_e8),
            "totalOpenOrderInitialMargin": amount(0),
            "totalCrossWalletBalance": amount(self._wallet_e8),
            "totalCrossUnPnl": amount(self._unrealised_e8),
            "availableBalance": self._available(),
            "maxWithdrawAmount": self._available(),
        }
        asset = {
            "asset": self._market.asset,
            "walletBalance": amount(self._wallet_e8),
            "unrealizedProfit": amount(self._unrealised_e8),
            "marginBalance": amount(self._wallet_e8 + self._unrealised_e8),
            "maintMargin": amount(0),
            "initialMargin": amount(self._margin_e8),
            "positionInitialMargin": amount(self._margin_e8),
            "openOrderInitialMargin": amount(0),
            "crossWalletBalance": amount(self._wallet_e8),
            "crossUnPnl": amount(self._unrealised_e8),
            "availableBalance": self._available(),
            "maxWithdrawAmount": self._available(),
            "marginAvailable": True,
            "updateTime": self._now_ms,
        }
        symbols = self._market.listings if is_every_symbol else self._open_symbols()
        return {
            "feeTier": 0,
            "canTrade": True,
            "canDeposit": False,
            "canWithdraw": False,
            "multiAssetsMargin": False,
            "updateTime": self._now_ms,
            **totals,
            "assets": [asset],
            "positions": [self._account_position(symbol) for symbol in symbols],
        }

    def balance(self) -> list[Payload]:
        """Return `balance`: one currency."""
        return [
            {
                "accountAlias": "paper",
                "asset": self._market.asset,
                "balance": amount(self._wallet_e8),
                "crossWalletBalance": amount(self._wallet_e8),
                "crossUnPnl": amount(self._unrealised_e8),
                "availableBalance": self._available(),
                "maxWithdrawAmount": self._available(),
                "marginAvailable": True,
                "updateTime": self._now_ms,
            }
        ]

    def position_risk(self, symbol: str | None, *, is_every_symbol: bool) -> list[Payload]:
        """Return `positionRisk` of one symbol or, as `account` does, of several."""
        symbols = self._market.listings if is_every_symbol else self._open_symbols()
        return [
            {
                **self._account_position(each),
                "markPrice": self._mark(each),
                "unRealizedProfit": amount(self._profit_e8(each)),
                "liquidationPrice": "0",
                "isolatedMargin": amount(0),
                "marginAsset": self._market.asset,
                "marginType": "cross",
                "isAutoAddMargin": "false",
                "maxNotionalValue": MAX_NOTIONAL,
                "adl": 0,
            }
            for each in symbols
            if symbol in (None, each)
        ]

    def _account_position(self, symbol: str) -> Payload:
        listing = self._market.listings[symbol]
        position = self._position(symbol)
        entry = "0.0"
        if position.lots:
            entry = average_price(position.cost_e8, position.lots, listing)
        margin = amount(abs(self._notional_e8(symbol)))
        return {
            "symbol": symbol,
            "positionSide": "BOTH",
            "positionAmt": decimal(listing.instrument.quantity_of(position.lots)),
            "entryPrice": entry,
            "breakEvenPrice": entry,
            "unrealizedProfit": amount(self._profit_e8(symbol)),
            "notional": amount(self._notional_e8(symbol)),
            "initialMargin": margin,
            "maintMargin": amount(0),
            "positionInitialMargin": margin,
            "openOrderInitialMargin": amount(0),
            "leverage": "1",
            "isolated": False,
            "isolatedWallet": amount(0),
            "maxNotional": MAX_NOTIONAL,
            "updateTime": self._held[symbol].updated_at_ms if symbol in self._held else 0,
        }

    def _open_symbols(self) -> list[str]:
        return [symbol for symbol in self._held if self._position(symbol).lots]

    def _position(self, symbol: str) -> NetPosition:
        return self._held[symbol].position if symbol in self._held else FLAT

    def _notional_e8(self, symbol: str) -> int:
        ticks, position = self._mark_ticks[symbol], self._position(symbol)
        if ticks is None:  # cut off from its prices, a position stands at what it cost
            return position.cost_e8
        return self._market.listings[symbol].instrument.notional_e8(ticks, position.lots)

    def _profit_e8(self, symbol: str) -> int:
        return self._notional_e8(symbol) - self._position(symbol).cost_e8

    def _mark(self, symbol: str) -> str:
        ticks = self._mark_ticks[symbol] or 0
        return decimal(self._market.listings[symbol].instrument.price_of(ticks))

    def _available(self) -> str:
        return amount(max(0, self._wallet_e8 + self._unrealised_e8 - self._margin_e8))


def income(row: Income, asset: str) -> Payload:
    """Return one thing that changed the wallet."""
    return {
        "symbol": row.symbol,
        "incomeType": row.kind,
        "income": amount(row.income_e8),
        "asset": asset,
        "info": row.kind,
        "time": row.at_ms,
        "tranId": row.number,
        "tradeId": "" if row.kind == "FUNDING_FEE" else str(row.number),
    }


def symbol_config(symbol: str) -> Payload:
    """Return margin type and leverage of a symbol."""
    return {
        "symbol": symbol,
        "marginType": "CROSSED",
        "isAutoAddMargin": False,
        "leverage": 1,
        "maxNotionalValue": MAX_NOTIONAL,
    }


def fee_rate(fee_ppm: int) -> str:
    """Return a fee in millionths as a decimal."""
    return f"{Decimal(fee_ppm) / PARTS_PER_MILLION:f}"


def leverage_brackets(market: Market) -> list[Payload]:
    """Return `leverageBracket`: one bracket without leverage for every symbol."""
    bracket = {
        "bracket": 1,
        "initialLeverage": 1,
        "notionalCap": 1_000_000_000,
        "notionalFloor": 0,
        "maintMarginRatio": 0.0,
        "cum": 0.0,
    }
    return [{"symbol": symbol, "brackets": [bracket]} for symbol in market.listings]


def decimal(value: Decimal) -> str:
    """Return a number without an exponent."""
    return f"{value:f}"


def amount(e8: int) -> str:
    """Return an amount of the quote currency, given in 1e-8 of it."""
    return decimal(Decimal(e8).scaleb(-NOTIONAL_DECIMALS, _EXACT))


def average_price(quote_e8: int, lots: int, listing: Listing) -> str:
    """Return the price at which some lots come to an amount, to 1e-8 of the quote."""
    quote = Decimal(quote_e8).scaleb(-NOTIONAL_DECIMALS, _EXACT)
    price = _EXACT.divide(quote, listing.instrument.quantity_of(lots))
    return decimal(price.quantize(_ONE_E8, context=_EXACT))
