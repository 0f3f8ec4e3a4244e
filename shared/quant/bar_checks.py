"""The checks that no bar enters without.

One function for the ingest service, the backtest, the offline screen and the paper
exchange. It carries one small state per symbol, so that a recording checked at once and the
same recording checked close by close give the same bars.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from shared.clock import timeframe_ms
from shared.errors import DataError
from shared.quant.bars import MISSING_MS, Bars, RawBars
from shared.quant.typing import Bool1D

BarKey = tuple[str, int]
"""Symbol and close in milliseconds since 1970."""

BarValues = tuple[float, float, float, float, float]
"""Open, high, low, close, volume."""

_NOTHING_STORED: Mapping[BarKey, BarValues] = MappingProxyType({})


class Reason(StrEnum):
    """Why a bar was quarantined; of several reasons the first in this order is given."""

    MISSING_KEY = "missing_key"
    UNKNOWN_SYMBOL = "unknown_symbol"
    NOT_FINITE = "not_finite"
    PRICE_NOT_POSITIVE = "price_not_positive"
    INVERTED = "inverted"
    VOLUME_NEGATIVE = "volume_negative"
    MISALIGNED = "misaligned"
    FUTURE = "future"
    REVISION = "revision"
    SPIKE = "spike"


class BarCheckSettings(BaseModel, frozen=True, extra="forbid"):
    """Bounds of the checks.

    Attributes
    ----------
    max_log_change
        Largest accepted |d ln close| from one bar of a symbol to its next. A level beyond
        it is accepted from the second bar on that confirms it.
    """

    max_log_change: float = Field(0.5, gt=0, le=10)


class PriorBar(NamedTuple):
    """What the checks remember of a symbol.

    Attributes
    ----------
    closes_at_ms, close
        Of its latest accepted bar.
    spike_closes_at_ms, spike_close
        Of its latest bar quarantined as a spike after that one, if any.
    """

    closes_at_ms: int
    close: float
    spike_closes_at_ms: int | None = None
    spike_close: float | None = None


class QuarantinedBar(NamedTuple):
    """A bar that was refused, as it was given, and why.

    Attributes
    ----------
    symbol, closes_at_ms
        `None` where they were not given.
    message
        The refused value and the remedy.
    """

    symbol: str | None
    closes_at_ms: int | None
    open: float
    high: float
    low: float
    close: float
    volume: float
    reason: Reason
    message: str


@dataclass(frozen=True, eq=False, slots=True)
class CheckedBars:
    """What the checks made of some bars.

    Attributes
    ----------
    accepted
        In order and unique.
    quarantined
        In order of (close, symbol), bars without either first.
    duplicates
        Number of bars given again with the values that were accepted; ignored.
    prior
        The state to check the next bars with.
    """

    accepted: Bars
    quarantined: tuple[QuarantinedBar, ...]
    duplicates: int
    prior: Mapping[str, PriorBar]


def check_bars(
    bars: RawBars,
    *,
    now_ms: int,
    known: frozenset[str] | None,
    settings: BarCheckSettings,
    prior: Mapping[str, PriorBar],
    existing: Mapping[BarKey, BarValues] = _NOTHING_STORED,
) -> CheckedBars:
    """Tell good bars from bad ones.

    Parameters
    ----------
    bars
        In any order; of several bars with one symbol and close the first given counts.
    now_ms
        Present instant in milliseconds since 1970: no bar closes after it.
    known
        Symbols that may enter; `None` admits every symbol.
    settings
        Bounds.
    prior
        State of each symbol after the bars before; a symbol without one has no bar yet.
    existing
        Accepted bars at the keys that `keys_to_look_up` names for these `bars`; not needed
        while every bar is newer than its symbol's prior one.

    Returns
    -------
    CheckedBars
        Accepted, quarantined and ignored bars, which add up to those given, and the state.

    Raises
    ------
    DataError
        If the timeframe is unknown, or `existing` lacks the bar that `prior` speaks of
        while another bar of its key is given.

    Notes
    -----
    A bar is judged alone first, by the rules of `Reason` down to `FUTURE`. Those that pass
    are judged in order of close against the state of their symbol:

    1. same key as an accepted bar: a duplicate if all values are equal, else a revision;
       the first stays;
    2. newer than the prior bar: a spike if its close is beyond exp(max_log_change) times
       the prior close, either way, and also beyond that of the spike quarantined before it;
       a true level is therefore refused once and accepted from its second bar on;
    3. older than the prior bar (it fills a gap): a spike if it is beyond that of the
       accepted bars one bar before and one after it, of those that exist; without any it is
       accepted. The prior bar stays.

    A quarantined bar is no entry: its key is free for a better one. Ratios and not
    logarithms are compared, because a quotient rounds alike in scalar and vector code.

    Checking is O(n log n) and vectorised; only exceptional bars cost a step of Python.
    """
    bar_ms = timeframe_ms(bars.timeframe)
    is_sound = _sound(bars, bar_ms, now_ms, known)
    refused = [
        (row, _quarantined(bars, row, *_broken_rule(bars, row, bar_ms, now_ms, known)))
        for row in np.flatnonzero(~is_sound).tolist()
    ]
    sequence = _Sequence(bars, _by_symbol(bars, is_sound), settings, prior)
    sequence.judge_late(existing, bar_ms)
    sequence.judge_new()
    rows = sequence.rows[sequence.is_accepted]
    rows = rows[np.lexsort((bars.symbol_code[rows], bars.closes_at_ms[rows]))]
    return CheckedBars(
        accepted=_bars_of(bars, rows),
        quarantined=tuple(bar for _, bar in sorted(refused + sequence.refused, key=_place)),
        duplicates=sequence.duplicates,
        prior=sequence.next_prior(),
    )


def keys_to_look_up(bars: RawBars, prior: Mapping[str, PriorBar]) -> list[BarKey]:
    """Return the keys whose accepted bars `check_bars` needs as `existing`.

    They are those of the bars that are no newer than the prior bar of their symbol, and of
    the bars beside them; usually there is none. A key without an accepted bar is left out
    of `existing`.

    Raises
    ------
    DataError
        If the timeframe is unknown.
    """
    bar_ms = timeframe_ms(bars.timeframe)
    latest = [
        prior[symbol].closes_at_ms if symbol in prior else MISSING_MS for symbol in bars.symbols
    ]
    is_late = bars.closes_at_ms <= np.array([*latest, MISSING_MS])[bars.symbol_code]
    keys = set()
    for row in np.flatnonzero(is_late & (bars.closes_at_ms != MISSING_MS)).tolist():
        symbol, at = bars.symbols[bars.symbol_code[row]], int(bars.closes_at_ms[row])
        keys |= {(symbol, at - bar_ms), (symbol, at), (symbol, at + bar_ms)}
    return sorted(keys)


def prior_of(accepted: Bars, quarantined: Iterable[QuarantinedBar]) -> dict[str, PriorBar]:
    """Rebuild the state from what was accepted and quarantined so far.

    Parameters
    ----------
    accepted
        At least the latest accepted bar of each symbol.
    quarantined
        At least the bars quarantined as spikes after it, in the order they were refused.

    Returns
    -------
    dict of str to PriorBar
        Equal to the state that `check_bars` returned last.
    """
    codes, rows_from_end = np.unique(accepted.symbol_code[::-1], return_index=True)
    state: dict[str, PriorBar] = {}
    for code, row_from_end in zip(codes.tolist(), rows_from_end.tolist(), strict=True):
        row = len(accepted) - 1 - row_from_end
        closes_at_ms, close = int(accepted.closes_at_ms[row]), float(accepted.close[row])
        state[accepted.symbols[code]] = PriorBar(closes_at_ms, close)
    for bar in quarantined:
        if bar.reason is Reason.SPIKE and bar.symbol in state and bar.closes_at_ms is not None:
            state[bar.symbol] = _after_spike(state[bar.symbol], bar.closes_at_ms, bar.close)
    return state


class _Sequence:
    """The sound bars of one call in order of (symbol, close), and the verdicts on them."""

    def __init__(
        self,
        bars: RawBars,
        rows: NDArray[np.intp],
        settings: BarCheckSettings,
        prior: Mapping[str, PriorBar],
    ) -> None:
        self.bars = bars
        self.rows = rows
        self.prior = prior
        self.max_ratio = math.exp(settings.max_log_change)
        self.code = bars.symbol_code[rows]
        self.at = bars.closes_at_ms[rows]
        self.close = bars.close[rows]
        self.prior_by_code = [prior.get(symbol) for symbol in bars.symbols]
        latest = [MISSING_MS if p is None else p.closes_at_ms for p in self.prior_by_code]
        self.is_late = self.at <= np.array(latest, dtype=np.int64)[self.code]
        self.is_accepted = np.ones(len(rows), dtype=np.bool_)
        self.refused: list[tuple[int, QuarantinedBar]] = []
        self.duplicates = 0
        self.open_states: dict[str, PriorBar] = {}

    def judge_late(self, existing: Mapping[BarKey, BarValues], bar_ms: int) -> None:
        """Judge the bars that are no newer than their symbol's prior bar."""
        places = np.flatnonzero(self.is_late).tolist()
        accepted = dict(existing) if places else {}
        for place in places:
            symbol, at, values = self._symbol(place), int(self.at[place]), self._values(place)
            beside = [accepted.get((symbol, at + step)) for step in (-bar_ms, bar_ms)]
            closes = [bar[3] for bar in beside if bar is not None]
            if (symbol, at) in accepted:
                self._repeat(place, accepted[symbol, at])
            elif at == self.prior[symbol].closes_at_ms:
                raise DataError(
                    f"{symbol} has a prior bar that closes at {at} ms, but `existing` lacks it: "
                    "look up the accepted bars of keys_to_look_up()"
                )
            elif closes and all(self._is_far(values[3], close) for close in closes):
                self._refuse(place, Reason.SPIKE, self._spike_message(values[3], closes))
            else:
                accepted[symbol, at] = values

    def judge_new(self) -> None:
        """Judge the bars that are newer than their symbol's prior bar.

        A bar is plain when it is near the bar before it, no spike is pending and its key is
        new; it is then accepted without a step of Python. From any other bar on
        the symbol is walked bar by bar until it is plain again.
        """
        is_first = np.ones(len(self.rows), dtype=np.bool_)
        is_first[1:] = (self.code[1:] != self.code[:-1]) | self.is_late[:-1]
        is_same_key = np.zeros(len(self.rows), dtype=np.bool_)
        is_same_key[1:] = (self.code[1:] == self.code[:-1]) & (self.at[1:] == self.at[:-1])
        before = np.roll(self.close, 1)
        closes = [math.nan if p is None else p.close for p in self.prior_by_code]
        before[is_first] = np.array(closes)[self.code[is_first]]
        spikes = [p is not None and p.spike_close is not None for p in self.prior_by_code]
        is_pending = is_first & np.array(spikes, dtype=np.bool_)[self.code]
        with np.errstate(over="ignore"):
            is_far = (self.close / before > self.max_ratio) | (before / self.close > self.max_ratio)
        resume_at = 0
        for place in np.flatnonzero(~self.is_late & (is_far | is_same_key | is_pending)).tolist():
            if place >= resume_at:
                resume_at = self._walk(place, bool(is_first[place]))

    def next_prior(self) -> dict[str, PriorBar]:
        """Return the state after these bars."""
        state = dict(self.prior)
        places = np.flatnonzero(self.is_accepted & ~self.is_late)
        code = self.code[places]
        is_last = np.ones(len(places), dtype=np.bool_)
        is_last[:-1] = code[1:] != code[:-1]
        last = places[is_last]
        columns = (self.code[last].tolist(), self.at[last].tolist(), self.close[last].tolist())
        for of_symbol, at, close in zip(*columns, strict=True):
            state[self.bars.symbols[of_symbol]] = PriorBar(at, close)
        return state | self.open_states

    def _walk(self, place: int, is_first: bool) -> int:
        """Judge bars of one symbol one by one; return the place of the first plain one."""
        symbol, code = self._symbol(place), self.code[place]
        kept = place - 1
        state = (
            self.prior[symbol]
            if is_first
            else PriorBar(int(self.at[kept]), float(self.close[kept]))
        )
        while place < len(self.rows) and self.code[place] == code:
            at, close = int(self.at[place]), float(self.close[place])
            if at == state.closes_at_ms:
                self._repeat(place, self._values(kept))
            elif self._is_far(close, state.close) and not self._is_confirmed(at, close, state):
                self._refuse(place, Reason.SPIKE, self._spike_message(close, [state.close]))
                state = _after_spike(state, at, close)
            else:
                kept, state = place, _after_accepted(state, at, close)
                if state.spike_close is None:
                    return place + 1
            place += 1
        self.open_states[symbol] = state
        return place

    def _is_far(self, close: float, other: float) -> bool:
        return close / other > self.max_ratio or other / close > self.max_ratio

    def _is_confirmed(self, at: int, close: float, state: PriorBar) -> bool:
        if state.spike_closes_at_ms is None or state.spike_close is None:
            return False
        return at > state.spike_closes_at_ms and not self._is_far(close, state.spike_close)

    def _repeat(self, place: int, accepted: BarValues) -> None:
        if self._values(place) == accepted:
            self.is_accepted[place] = False
            self.duplicates += 1
        else:
            names = ("open", "high", "low", "close", "volume")
            pairs = zip(names, accepted, self._values(place), strict=True)
            changes = [f"{name} {old} became {new}" for name, old, new in pairs if old != new]
            message = f"{', '.join(changes)}: the first stays; if the venue is right, correct it"
            self._refuse(place, Reason.REVISION, message)

    def _refuse(self, place: int, reason: Reason, message: str) -> None:
        self.is_accepted[place] = False
        row = int(self.rows[place])
        self.refused.append((row, _quarantined(self.bars, row, reason, message)))

    def _spike_message(self, close: float, others: list[float]) -> str:
        return (
            f"close {close} is more than a factor of {self.max_ratio:.4g} away from "
            f"{' and '.join(str(other) for other in others)}: it is accepted from the next bar "
            "that confirms it, or raise max_log_change"
        )

    def _symbol(self, place: int) -> str:
        return self.bars.symbols[int(self.code[place])]

    def _values(self, place: int) -> BarValues:
        return _values(self.bars, int(self.rows[place]))


def _after_accepted(state: PriorBar, at: int, close: float) -> PriorBar:
    if state.spike_closes_at_ms is not None and state.spike_closes_at_ms > at:
        return state._replace(closes_at_ms=at, close=close)
    return PriorBar(at, close)


def _after_spike(state: PriorBar, at: int, close: float) -> PriorBar:
    latest = max(state.closes_at_ms, state.spike_closes_at_ms or state.closes_at_ms)
    return state._replace(spike_closes_at_ms=at, spike_close=close) if at > latest else state


def _bars_of(bars: RawBars, rows: NDArray[np.intp]) -> Bars:
    """Return rows that are known to be in order and unique."""
    code, at, opening, high, low, close, volume = bars.columns()
    return Bars(
        bars.venue,
        bars.timeframe,
        bars.symbols,
        code[rows],
        at[rows],
        opening[rows],
        high[rows],
        low[rows],
        close[rows],
        volume[rows],
    )


def _by_symbol(bars: RawBars, is_sound: Bool1D) -> NDArray[np.intp]:
    """Return the sound rows in order of (symbol, close), as given within a key."""
    rows = np.flatnonzero(is_sound)
    code, at = bars.symbol_code[rows], bars.closes_at_ms[rows]
    is_ordered = (code[1:] > code[:-1]) | ((code[1:] == code[:-1]) & (at[1:] >= at[:-1]))
    return rows if is_ordered.all() else rows[np.lexsort((at, code))]


def _sound(bars: RawBars, bar_ms: int, now_ms: int, known: frozenset[str] | None) -> Bool1D:
    """Return which rows pass every rule that looks at one bar alone; NaN passes none."""
    is_known = [known is None or symbol in known for symbol in bars.symbols]
    at = bars.closes_at_ms
    is_sound: Bool1D = (
        np.array([*is_known, False])[bars.symbol_code]  # MISSING_CODE reads the last
        & (at != MISSING_MS)
        & (at % bar_ms == 0)
        & (at <= now_ms)
        & (bars.low > 0)
        & (bars.low <= bars.open)
        & (bars.low <= bars.close)
        & (bars.open <= bars.high)
        & (bars.close <= bars.high)
        & (bars.high < math.inf)
        & (bars.volume >= 0)
        & (bars.volume < math.inf)
    )
    return is_sound


def _broken_rule(
    bars: RawBars, row: int, bar_ms: int, now_ms: int, known: frozenset[str] | None
) -> tuple[Reason, str]:
    """Return the first rule that a row breaks which `_sound` refused."""
    symbol, at = bars.row_symbol(row), int(bars.closes_at_ms[row])
    values = _values(bars, row)
    opening, high, low, close, volume = values
    if symbol is None or at == MISSING_MS:
        missing = "symbol" if symbol is None else "open time"
        return Reason.MISSING_KEY, f"no {missing} is given: a bar needs both"
    if known is not None and symbol not in known:
        return Reason.UNKNOWN_SYMBOL, f"{symbol} is not followed: add it to the symbols first"
    if not all(map(math.isfinite, values)):
        return Reason.NOT_FINITE, f"{_described(values)}: all five must be finite numbers"
    if min(opening, high, low, close) <= 0:
        return Reason.PRICE_NOT_POSITIVE, f"{_described(values)}: prices must be positive"
    if not low <= min(opening, close) <= max(opening, close) <= high:
        ordered = "low <= open, close <= high must hold"
        return Reason.INVERTED, f"{_described(values)}: {ordered}"
    if volume < 0:
        return Reason.VOLUME_NEGATIVE, f"volume {volume}: it must be zero or positive"
    instant = f"{np.datetime64(at, 'ms')}Z"
    if at % bar_ms:
        return Reason.MISALIGNED, f"close {instant} is off the grid of {bars.timeframe} bars"
    now = f"{np.datetime64(now_ms, 'ms')}Z"
    return Reason.FUTURE, f"close {instant} is after {now}: send a bar once it has closed"


def _described(values: BarValues) -> str:
    names = ("open", "high", "low", "close", "volume")
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))


def _values(bars: RawBars, row: int) -> BarValues:
    return (
        float(bars.open[row]),
        float(bars.high[row]),
        float(bars.low[row]),
        float(bars.close[row]),
        float(bars.volume[row]),
    )


def _quarantined(bars: RawBars, row: int, reason: Reason, message: str) -> QuarantinedBar:
    at = int(bars.closes_at_ms[row])
    given_at = None if at == MISSING_MS else at
    return QuarantinedBar(bars.row_symbol(row), given_at, *_values(bars, row), reason, message)


def _place(refused: tuple[int, QuarantinedBar]) -> tuple[int, str, int]:
    row, bar = refused
    return (MISSING_MS if bar.closes_at_ms is None else bar.closes_at_ms, bar.symbol or "", row)
