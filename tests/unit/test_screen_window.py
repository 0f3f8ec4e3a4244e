from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.sleeves.pairs.screen_window import CompleteWindow, ScreenWindow

Instants = Mapping[int, Mapping[str, tuple[float, float]]]


def window(instants: Instants, window_bars: int = 3) -> ScreenWindow:
    found = ScreenWindow(window_bars)
    for closes_at_ms, bars in instants.items():
        push(found, closes_at_ms, bars)
    return found


def push(found: ScreenWindow, closes_at_ms: int, bars: Mapping[str, tuple[float, float]]) -> None:
    close, volume = np.array(list(bars.values())).reshape(-1, 2).T
    found.push(closes_at_ms, list(bars), close, volume)


def both(close: float, volume: float = 1.0) -> dict[str, tuple[float, float]]:
    return {"B": (close, volume), "A": (2 * close, 3 * volume)}


def closes(complete: CompleteWindow) -> list[list[float]]:
    found: list[list[float]] = np.exp(complete.log_prices).round(9).tolist()
    return found


def test_a_symbol_with_every_bar_of_the_window_is_complete() -> None:
    complete = window({1: both(1.0), 2: both(2.0, 5.0), 3: both(4.0)}).complete()
    assert complete.symbols == ("A", "B")
    assert complete.log_prices.tolist() == np.log([[2.0, 1.0], [4.0, 2.0], [8.0, 4.0]]).tolist()
    assert complete.quote_volume.tolist() == [[6.0, 1.0], [60.0, 10.0], [24.0, 4.0]]
    assert complete.excluded == {}


def test_before_the_window_is_full_no_symbol_is_complete() -> None:
    filling = window({1: both(1.0), 2: both(2.0)})
    assert filling.last_closes_at_ms == 2
    complete = filling.complete()
    assert complete.symbols == ()
    assert complete.log_prices.shape == complete.quote_volume.shape == (2, 0)
    assert complete.excluded == {"A": "2 of 3 bars", "B": "2 of 3 bars"}


def test_an_empty_window_is_complete_with_nothing() -> None:
    empty = ScreenWindow(3)
    assert empty.last_closes_at_ms is None
    assert (empty.complete().symbols, empty.complete().excluded) == ((), {})


def test_a_symbol_with_a_gap_is_left_out_and_nothing_is_filled() -> None:
    complete = window({1: both(1.0), 2: {"A": (4.0, 1.0)}, 3: both(4.0)}).complete()
    assert complete.symbols == ("A",)
    assert complete.excluded == {"B": "2 of 3 bars"}


def test_an_instant_without_any_bar_is_not_a_gap() -> None:
    complete = window({1: both(1.0), 2: both(2.0), 9: both(3.0)}).complete()
    assert closes(complete) == [[2.0, 1.0], [4.0, 2.0], [6.0, 3.0]]


def test_the_oldest_instant_makes_room_for_the_newest() -> None:
    complete = window({n: both(float(n)) for n in range(1, 7)}).complete()
    assert closes(complete) == [[8.0, 4.0], [10.0, 5.0], [12.0, 6.0]]


def test_a_gap_ends_when_it_has_left_the_window() -> None:
    instants = {n: both(float(n)) for n in range(1, 7)}
    del instants[3]["B"]
    assert window({n: instants[n] for n in range(1, 6)}).complete().symbols == ("A",)
    assert window(instants).complete().symbols == ("A", "B")


def test_a_symbol_that_is_listed_later_is_complete_a_window_later() -> None:
    instants = {n: both(float(n)) for n in range(1, 6)}
    for n in (3, 4, 5):
        instants[n]["NEW"] = (7.0, 2.0)
    assert window({n: instants[n] for n in range(1, 5)}).complete().symbols == ("A", "B")
    complete = window(instants).complete()
    assert complete.symbols == ("A", "B", "NEW")
    assert np.exp(complete.log_prices[:, 2]).round(9).tolist() == [7.0, 7.0, 7.0]


def test_a_late_symbol_completes_its_instant() -> None:
    late = window({1: both(1.0), 2: {"A": (4.0, 3.0)}, 3: both(3.0)})
    push(late, 2, {"B": (2.0, 1.0)})
    on_time = window({n: both(float(n)) for n in (1, 2, 3)}).complete()
    assert late.complete().symbols == on_time.symbols
    assert late.complete().log_prices.tolist() == on_time.log_prices.tolist()
    assert late.last_closes_at_ms == 3


def test_a_late_instant_takes_its_place_in_time() -> None:
    late = window({1: both(1.0), 3: both(3.0)})
    push(late, 2, both(2.0))
    assert closes(late.complete()) == [[2.0, 1.0], [4.0, 2.0], [6.0, 3.0]]
    # In a full window the oldest instant goes.
    full = window({1: both(1.0), 2: both(2.0), 4: both(4.0)})
    push(full, 3, both(3.0))
    assert closes(full.complete()) == [[4.0, 2.0], [6.0, 3.0], [8.0, 4.0]]


def test_an_instant_before_a_full_window_is_forgotten() -> None:
    full = window({n: both(float(n)) for n in (2, 3, 4)})
    push(full, 1, both(1.0))
    assert closes(full.complete()) == [[4.0, 2.0], [6.0, 3.0], [8.0, 4.0]]


def test_what_was_handed_out_is_not_changed_by_later_bars() -> None:
    found = window({n: both(float(n)) for n in (1, 2, 3)})
    before = found.complete()
    copies = before.log_prices.copy(), before.quote_volume.copy()
    push(found, 3, both(9.0))
    push(found, 4, both(9.0))
    assert before.log_prices.tolist() == copies[0].tolist()
    assert before.quote_volume.tolist() == copies[1].tolist()


bars = st.tuples(st.floats(0.1, 1e3), st.floats(0.0, 1e3))
instants = st.tuples(
    st.integers(1, 12),
    st.dictionaries(st.sampled_from(["A", "B", "C"]), bars, min_size=1),
)


@given(st.lists(instants, max_size=25), st.integers(1, 5))
def test_the_window_is_the_last_instants_whatever_their_order(
    pushes: list[tuple[int, dict[str, tuple[float, float]]]], window_bars: int
) -> None:
    found = ScreenWindow(window_bars)
    known: dict[int, dict[str, tuple[float, float]]] = {}
    for closes_at_ms, at_instant in pushes:
        push(found, closes_at_ms, at_instant)
        known.setdefault(closes_at_ms, {}).update(at_instant)
        # An instant that has left the window does not come back.
        known = dict(sorted(known.items())[-window_bars:])
    complete = found.complete()
    rows = list(known.values())
    expected = tuple(
        symbol
        for symbol in "ABC"
        if len(rows) == window_bars and all(symbol in row for row in rows)
    )
    assert complete.symbols == expected
    assert found.last_closes_at_ms == (max(known) if known else None)
    for column, symbol in enumerate(expected):
        close = np.array([row[symbol][0] for row in rows])
        volume = np.array([row[symbol][1] for row in rows])
        np.testing.assert_array_equal(complete.log_prices[:, column], np.log(close))
        np.testing.assert_array_equal(complete.quote_volume[:, column], close * volume)
