"""From signals to intents: slots, caps and sizes.

One intent opens or closes the position of one pair. A pair keeps its slot and its share of
the caps until the executor reports its position closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from shared.book.instrument import Instrument
from shared.book.sizing import (
    PairSize,
    SizingSettings,
    fraction_of_e8,
    part_of_gross_e8,
    size_pair,
)
from shared.events.executor import PositionsChanged
from shared.events.portfolio import OrdersRequested, SubmitOrder
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


class Decision(NamedTuple):
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
    book = _Book.of(live, raised.closes_at_ms, instruments, settings, spread_space)
    signals = raised.rows
    exits = [signal for signal in signals if signal.action == "exit"]
    entries = [signal for signal in signals if signal.action == "enter"]
    exits.sort(key=attrgetter("y", "x"))
    entries.sort(key=lambda signal: (-signal.strength, signal.y, signal.x))
    decided = [(signal, _close(book, signal)) for signal in exits]
    decided += [(signal, _open(book, signal)) for signal in entries]
    # All in one call: an intent built by itself costs three times as much.
    requested = OrdersRequested.model_validate(
        {
            "closes_at": raised.closes_at,
            "timeframe": raised.timeframe,
            "intents": [found for _, found in decided if not isinstance(found, str)],
            "marks": raised.marks,
            "refused": [
                {"y": signal.y, "x": signal.x, "action": signal.action, "reason": found}
                for signal, found in decided
                if isinstance(found, str)
            ],
        }
    )
    intents = iter(requested.intents)
    decisions = tuple(
        Decision(signal, None, found)
        if isinstance(found, str)
        else Decision(signal, next(intents), "accepted")
        for signal, found in decided
    )
    return IntentPlan(requested, decisions, book.taken)


def release_closed(
    live: Mapping[tuple[str, str], LiveTarget], changed: PositionsChanged
) -> dict[tuple[str, str], LiveTarget]:
    """Free the slots of positions that the executor reports closed."""
    closed = {p.position_id for p in changed.positions if p.state == "closed"}
    return {key: target for key, target in live.items() if target.position_id not in closed}


@dataclass(slots=True)
class _Book:
    """What is taken so far, and what limits it.

    Attributes
    ----------
    taken
        The slots.
    exposure_e8, gross_e8
        Gross notional in every symbol over all pairs, and of all symbols.
    """

    taken: dict[tuple[str, str], LiveTarget]
    exposure_e8: Counter[str]
    gross_e8: int
    closes_at_ms: int
    instruments: Mapping[str, Instrument]
    spread_space: Literal["log", "price"]
    n_slots: int
    pair_gross_e8: int
    symbol_cap_e8: int
    gross_cap_e8: int

    @classmethod
    def of(
        cls,
        live: Mapping[tuple[str, str], LiveTarget],
        closes_at_ms: int,
        instruments: Mapping[str, Instrument],
        settings: SizingSettings,
        spread_space: Literal["log", "price"],
    ) -> _Book:
        """Return the book before the first signal of a close."""
        exposure_e8: Counter[str] = Counter()
        for target in live.values():
            exposure_e8[target.y] += target.notional_y_e8
            exposure_e8[target.x] += target.notional_x_e8
        return cls(
            taken=dict(live),
            exposure_e8=exposure_e8,
            gross_e8=exposure_e8.total(),
            closes_at_ms=closes_at_ms,
            instruments=instruments,
            spread_space=spread_space,
            n_slots=settings.top_k,
            pair_gross_e8=settings.pair_gross_e8,
            symbol_cap_e8=fraction_of_e8(settings.capital_e8, settings.symbol_cap),
            gross_cap_e8=fraction_of_e8(settings.capital_e8, settings.gross_cap),
        )


def _close(book: _Book, signal: Signal) -> dict[str, Any] | str:
    """Return the intent that closes the position of a pair, or why there is none."""
    key = (signal.y, signal.x)
    target = book.taken.get(key)
    if target is None:
        return "no position: the entry was refused or is closed already"
    if target.is_closing:
        return "already closing"
    book.taken[key] = target._replace(is_closing=True)
    intent_id = _intent_id(book, signal, "close")
    return _intent(signal, intent_id, "close", target.position_id, ())


def _open(book: _Book, signal: Signal) -> dict[str, Any] | str:
    """Return the intent that opens a position, or why there is none."""
    y, x = key = (signal.y, signal.x)
    if key in book.taken:
        return "the pair's last position is not closed yet"
    instrument_y, instrument_x = book.instruments.get(y), book.instruments.get(x)
    if instrument_y is None or instrument_x is None:
        missing = [symbol for symbol in key if symbol not in book.instruments]
        return f"no instrument {', '.join(missing)}"
    if signal.hedge_ratio <= 0:
        return f"hedge ratio {signal.hedge_ratio} is not positive"
    size = size_pair(
        part_of_gross_e8(book.pair_gross_e8, signal.size_ppm),
        signal.hedge_ratio,
        book.spread_space,
        signal.close_y,
        signal.close_x,
        instrument_y,
        instrument_x,
    )
    refusal = _refusal(book, size, instrument_y, instrument_x)
    if refusal is not None:
        return refusal
    intent_id = _intent_id(book, signal, "open")
    book.taken[key] = LiveTarget(y, x, intent_id, size.notional_y_e8, size.notional_x_e8)
    book.exposure_e8[y] += size.notional_y_e8
    book.exposure_e8[x] += size.notional_x_e8
    book.gross_e8 += size.notional_y_e8 + size.notional_x_e8
    side_y, side_x = ("buy", "sell") if signal.side > 0 else ("sell", "buy")
    legs = (
        {"leg": "y", "symbol": y, "side": side_y, "quantity_lots": size.lots_y},
        {"leg": "x", "symbol": x, "side": side_x, "quantity_lots": size.lots_x},
    )
    return _intent(signal, intent_id, "open", intent_id, legs)


def _refusal(
    book: _Book, size: PairSize, instrument_y: Instrument, instrument_x: Instrument
) -> str | None:
    """Return why an entry breaks a limit, or `None`."""
    if len(book.taken) >= book.n_slots:
        return f"all {book.n_slots} slots are taken"
    for instrument, notional_e8 in (
        (instrument_y, size.notional_y_e8),
        (instrument_x, size.notional_x_e8),
    ):
        symbol, least = instrument.symbol, instrument.min_notional_e8
        if notional_e8 == 0 or notional_e8 < least:
            return f"{symbol}: leg of {notional_e8}e-8 is below the venue's minimum of {least}e-8"
        if book.exposure_e8[symbol] + notional_e8 > book.symbol_cap_e8:
            return f"{symbol}: symbol cap of {book.symbol_cap_e8}e-8 would be exceeded"
    if book.gross_e8 + size.notional_y_e8 + size.notional_x_e8 > book.gross_cap_e8:
        return f"gross cap of {book.gross_cap_e8}e-8 would be exceeded"
    return None


def _intent(
    signal: Signal, intent_id: str, action: str, position_id: str, legs: tuple[dict[str, Any], ...]
) -> dict[str, Any]:
    """Return the fields of a `SubmitOrder`."""
    return {
        "intent_id": intent_id,
        "sleeve": signal.sleeve,
        "y": signal.y,
        "x": signal.x,
        "action": action,
        "position_id": position_id,
        "reason": signal.reason,
        "hedge_ratio": signal.hedge_ratio,
        "legs": legs,
    }


def _intent_id(book: _Book, signal: Signal, action: str) -> str:
    return f"{book.closes_at_ms}:{signal.sleeve}:{signal.y}~{signal.x}:{action}"
