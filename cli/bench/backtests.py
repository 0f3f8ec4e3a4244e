"""Benchmark of trading a feature table against other backtesting engines on the same orders."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import orjson

from cli.bench.figure import Figure, best_seconds
from shared.backtest.feature_table import FeatureTable, compute_feature_table
from shared.backtest.trading import TradeInputs, Trading, trade_inputs, trade_table
from shared.book.instrument import Instrument, instruments_from_bars
from shared.clock import instant_of_ms
from shared.events.screener import PairsScreened, RosterPair
from shared.quant.bar_checks import BarCheckSettings, check_bars
from shared.quant.bars import Bars
from shared.quant.typing import Float1D
from shared.sleeves.pairs.features import Pair
from shared.sleeves.pairs.settings import StrategySettings
from shared.venues.recorded import read_bar_files

N_PAIRS = 50
REFERENCES = Path(__file__).resolve().parents[2] / "benchmarks" / "references"
_SETTINGS = StrategySettings.model_validate(
    {
        "signals": {"signals_from": "z"},
        "portfolio": {"top_k": N_PAIRS, "gross_cap": 10, "symbol_cap": 10},
        "execution": {"max_participation_ppm": 1_000_000, "funding_ppm": 0},
    }
)


def against(engine: str, data_folder: Path) -> Figure:
    """Trade fifty real pairs over seven months of 5m bars, and let another engine do so.

    Parameters
    ----------
    engine
        One that `benchmarks/references/run.py` knows. It is given the orders, so that it need
        not decide; ours also applies the rule, sizes and keeps the caps.
    data_folder
        With the recorded market data.
    """
    name = f"backtest_{engine.removesuffix('.py')}"
    bars = _bars(data_folder)
    instruments = instruments_from_bars(bars)
    closes = bars.closes()
    screen = _everything(bars, N_PAIRS)
    table = compute_feature_table(bars, closes, [screen], _SETTINGS.features)
    inputs = trade_inputs(table, bars, instruments, _SETTINGS.features.spread_space)
    seconds = best_seconds(lambda: trade_table(table, inputs, _SETTINGS), 5)
    trading = trade_table(table, inputs, _SETTINGS)
    rate = len(table.pair) / seconds
    data = (
        f"{N_PAIRS} pairs of {len(bars.symbols)} symbols, {len(closes):,} 5m closes, "
        f"{len(trading.fills.order):,} fills"
    )
    interpreter = REFERENCES / ".venv" / "bin" / "python"
    if not interpreter.exists():
        reason = f"{engine} is not installed: run make bench-references"
        return Figure(name, rate, "pair-closes/s", None, None, data, reason)
    reference = _reference(interpreter, engine, bars, table, inputs, trading, instruments)
    return Figure(name, rate, "pair-closes/s", reference, rate / reference, data)


def _bars(data_folder: Path) -> Bars:
    (raw,) = read_bar_files([data_folder / "crypto" / "binance_spot_5m_2024.parquet"])
    last_ms = int(raw.closes_at_ms.max())
    checked = check_bars(raw, now_ms=last_ms, known=None, settings=BarCheckSettings(), prior={})
    return checked.accepted


def _everything(bars: Bars, n_pairs: int) -> PairsScreened:
    """Return a screen before the first close that names so many pairs, drawn with a seed."""
    every = list(itertools.permutations(bars.symbols, 2))
    drawn = np.random.default_rng(7).choice(len(every), n_pairs, replace=False)
    at_ms = int(bars.closes_at_ms[0]) - 1
    return PairsScreened(
        closes_at=instant_of_ms(at_ms),
        timeframe="1h",
        method="top_n",
        level=1.0,
        n_symbols=len(bars.symbols),
        n_tests=len(every),
        n_accepted=n_pairs,
        summary="pairs drawn for a benchmark",
        pairs=tuple(_member(every[number], at_ms) for number in sorted(drawn.tolist())),
    )


def _member(pair: Pair, at_ms: int) -> RosterPair:
    return RosterPair(
        y=pair[0], x=pair[1], status="active", accepted_screens=1, missed_screens=0,
        entered_at=instant_of_ms(at_ms), left_at=None, statistic=0.0, p_value=1.0, q_value=1.0,
        lag=0, hedge_ratio=1.0, intercept=0.0, half_life_bars=1.0, hurst=0.5, correlation=0.0,
        crossings=0, n_bars=0,
    )  # fmt: skip


def _reference(
    interpreter: Path,
    engine: str,
    bars: Bars,
    table: FeatureTable,
    inputs: TradeInputs,
    trading: Trading,
    instruments: dict[str, Instrument],
) -> float:
    """Return the pair-closes a second of another engine, in a process of its own."""
    symbols = sorted({symbol for pair in table.pairs for symbol in pair})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.npz"
        np.savez(
            path,
            opens_at_ns=(table.closes_at_ms - 300_000) * 1_000_000,
            open=inputs.market.opens,
            close=bars.wide(symbols, "close", table.closes_at_ms),
            legs=inputs.market.legs,
            size=_sizes(table, trading, instruments),
            fee=_SETTINGS.execution.fee_ppm / 1e6,
        )
        command = [str(interpreter), str(REFERENCES / "run.py"), engine, str(path)]
        ran = subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    found = orjson.loads(ran.stdout.splitlines()[-1])
    return float(found["pair_closes"] / found["seconds"])


def _sizes(table: FeatureTable, trading: Trading, instruments: dict[str, Instrument]) -> Float1D:
    """Return what our orders filled, in signed units of the base, by close, pair and leg."""
    sizes = np.zeros((len(table.closes_at_ms), len(table.pairs), 2))
    fills, orders = trading.fills, trading.orders
    order = fills.order
    pair = trading.positions.pair[orders.position[order]]
    leg = orders.leg[order]
    lot = np.array([[10.0 ** -instruments[s].lot_decimals for s in pair] for pair in table.pairs])
    close = table.closes_at_ms.searchsorted(fills.filled_at_ms, "right")
    np.add.at(sizes, (close, pair, leg), orders.side[order] * fills.lots * lot[pair, leg])
    return sizes
