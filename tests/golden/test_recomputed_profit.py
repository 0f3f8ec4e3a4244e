"""The book's profit on real pairs, computed again from its fills by plain pandas."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pandas as pd
import pytest

from shared.backtest.engine import run_backtest
from shared.backtest.preparation import prepare_with
from shared.backtest.result import BacktestResult
from shared.backtest.track import pair_profits, spread_increments, symbol_profits
from shared.clock import instant_of_ms, ms_of_instant
from shared.events.screener import PairsScreened, RosterPair
from shared.events.signals import Signal
from shared.settings import as_utc, strategy_of
from shared.venues.market import load_market

BAR_MS = 300_000
EIGHT_HOURS_MS = 8 * 3_600_000
START_MS = ms_of_instant(as_utc("2024-05-06"))
# Some share a leg, so that what is held of a symbol is a net of several pairs.
PAIRS = (
    ("ETH/USDT", "BTC/USDT"),
    ("LTC/USDT", "BCH/USDT"),
    ("AVAX/USDT", "SOL/USDT"),
    ("OP/USDT", "ARB/USDT"),
    ("BTC/USDT", "LTC/USDT"),
    ("SOL/USDT", "ETH/USDT"),
)
# Costs of every kind, and so small a share of each bar that orders fill in parts.
COSTS = (
    "execution.borrow_ppm=30",
    "execution.impact_ppm=500",
    "execution.max_participation_ppm=2000",
    "portfolio.symbol_cap=1",
)


@pytest.fixture(scope="module")
def bars(data_folder: Path) -> pd.DataFrame:
    """Return real 5m bars of the pairs, 25 days."""
    symbols = sorted({symbol for pair in PAIRS for symbol in pair})
    return pd.read_parquet(
        data_folder / "crypto" / "binance_spot_5m_2024.parquet",
        filters=[
            ("symbol", "in", symbols),
            ("ts", ">=", pd.Timestamp("2024-05-01", tz="UTC")),
            ("ts", "<", pd.Timestamp("2024-05-26", tz="UTC")),
        ],
    )


@pytest.fixture(scope="module")
def result(bars: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> BacktestResult:
    path = tmp_path_factory.mktemp("bars") / "5m.parquet"
    bars.to_parquet(path)
    strategy = strategy_of(COSTS)
    market = load_market([path], (), "5m", strategy.ingest, ms_of_instant(as_utc("2025-01-01")))
    start = instant_of_ms(START_MS)
    roster = PairsScreened(
        closes_at=start, timeframe="1h", method="by hand", level=0.05, n_symbols=8, n_tests=0,
        n_accepted=0, summary="by hand",
        pairs=tuple(
            RosterPair(
                y=y, x=x, status="active", accepted_screens=1, missed_screens=0, entered_at=start,
                left_at=None, statistic=-4.0, p_value=0.01, q_value=0.01, lag=0, hedge_ratio=1.0,
                intercept=0.0, half_life_bars=10.0, hurst=0.4, correlation=0.9, crossings=50,
                n_bars=1000,
            )
            for y, x in sorted(PAIRS)
        ),
    )  # fmt: skip
    prepared = prepare_with(market, strategy, (roster,), start_ms=START_MS, end_ms=None)
    return run_backtest(prepared, strategy, account="golden")


def fills_of(result: BacktestResult) -> pd.DataFrame:
    """Return one row a fill, with what it paid or received in 1e-8 of the quote."""
    units = result.prepared.market.instruments
    rows = [
        {
            "at_ms": fill.filled_at_ms,
            "pair": fill.pair,
            "symbol": fill.symbol,
            "lots": fill.lots if fill.side.value == "buy" else -fill.lots,
            "ticks": fill.price_ticks,
            "fee": fill.fee_e8,
            "unit": 10 ** (8 - units[fill.symbol].price_decimals - units[fill.symbol].lot_decimals),
        }
        for fill in result.fills
    ]
    found = pd.DataFrame(rows)
    found["money"] = -found["lots"] * found["ticks"] * found["unit"] - found["fee"]
    return found


def marks_of(bars: pd.DataFrame, result: BacktestResult) -> pd.DataFrame:
    """Return the value of one lot of each symbol at each close, in 1e-8 of the quote."""
    closes = bars.assign(at_ms=bars["ts"].astype("int64") + BAR_MS)
    assert closes["at_ms"].min() > 10**12  # milliseconds
    wide = closes.pivot_table(index="at_ms", columns="symbol", values="close").ffill()
    for symbol in wide.columns:
        unit = result.prepared.market.instruments[symbol]
        # Halves of a tick go up, and a float cannot tell what is half of one.
        ticks = wide[symbol].map(
            lambda close, decimals=unit.price_decimals: int(
                Decimal(repr(close)).scaleb(decimals).to_integral_value(ROUND_HALF_UP)
            )
        )
        wide[symbol] = ticks * 10 ** (8 - unit.price_decimals - unit.lot_decimals)
    return wide[wide.index > START_MS].astype("int64")


def funding_of(held: pd.DataFrame, marks: pd.DataFrame) -> pd.Series[int]:
    """Return what the venue charges at each close: on the net of each symbol, rounded up."""
    due = held.index % EIGHT_HOURS_MS == 0
    notional = (held.abs() * marks)[due]
    funding = -(-notional * 100 // 1_000_000)
    borrow = -(-notional.where(held[due] < 0, 0) * 30 // 1_000_000)
    total: pd.Series[int] = (funding + borrow).sum(axis=1).reindex(held.index, fill_value=0)
    return total


def test_cash_and_equity_of_every_close_follow_from_fills_marks_fees_and_funding(
    result: BacktestResult, bars: pd.DataFrame
) -> None:
    fills, marks = fills_of(result), marks_of(bars, result)
    assert len(fills) > 200
    assert fills.groupby(["at_ms", "pair", "symbol"]).ngroups == len(fills)
    # A fill at the open of a bar is in the book at the bar's close.
    fills["at_ms"] += BAR_MS
    lots = fills.pivot_table(index="at_ms", columns="symbol", values="lots", aggfunc="sum")
    held = lots.reindex(marks.index).fillna(0).cumsum().astype("int64")
    held = held.reindex(columns=marks.columns, fill_value=0)
    paid = fills.groupby("at_ms")["money"].sum().reindex(marks.index, fill_value=0)
    funding = funding_of(held, marks)
    capital_e8 = 100_000 * 10**8
    cash = capital_e8 + (paid - funding).cumsum()
    equity = cash + (held * marks).sum(axis=1)
    assert funding.sum() > 0
    assert [point.closes_at_ms for point in result.equity] == marks.index.tolist()
    assert [point.cash_e8 for point in result.equity] == cash.tolist()
    assert [point.equity_e8 for point in result.equity] == equity.tolist()
    profit_e8 = sum(pair.profit_e8 for pair in pair_profits(result))
    assert profit_e8 == int(equity.iloc[-1]) - capital_e8
    assert sum(pair.fees_e8 for pair in pair_profits(result)) == int(fills["fee"].sum())
    assert sum(pair.funding_e8 for pair in pair_profits(result)) == int(funding.sum())


def test_profit_of_a_symbol_is_what_is_held_times_the_return_of_the_next_bar_and_its_fills(
    result: BacktestResult, bars: pd.DataFrame
) -> None:
    fills, marks = fills_of(result), marks_of(bars, result)
    fills["at_ms"] += BAR_MS
    lots = fills.pivot_table(index="at_ms", columns="symbol", values="lots", aggfunc="sum")
    held = lots.reindex(marks.index).fillna(0).cumsum().astype("int64")
    symbols = {each.symbol: each for each in symbol_profits(result, strategy_of(COSTS).execution)}
    assert symbols.keys() == set(held.columns)
    assert len(symbols) == 8
    for symbol, found in symbols.items():
        notional = held[symbol] * marks[symbol]
        simple_return = (marks[symbol].shift(-1) / marks[symbol] - 1).fillna(0)
        # In floats as the formula has it; to the unit as the book counts.
        assert found.held_e8 == pytest.approx((notional * simple_return).sum(), rel=1e-6, abs=1e4)
        own = fills[fills["symbol"] == symbol]
        worth = int(notional.iloc[-1])
        funding = int(funding_of(held[[symbol]], marks[[symbol]]).sum())
        assert found.funding_e8 == funding
        assert found.profit_e8 == int(own["money"].sum()) + worth - funding
        assert found.fees_e8 == int(own["fee"].sum())
    total = sum(each.profit_e8 for each in symbols.values())
    assert total == result.equity[-1].equity_e8 - 100_000 * 10**8


def test_the_spread_increment_line_follows_from_bars_and_signals(
    result: BacktestResult, bars: pd.DataFrame
) -> None:
    closes = bars.assign(at_ms=bars["ts"].astype("int64") + BAR_MS)
    changes = (
        closes.pivot_table(index="at_ms", columns="symbol", values="close").map(math.log).diff()
    )
    increments: list[float] = []
    entered: dict[tuple[str, str], tuple[int, Signal]] = {}
    for at_ms, signal in result.signals:
        pair = (signal.y, signal.x)
        if signal.action == "enter":
            entered[pair] = (at_ms, signal)
            continue
        since_ms, entry = entered.pop(pair)
        beta = entry.hedge_ratio
        held = changes[[signal.y, signal.x]].dropna()  # the strict join of both legs
        held = held[(held.index > since_ms) & (held.index <= at_ms)]
        steps = held[signal.y] - beta * held[signal.x]
        increments.append(float(entry.side * steps.sum() / (1 + abs(beta))))
    assert len(increments) > 50
    assert spread_increments(result) == pytest.approx(sum(increments), abs=1e-9)
