"""What a cycle found, as one JSON document: the source of its summary and of its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cli.cycle.ledger_file import LedgerFile
from cli.cycle.pipeline import ACCOUNT, Cycle
from shared.backtest.candidates import training_set
from shared.backtest.engine import run_backtest
from shared.backtest.evidence import IDLE, Z_RULE, Column
from shared.backtest.result import BacktestResult
from shared.backtest.track import (
    DAYS_PER_YEAR,
    E8,
    DailyTrack,
    closed_trades,
    daily_track,
    pair_profits,
    spread_increments,
    symbol_profits,
)
from shared.clock import instant_of_ms
from shared.quant.gate_power import power_of_gates
from shared.quant.gates import GateResult
from shared.quant.model_validation import importance_stability, permutation_importances
from shared.quant.performance import drawdowns, performance
from shared.quant.probability_scores import calibration_curve
from shared.quant.typing import Int1D
from shared.sleeves.pairs.settings import StrategySettings

_MOST_POINTS = 1500
_MOST_ROWS = 2000
"""Rows that importances by permutation are measured on: evenly spaced in time."""
_COSTS = ("fee_ppm", "slippage_ppm", "impact_ppm", "funding_ppm", "borrow_ppm")
_NEIGHBOURS = (("entry_z", 0.25), ("exit_z", 0.25), ("probability_threshold", 0.05))


def describe(cycle: Cycle, ledger: LedgerFile) -> dict[str, Any]:
    """Return everything the report tells.

    Parameters
    ----------
    cycle
        What was found.
    ledger
        With its trials.
    """
    selected = cycle.selected
    shown = selected.result if selected else cycle.z_rule
    track = selected.track if selected else cycle.z_track
    pairs = [
        {**asdict(pair), "profit": pair.profit_e8 / E8, "trades": asdict(pair.trades)}
        for pair in pair_profits(shown)
    ]
    return {
        "kind": cycle.request.kind,
        "is_in_sample": cycle.is_in_sample,
        "verdict": verdict(cycle),
        "periods": {
            name: instant_of_ms(at_ms).isoformat() for name, at_ms in asdict(cycle.periods).items()
        },
        "market": _market(cycle),
        "rosters": _rosters(cycle),
        "candidate": selected.candidate.name if selected else None,
        "shown": selected.candidate.name if selected else Z_RULE,
        "columns": _columns(cycle),
        "untrained": dict(cycle.untrained),
        "gates": [asdict(gate) for gate in cycle.gates],
        "evidence": _finite(asdict(cycle.evidence)) if cycle.evidence else None,
        "power": _power(cycle, ledger),
        "trials": {"n_trials": ledger.n_trials, "sha256": ledger.sha256},
        "daily": _daily(cycle, track),
        "exposure": asdict(track.exposure()),
        "trades": asdict(closed_trades(shown)),
        "spread_increments": spread_increments(shown),
        "pairs": pairs,
        "symbols": [
            {**asdict(symbol), "profit_e8": symbol.profit_e8}
            for symbol in symbol_profits(shown, cycle.strategy.execution)
        ],
        "best_pair": _best_pair(shown, pairs[0]["pair"]) if pairs else None,
        "model": _model(cycle, selected) if selected else None,
        "robustness": _robustness(cycle),
        "months": _months(track),
        "settings": cycle.strategy.model_dump(mode="json"),
        "request": cycle.request.model_dump(mode="json", exclude={"bars", "roster"}),
    }


def verdict(cycle: Cycle) -> dict[str, Any]:
    """Return the decision on the candidate and its reasons, for a person."""
    if cycle.selected is None:
        reasons = [f"{name}: {reason}" for name, reason in cycle.untrained.items()]
        if not cycle.test.table.pairs:
            reasons.insert(0, f"no pair was tradable in the test: {cycle.screens[-1].summary}")
        return {"decision": "nothing to promote", "reasons": reasons}
    backtest_gates = [gate for gate in cycle.gates if not gate.gate.startswith("shadow_")]
    failed = [gate for gate in backtest_gates if gate.verdict != "passed"]
    if failed:
        return {"decision": "rejected", "reasons": [_reason(gate) for gate in failed]}
    return {
        "decision": "fit for the champion's shadow",
        "reasons": ["every gate of the backtest is passed; the shadow comes before promotion"],
    }


def _reason(gate: GateResult) -> str:
    named = gate.gate.replace("_", " ")
    value = "was not measured" if gate.value is None else f"is {gate.value:.3g}"
    return f"{named} {value}, needed {gate.comparison} {gate.threshold:g}"


def _market(cycle: Cycle) -> dict[str, Any]:
    return {
        "venue": cycle.market.venue,
        "bars": {
            timeframe: {
                "symbols": len(checked.accepted.symbols),
                "accepted": len(checked.accepted),
                "quarantined": len(checked.quarantined),
            }
            for timeframe, checked in cycle.market.checked.items()
        },
        "price_sources": sorted({i.price_source for i in cycle.market.instruments.values()}),
    }


def _rosters(cycle: Cycle) -> list[dict[str, Any]]:
    return [
        {
            "closes_at": screen.closes_at.isoformat(),
            "summary": screen.summary,
            "pairs": [
                {
                    "pair": f"{pair.y}~{pair.x}",
                    "status": pair.status,
                    "p_value": pair.p_value,
                    "q_value": pair.q_value,
                    "hedge_ratio": pair.hedge_ratio,
                    "half_life_bars": pair.half_life_bars,
                }
                for pair in screen.pairs
            ],
        }
        for screen in cycle.screens
    ]


def _columns(cycle: Cycle) -> list[dict[str, Any]]:
    columns = [
        {
            "name": column.candidate.name,
            "sha256": column.candidate.sha256,
            "parameters": dict(column.candidate.parameters),
            "n_samples": column.candidate.n_samples,
            "share_of_ones": float(column.dataset.labels.mean()),
            "folds": None
            if column.candidate.validation.mean is None
            else asdict(column.candidate.validation.mean),
            "validation_sharpe": column.validation_sharpe,
            **_outcome(column.result, column.track),
        }
        for column in cycle.columns
    ]
    idle = DailyTrack(
        cycle.z_track.day_ms,
        np.full(len(cycle.z_track.equity), cycle.z_track.equity[0]),
        *(np.zeros(len(cycle.z_track.day_ms)) for _ in range(3)),
    )
    return [
        *columns,
        {"name": Z_RULE, **_outcome(cycle.z_rule, cycle.z_track)},
        {"name": IDLE, "test": _performance(idle), "n_trades": 0, "fees": 0.0, "funding": 0.0},
    ]


def _outcome(result: BacktestResult, track: DailyTrack) -> dict[str, Any]:
    positions = result.trading.positions
    return {
        "test": _performance(track),
        "n_trades": len(positions.pair),
        "fees": float(positions.fees_e8.sum() / E8),
        "funding": float(positions.funding_e8.sum() / E8),
    }


def _performance(track: DailyTrack) -> dict[str, Any]:
    return asdict(performance(track.equity, periods_per_year=DAYS_PER_YEAR))


def _power(cycle: Cycle, ledger: LedgerFile) -> dict[str, float]:
    """Return how likely a true Sharpe ratio would have passed this test with these trials."""
    return {
        f"{annual_sharpe:g}": power_of_gates(
            annual_sharpe,
            n_returns=len(cycle.z_track.day_ms),
            periods_per_year=DAYS_PER_YEAR,
            n_trials=ledger.n_trials,
            n_models=len(cycle.columns) or None,
            settings=cycle.strategy.trainer.gates,
        )
        for annual_sharpe in (1.0, 2.0, 3.0, 5.0)
    }


def _daily(cycle: Cycle, track: DailyTrack) -> dict[str, Any]:
    curves = {column.candidate.name: column.track for column in cycle.columns}
    curves[Z_RULE] = cycle.z_track
    return {
        "at_ms": track.day_ms.tolist(),
        "equity": {name: each.equity[1:].tolist() for name, each in curves.items()},
        "drawdown": drawdowns(track.equity)[1:].tolist(),
        "gross": (track.gross / track.equity[1:]).tolist(),
        "net": (track.net / track.equity[1:]).tolist(),
    }


def _best_pair(result: BacktestResult, name: str) -> dict[str, Any]:
    """Return spread and z of a pair over the test, with its entries and exits."""
    table, signals = result.trading.table, result.trading.signals
    code = ["~".join(pair) for pair in table.pairs].index(name)
    rows = np.flatnonzero(table.pair == code)
    rows = rows[_spaced(len(rows), _MOST_POINTS)]
    of_pair = np.flatnonzero(signals.pair == code)
    z_score, spread = table.column("z_score"), table.column("spread")
    return {
        "pair": name,
        "at_ms": table.closes_at_ms[table.row_close()[rows]].tolist(),
        "z_score": z_score[rows].tolist(),
        "spread": spread[rows].tolist(),
        "signals": [
            {
                "at_ms": int(table.closes_at_ms[signals.close[row]]),
                "is_entry": not signals.reason[row],
                "side": int(signals.side[row]),
                "z_score": float(signals.z_score[row]),
            }
            for row in of_pair.tolist()
        ],
    }


def _model(cycle: Cycle, column: Column) -> dict[str, Any]:
    """Return how the candidate's probabilities did in the test, and what it lives on."""
    candidate = column.candidate
    seen = training_set(cycle.test, candidate.label)
    document: dict[str, Any] = {"recipe": candidate.recipe(), "calibration": None}
    if len(seen.labels):
        curve = calibration_curve(seen.labels, candidate.predict_probability(seen.features))
        document["calibration"] = {
            "forecast": curve.forecast.tolist(),
            "outcome": curve.outcome.tolist(),
            "n_samples": curve.n_samples.tolist(),
            "expected_error": curve.expected_error,
        }
    validation = candidate.validation
    rng = np.random.default_rng(cycle.request.seed)
    by_fold = []
    for model, test in zip(validation.models, validation.tests, strict=True):
        some = test[_spaced(len(test), _MOST_ROWS)]
        by_fold.append(
            permutation_importances(
                model, column.dataset.features[some], column.dataset.labels[some], rng=rng,
                n_repeats=1,
            )
        )  # fmt: skip
    own = candidate.model.model.own_importances()
    found = importance_stability(np.array(by_fold)) if by_fold else None
    document["importances"] = [
        {
            "feature": name,
            "permutation": None if found is None else float(found.mean[place]),
            "deviation": None if found is None else float(found.deviation[place]),
            "own": None if own is None else float(own[place]),
        }
        for place, name in enumerate(candidate.feature_names)
    ]
    document["rank_correlation"] = None if found is None else found.rank_correlation
    return document


def _robustness(cycle: Cycle) -> list[dict[str, Any]]:
    """Return the test with other costs and neighbouring thresholds; nothing is chosen by it."""
    strategy = cycle.strategy
    variants: list[tuple[str, StrategySettings]] = []
    for multiple in (1, 2, 3):
        costs = {name: getattr(strategy.execution, name) * multiple for name in _COSTS}
        execution = strategy.execution.model_copy(update=costs)
        variants.append(
            (f"costs x {multiple}", strategy.model_copy(update={"execution": execution}))
        )
    for name, step in _NEIGHBOURS:
        for sign in (-1, 1):
            value = round(getattr(strategy.signals, name) + sign * step, 6)
            if name == "exit_z" and value < 0:
                continue
            signals = strategy.signals.model_copy(update={name: value})
            variants.append((f"{name} {value:g}", strategy.model_copy(update={"signals": signals})))
    candidate = cycle.selected.candidate if cycle.selected else None
    found = []
    for name, settings in variants:
        source = "z" if candidate is None else "model"
        signals = settings.signals.model_copy(update={"signals_from": source})
        settings = settings.model_copy(update={"signals": signals})
        result = run_backtest(cycle.test, settings, account=ACCOUNT, champion=candidate)
        track = daily_track(result, settings.portfolio.capital_e8)
        found.append({"name": name, **_outcome(result, track)})
    return found


def _months(track: DailyTrack) -> list[dict[str, Any]]:
    months = np.array([f"{instant_of_ms(at_ms):%Y-%m}" for at_ms in track.day_ms.tolist()])
    found = []
    for month in np.unique(months):
        days = np.flatnonzero(months == month)
        equity = track.equity[days[0] : days[-1] + 2]
        found.append(
            {
                "month": str(month),
                "n_days": len(days),
                "return": float(equity[-1] / equity[0] - 1),
                "max_drawdown": float(drawdowns(equity).max()),
            }
        )
    return found


def _spaced(n: int, most: int) -> Int1D:
    """Return at most so many places of n, evenly spaced, the last among them."""
    if n <= most:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, most).astype(np.int64))


def _finite(value: Any) -> Any:
    """Return a document with None in place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return value
