"""The compiled loop against the fleet's own stages, over random markets and settings."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from shared.backtest.engine import run_backtest
from shared.backtest.preparation import prepare
from shared.backtest.result import BacktestResult
from shared.book.instrument import instruments_from_bars
from shared.quant.bar_checks import CheckedBars
from shared.quant.bars import BarRow, Bars, RawBars
from shared.quant.model_families import family_named
from shared.quant.model_validation import fit_calibrated
from shared.quant.purged_cv import walk_forward_splits
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.settings import StrategySettings
from shared.sleeves.pairs.stored_model import StoredModel
from shared.venues.market import RecordedMarket
from tests.staged_backtest import StagedResult, run_stages
from tests.support import BAR_MS, MIDNIGHT_MS, linear_model

HOUR_BARS = 12
WINDOW_HOURS = 200
N_HOURS = 232
START_MS = MIDNIGHT_MS + (WINDOW_HOURS + 4) * HOUR_BARS * BAR_MS


def random_market(rng: np.random.Generator) -> RecordedMarket:
    """Return symbols that follow each other, with gaps, halts and bars without volume."""
    n_bars, n_symbols = N_HOURS * HOUR_BARS + 1, int(rng.integers(3, 6))
    common = rng.normal(0, 0.002, n_bars).cumsum()
    hours: list[BarRow] = []
    minutes: list[BarRow] = []
    for number in range(n_symbols):
        noise = np.zeros(n_bars)
        shocks = rng.normal(0, 0.002, n_bars)
        for n in range(1, n_bars):
            noise[n] = 0.93 * noise[n - 1] + shocks[n]
        path = 10.0 ** rng.uniform(-3, 4) * np.exp(common + noise)
        volume = rng.lognormal(0, 1.5, n_bars) * 10.0 ** rng.uniform(3, 6) / path[0]
        volume[rng.random(n_bars) < 0.05] = 0.0
        is_gap = rng.random(n_bars) < 0.02
        halted = int(rng.integers(WINDOW_HOURS + 4, N_HOURS)) * HOUR_BARS
        is_gap[halted : halted + 30] = rng.random() < 0.4
        for rows, step in ((hours, HOUR_BARS), (minutes, 1)):
            for n in range(step, n_bars, step):
                if step == 1 and is_gap[n]:
                    continue
                opened, close = float(path[n - step]), float(path[n])
                edges = max(opened, close), min(opened, close)
                at_ms = MIDNIGHT_MS + n * BAR_MS
                rows.append((f"S{number}/USDT", at_ms, opened, *edges, close, float(volume[n])))
    checked = {
        timeframe: CheckedBars(
            Bars.from_raw(RawBars.from_rows("binance", timeframe, rows)), (), 0, {}
        )
        for timeframe, rows in (("1h", hours), ("5m", minutes))
    }
    return RecordedMarket("binance", checked, instruments_from_bars(checked["5m"].accepted))


def random_settings(rng: np.random.Generator) -> StrategySettings:
    sections: dict[str, Any] = {
        "screener": {
            "method": "p_value",
            "level": 0.2,
            "window_bars": WINDOW_HOURS,
            "enter_after_screens": 1,
            "correlation_min": -1,
            "hurst_max": 1,
            "half_life_min_bars": 0.01,
        },
        "features": {
            "beta_window": int(rng.integers(20, 60)),
            "z_window": int(rng.integers(15, 40)),
            "spread_space": str(rng.choice(["log", "price"])),
        },
        "signals": {
            "signals_from": str(rng.choice(["auto", "model", "z"])),
            "entry_z": rng.uniform(0.6, 1.5),
            "exit_z": rng.uniform(0, 0.5),
            "stop_z": rng.uniform(1.6, 5),
            "max_hold_bars": int(rng.integers(5, 80)),
            "cooldown_bars": int(rng.integers(0, 6)),
            "missing_closes_limit": int(rng.integers(1, 15)),
        },
        "portfolio": {
            "capital_usdt": int(10 ** rng.uniform(3, 6)),
            "top_k": int(rng.integers(1, 6)),
            "symbol_cap": rng.uniform(0.2, 1),
        },
        "execution": {
            "slippage_ppm": int(rng.integers(0, 500)),
            "impact_ppm": int(rng.choice([0, 5_000])),
            "max_participation_ppm": int(rng.choice([2_000, 100_000])),
            "funding_ppm": int(rng.choice([0, 100])),
            "borrow_ppm": int(rng.choice([0, 50])),
        },
    }
    if rng.random() < 0.5:
        sections["signals"]["half_life_reference_bars"] = rng.uniform(1, 8)
    return StrategySettings.model_validate(sections)


def random_model(rng: np.random.Generator) -> StoredModel | None:
    if rng.random() < 0.3:
        return None
    if rng.random() < 0.4:
        return random_forest(rng)
    return linear_model({"half_life_bars": -0.2, "z_score": 0.3}, 0.8)


def random_forest(rng: np.random.Generator) -> StoredModel:
    features = rng.normal(size=(200, 2))
    labels = (features[:, 1] + rng.normal(size=200) > 0).astype(np.int64)
    starts = np.arange(200, dtype=np.int64)
    fitted, _ = fit_calibrated(
        family_named("random_forest"),
        features,
        labels,
        walk_forward_splits(starts, starts, n_splits=2, gap=0),
        method="platt",
        seed=int(rng.integers(100)),
        parameters={"n_estimators": 5, "max_depth": 3},
    )
    return StoredModel.of(
        fitted,
        ("half_life_bars", "z_score"),
        label=LabelSettings(),
        trained_from_ms=0,
        trained_to_ms=1,
        n_samples=200,
    )


@cache
def both(seed: int) -> tuple[BacktestResult, StagedResult]:
    rng = np.random.default_rng(seed)
    market, settings, model = random_market(rng), random_settings(rng), random_model(rng)
    end_ms = START_MS + 18 * HOUR_BARS * BAR_MS
    staged = run_stages(
        market, settings, account="paper", start_ms=START_MS, end_ms=end_ms, champion=model
    )
    prepared = prepare(market, settings, start_ms=START_MS, end_ms=end_ms)
    return run_backtest(prepared, settings, account="paper", champion=model), staged


@pytest.mark.parametrize("seed", range(12))
def test_the_loop_decides_as_the_stages_do(seed: int) -> None:
    compiled, staged = both(seed)
    for kind, rows in staged.tally.rows.items():
        found = compiled.tally.rows[kind]
        assert sorted(found, key=str) == sorted(rows, key=str), kind
    assert compiled.tally.counts() == staged.tally.counts()
    assert compiled.equity == staged.equity
    assert compiled.prepared.bars_digest == staged.bars_digest


def test_the_random_runs_meet_what_makes_trading_hard() -> None:
    reasons: set[str] = set()
    states: set[str] = set()
    n_partly = n_unwound = n_with_model = 0
    for seed in range(12):
        result, _ = both(seed)
        reasons |= {signal.reason for _, signal in result.signals}
        states |= {order.state.value for order in result.orders.values()}
        n_partly += sum(fill.fill_number > 0 for fill in result.fills)
        n_unwound += sum(order.intent_id.endswith(":unwind") for order in result.orders.values())
        n_with_model += any(signal.model_sha256 for _, signal in result.signals)
    assert reasons >= {
        "z_score", "model", "reverted", "stopped", "held_too_long", "features_missing",
    }  # fmt: skip
    assert states >= {"filled", "cancelled"}
    assert min(n_partly, n_unwound, n_with_model) > 0
