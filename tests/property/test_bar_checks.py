from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.quant.bar_checks import (
    BarCheckSettings,
    BarKey,
    BarValues,
    PriorBar,
    QuarantinedBar,
    Reason,
    check_bars,
    keys_to_look_up,
    prior_of,
)
from shared.quant.bars import BarRow, Bars, RawBars, concatenate

MINUTES_5 = 300_000
SETTINGS = BarCheckSettings()
KNOWN = frozenset({"A/USDT", "B/USDT", "C/USDT"})
N_CLOSES = 12
NOW_MS = (N_CLOSES - 1) * MINUTES_5  # the last close is in the future

Accepted = dict[BarKey, BarValues]


@st.composite
def faulty_rows(draw: st.DrawFn) -> BarRow:
    """Return a row, mostly good, of few levels, so that spikes, repeats and revisions meet."""
    symbol = draw(st.sampled_from([*sorted(KNOWN), "Z/USDT", None]))
    at = draw(st.integers(1, N_CLOSES)) * MINUTES_5
    level = draw(st.sampled_from([1.0, 1.0, 1.0, 1.5, 2.0, 4.0]))
    opening, high, low, close, volume = level, level * 1.2, level * 0.8, level, 7.0
    fault = draw(st.sampled_from(["none"] * 8 + ["nan", "zero", "inverted", "volume", "grid"]))
    if fault == "nan":
        opening = np.nan
    elif fault == "zero":
        low = 0.0
    elif fault == "inverted":
        high = level * 0.9
    elif fault == "volume":
        volume = -1.0
    elif fault == "grid":
        at += 1
    return (symbol, at, opening, high, low, close, volume)


def raw(rows: list[BarRow]) -> RawBars:
    return RawBars.from_rows("binance", "5m", rows)


def accepted_of(bars: Bars) -> Accepted:
    _, closes, *values = (column.tolist() for column in bars.columns())
    names = [bars.symbols[code] for code in bars.symbol_code.tolist()]
    return dict(zip(zip(names, closes, strict=True), zip(*values, strict=True), strict=True))


def told(quarantined: list[QuarantinedBar]) -> list[str]:
    return sorted(map(repr, quarantined))  # repr, because nan != nan


def check_in_steps(
    steps: list[list[BarRow]], *, is_rebuilt: bool
) -> tuple[Accepted, list[QuarantinedBar], int, dict[str, PriorBar]]:
    """Check step by step, carrying the state or rebuilding it from the record each time."""
    prior: dict[str, PriorBar] = {}
    record: Accepted = {}
    parts: list[Bars] = []
    quarantined: list[QuarantinedBar] = []
    duplicates = 0
    for rows in steps:
        bars = raw(rows)
        existing = {key: record[key] for key in keys_to_look_up(bars, prior) if key in record}
        checked = check_bars(
            bars, now_ms=NOW_MS, known=KNOWN, settings=SETTINGS, prior=prior, existing=existing
        )
        parts.append(checked.accepted)
        record |= accepted_of(checked.accepted)
        quarantined.extend(checked.quarantined)
        duplicates += checked.duplicates
        prior = dict(checked.prior)
        if is_rebuilt:
            prior = prior_of(concatenate(parts), quarantined)
            assert prior == checked.prior
    return record, quarantined, duplicates, prior


def by_close(rows: list[BarRow]) -> list[BarRow]:
    return sorted(rows, key=lambda row: row[1] or 0)  # stable: the order given within a close


@pytest.mark.parametrize("is_rebuilt", [False, True], ids=["state carried", "state rebuilt"])
@given(rows=st.lists(faulty_rows(), max_size=60), cuts=st.lists(st.integers(0, 60), max_size=20))
def test_checking_in_steps_of_any_size_equals_checking_at_once(
    is_rebuilt: bool, rows: list[BarRow], cuts: list[int]
) -> None:
    ordered = by_close(rows)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    steps = [ordered[first:last] for first, last in pairwise(edges)]
    record, quarantined, duplicates, prior = check_in_steps(steps, is_rebuilt=is_rebuilt)

    whole = check_bars(raw(rows), now_ms=NOW_MS, known=KNOWN, settings=SETTINGS, prior={})
    assert accepted_of(whole.accepted) == record
    assert told(list(whole.quarantined)) == told(quarantined)
    assert whole.duplicates == duplicates
    assert whole.prior == prior


@given(rows=st.lists(faulty_rows(), max_size=60))
def test_checking_close_by_close_equals_checking_at_once(rows: list[BarRow]) -> None:
    closes = sorted({row[1] or 0 for row in rows})
    steps = [[row for row in rows if row[1] == close] for close in closes]
    record, quarantined, duplicates, prior = check_in_steps(steps, is_rebuilt=False)

    whole = check_bars(raw(rows), now_ms=NOW_MS, known=KNOWN, settings=SETTINGS, prior={})
    assert accepted_of(whole.accepted) == record
    assert told(list(whole.quarantined)) == told(quarantined)
    assert (whole.duplicates, whole.prior) == (duplicates, prior)


@given(rows=st.lists(faulty_rows(), max_size=60), late=st.lists(faulty_rows(), max_size=20))
def test_every_bar_given_is_accepted_quarantined_or_counted_in_any_order_of_arrival(
    rows: list[BarRow], late: list[BarRow]
) -> None:
    record, quarantined, duplicates, _ = check_in_steps([rows, late], is_rebuilt=True)
    assert len(record) + len(quarantined) + duplicates == len(rows) + len(late)


@given(rows=st.lists(faulty_rows(), max_size=60))
def test_accepted_bars_are_ordered_unique_and_sound(rows: list[BarRow]) -> None:
    bars = check_bars(raw(rows), now_ms=NOW_MS, known=KNOWN, settings=SETTINGS, prior={}).accepted
    keys = list(zip(bars.closes_at_ms.tolist(), bars.symbol_code.tolist(), strict=True))
    assert keys == sorted(set(keys))
    assert (bars.low > 0).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (np.maximum(bars.open, bars.close) <= bars.high).all()
    assert (bars.volume >= 0).all()
    assert (bars.closes_at_ms % MINUTES_5 == 0).all()
    assert (bars.closes_at_ms <= NOW_MS).all()
    assert {bars.symbols[code] for code in bars.symbol_code.tolist()} <= KNOWN


@given(rows=st.lists(faulty_rows(), max_size=60), data=st.data())
def test_a_bar_after_the_present_changes_no_verdict(
    rows: list[BarRow], data: st.DataObject
) -> None:
    present = data.draw(st.integers(1, N_CLOSES)) * MINUTES_5
    past = [row for row in rows if (row[1] or 0) <= present]
    alone = check_bars(raw(past), now_ms=NOW_MS, known=KNOWN, settings=SETTINGS, prior={})
    among = check_bars(raw(rows), now_ms=NOW_MS, known=KNOWN, settings=SETTINGS, prior={})
    assert accepted_of(among.accepted.between(None, present)) == accepted_of(alone.accepted)
    until = [bar for bar in among.quarantined if (bar.closes_at_ms or 0) <= present]
    assert told(until) == told(list(alone.quarantined))


@given(levels=st.lists(st.sampled_from([1.0, 3.0, 9.0]), min_size=1, max_size=30))
def test_no_level_locks_a_symbol_out_for_ever(levels: list[float]) -> None:
    settled = [*levels, 3.0, 3.0]
    rows: list[BarRow] = [
        ("A/USDT", at * MINUTES_5, level, level, level, level, 1.0)
        for at, level in enumerate(settled, start=1)
    ]
    checked = check_bars(
        raw(rows), now_ms=len(rows) * MINUTES_5, known=None, settings=SETTINGS, prior={}
    )
    assert checked.accepted.closes_at_ms[-1] == len(rows) * MINUTES_5
    assert {bar.reason for bar in checked.quarantined} <= {Reason.SPIKE}
