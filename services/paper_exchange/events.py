"""What the user data streams say, field for field as Binance does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from services.paper_exchange.market import Listing, Market
from services.paper_exchange.matching import NetPosition, OrderStatus, Step
from services.paper_exchange.payloads import amount, average_price, decimal, limit_price, order_type
from services.paper_exchange.spot_wallet import SpotWallet

Event = dict[str, Any]


def order_trade_update(step: Step, listing: Listing, now_ms: int) -> Event:
    """Return `ORDER_TRADE_UPDATE` of a USD-M order."""
    order, trade = step
    instrument = listing.instrument
    average = "0"
    if order.filled_lots:
        average = average_price(order.quote_e8, order.filled_lots, listing)
    return {
        "e": "ORDER_TRADE_UPDATE",
        "E": now_ms,
        "T": order.updated_at_ms,
        "o": {
            "s": order.symbol,
            "c": order.client_order_id,
            "S": order.side.value.upper(),
            "o": order_type(order),
            "f": order.time_in_force.value,
            "q": decimal(instrument.quantity_of(order.quantity_lots)),
            "p": limit_price(order, listing),
            "ap": average,
            "sp": "0",
            "x": _execution_type(step),
            "X": order.status.value,
            "i": order.order_id,
            "l": decimal(instrument.quantity_of(trade.lots if trade else 0)),
            "z": decimal(instrument.quantity_of(order.filled_lots)),
            "L": decimal(instrument.price_of(trade.price_ticks)) if trade else "0",
            "N": listing.quote,
            "n": amount(trade.fee_e8 if trade else 0),
            "T": trade.traded_at_ms if trade else order.updated_at_ms,
            "t": trade.trade_id if trade else 0,
            "b": "0",
            "a": "0",
            "m": trade.is_maker if trade else False,
            "R": order.reduce_only,
            "wt": "CONTRACT_PRICE",
            "ot": order_type(order),
            "ps": "BOTH",
            "cp": False,
            "rp": amount(trade.realised_e8 if trade else 0),
            "pP": False,
            "V": "NONE",
            "pm": "NONE",
            "gtd": 0,
        },
    }


def account_update(
    reason: str,
    market: Market,
    wallet_e8: int,
    positions: Mapping[str, NetPosition],
    market_at_ms: int,
    now_ms: int,
) -> Event:
    """Return `ACCOUNT_UPDATE` of the USD-M wallet and of changed positions."""
    return {
        "e": "ACCOUNT_UPDATE",
        "E": now_ms,
        "T": now_ms,
        "a": {
            "m": reason,
            "B": [
                {
                    "a": market.asset,
                    "wb": amount(wallet_e8),
                    "cw": amount(wallet_e8),
                    "bc": "0",
                }
            ],
            "P": [
                _position(market.listings[symbol], position, market_at_ms)
                for symbol, position in positions.items()
            ],
        },
    }


def _position(listing: Listing, position: NetPosition, market_at_ms: int) -> Event:
    instrument, entry, profit_e8 = listing.instrument, "0", 0
    if position.lots:
        entry = average_price(position.cost_e8, position.lots, listing)
        ticks = listing.last_price_ticks(market_at_ms) or 0
        profit_e8 = instrument.notional_e8(ticks, position.lots) - position.cost_e8
    return {
        "s": listing.venue_symbol,
        "pa": decimal(instrument.quantity_of(position.lots)),
        "ep": entry,
        "bep": entry,
        "cr": "0",
        "up": amount(profit_e8),
        "mt": "cross",
        "iw": "0",
        "ps": "BOTH",
    }


def execution_report(step: Step, listing: Listing, now_ms: int) -> Event:
    """Return `executionReport` of a spot order."""
    order, trade = step
    instrument = listing.instrument
    is_cancelled = order.status is OrderStatus.CANCELED
    return {
        "e": "executionReport",
        "E": now_ms,
        "s": order.symbol,
        "c": order.client_order_id,
        "S": order.side.value.upper(),
        "o": order_type(order),
        "f": "GTC" if order_type(order) == "LIMIT_MAKER" else order.time_in_force.value,
        "q": decimal(instrument.quantity_of(order.quantity_lots)),
        "p": limit_price(order, listing),
        "P": "0",
        "F": "0",
        "g": -1,
        "C": order.client_order_id if is_cancelled else "",
        "x": _execution_type(step),
        "X": order.status.value,
        "r": "NONE",
        "i": order.order_id,
        "l": decimal(instrument.quantity_of(trade.lots if trade else 0)),
        "z": decimal(instrument.quantity_of(order.filled_lots)),
        "L": decimal(instrument.price_of(trade.price_ticks)) if trade else "0",
        "n": amount(trade.fee_e8 if trade else 0),
        "N": listing.quote if trade else None,
        "T": trade.traded_at_ms if trade else order.updated_at_ms,
        "t": trade.trade_id if trade else -1,
        "w": order.is_open,
        "m": trade.is_maker if trade else False,
        "O": order.created_at_ms,
        "Z": amount(order.quote_e8),
        "Y": amount(trade.quote_e8 if trade else 0),
        "Q": "0",
        "W": order.created_at_ms,
        "V": "NONE",
    }


def account_position(wallet: SpotWallet, bases: Iterable[str], now_ms: int) -> Event:
    """Return `outboundAccountPosition` of the spot wallet: the quote and some bases."""
    return {
        "e": "outboundAccountPosition",
        "E": now_ms,
        "u": now_ms,
        "B": [
            {"a": each.asset, "f": decimal(each.free), "l": decimal(each.locked)}
            for each in wallet.balances(bases)
        ],
    }


def _execution_type(step: Step) -> str:
    """Return what has just happened: `NEW`, `TRADE`, `CANCELED` or `EXPIRED`."""
    return "TRADE" if step.trade is not None else step.order.status.value
