"""From signals to intents: slots, caps and sizes.

One intent opens or closes the position of one pair. A pair keeps its slot and its share of
the caps until the executor reports its position closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shared.book.instrument import Instrument
from shared.book.sizing import (
    PairSize,
    SizingSettings,
    fraction_of_e8,
    part_of_gross_e8,
    size_pair,
)
from shared.events.executor import PositionsChanged
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder
from shared.events.signals import Signal, SignalsRaised


class LiveTarget(NamedTuple):
    """A pair that holds a slot.

    Attributes
    ----------
    position_id
        Id of the opening intent.
    notional_y_e8, notional_x_e8
        Share of the caps, at the sizing price.
    is_closing
        Whether the closing intent has been issued.
    """

    y: str
    x: str
    position_id: str
    notional_y_e8: int
    notional_x_e8: int
    is_closing: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one signal: an intent, or a refusal with its reason."""

    signal: Signal
    intent: SubmitOrder | None
    reason: str


@dataclass(frozen=True, slots=True)
class IntentPlan:
    """The intents of one close, what was decided on every signal, and the slots now taken."""

    requested: OrdersRequested
    decisions: tuple[Decision, ...]
    live: dict[tuple[str, str], LiveTarget]


def plan_intents(
    live: Mapping[tuple[str, str], LiveTarget],
    raised: SignalsRaised,
    instruments: Mapping[str, Instrument],
    settings: SizingSettings,
    spread_space: Literal["log", "price"],
) -> IntentPlan:
    """Turn the signals of one close into intents.

    Exits come first. Entries follow by strength, ties by name, while slots and caps last.
    """
    taken = dict(live)
    exposure = _exposure_e8(live)
    decisions = []
    exits = [signal for signal in raised.signals if signal.action == "exit"]
    entries = [signal for signal in raised.signals if signal.action == "enter"]
    for signal in sorted(exits, key=lambda s: (s.y, s.x)):
        decision = _close(taken, raised.closes_at_ms, signal)
        decisions.append(decision)
    for signal in sorted(entries, key=lambda s: (-s.strength, s.y, s.x)):
        decision = _open(
            taken, exposure, raised.closes_at_ms, signal, instruments, settings, spread_space
        )
        decisions.append(decision)
    requested = OrdersRequested(
        closes_at=raised.closes_at,
        timeframe=raised.timeframe,
        intents=tuple(d.intent for d in decisions if d.intent is not None),
        marks=raised.marks,
    )
    return IntentPlan(requested, tuple(decisions), taken)


def release_closed(
    live: Mapping[tuple[str, str], LiveTarget], changed: PositionsChanged
) -> dict[tuple[str, str], LiveTarget]:
    """Free the slots of positions that the executor reports closed."""
    closed = {p.position_id for p in changed.positions if p.state == "closed"}
    return {key: target for key, target in live.items() if target.position_id not in closed}


def _close(taken: dict[tuple[str, str], LiveTarget], closes_at_ms: int, signal: Signal) -> Decision:
    key = (signal.y, signal.x)
    target = taken.get(key)
    if target is None:
        return Decision(signal, None, "no position: the entry was refused or is closed already")
    if target.is_closing:
        return Decision(signal, None, "already closing")
    taken[key] = target._replace(is_closing=True)
    return Decision(
        signal,
        SubmitOrder(
            intent_id=_intent_id(closes_at_ms, signal, "close"),
            sleeve=signal.sleeve,
            y=signal.y,
            x=signal.x,
            action="close",
            position_id=target.position_id,
            reason=signal.reason,
            hedge_ratio=signal.hedge_ratio,
            legs=(),
        ),
        "accepted",
    )


def _open(
    taken: dict[tuple[str, str], LiveTarget],
    exposure: Counter[str],
    closes_at_ms: int,
    signal: Signal,
    instruments: Mapping[str, Instrument],
    settings: SizingSettings,
    spread_space: Literal["log", "price"],
) -> Decision:
    key = (signal.y, signal.x)
    if key in taken:
        return Decision(signal, None, "the pair's last position is not closed yet")
    missing = [symbol for symbol in key if symbol not in instruments]
    if missing:
        return Decision(signal, None, f"no instrument {', '.join(missing)}")
    if signal.hedge_ratio <= 0:
        return Decision(signal, None, f"hedge ratio {signal.hedge_ratio} is not positive")
    size = size_pair(
        part_of_gross_e8(settings.pair_gross_e8, signal.size_ppm),
        signal.hedge_ratio,
        spread_space,
        signal.close_y,
        signal.close_x,
        instruments[signal.y],
        instruments[signal.x],
    )
    refusal = _refusal(len(taken), exposure, signal, size, instruments, settings)
    if refusal is not None:
        return Decision(signal, None, refusal)
    intent_id = _intent_id(closes_at_ms, signal, "open")
    taken[key] = LiveTarget(signal.y, signal.x, intent_id, size.notional_y_e8, size.notional_x_e8)
    exposure[signal.y] += size.notional_y_e8
    exposure[signal.x] += size.notional_x_e8
    side_y, side_x = ("buy", "sell") if signal.side > 0 else ("sell", "buy")
    return Decision(
        signal,
        SubmitOrder(
            intent_id=intent_id,
            sleeve=signal.sleeve,
            y=signal.y,
            x=signal.x,
            action="open",
            position_id=intent_id,
            reason=signal.reason,
            hedge_ratio=signal.hedge_ratio,
            legs=(
                OrderLeg(leg="y", symbol=signal.y, side=side_y, quantity_lots=size.lots_y),
                OrderLeg(leg="x", symbol=signal.x, side=side_x, quantity_lots=size.lots_x),
            ),
        ),
        "accepted",
    )


def _refusal(
    n_taken: int,
    exposure: Counter[str],
    signal: Signal,
    size: PairSize,
    instruments: Mapping[str, Instrument],
    settings: SizingSettings,
) -> str | None:
    """Return why an entry breaks a limit, or `None`."""
    if n_taken >= settings.top_k:
        return f"all {settings.top_k} slots are taken"
    for symbol, notional_e8 in ((signal.y, size.notional_y_e8), (signal.x, size.notional_x_e8)):
        least = instruments[symbol].min_notional_e8
        if notional_e8 == 0 or notional_e8 < least:
            return f"{symbol}: leg of {notional_e8}e-8 is below the venue's minimum of {least}e-8"
        cap = fraction_of_e8(settings.capital_e8, settings.symbol_cap)
        if exposure[symbol] + notional_e8 > cap:
            return f"{symbol}: symbol cap of {cap}e-8 would be exceeded"
    cap = fraction_of_e8(settings.capital_e8, settings.gross_cap)
    if exposure.total() + size.notional_y_e8 + size.notional_x_e8 > cap:
        return f"gross cap of {cap}e-8 would be exceeded"
    return None


def _exposure_e8(live: Mapping[tuple[str, str], LiveTarget]) -> Counter[str]:
    """Return the gross notional in every symbol over all pairs."""
    exposure: Counter[str] = Counter()
    for target in live.values():
        exposure[target.y] += target.notional_y_e8
        exposure[target.x] += target.notional_x_e8
    return exposure


def _intent_id(closes_at_ms: int, signal: Signal, action: str) -> str:
    return f"{closes_at_ms}:{signal.sleeve}:{signal.y}~{signal.x}:{action}"
