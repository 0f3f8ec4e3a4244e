"""Runs one other backtesting engine on orders decided beforehand and prints its seconds.

Usage: `run.py ENGINE FILE`. The file is an npz with `opens_at_ns` (T,), prices `open` and
`close` (T, S), `legs` (P, 2), `size` (T, P, 2), signed units to trade at the open of each bar,
0 for none, and `fee`. Loading data, imports and the first, compiling run are not timed.
"""

from __future__ import annotations

import json
import sys
import time
from decimal import Decimal

import numpy as np
import pandas as pd


def best_of(work, repeats):
    """Return the shortest time some work took, in seconds."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def run_vectorbt(data):
    """Trade all pairs at once, each a group of two columns that share their cash."""
    import vectorbt

    legs = data["legs"]
    n_closes, n_pairs = len(data["close"]), len(legs)
    index = pd.to_datetime(data["opens_at_ns"])
    columns = pd.MultiIndex.from_product([range(n_pairs), ("y", "x")])
    price = pd.DataFrame(data["open"][:, legs.ravel()], index, columns)
    close = pd.DataFrame(data["close"][:, legs.ravel()], index, columns)
    sizes = data["size"].reshape(n_closes, -1)
    held = np.round(np.cumsum(sizes, axis=0), 8)
    before = np.vstack([np.zeros(sizes.shape[1]), held[:-1]])
    is_entry, is_exit = (before == 0) & (held != 0), (before != 0) & (held == 0)

    def frame(values):
        return pd.DataFrame(values, index, columns)

    signals = {
        "entries": frame(is_entry & (held > 0)),
        "exits": frame(is_exit & (before > 0)),
        "short_entries": frame(is_entry & (held < 0)),
        "short_exits": frame(is_exit & (before < 0)),
        "size": frame(np.abs(sizes)),
    }

    def work():
        portfolio = vectorbt.Portfolio.from_signals(
            close, price=price, fees=float(data["fee"]), group_by=0, cash_sharing=True,
            init_cash=1e6, freq="5min", **signals,
        )  # fmt: skip
        portfolio.value()

    work()
    return best_of(work, 3), n_closes * n_pairs


def run_backtesting(data):
    """Trade one leg of the first pair: the engine knows one instrument; half a pair-close a bar."""
    from backtesting import Backtest, Strategy

    symbol = data["legs"][0, 0]
    frame = pd.DataFrame(
        {
            "Open": data["open"][:, symbol],
            "High": np.maximum(data["open"], data["close"])[:, symbol],
            "Low": np.minimum(data["open"], data["close"])[:, symbol],
            "Close": data["close"][:, symbol],
        },
        pd.to_datetime(data["opens_at_ns"]),
    )
    # An order sent at a close trades at the next open.
    sizes = np.append(data["size"][1:, 0, 0], 0.0)

    class Follow(Strategy):
        def init(self):
            pass

        def next(self):
            size = sizes[len(self.data) - 1]
            if size > 0:
                self.buy(size=max(1, round(size)))
            elif size < 0:
                self.sell(size=max(1, round(-size)))

    def work():
        Backtest(frame, Follow, cash=1e9, commission=float(data["fee"]), margin=0.1).run()

    work()
    return best_of(work, 2), len(frame) / 2


def run_nautilustrader(data):
    """Trade the first pair: two instruments, market orders."""
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.config import LoggingConfig, StrategyConfig
    from nautilus_trader.model.currencies import USDT
    from nautilus_trader.model.data import Bar, BarType
    from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
    from nautilus_trader.model.identifiers import InstrumentId, Symbol, TraderId, Venue
    from nautilus_trader.model.instruments import CryptoPerpetual
    from nautilus_trader.model.objects import Currency, Money, Price, Quantity
    from nautilus_trader.trading.strategy import Strategy

    venue = Venue("SIM")
    y, x = data["legs"][0]
    instruments, bars = [], []
    for leg, symbol in (("Y", y), ("X", x)):
        name = f"{leg}USDT"
        instruments.append(
            CryptoPerpetual(
                instrument_id=InstrumentId(Symbol(name), venue),
                raw_symbol=Symbol(name),
                base_currency=Currency.from_str("BTC"),
                quote_currency=USDT,
                settlement_currency=USDT,
                is_inverse=False,
                price_precision=8,
                price_increment=Price.from_str("0.00000001"),
                size_precision=4,
                size_increment=Quantity.from_str("0.0001"),
                max_quantity=None,
                min_quantity=None,
                max_notional=None,
                min_notional=None,
                max_price=None,
                min_price=None,
                margin_init=Decimal("0.05"),
                margin_maint=Decimal("0.02"),
                maker_fee=Decimal(str(float(data["fee"]))),
                taker_fee=Decimal(str(float(data["fee"]))),
                ts_event=0,
                ts_init=0,
            )
        )
        bar_type = BarType.from_str(f"{name}.SIM-5-MINUTE-LAST-EXTERNAL")
        high = np.maximum(data["open"], data["close"])[:, symbol]
        low = np.minimum(data["open"], data["close"])[:, symbol]
        at_ns = data["opens_at_ns"].tolist()
        for n in range(len(at_ns)):
            closes_ns = at_ns[n] + 300 * 10**9
            bars.append(
                Bar(
                    bar_type,
                    Price(data["open"][n, symbol], 8),
                    Price(high[n], 8),
                    Price(low[n], 8),
                    Price(data["close"][n, symbol], 8),
                    Quantity(1e6, 4),
                    closes_ns,
                    closes_ns,
                )
            )
    due = {}
    sizes = data["size"][:, 0]
    for n in np.flatnonzero(sizes.any(axis=1)).tolist():
        due[int(data["opens_at_ns"][n])] = sizes[n].tolist()

    class Follow(Strategy):
        def __init__(self):
            super().__init__(StrategyConfig(strategy_id="FOLLOW-1"))

        def on_start(self):
            for instrument in instruments:
                self.subscribe_bars(
                    BarType.from_str(f"{instrument.id.symbol}.SIM-5-MINUTE-LAST-EXTERNAL")
                )

        def on_bar(self, bar):
            if bar.bar_type.instrument_id != instruments[1].id:
                return
            for instrument, size in zip(instruments, due.get(bar.ts_event, ()), strict=False):
                if size:
                    self.submit_order(
                        self.order_factory.market(
                            instrument_id=instrument.id,
                            order_side=OrderSide.BUY if size > 0 else OrderSide.SELL,
                            quantity=Quantity(abs(size), 4),
                        )
                    )

    def timed():
        engine = BacktestEngine(
            BacktestEngineConfig(
                trader_id=TraderId("BENCH-001"), logging=LoggingConfig(bypass_logging=True)
            )
        )
        engine.add_venue(
            venue=venue,
            oms_type=OmsType.NETTING,
            account_type=AccountType.MARGIN,
            base_currency=None,
            starting_balances=[Money(10_000_000, USDT)],
            default_leverage=Decimal(10),
        )
        for instrument in instruments:
            engine.add_instrument(instrument)
        engine.add_data(bars)
        engine.add_strategy(Follow())
        began = time.perf_counter()
        engine.run()
        seconds = time.perf_counter() - began
        if not engine.cache.orders_closed_count():
            raise RuntimeError("no order was filled")
        engine.dispose()
        return seconds

    return min(timed() for _ in range(2)), len(data["close"])


ENGINES = {
    "backtesting.py": run_backtesting,
    "nautilustrader": run_nautilustrader,
    "vectorbt": run_vectorbt,
}

if __name__ == "__main__":
    with np.load(sys.argv[2]) as loaded:
        given = dict(loaded)
    seconds, pair_closes = ENGINES[sys.argv[1]](given)
    json.dump({"seconds": seconds, "pair_closes": pair_closes}, sys.stdout)
