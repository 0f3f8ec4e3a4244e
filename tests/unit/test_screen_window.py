from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.sleeves.pairs.screen_window import (
    ANCHOR_EVERY_BARS,
    RaggedWindow,
    ScreenWindow,
    lengths_tested,
)

Bars = Mapping[str, tuple[float, float]]

WINDOW, FEWEST = 8, 4  # lengths 4, 5, 6, 7, 8
HISTORY = WINDOW + ANCHOR_EVERY_BARS - 1


def window(instants: Mapping[int, Bars]) -> ScreenWindow:
    """Return a window of bars one millisecond long, so that every 24th is an anchor."""
    found = ScreenWindow(WINDOW, FEWEST, 1)
    for closes_at_ms, bars in instants.items():
        push(found, closes_at_ms, bars)
    return found


def push(found: ScreenWindow, closes_at_ms: int, bars: Bars) -> bool:
    close, volume = np.array(list(bars.values())).reshape(-1, 2).T
    return found.push(closes_at_ms, list(bars), close, volume)


def listed(until: int, **since: int) -> dict[int, dict[str, tuple[float, float]]]:
    """Return the instants up to one at which symbols have bars from theirs on."""
    return {
        n: {symbol: (n + 0.5, 2.0) for symbol, first in since.items() if n >= first}
        for n in range(min(since.values()), until + 1)
    }


def bars_of(found: RaggedWindow) -> dict[str, int]:
    return dict(zip(found.symbols, found.n_bars.tolist(), strict=True))


def test_lengths_are_few_and_hold_both_ends() -> None:
    assert lengths_tested(1000, 500) == (500, 625, 750, 875, 1000)
    assert lengths_tested(200, 200) == (200,)
    assert lengths_tested(202, 200) == (200, 201, 202)


def test_symbols_are_grouped_by_the_bars_they_have_rounded_down() -> None:
    ragged = window(listed(24, OLD=10, ALSO=17, NEW=18, YOUNG=21, TINY=22)).ragged()
    assert bars_of(ragged) == {"ALSO": 8, "NEW": 7, "OLD": 8, "YOUNG": 4}
    assert ragged.symbols_by_bars == {8: 2, 7: 1, 4: 1}
    assert ragged.excluded == {"TINY": "3 of at least 4 bars"}
    assert ragged.log_prices.shape == ragged.quote_volume.shape == (WINDOW, 4)
    for n, length in enumerate(ragged.n_bars.tolist()):
        closes = np.arange(24 - length + 1, 25) + 0.5
        assert np.isnan(ragged.log_prices[: WINDOW - length, n]).all()
        assert np.isnan(ragged.quote_volume[: WINDOW - length, n]).all()
        assert ragged.log_prices[WINDOW - length :, n].tolist() == np.log(closes).tolist()
        assert ragged.quote_volume[WINDOW - length :, n].tolist() == (2 * closes).tolist()


def test_the_bars_of_a_symbol_are_counted_at_the_anchor_until_the_next() -> None:
    instants = listed(48, OLD=0, NEW=20)
    found = window({n: instants[n] for n in range(25)})
    assert bars_of(found.ragged()) == {"NEW": 5, "OLD": 8}
    for n in range(25, 48):
        push(found, n, instants[n])
        assert found.anchor_closes_at_ms == 24
        assert bars_of(found.ragged()) == {"NEW": 5, "OLD": 8}
        assert found.ragged().log_prices[-1, 0] == np.log(n + 0.5)
    push(found, 48, instants[48])
    assert found.anchor_closes_at_ms == 48
    assert bars_of(found.ragged()) == {"NEW": 8, "OLD": 8}


def test_the_first_instant_of_a_period_is_the_anchor_when_its_close_is_missing() -> None:
    instants = listed(30, OLD=0)
    del instants[24]
    assert window(instants).anchor_closes_at_ms == 25


def test_a_record_too_young_for_an_anchor_counts_at_every_close() -> None:
    for last, n_bars in ((3, None), (4, 4), (7, 7), (8, 8)):
        found = window(listed(last, OLD=1))
        assert found.anchor_closes_at_ms == last
        assert bars_of(found.ragged()) == ({} if n_bars is None else {"OLD": n_bars})
    assert window(listed(2, OLD=1)).ragged().excluded == {"OLD": "2 of at least 4 bars"}


def test_an_empty_window_holds_nothing() -> None:
    empty = ScreenWindow(WINDOW, FEWEST, 1)
    assert (empty.last_closes_at_ms, empty.anchor_closes_at_ms) == (None, None)
    for ragged in (empty.ragged(), empty.ragged_at_anchor()):
        assert (ragged.symbols, ragged.excluded, ragged.symbols_by_bars) == ((), {}, {})
        assert ragged.log_prices.shape == (WINDOW, 0)


def test_a_symbol_with_a_gap_is_left_out_until_the_gap_has_left_the_window() -> None:
    instants = listed(49, OLD=0, HURT=0)
    del instants[39]["HURT"]
    told = [window({n: instants[n] for n in range(last + 1)}).ragged() for last in range(50)]
    assert told[39].excluded == {
        "HURT": "no bar at this close, the last one at 1970-01-01T00:00:00.038000+00:00"
    }
    # The window of the anchor at 24 begins at 17.
    assert told[40].excluded == {"HURT": "23 of 24 bars: a gap of its own in the window"}
    assert told[47].excluded == {"HURT": "30 of 31 bars: a gap of its own in the window"}
    # That of the anchor at 48 begins after the gap.
    assert bars_of(told[48]) == {"HURT": 8, "OLD": 8}


def test_a_symbol_that_has_stopped_is_left_out_and_in_the_end_forgotten() -> None:
    instants = listed(60, OLD=0)
    for n in range(31):
        instants[n]["DEAD"] = (1.0, 1.0)
    told = [window({n: instants[n] for n in range(last + 1)}).ragged() for last in range(61)]
    assert bars_of(told[30]) == {"DEAD": 8, "OLD": 8}
    assert told[31].symbols == ("OLD",)
    assert told[31].excluded["DEAD"].startswith("no bar at this close, the last one at 1970")
    assert told[48].excluded == {}


def test_an_instant_without_any_bar_is_not_a_gap() -> None:
    instants = listed(60, OLD=0, NEW=20)
    for n in (2, 23, 24, 25, 26, 50):
        del instants[n]
    ragged = window(instants).ragged()
    assert bars_of(ragged) == {"NEW": 8, "OLD": 8}
    assert ragged.log_prices[:, 1].tolist() == np.log(np.arange(53, 61) + 0.5).tolist()


def test_a_late_symbol_completes_its_instant() -> None:
    on_time = listed(30, A=0, B=0)
    late = {n: dict(bars) for n, bars in on_time.items()}
    bar = late[27].pop("B")
    found = window(late)
    assert found.ragged().symbols == ("A",)
    assert push(found, 27, {"B": bar})
    assert found.last_closes_at_ms == 30
    expected = window(on_time).ragged()
    assert found.ragged().symbols == expected.symbols
    assert found.ragged().log_prices.tolist() == expected.log_prices.tolist()


def test_a_late_instant_takes_its_place_in_time() -> None:
    for last in (9, 30, 80):
        instants = listed(last, A=0, B=0)
        late = instants.pop(last - 3)
        found = window(instants)
        assert push(found, last - 3, late)
        expected = window(listed(last, A=0, B=0)).ragged()
        assert found.ragged().log_prices.tolist() == expected.log_prices.tolist()


def test_a_push_tells_whether_it_changed_anything() -> None:
    found = window(listed(80, A=0))
    assert not push(found, 80, {"A": (80.5, 2.0)})
    assert push(found, 80, {"A": (80.5, 3.0)})
    assert push(found, 70, {"B": (1.0, 1.0)})
    # An instant before a full history does not come back.
    assert not push(found, 80 - HISTORY, {"A": (9.0, 9.0)})


def test_what_was_handed_out_is_not_changed_by_later_bars() -> None:
    found = window(listed(30, A=0, B=0))
    before = found.ragged()
    copies = before.log_prices.tolist(), before.quote_volume.tolist()
    push(found, 30, {"A": (9.0, 9.0)})
    push(found, 31, {"A": (9.0, 9.0)})
    assert (before.log_prices.tolist(), before.quote_volume.tolist()) == copies


bars = st.tuples(st.floats(0.1, 1e3), st.floats(0.0, 1e3))
instants = st.tuples(
    st.integers(0, 90),
    st.dictionaries(st.sampled_from(["A", "B", "C"]), bars, min_size=1),
)


@given(st.lists(instants, max_size=120), st.booleans())
def test_a_window_is_a_function_of_its_last_instants_whatever_their_order(
    pushes: Sequence[tuple[int, dict[str, tuple[float, float]]]], is_dense: bool
) -> None:
    found = window(listed(80, A=0, B=3, C=70) if is_dense else {})
    known = listed(80, A=0, B=3, C=70) if is_dense else {}
    known = dict(sorted(known.items())[-HISTORY:])
    for closes_at_ms, at_instant in pushes:
        push(found, closes_at_ms, at_instant)
        known.setdefault(closes_at_ms, {}).update(at_instant)
        # An instant that has left the window does not come back.
        known = dict(sorted(known.items())[-HISTORY:])
    again = window(known)
    assert found.last_closes_at_ms == (max(known) if known else None)
    assert found.anchor_closes_at_ms == again.anchor_closes_at_ms
    for one, other in (
        (found.ragged(), again.ragged()),
        (found.ragged_at_anchor(), again.ragged_at_anchor()),
    ):
        assert (one.symbols, one.excluded) == (other.symbols, other.excluded)
        assert one.log_prices.tobytes() == other.log_prices.tobytes()
        assert one.quote_volume.tobytes() == other.quote_volume.tobytes()
    ragged = found.ragged()
    for column, symbol in enumerate(ragged.symbols):
        rows = list(known.values())[-ragged.n_bars[column] :]
        closes = np.log([row[symbol][0] for row in rows])
        np.testing.assert_array_equal(ragged.log_prices[-len(rows) :, column], closes)


@pytest.mark.parametrize("anchor", [24, 48])
def test_log_prices_around_the_anchor_are_those_of_the_window(anchor: int) -> None:
    found = window(listed(anchor + 5, A=0, B=0))
    window_rows = found.log_prices_up_to(anchor, ["B"])
    assert window_rows.tolist() == [[np.log(n + 0.5)] for n in range(anchor - 7, anchor + 1)]
    since = found.log_prices_since(anchor, ["B"])
    assert since.tolist() == [[np.log(n + 0.5)] for n in range(anchor + 1, anchor + 6)]
