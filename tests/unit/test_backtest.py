from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from unittest.mock import Mock

import numpy as np
import pytest

from cli.backtest import sweep
from shared.backtest.engine import account_summary, run_backtest
from shared.backtest.preparation import prepare
from shared.backtest.result import BacktestResult
from shared.backtest.trading import trade_inputs
from shared.book.execution import FillTerms
from shared.book.instrument import instruments_from_bars
from shared.book.ledger import Ledger
from shared.book.orders import Order, OrderState, Side
from shared.errors import DataError, PermanentError, SettingsError
from shared.quant.bar_checks import CheckedBars
from shared.quant.bars import BarRow, Bars, RawBars
from shared.sleeves.pairs.features import FeatureSettings
from shared.sleeves.pairs.settings import StrategySettings
from shared.venues.market import RecordedMarket
from tests.staged_backtest import SimulatedVenue
from tests.support import BAR_MS, INSTRUMENTS, MIDNIGHT_MS

HOUR_MS = 3_600_000


def recorded(**rows: list[BarRow]) -> RecordedMarket:
    """Return a market of bars by timeframe, written `h1` and `m5`, the longest first."""
    checked = {}
    for name, given in rows.items():
        timeframe = f"{name[1:]}{name[0]}"
        bars = Bars.from_raw(RawBars.from_rows("binance", timeframe, given))
        checked[timeframe] = CheckedBars(bars, (), 0, {})
    return RecordedMarket("binance", checked, instruments_from_bars(checked["5m"].accepted))


# --- the venue ----------------------------------------------------------------------------------


def at(n_bars: int) -> int:
    return MIDNIGHT_MS + n_bars * BAR_MS


def venue() -> SimulatedVenue:
    """Return a venue where Y opens at 10, 11 and so on with a volume of 2.5 and has no bar 3."""
    rows: list[BarRow] = [("Y/USDT", at(n), 9.0 + n, 30.0, 1.0, 20.0, 2.5) for n in (1, 2, 4, 5)]
    market = replace(recorded(m5=rows), instruments=INSTRUMENTS)
    settings = StrategySettings.model_validate(
        {"execution": {"fee_ppm": 1_000, "slippage_ppm": 0, "max_participation_ppm": 1_000_000}}
    )
    return SimulatedVenue(market, settings)


ORDER = Order(
    "id", "i", "Y~X", "y", 0, "Y/USDT", Side.BUY, 6_000, False, at(1), OrderState.SUBMITTED
)
BOOK = Ledger(0, orders={"id": ORDER})


def test_an_order_fills_at_the_opens_that_follow_its_close_as_far_as_the_volume_goes() -> None:
    market = venue()
    accepted = market.submit(ORDER)
    assert (accepted.state, accepted.executions) == (OrderState.ACCEPTED, ())
    seen = []
    for n in (1, 2, 3, 4, 5, 6):
        market.advance(at(n))
        (report,) = market.reports(BOOK)
        executions = [(ms, e.lots, e.price_ticks, e.fee_e8) for ms, e in report.executions]
        seen.append((report.state, len(executions)))
    # Not at the bar that closed with the decision, and not at bar 3, which Y has not.
    partly, filled = OrderState.PARTIALLY_FILLED, OrderState.FILLED
    assert seen == [
        (OrderState.ACCEPTED, 0), (partly, 1), (partly, 1), (partly, 2), (filled, 3), (filled, 3),
    ]  # fmt: skip
    assert executions == [
        (at(1), 2_500, 1_100, 2_750_000),
        (at(3), 2_500, 1_300, 3_250_000),
        (at(4), 1_000, 1_400, 1_400_000),
    ]


def test_what_is_left_of_a_withdrawn_order_does_not_fill() -> None:
    market = venue()
    market.submit(ORDER)
    market.advance(at(2))
    market.cancel(ORDER)
    market.cancel(ORDER)
    market.advance(at(4))
    (report,) = market.reports(BOOK)
    assert (report.state, len(report.executions)) == (OrderState.CANCELLED, 1)


def test_only_working_orders_of_the_book_are_reported() -> None:
    market = venue()
    market.submit(ORDER)
    done = replace(ORDER, state=OrderState.FILLED, filled_lots=6_000)
    assert market.reports(Ledger(0, orders={"id": done})) == []


def test_an_order_that_has_ended_cannot_be_submitted() -> None:
    with pytest.raises(PermanentError, match="cannot become accepted"):
        venue().submit(replace(ORDER, state=OrderState.REJECTED))


# --- a run --------------------------------------------------------------------------------------

N_HOURS = 212
START_MS = MIDNIGHT_MS + 204 * HOUR_MS
CAPITAL_E8 = 100_000 * 10**8
SETTINGS = StrategySettings.model_validate(
    {
        "screener": {
            "method": "p_value",
            "window_bars": 200,
            "enter_after_screens": 1,
            "correlation_min": -1,
            "hurst_max": 1,
            "half_life_min_bars": 0.01,
        },
        "features": {"beta_window": 50, "z_window": 30},
        "signals": {"entry_z": 0.8, "exit_z": 0.1, "cooldown_bars": 2},
    }
)


@cache
def market(seed_after_start: int = 1) -> RecordedMarket:
    """Return two symbols that belong together; the seed changes only what comes after 6 hours."""
    rng = np.random.default_rng(11)
    n_bars = N_HOURS * 12 + 1
    moves, shocks = rng.normal(0, 0.002, n_bars), rng.normal(0, 0.001, n_bars)
    later = (START_MS - MIDNIGHT_MS) // BAR_MS + 6 * 12 + 1
    moves[later:] = np.random.default_rng(seed_after_start).normal(0, 0.002, n_bars - later)
    noise = np.zeros(n_bars)
    for n in range(1, n_bars):
        noise[n] = 0.9 * noise[n - 1] + shocks[n]
    common = moves.cumsum()
    paths = {"A/USDT": 100 * np.exp(common + noise), "B/USDT": 50 * np.exp(common)}
    hours: list[BarRow] = []
    minutes: list[BarRow] = []
    for symbol, path in paths.items():
        for rows, step in ((hours, 12), (minutes, 1)):
            for n in range(step, n_bars, step):
                opened, close = float(path[n - step]), float(path[n])
                edges = max(opened, close), min(opened, close)
                rows.append((symbol, at(n), opened, *edges, close, 10_000.0))
    return recorded(h1=hours, m5=minutes)


@cache
def run(seed_after_start: int = 1, end_ms: int | None = None) -> BacktestResult:
    prepared = prepare(market(seed_after_start), SETTINGS, start_ms=START_MS, end_ms=end_ms)
    return run_backtest(prepared, SETTINGS, account="paper")


def test_a_run_trades_and_adds_up() -> None:
    result = run()
    counts = result.tally.counts()
    assert counts["closes"] == len(result.equity) == 8 * 12
    assert counts["bars"] == 2 * (N_HOURS + N_HOURS * 12)
    assert counts["fills"] == len(result.fills) > 4
    assert counts["orders"] == len(result.orders)
    assert len(result.prepared.screens) == 8
    flows_e8 = sum(
        -fill.side.sign * market().instruments[fill.symbol].notional_e8(fill.price_ticks, fill.lots)
        - fill.fee_e8
        for fill in result.fills
    )
    funding_e8 = sum(position.funding_e8 for position in result.positions.values())
    assert result.equity[-1].cash_e8 == CAPITAL_E8 + flows_e8 - funding_e8
    assert sum(p.cash_e8 for p in result.positions.values()) == flows_e8 - funding_e8


def test_no_order_fills_before_the_close_it_was_decided_at() -> None:
    orders = run().orders
    for fill in run().fills:
        assert fill.filled_at_ms >= orders[fill.client_order_id].created_at_ms


def test_the_same_run_gives_the_same_digests() -> None:
    prepared = prepare(market(), SETTINGS, start_ms=START_MS, end_ms=None)
    again = run_backtest(prepared, SETTINGS, account="paper")
    assert again.tally.digests(prepared.bars_digest) == run().tally.digests(prepared.bars_digest)
    other = run_backtest(prepared, SETTINGS, account="other")
    assert set(other.orders).isdisjoint(again.orders)


def test_a_period_prepared_otherwise_is_refused() -> None:
    settings = SETTINGS.model_copy(update={"features": FeatureSettings()})
    with pytest.raises(SettingsError, match="prepare it anew"):
        run_backtest(run().prepared, settings, account="paper")


def test_a_volume_that_cannot_be_counted_is_refused_with_its_symbol() -> None:
    prepared = run().prepared
    bars = market().checked["5m"].accepted
    volume = bars.volume.copy()
    volume[(bars.symbol_code == 1) & (bars.closes_at_ms > START_MS)] = 1e20
    with pytest.raises(DataError, match=r"B/USDT: volume of 1e\+20"):
        trade_inputs(prepared.table, replace(bars, volume=volume), market().instruments, "log")


def test_what_comes_later_changes_nothing_before() -> None:
    end_ms = START_MS + 6 * HOUR_MS
    whole, cut, other = run(), run(end_ms=end_ms), run(seed_after_start=2)
    n_closes = len(cut.equity)
    assert n_closes == 6 * 12
    assert whole.equity[:n_closes] == cut.equity == other.equity[:n_closes]
    assert whole.equity != other.equity
    assert cut.tally.bars == 2 * (N_HOURS - 2) * 13
    for kind in ("pairs", "features", "signals"):
        rows = cut.tally.rows[kind]
        assert whole.tally.rows[kind][: len(rows)] == rows == other.tally.rows[kind][: len(rows)]
    assert whole.fills[: len(cut.fills)] == cut.fills


def test_the_account_is_summed_up_at_the_last_close() -> None:
    result = run()
    summary = account_summary(result, CAPITAL_E8)
    last = result.equity[-1]
    held = [p for p in result.positions.values() if not p.is_flat]
    assert summary == {
        "cash_e8": last.cash_e8,
        "equity_e8": last.equity_e8,
        "positions": [
            {"position_id": p.position_id, "pair": p.pair, "lots_y": p.lots_y, "lots_x": p.lots_x}
            for p in sorted(held, key=lambda p: p.position_id)
        ],
    }
    empty = prepare(market(), SETTINGS, start_ms=at(10**6), end_ms=None)
    nothing = run_backtest(empty, SETTINGS, account="paper")
    assert account_summary(nothing, 7) == {"cash_e8": 7, "equity_e8": 7, "positions": []}


def test_a_sweep_gives_each_combination_what_its_own_backtest_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cli.backtest.load_market", lambda *_: market())
    monkeypatch.setattr("cli.backtest.strategy_of", swept)
    prepared = Mock(wraps=prepare)
    monkeypatch.setattr("cli.backtest.prepare", prepared)
    runs = sweep([], START_MS, None, (), ["entry_z=0.8,1.2", "fee_ppm=0,500"])
    assert [(run["entry_z"], run["fee_ppm"]) for run in runs] == [
        ("0.8", "0"), ("0.8", "500"), ("1.2", "0"), ("1.2", "500"),
    ]  # fmt: skip
    prepared.assert_called_once()
    alone = run_backtest(run().prepared, swept(("entry_z=1.2", "fee_ppm=500")), account="paper")
    assert runs[3]["profit_e8"] == alone.equity[-1].equity_e8 - CAPITAL_E8
    assert runs[3]["fees_e8"] == sum(fill.fee_e8 for fill in alone.fills)
    equity = [CAPITAL_E8, *(point.equity_e8 for point in alone.equity)]
    falls = [max(equity[: n + 1]) - each for n, each in enumerate(equity)]
    assert runs[3]["max_drawdown_e8"] == max(falls)
    assert runs[2]["fees_e8"] == 0


def swept(overrides: Sequence[str]) -> StrategySettings:
    """Return the settings of the tests with an entry and a fee of a sweep."""
    given = dict(each.split("=") for each in overrides)
    return SETTINGS.model_copy(
        update={
            "signals": SETTINGS.signals.model_copy(update={"entry_z": float(given["entry_z"])}),
            "execution": FillTerms(fee_ppm=int(given["fee_ppm"])),
        }
    )


def test_a_grid_without_values_is_refused() -> None:
    with pytest.raises(SettingsError, match="write it like"):
        sweep([], None, None, (), ["signals.entry_z"])
