from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from shared.backtest.digests import (
    KINDS,
    Row,
    Tally,
    bars_digest,
    digest,
    fill_row,
    order_row,
    pair_rows,
    position_row,
    signal_row,
)
from shared.book.ledger import Fill
from shared.book.orders import Order, OrderState, Side
from shared.book.positions import PairPosition, PairState
from shared.clock import instant_of_ms
from shared.quant.bars import Bars, RawBars
from tests.support import BAR_MS, MIDNIGHT_MS, roster, signal

ORDER = Order("id", "i", "Y~X", "y", 0, "Y/USDT", Side.BUY, 10, False, 5, OrderState.FILLED, 10)
FILL = Fill("id", 0, "Y~X", "y", "Y/USDT", Side.SELL, 10, 1_000, 7, 6)
POSITION = PairPosition("p", "Y~X", "Y", "X", PairState.CLOSED, 5, 1, -2, 3, 4, 6, 9)


def test_a_digest_is_the_sha256_of_rows_as_json_lines() -> None:
    rows = [(1, "a", None, True, 0.1, [1.5, -0.0]), (2, "é", False, 1.25, 10**18)]
    lines = '[1,"a",null,true,0.1,[1.5,-0.0]]\n[2,"é",false,1.25,1000000000000000000]\n'
    assert digest(rows) == hashlib.sha256(lines.encode()).hexdigest()
    assert digest([]) == hashlib.sha256().hexdigest()


def test_a_digest_tells_neighbouring_floats_apart() -> None:
    assert digest([(0.1,)]) != digest([(np.nextafter(0.1, 1).item(),)])


# --- bars -------------------------------------------------------------------------------------


def bars(timeframe: str = "5m", *rows: tuple[str, int]) -> Bars:
    table = rows or (("A/USDT", 2), ("B/USDT", 2), ("A/USDT", 1))
    return Bars.from_raw(
        RawBars.from_rows(
            "binance",
            timeframe,
            [(symbol, close, 1.0, 4.0, 0.5, 2.0, 10.0 * close) for symbol, close in table],
        )
    )


def test_bars_have_one_digest_whatever_order_they_came_in() -> None:
    turned = bars("5m", ("B/USDT", 2), ("A/USDT", 1), ("A/USDT", 2))
    assert bars_digest([turned]) == bars_digest([bars()])
    hourly = bars("1h")
    assert bars_digest([bars(), hourly]) == bars_digest([hourly, bars()])


def test_symbols_without_a_bar_are_no_part_of_the_digest() -> None:
    more = bars("5m", ("0/USDT", 3), ("A/USDT", 2), ("B/USDT", 2), ("A/USDT", 1)).between(None, 2)
    assert more.symbols != bars().symbols
    assert bars_digest([more]) == bars_digest([bars()])


@pytest.mark.parametrize("column", ["closes_at_ms", "open", "high", "low", "close", "volume"])
def test_every_column_of_a_bar_is_part_of_the_digest(column: str) -> None:
    values = getattr(bars(), column).copy()
    values[-1] += 1
    assert bars_digest([replace(bars(), **{column: values})]) != bars_digest([bars()])


def test_venue_timeframe_and_symbol_are_part_of_the_digest() -> None:
    others = [
        replace(bars(), venue="okx"),
        replace(bars(), timeframe="1h"),
        replace(bars(), symbols=("A/USDT", "C/USDT")),
        bars("5m", ("A/USDT", 1), ("A/USDT", 2)),
    ]
    assert len({bars_digest([other]) for other in (*others, bars())}) == 5


# --- rows -------------------------------------------------------------------------------------


def other_than(value: object) -> object:
    """Return another value of the same kind."""
    if value is None:
        return 1
    if isinstance(value, bool):
        return not value
    if isinstance(value, OrderState):
        return OrderState.CANCELLED
    if isinstance(value, PairState):
        return PairState.OPEN
    if isinstance(value, Side):
        return Side.BUY if value is Side.SELL else Side.SELL
    if isinstance(value, str):
        return f"{value}2"
    assert isinstance(value, int)
    return value + 1


@pytest.mark.parametrize(
    ("recorded", "row_of", "left_out"),
    [
        (ORDER, order_row, {"reason"}),
        (FILL, fill_row, set()),
        # The symbols are in the pair; the others tell how execution went, not what was decided.
        (
            POSITION,
            position_row,
            {
                "symbol_y",
                "symbol_x",
                "target_lots_y",
                "target_lots_x",
                "exposed_since_ms",
                "exposed_ms",
                "is_residue",
            },
        ),
    ],
)
def test_every_business_column_is_part_of_a_row(
    recorded: Any, row_of: Any, left_out: set[str]
) -> None:
    assert digest([row_of(recorded)])
    for field in fields(recorded):
        if field.name == "filled_lots":
            changed = replace(recorded, filled_lots=9)
        else:
            changed = replace(recorded, **{field.name: other_than(getattr(recorded, field.name))})
        is_the_same = row_of(changed) == row_of(recorded)
        assert is_the_same == (field.name in left_out), field.name


def test_a_roster_is_one_row_a_pair() -> None:
    screened = roster(MIDNIGHT_MS, {("A", "B"): "active", ("C", "D"): "closing_only"})
    rows = pair_rows(screened)
    entered_ms = MIDNIGHT_MS - 7_200_000
    statistics = (-4.5, 0.001, 0.01, 2, 1.25, 0.5, 12.0, 0.4, 0.9, 40, 720)
    assert rows == [
        (MIDNIGHT_MS, "A", "B", "active", 3, 1, entered_ms, None, *statistics),
        (MIDNIGHT_MS, "C", "D", "closing_only", 3, 1, entered_ms, MIDNIGHT_MS, *statistics),
    ]
    candidate = screened.pairs[0].model_copy(update={"entered_at": None})
    assert pair_rows(screened.model_copy(update={"pairs": (candidate,)}))[0][6] is None
    assert digest(rows)


def test_a_signal_is_one_row() -> None:
    given = signal("exit", ("A", "B"), side=-1, strength=2.5, hedge_ratio=1.5, closes=(3.0, 4.0))
    given = given._replace(confidence=0.6, model_sha256="ab" * 32)
    roster_closes_at = instant_of_ms(MIDNIGHT_MS - BAR_MS)
    assert signal_row(MIDNIGHT_MS + BAR_MS, roster_closes_at, given) == (
        MIDNIGHT_MS + BAR_MS,
        "A",
        "B",
        "exit",
        "pairs",
        -1,
        "z_score",
        2.5,
        0.6,
        2.5,
        1.5,
        0.25,
        0.125,
        0.5,
        MIDNIGHT_MS,
        3.0,
        4.0,
        MIDNIGHT_MS - BAR_MS,
        "ab" * 32,
    )


# --- the tally of a run -----------------------------------------------------------------------


def test_a_tally_counts_what_a_run_produced() -> None:
    tally = Tally(closes=7, bars=20, quarantined=3, intents=4, dead_letters=1)
    for status in ("candidate", "active", "closing_only"):
        tally.rows["pairs"] += [(1, "A", "B", status), (2, "C", status, status)]
    tally.rows["features"] = [(1, "A", "B"), (2, "A", "B")]
    tally.rows["orders"] = [order_row(ORDER)]
    assert tally.counts() == {
        "closes": 7,
        "bars": 20,
        "quarantined": 3,
        "pairs": 3,  # A and B, C and active, C and closing_only; a candidate is none
        "features": 2,
        "signals": 0,
        "intents": 4,
        "orders": 1,
        "fills": 0,
        "dead_letters": 1,
    }


def test_digests_are_in_order_of_the_natural_key_whatever_order_rows_came_in() -> None:
    rows: dict[str, list[Row]] = {
        "pairs": [(1, "A", "B", None), (1, "A", "C", "x"), (2, "A", "B", None)],
        "features": [(1, "A", "B", [0.5]), (1, "B", "A", [0.5]), (2, "A", "B", [0.5])],
        "signals": [(1, "A", "B", "enter", 1), (1, "A", "B", "exit", 1), (1, "A", "C", "enter", 1)],
        "orders": [("id1", None), ("id2", 1)],
        "fills": [("id1", 0, 5), ("id1", 1, 4), ("id2", 0, 3)],
        "positions": [("p1", None), ("p2", 1)],
    }
    forwards = Tally(rows=dict(rows))
    backwards = Tally(rows={kind: found[::-1] for kind, found in rows.items()})
    assert forwards.digests("of bars") == backwards.digests("of bars")
    assert forwards.digests("of bars") == {
        "bars": "of bars",
        **{kind: digest(found) for kind, found in rows.items()},
    }
    assert set(forwards.digests("")) == set(KINDS)
    assert set(Tally().digests("")) == set(KINDS)
