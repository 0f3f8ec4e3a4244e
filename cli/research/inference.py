"""`mnt infer` and `mnt aggregate`: signals of the production map, and the orders they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import AwareDatetime, BaseModel, ValidationError
from rich.progress import Progress

from cli.cycle.artefacts import read_json
from cli.cycle.pipeline import ACCOUNT
from cli.cycle.steps import write_json
from cli.research.bars import IngestRequest, ingest_venue
from cli.research.production import ProductionMap, read_map
from cli.research.roster import symbols_of
from cli.research.step import make_once, manifest_beside
from cli.research.tracking import NAME
from cli.research.volatility import VolatilityControl
from shared.backtest.candidates import Candidate
from shared.backtest.engine import run_backtest
from shared.backtest.preparation import prepare_with
from shared.backtest.result import BacktestResult
from shared.book.instrument import Instrument
from shared.book.sizing import E8, SizingSettings, part_of_gross_e8, size_pair
from shared.book.targets import LiveTarget, plan_intents
from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms, utc_now
from shared.errors import ContractError, DataError
from shared.events.base import describe_faults
from shared.events.portfolio import SubmitOrder
from shared.events.signals import Signal, SignalFact, SignalsRaised
from shared.quant.bars import Bars
from shared.registry import ModelRegistry
from shared.sleeves.pairs.features import SpreadSpace, warmup_bars
from shared.sleeves.pairs.rules import SignalSettings
from shared.sleeves.pairs.settings import StrategySettings
from shared.venues.market import load_market


class ExitPlan(BaseModel, frozen=True, extra="forbid"):
    """Where a trade is left, as levels of the held spread, and when at the latest."""

    home: float
    stop: float
    after_bars: int


class SignalLine(BaseModel, frozen=True, extra="forbid"):
    """A line of the signals' file: what is decided, how large, and how it ends.

    Attributes
    ----------
    gross_usdt
        Gross notional of an entry before caps; 0 of an exit.
    mlflow_run_id
        The run that made the model of the signal, where one is known.
    """

    closes_at: AwareDatetime
    signal: SignalFact
    exit: ExitPlan
    gross_usdt: float
    lots_y: int
    lots_x: int
    mlflow_run_id: str | None = None


def infer(
    production: Path,
    bars: Sequence[Path],
    out: Path,
    *,
    last_closes: int | None,
    registry: ModelRegistry | None = None,
) -> tuple[dict[str, Any], bool]:
    """Write the signals of a production map on the bars that came after its roster.

    Parameters
    ----------
    production
        The map.
    bars
        Files with bars of the trade timeframe, those that warm windows up among them.
    out
        JSON lines, one `SignalLine` a signal.
    last_closes
        Write only the signals of the newest so many closes.
    registry
        Where the run that made the model is looked up.

    Returns
    -------
    tuple of dict, bool
        As `make_once`.

    Raises
    ------
    DataError
        If a file is unusable, or no bar came after the roster.
    StoreError
        If the registry does not answer.
    """
    run_id = _run_of(production, registry)

    def make() -> dict[str, Any]:
        known, model = read_map(production)
        result = decide(known, model, bars)
        closes = result.trading.table.closes_at_ms
        first_ms = 0 if last_closes is None else int(closes[-last_closes:][0])
        instruments, strategy = result.prepared.market.instruments, known.strategy
        lines = [
            _line(
                at_ms, SignalFact.of(signal, result.rosters[at_ms]), instruments, strategy, run_id
            )
            for at_ms, signal in result.signals
            if at_ms >= first_ms
        ]
        out.write_text("".join(f"{line.model_dump_json()}\n" for line in lines))
        return {"signals": len(lines), "last_close": instant_of_ms(int(closes[-1])).isoformat()}

    request = {"last_closes": last_closes, "mlflow_run_id": run_id}
    return make_once(
        "infer", manifest_beside(out), (production, *bars), request, make, lambda: [out]
    )


def decide(
    production: ProductionMap, model: Candidate | None, bars: Sequence[Path]
) -> BacktestResult:
    """Return what the pairs in production did on the bars after their roster.

    Raises
    ------
    DataError
        If there is no such bar.
    """
    source: Literal["z", "model"] = "z" if model is None else "model"
    strategy = production.strategy.model_copy(
        update={"signals": production.strategy.signals.model_copy(update={"signals_from": source})}
    )
    market = load_market(
        bars, (), strategy.trade_timeframe, strategy.ingest, ms_of_instant(utc_now())
    )
    start_ms = production.roster.closes_at_ms
    prepared = prepare_with(market, strategy, (production.roster,), start_ms=start_ms, end_ms=None)
    if not len(prepared.table.closes_at_ms):
        raise DataError(
            f"no bar closes after the roster of {production.roster.closes_at:%Y-%m-%d %H:%M}: give "
            "newer bars, or fetch them with --update"
        )
    return run_backtest(prepared, strategy, account=ACCOUNT, champion=model)


def _run_of(production: Path, registry: ModelRegistry | None) -> str | None:
    """Return the run of the model in production, where it is known."""
    model = read_json(production).get("model")
    if registry is None or model is None:
        return None
    return registry.run_of(NAME, str(model["sha256"]))


def _line(
    at_ms: int,
    signal: SignalFact,
    instruments: Mapping[str, Instrument],
    strategy: StrategySettings,
    run_id: str | None,
) -> SignalLine:
    rules: SignalSettings = strategy.signals
    gross_e8, lots_y, lots_x = 0, 0, 0
    if signal.action == "enter" and signal.hedge_ratio > 0:
        gross_of_pair_e8 = part_of_gross_e8(strategy.portfolio.pair_gross_e8, signal.size_ppm)
        size = size_pair(
            gross_of_pair_e8, signal.hedge_ratio, strategy.features.spread_space,
            signal.close_y, signal.close_x, instruments[signal.y], instruments[signal.x],
        )  # fmt: skip
        gross_e8 = size.notional_y_e8 + size.notional_x_e8
        lots_y, lots_x = signal.side * size.lots_y, -signal.side * size.lots_x
    # Bought below the mean, sold above it: home is back towards it, the stop further away.
    away = -signal.side * signal.spread_std
    return SignalLine(
        closes_at=instant_of_ms(at_ms),
        signal=signal,
        exit=ExitPlan(
            home=signal.spread_mean + away * rules.exit_z,
            stop=signal.spread_mean + away * rules.stop_z,
            after_bars=rules.max_hold_bars,
        ),
        gross_usdt=gross_e8 / E8,
        lots_y=lots_y,
        lots_x=lots_x,
        mlflow_run_id=None if signal.model_sha256 is None else run_id,
    )


async def update_bars(production: Path, out: Path, venue_url: str, progress: Progress) -> None:
    """Fetch the bars of the pairs in production, from what warms their windows up to the last.

    Parameters
    ----------
    production
        The map.
    out
        Parquet file to write.
    venue_url
        Where from.
    progress
        Where the pages are counted.

    Raises
    ------
    DataError
        If no pair is in production.
    VenueError
        If the venue refuses or does not answer.
    """
    known, _ = read_map(production)
    strategy = known.strategy
    symbols = symbols_of((known.roster,))
    if not symbols:
        raise DataError(f"{production} has no active pair: there are no bars to fetch")
    # Twice what the windows need: a leg may miss bars that the other has.
    history_ms = 2 * warmup_bars(strategy.features) * timeframe_ms(strategy.trade_timeframe)
    since_ms = known.roster.closes_at_ms - history_ms
    request = IngestRequest(strategy.trade_timeframe, symbols, since_ms)
    await ingest_venue(venue_url, "binance", request, strategy.ingest, out, progress)


def read_signals(path: Path) -> list[tuple[int, SignalFact]]:
    """Read the signals of a file, each with its close.

    Raises
    ------
    DataError
        If the file cannot be read.
    ContractError
        If a line is no signal.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; name a file that can") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed = SignalLine.model_validate_json(line)
        except ValidationError as error:
            raise ContractError(f"{path} line {number}: {describe_faults(error)}") from error
        found.append((ms_of_instant(parsed.closes_at), parsed.signal))
    return found


def aggregate(
    signals: Sequence[Path],
    bars: Sequence[Path],
    strategy: StrategySettings,
    out: Path,
    *,
    target_volatility: float | None = None,
    window_bars: int = 2016,
) -> tuple[dict[str, Any], bool]:
    """Merge signals within the limits of the book into `latest_orders.json`.

    Parameters
    ----------
    signals
        Files of `mnt infer`.
    bars
        Of the trade timeframe: the units of the symbols, and the last prices.
    strategy
        Slots and caps.
    out
        JSON file to write.
    target_volatility, window_bars
        Most annual volatility of the book as a share of the capital, and the bars it is
        measured on; none without a target.

    Returns
    -------
    tuple of dict, bool
        As `make_once`.

    Raises
    ------
    DataError
        If a file is unusable, or the bars are too few to measure volatility on.
    ContractError
        If two files disagree on the signal of a pair at a close.
    """

    def make() -> dict[str, Any]:
        merged: dict[tuple[int, str, str, str], SignalFact] = {}
        for path in signals:
            for at_ms, signal in read_signals(path):
                key = (at_ms, signal.y, signal.x, signal.action)
                if merged.setdefault(key, signal) != signal:
                    raise ContractError(
                        f"{path} has another signal on {signal.y}~{signal.x} at "
                        f"{instant_of_ms(at_ms):%Y-%m-%d %H:%M} than a file before it: give one "
                        "of the two"
                    )
        market = load_market(
            bars, (), strategy.trade_timeframe, strategy.ingest, ms_of_instant(utc_now())
        )
        accepted = market.checked[strategy.trade_timeframe].accepted
        control = None
        if target_volatility is not None:
            control = VolatilityControl(
                target_volatility, window_bars, accepted, strategy.trade_timeframe,
                strategy.portfolio.capital_e8,
            )  # fmt: skip
        document = latest_orders(
            [(key[0], merged[key].signal) for key in sorted(merged)],
            market.instruments, last_marks(accepted), int(accepted.closes_at_ms[-1]),
            strategy.portfolio, strategy.features.spread_space, strategy.trade_timeframe,
            control,
        )  # fmt: skip
        write_json(out, document)
        return {"targets": len(document["targets"]), "orders": len(document["orders"])}

    request = {
        "portfolio": strategy.portfolio.model_dump(),
        "spread_space": strategy.features.spread_space,
        "volatility": None if target_volatility is None else [target_volatility, window_bars],
    }
    inputs = (*signals, *bars)
    return make_once("aggregate", manifest_beside(out), inputs, request, make, lambda: [out])


def last_marks(bars: Bars) -> dict[str, float]:
    """Return the last close of every symbol."""
    return {
        bars.symbols[code]: close
        for code, close in zip(bars.symbol_code.tolist(), bars.close.tolist(), strict=True)
    }


def latest_orders(
    signals: Sequence[tuple[int, Signal]],
    instruments: Mapping[str, Instrument],
    marks: dict[str, float],
    as_of_ms: int,
    limits: SizingSettings,
    spread_space: SpreadSpace,
    timeframe: str,
    control: VolatilityControl | None = None,
) -> dict[str, Any]:
    """Return what to hold after all signals, and the orders of the last close.

    Parameters
    ----------
    signals
        Each with its close, ascending.
    instruments, marks
        Units and last price of the symbols.
    as_of_ms
        The last close of the bars: only its signals are still orders.
    limits
        Slots and caps of the book.
    spread_space, timeframe
        Of the signals.
    control
        Of volatility, if there is one.

    Notes
    -----
    The portfolio's own plan is made close by close. An order fills in the bar after its close,
    so the slot of a pair that was left is free from the second close on.
    """
    by_close: dict[int, list[Signal]] = {}
    for at_ms, signal in signals:
        by_close.setdefault(at_ms, []).append(signal)
    live: dict[tuple[str, str], LiveTarget] = {}
    opened: dict[str, SubmitOrder] = {}
    leaving: dict[tuple[str, str], int] = {}
    orders: list[SubmitOrder] = []
    refused: list[dict[str, str]] = []
    for at_ms, raised in by_close.items():
        live = {key: target for key, target in live.items() if leaving.get(key, at_ms) >= at_ms}
        leaving = {key: left_ms for key, left_ms in leaving.items() if key in live}
        event = SignalsRaised.of_rows(
            raised,
            closes_at=instant_of_ms(at_ms),
            timeframe=timeframe,
            roster_closes_at=None,  # a plan does not ask for it
            marks=marks,
        )
        plan = plan_intents(live, event, instruments, limits, spread_space)
        if control is not None:
            plan = control.apply(plan, opened, instruments, at_ms)
        live = dict(plan.live)
        is_last = at_ms == as_of_ms
        for decision in plan.decisions:
            signal, intent = decision.signal, decision.intent
            if intent is None:
                if is_last:
                    pair = f"{signal.y}~{signal.x}"
                    refused.append({"pair": pair, "action": signal.action, "why": decision.reason})
                continue
            if intent.action == "open":
                opened[intent.intent_id] = intent
            else:
                leaving[signal.y, signal.x] = at_ms
            if is_last:
                orders.append(intent)
    targets = [
        _target(opened[target.position_id], instruments, marks, limits)
        for target in live.values()
        if not target.is_closing
    ]
    weights = _weights(targets)
    volatility = None
    if control is not None:
        capital = limits.capital_e8 / E8
        notionals = {symbol: weight * capital for symbol, weight in weights.items()}
        volatility = {
            "target": control.target,
            "of_targets": control.volatility(notionals, as_of_ms),
        }
    return {
        "as_of": instant_of_ms(as_of_ms).isoformat(),
        "limits": limits.model_dump(),
        "volatility": volatility,
        "targets": sorted(targets, key=lambda target: target["pair"]),
        "weights": weights,
        "orders": [orjson.loads(order.model_dump_json()) for order in orders],
        "refused": refused,
    }


def _target(
    intent: SubmitOrder,
    instruments: Mapping[str, Instrument],
    marks: dict[str, float],
    limits: SizingSettings,
) -> dict[str, Any]:
    legs = []
    for leg in intent.legs:
        unit = instruments[leg.symbol]
        value_e8 = unit.notional_e8(
            unit.price_ticks(marks[leg.symbol], "nearest"), leg.quantity_lots
        )
        sign = 1 if leg.side == "buy" else -1
        legs.append(
            {
                "symbol": leg.symbol,
                "side": leg.side,
                "lots": leg.quantity_lots,
                "quantity": leg.quantity_lots / 10**unit.lot_decimals,
                "notional_usdt": value_e8 / E8,
                "weight": sign * value_e8 / limits.capital_e8,
            }
        )
    return {
        "pair": f"{intent.y}~{intent.x}",
        "since": intent.position_id.split(":", 1)[0],
        "hedge_ratio": intent.hedge_ratio,
        "legs": legs,
    }


def _weights(targets: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the net weight of every symbol over all pairs, as shares of the capital."""
    weights: dict[str, float] = {}
    for target in targets:
        for leg in target["legs"]:
            weights[leg["symbol"]] = weights.get(leg["symbol"], 0.0) + leg["weight"]
    return dict(sorted(weights.items()))
