"""The signals of a whole period, pair by pair.

What the rule decides about a pair depends on that pair's features alone, not on the account
nor on other pairs. So each pair is followed through the whole period by itself, over all cores,
and the signals are put in order of their closes afterwards. The decisions are those of
`decide_signals`, taken with the same compiled rule.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from shared.events.signals import WHOLE_PPM
from shared.quant.compiled import compiled, compiled_in_place, compiled_parallel
from shared.quant.typing import Bool1D, Float1D, Int1D
from shared.sleeves.pairs.features import z_held
from shared.sleeves.pairs.rules import Thresholds, exit_reason, may_enter, size_ppm


class Rows(NamedTuple):
    """The columns of a feature table that decide, pair by pair, each of shape (n,) unless told.

    Attributes
    ----------
    first_row : shape (n_pairs + 1,)
        Rows of pair i are `first_row[i]` to `first_row[i + 1]`, in order of time.
    close
        Index of the trade close.
    y, x
        Closes in the space of the spread.
    confidence
        Probability of the model in force, NaN where there is none.
    """

    first_row: Int1D
    close: Int1D
    is_active: Bool1D
    close_y: Float1D
    close_x: Float1D
    y: Float1D
    x: Float1D
    z_score: Float1D
    beta: Float1D
    alpha: Float1D
    spread_mean: Float1D
    spread_std: Float1D
    half_life: Float1D
    confidence: Float1D


class Signals(NamedTuple):
    """Every signal, in order of close and pair; `reason` 0 is an entry."""

    close: Int1D
    pair: Int1D
    side: Int1D
    reason: Int1D
    entered_at_ms: Int1D
    is_by_model: Bool1D
    size_ppm: Int1D
    z_score: Float1D
    confidence: Float1D
    hedge_ratio: Float1D
    intercept: Float1D
    spread_mean: Float1D
    spread_std: Float1D
    close_y: Float1D
    close_x: Float1D


class Raised(NamedTuple):
    """Signals as the rule raises them, pair by pair, with room between the pairs.

    Attributes
    ----------
    entered, seen
        The row the trade was entered at, and its last row up to the signal.
    """

    close: Int1D
    reason: Int1D
    entered: Int1D
    seen: Int1D
    size_ppm: Int1D
    z_score: Float1D


def rows_by_pair(pair: Int1D, n_pairs: int) -> tuple[Int1D, Int1D]:
    """Return `Rows.first_row`, and the order that takes rows by close to rows by pair.

    Parameters
    ----------
    pair : shape (n,)
        The pair of every row, in order of closes.
    n_pairs
        How many there are.
    """
    first_row = np.zeros(n_pairs + 1, dtype=np.int64)
    return first_row, _order_by(pair, first_row)


@compiled
def _order_by(group: Int1D, first: Int1D) -> Int1D:
    """Return the stable order by group, and write into `first` where each group begins."""
    for each in group:
        first[each + 1] += 1
    for n in range(1, len(first)):
        first[n] += first[n - 1]
    place, order = first.copy(), np.empty(len(group), dtype=np.int64)
    for n in range(len(group)):
        order[place[group[n]]] = n
        place[group[n]] += 1
    return order


def raise_signals(
    rows: Rows,
    closes_at_ms: Int1D,
    limits: Thresholds,
    needs_model: bool,
    probability_threshold: float,
) -> tuple[Signals, Int1D]:
    """Return every signal of a period, and where those of each close begin.

    Parameters
    ----------
    rows
        Features by pair.
    closes_at_ms : shape (n_closes,)
        The trade closes.
    limits
        Thresholds of the rule.
    needs_model, probability_threshold
        Whether nothing is entered without a model's word, and its smallest probability.

    Returns
    -------
    Signals
        In order of close and pair.
    Int1D : shape (n_closes + 1,)
        Those of close i are this[i] to this[i + 1].
    """
    n_closes, n_rows = len(closes_at_ms), np.diff(rows.first_row)
    # From an entry to the next: a close at least to the exit, and the cool-down.
    n_entries = np.minimum(n_rows, -(-n_closes // (1 + max(1, limits.cooldown_bars))))
    room = np.append(0, np.cumsum(2 * n_entries))
    # Memory that nothing is written to is never taken from the machine.
    raised = Raised(
        close=np.empty(room[-1], dtype=np.int64),
        reason=np.empty(room[-1], dtype=np.int64),
        entered=np.empty(room[-1], dtype=np.int64),
        seen=np.empty(room[-1], dtype=np.int64),
        size_ppm=np.empty(room[-1], dtype=np.int64),
        z_score=np.empty(room[-1]),
    )
    n_raised = _follow_pairs(
        rows, n_closes, limits, needs_model, probability_threshold, room, raised
    )
    # Of every signal its pair, and its place among the room of all pairs.
    pair = np.repeat(np.arange(len(n_raised)), n_raised)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(n_raised) - n_raised, n_raised) + room[pair]
    first_signal = np.zeros(n_closes + 1, dtype=np.int64)
    order = _order_by(raised.close[place], first_signal)
    found = Raised(*(column[place[order]] for column in raised))
    return _with_entries(found, pair[order], rows, closes_at_ms), first_signal


@compiled_parallel
def _follow_pairs(
    rows: Rows,
    n_closes: int,
    limits: Thresholds,
    needs_model: bool,
    probability_threshold: float,
    room: Int1D,
    raised: Raised,
) -> Int1D:
    """Write the signals of pair i from `room[i]` on; return how many each has."""
    n_raised = np.zeros(len(room) - 1, dtype=np.int64)
    for pair in numba.prange(len(n_raised)):
        n_raised[pair] = _follow_pair(
            pair, rows, n_closes, limits, needs_model, probability_threshold, room[pair], raised
        )
    return n_raised


@compiled_in_place
def _follow_pair(
    pair: int,
    rows: Rows,
    n_closes: int,
    limits: Thresholds,
    needs_model: bool,
    probability_threshold: float,
    first: int,
    raised: Raised,
) -> int:
    n, row, end, free_from = first, rows.first_row[pair], rows.first_row[pair + 1], 0
    while row < end:
        if (
            not may_enter(rows.z_score[row], rows.beta[row], rows.spread_std[row], limits)
            or rows.close[row] < free_from
            or not rows.is_active[row]
            or not _model_agrees(rows.confidence[row], needs_model, probability_threshold)
        ):
            row += 1
            continue
        entered, close = row, rows.close[row]
        size = size_ppm(rows.half_life[entered], limits)
        _note(raised, n, close, 0, entered, entered, size, rows.z_score[entered])
        n += 1
        side = -1 if rows.z_score[entered] > 0 else 1
        alpha, mean = rows.alpha[entered], rows.spread_mean[entered]
        seen, missing_closes, reason = entered, 0, 0
        while reason == 0 and close + 1 < n_closes:
            close += 1
            missing_closes += 1
            if seen + 1 < end and rows.close[seen + 1] == close:
                seen += 1
                missing_closes = 0
            z_score = z_held(
                rows.y[seen],
                rows.x[seen],
                rows.beta[entered],
                alpha,
                mean,
                rows.spread_std[entered],
            )
            bars_held = close - rows.close[entered]
            reason = exit_reason(-side * z_score, bars_held, missing_closes, limits)
        if reason > 0:
            _note(raised, n, close, reason, entered, seen, WHOLE_PPM, z_score)
            n += 1
            free_from = close + max(1, limits.cooldown_bars)
        row = seen + 1
    return n - first


@compiled_in_place
def _note(
    raised: Raised,
    n: int,
    close: int,
    reason: int,
    entered: int,
    seen: int,
    size: int,
    z_score: float,
) -> None:
    raised.close[n], raised.reason[n], raised.size_ppm[n] = close, reason, size
    raised.entered[n], raised.seen[n], raised.z_score[n] = entered, seen, z_score


@compiled_in_place
def _model_agrees(confidence: float, needs_model: bool, probability_threshold: float) -> bool:
    if math.isnan(confidence):
        return not needs_model
    return bool(confidence >= probability_threshold)


def _with_entries(found: Raised, pair: Int1D, rows: Rows, closes_at_ms: Int1D) -> Signals:
    """Return signals with what the rows of their entry and their present close say."""
    entered, is_entry = found.entered, found.reason == 0
    confidence = rows.confidence[entered]
    return Signals(
        close=found.close,
        pair=pair,
        side=np.where(rows.z_score[entered] > 0, -1, 1),
        reason=found.reason,
        entered_at_ms=closes_at_ms[rows.close[entered]],
        is_by_model=~np.isnan(confidence),
        size_ppm=found.size_ppm,
        z_score=found.z_score,
        confidence=np.where(is_entry, confidence, np.nan),
        hedge_ratio=rows.beta[entered],
        intercept=rows.alpha[entered],
        spread_mean=rows.spread_mean[entered],
        spread_std=rows.spread_std[entered],
        close_y=rows.close_y[found.seen],
        close_x=rows.close_x[found.seen],
    )
