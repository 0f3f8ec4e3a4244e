"""Compiles the numeric kernels ahead of their first use, which a fleet would wait for."""

from __future__ import annotations

import numpy as np

from shared.backtest.feature_table import FeatureTable
from shared.backtest.trading import trade_inputs, trade_table
from shared.book.instrument import derive_instrument
from shared.quant.bars import Bars, RawBars
from shared.quant.cointegration import engle_granger_all_pairs
from shared.quant.streaming_cointegration import StreamingEngleGranger
from shared.sleeves.pairs.features import (
    PAIRS_A_TURN,
    FeatureSettings,
    FeatureStreams,
    feature_names,
    pair_features,
    warmup_bars,
)
from shared.sleeves.pairs.settings import StrategySettings


def compile_kernels() -> None:
    """Call every kernel once on little data; what is compiled is kept on disk."""
    walks = np.random.default_rng(1).normal(size=(62, 3)).cumsum(axis=0)
    engle_granger_all_pairs(walks)
    stream = StreamingEngleGranger(3, 60)
    for row in walks:
        stream.update(row)
    settings = FeatureSettings(beta_window=10, z_window=10, volume_window=2, trend_window=2)
    close = np.exp(0.01 * walks[: warmup_bars(settings), 0])
    pair_features(close, close[::-1], close, close, settings)
    streams = FeatureStreams(settings)
    pairs = [(str(n), "x") for n in range(PAIRS_A_TURN + 1)]
    for pair in pairs:
        streams.learn(pair, close, close[::-1], close, close)
    for chosen in (pairs[:1], pairs):
        bar = np.ones(len(chosen))
        streams.update(chosen, bar, bar, bar, bar)
    _trade_nothing()


def _trade_nothing() -> None:
    """Run the loop of a backtest over one close of a pair without features."""
    settings, symbols = StrategySettings(), ("A/USDT", "B/USDT")
    names = feature_names(settings.features)
    closes, no_rows = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    nothing = np.zeros(0)
    table = FeatureTable(
        closes, closes - 1, (symbols,), names, np.zeros(2, dtype=np.int64), no_rows,
        np.zeros(0, dtype=np.bool_), nothing, nothing, np.zeros((0, len(names))),
    )  # fmt: skip
    bars = Bars.from_raw(RawBars.from_rows("venue", "5m", ()))
    units = {symbol: derive_instrument(symbol, 1.0) for symbol in symbols}
    inputs = trade_inputs(table, bars, units, "log")
    trade_table(table, inputs, settings)
