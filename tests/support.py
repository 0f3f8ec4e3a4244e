"""What tests share: waiting until something is true, and events and books built in one line."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import psutil

from shared.book.control import TradingControl
from shared.book.execution import FillTerms
from shared.book.instrument import Instrument
from shared.book.ledger import Identity, Ledger, OrderReport, Settlement, settle_close
from shared.book.limits import Guard
from shared.clock import instant_of_ms
from shared.events.features import PairStatus
from shared.events.ingest import Bar, BarsClosed
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder
from shared.events.screener import PairsScreened, RosterPair
from shared.events.signals import Signal
from shared.quant.calibration import PlattCalibration
from shared.quant.scorers import LinearScorer
from shared.quant.typing import Float1D
from shared.sleeves.pairs.features import FeatureSettings, FeatureStreams
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.stored_model import StoredModel

T = TypeVar("T")
Columns = tuple[Float1D, Float1D, Float1D, Float1D]

POLL_SECONDS = 0.02
BAR_MS = 300_000
MIDNIGHT_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z, an instant of funding."""


def eventually(check: Callable[[], T], within_seconds: float = 30.0) -> T:
    """Return the first truthy answer of `check`, polling it until a deadline.

    An `AssertionError` raised by `check` counts as "not yet" and is the one reported at the
    deadline; any other exception is a defect and passes through.
    """
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            answer = check()
            if answer:
                return answer
            failure = AssertionError(f"still {answer!r} after {within_seconds} s")
        except AssertionError as not_yet:
            failure = not_yet
        if time.monotonic() > deadline:
            raise failure
        time.sleep(POLL_SECONDS)


async def eventually_async(check: Callable[[], Awaitable[T]], within_seconds: float = 30.0) -> T:
    """Do what `eventually` does for a check that is awaited, leaving the loop free meanwhile."""
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            answer = await check()
            if answer:
                return answer
            failure = AssertionError(f"still {answer!r} after {within_seconds} s")
        except AssertionError as not_yet:
            failure = not_yet
        if time.monotonic() > deadline:
            raise failure
        await asyncio.sleep(POLL_SECONDS)


def is_gone(process: psutil.Process) -> bool:
    """Tell whether a process has ended, be it that nobody has waited for it yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class OneStream:
    """The feature stream of a single pair, between two others that must not matter."""

    def __init__(self, history: Columns, settings: FeatureSettings) -> None:
        self._streams = FeatureStreams(settings)
        nothing = np.empty(0)
        for pair in (("A", "B"), ("C", "D"), ("E", "F")):
            columns = history if pair == ("C", "D") else (nothing,) * 4
            self._streams.learn(pair, *columns)

    def update(self, *bar: float) -> Float1D | None:
        """Append a bar: two closes, two volumes; return its row if it is complete."""
        columns = [np.array([value]) for value in bar]
        row: Float1D = self._streams.update([("C", "D")], *columns)[0]
        return None if np.isnan(row).all() else row


# A notional of one is 1e8: Y has ticks of 0.01 and lots of 0.001, X ticks of 1 and lots of 1.
Y = Instrument("Y/USDT", 2, 3, 5 * 10**8, "perpetual")
X = Instrument("X/USDT", 0, 0, 5 * 10**8, "perpetual")
INSTRUMENTS = {instrument.symbol: instrument for instrument in (Y, X)}


def closing_bars(closes_at_ms: int, bars: Mapping[str, tuple[float, float]]) -> BarsClosed:
    """Return the event of a 5m close from close and volume by symbol."""
    return BarsClosed(
        closes_at=instant_of_ms(closes_at_ms),
        venue="binance",
        timeframe="5m",
        bars=tuple(
            Bar(symbol=symbol, open=close, high=close, low=close, close=close, volume=volume)
            for symbol, (close, volume) in bars.items()
        ),
    )


def roster(
    closes_at_ms: int, pairs: Mapping[tuple[str, str], PairStatus | Literal["candidate"]]
) -> PairsScreened:
    """Return a screen that put these pairs on the roster."""
    return PairsScreened(
        closes_at=instant_of_ms(closes_at_ms),
        timeframe="1h",
        method="p_value",
        level=0.05,
        n_symbols=2 * len(pairs),
        n_tests=len(pairs),
        n_accepted=len(pairs),
        summary="",
        pairs=tuple(
            RosterPair(
                y=y,
                x=x,
                status=status,
                accepted_screens=3,
                missed_screens=1,
                entered_at=instant_of_ms(closes_at_ms - 7_200_000),
                left_at=instant_of_ms(closes_at_ms) if status == "closing_only" else None,
                statistic=-4.5,
                p_value=0.001,
                q_value=0.01,
                lag=2,
                hedge_ratio=1.25,
                intercept=0.5,
                half_life_bars=12.0,
                hurst=0.4,
                correlation=0.9,
                crossings=40,
                n_bars=720,
            )
            for (y, x), status in pairs.items()
        ),
    )


def signal(
    action: Literal["enter", "exit"],
    pair: tuple[str, str] = ("Y/USDT", "X/USDT"),
    *,
    side: Literal[-1, 1] = 1,
    strength: float = 2.5,
    hedge_ratio: float = 1.0,
    closes: tuple[float, float] = (10.0, 100.0),
) -> Signal:
    """Return a signal of the z rule."""
    return Signal(
        sleeve="pairs",
        y=pair[0],
        x=pair[1],
        action=action,
        side=side,
        reason="z_score",
        strength=strength,
        confidence=None,
        z_score=-side * strength,
        hedge_ratio=hedge_ratio,
        intercept=0.25,
        spread_mean=0.125,
        spread_std=0.5,
        entered_at=instant_of_ms(MIDNIGHT_MS),
        close_y=closes[0],
        close_x=closes[1],
        model_sha256=None,
    )


def opening(
    intent_id: str,
    lots_y: int = 1000,
    lots_x: int = 1,
    pair: tuple[str, str] = ("Y/USDT", "X/USDT"),
    side: Literal[-1, 1] = 1,
) -> SubmitOrder:
    """Return an intent that buys the spread of a pair, or sells it."""
    side_y, side_x = ("buy", "sell") if side > 0 else ("sell", "buy")
    return SubmitOrder(
        intent_id=intent_id,
        sleeve="pairs",
        y=pair[0],
        x=pair[1],
        action="open",
        position_id=intent_id,
        reason="z_score",
        hedge_ratio=1.0,
        legs=(
            OrderLeg(leg="y", symbol=pair[0], side=side_y, quantity_lots=lots_y),
            OrderLeg(leg="x", symbol=pair[1], side=side_x, quantity_lots=lots_x),
        ),
    )


def closing(
    intent_id: str, position_id: str, pair: tuple[str, str] = ("Y/USDT", "X/USDT")
) -> SubmitOrder:
    """Return an intent that closes a position."""
    return SubmitOrder(
        intent_id=intent_id,
        sleeve="pairs",
        y=pair[0],
        x=pair[1],
        action="close",
        position_id=position_id,
        reason="reverted",
        hedge_ratio=1.0,
        legs=(),
    )


def settle(
    ledger: Ledger,
    closes_at_ms: int,
    *,
    intents: Iterable[SubmitOrder] = (),
    reports: Sequence[OrderReport] = (),
    marks: Mapping[str, float] | None = None,
    terms: FillTerms | None = None,
    instruments: Mapping[str, Instrument] = INSTRUMENTS,
    control: TradingControl = TradingControl(),
    guard: Guard | None = None,
) -> Settlement:
    """Settle a close at which Y stands at 10 and X at 100, unless other marks are given."""
    prices = {"Y/USDT": 10.0, "X/USDT": 100.0} if marks is None else marks
    requested = OrdersRequested(
        closes_at=instant_of_ms(closes_at_ms),
        timeframe="5m",
        intents=tuple(intents),
        marks=dict(prices),
    )
    identity = Identity("paper", "run")
    return settle_close(
        ledger, requested, reports, instruments, terms or FillTerms(), identity, control, guard
    )


def linear_model(coefficients: Mapping[str, float], at_zero: float) -> StoredModel:
    """Return a model that sums features; where all are zero it gives the probability `at_zero`."""
    n_features = len(coefficients)
    return StoredModel(
        family="logistic_regression",
        parameters={},
        seed=0,
        feature_names=tuple(coefficients),
        scorer=LinearScorer(
            (0.0,) * n_features,
            (1.0,) * n_features,
            tuple(coefficients.values()),
            math.log(at_zero / (1 - at_zero)),
        ),
        calibration=PlattCalibration(slope=1.0, intercept=0.0),
        label=LabelSettings(),
        trained_from_ms=0,
        trained_to_ms=1,
        n_samples=100,
    )
