from __future__ import annotations

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.bars import (
    MISSING_CODE,
    MISSING_MS,
    BarRow,
    Bars,
    RawBars,
    concatenate,
    concatenate_raw,
)

HOUR = 3_600_000


def row(symbol: str | None, hour: int | None, close: float = 10.0) -> BarRow:
    at = None if hour is None else hour * HOUR
    return (symbol, at, close - 1, close + 2, close - 2, close, 5.0)


def bars_of(*rows: BarRow, venue: str = "binance", timeframe: str = "1h") -> Bars:
    return Bars.from_raw(RawBars.from_rows(venue, timeframe, rows))


def keys(bars: RawBars) -> list[tuple[str | None, int]]:
    return [(bars.row_symbol(i), int(bars.closes_at_ms[i]) // HOUR) for i in range(len(bars))]


def test_rows_given_in_any_order_are_ordered_by_close_and_then_symbol() -> None:
    bars = bars_of(row("B", 2), row("A", 2), row("B", 1), row("C", 1))
    assert bars.symbols == ("A", "B", "C")
    assert keys(bars) == [("B", 1), ("C", 1), ("A", 2), ("B", 2)]


def test_the_columns_of_a_row_stay_together_when_rows_are_ordered() -> None:
    bars = bars_of(("B", 2 * HOUR, 1.0, 4.0, 0.5, 3.0, 9.0), ("A", HOUR, 6.0, 8.0, 5.0, 7.0, 2.0))
    assert [column.tolist() for column in bars.columns()] == [
        [0, 1],
        [HOUR, 2 * HOUR],
        [6.0, 1.0],
        [8.0, 4.0],
        [5.0, 0.5],
        [7.0, 3.0],
        [2.0, 9.0],
    ]


def test_columns_have_their_declared_types_even_without_rows() -> None:
    for bars in (bars_of(), bars_of(row("A", 1))):
        kinds = [column.dtype.name for column in bars.columns()]
        assert kinds == ["int32", "int64"] + ["float64"] * 5


def test_raw_rows_keep_their_order_and_mark_what_was_not_given() -> None:
    raw = RawBars.from_rows("binance", "1h", [row("B", 2), row(None, 1), row("A", None)])
    assert raw.symbol_code.tolist() == [1, MISSING_CODE, 0]
    assert raw.closes_at_ms.tolist() == [2 * HOUR, HOUR, MISSING_MS]
    assert [raw.row_symbol(i) for i in range(3)] == ["B", None, "A"]


def test_columns_of_different_length_are_refused() -> None:
    one = bars_of(row("A", 1))
    with pytest.raises(DataError, match=r"\[1, 2\] rows"):
        Bars(
            one.venue,
            one.timeframe,
            one.symbols,
            one.symbol_code,
            one.closes_at_ms,
            one.open,
            one.high,
            one.low,
            np.array([1.0, 2.0]),
            one.volume,
        )


@pytest.mark.parametrize("faulty", [row(None, 1), row("A", None)])
def test_a_row_without_symbol_or_close_cannot_become_an_ordered_bar(faulty: BarRow) -> None:
    with pytest.raises(DataError, match="1 of 2 binance 1h bars lack"):
        bars_of(row("A", 2), faulty)


def test_two_rows_of_one_symbol_and_close_cannot_become_ordered_bars() -> None:
    with pytest.raises(DataError, match="B has two binance 1h bars"):
        bars_of(row("B", 2), row("A", 2), row("B", 2, close=11.0))


def test_of_symbols_keeps_only_the_chosen_and_never_a_row_without_symbol() -> None:
    raw = RawBars.from_rows("binance", "1h", [row("B", 2), row(None, 1), row("C", 1), row("A", 1)])
    assert keys(raw.of_symbols({"C", "B", "Z"})) == [("B", 2), ("C", 1)]
    assert isinstance(bars_of(row("A", 1)).of_symbols(["A"]), Bars)


def test_take_by_mask_and_by_unordered_indices_keeps_the_order() -> None:
    bars = bars_of(row("A", 1), row("B", 1), row("A", 2))
    assert keys(bars.take(np.array([True, False, True]))) == [("A", 1), ("A", 2)]
    assert keys(bars.take(np.array([2, 0, 2]))) == [("A", 1), ("A", 2)]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, [1, 1, 2, 3]),
        (1, None, [2, 3]),
        (None, 2, [1, 1, 2]),
        (1, 2, [2]),
        (2, 2, []),
        (0, 9, [1, 1, 2, 3]),
        (3, 1, []),
    ],
)
def test_between_excludes_its_start_and_includes_its_end(
    start: int | None, end: int | None, expected: list[int]
) -> None:
    bars = bars_of(row("A", 1), row("B", 1), row("A", 2), row("A", 3))
    part = bars.between(
        None if start is None else start * HOUR, None if end is None else end * HOUR
    )
    assert [hour for _, hour in keys(part)] == expected


def test_at_returns_all_symbols_of_one_close_and_nothing_where_none_closes() -> None:
    bars = bars_of(row("A", 1), row("B", 2), row("A", 2), row("A", 4))
    assert keys(bars.at(2 * HOUR)) == [("A", 2), ("B", 2)]
    assert len(bars.at(3 * HOUR)) == 0


def test_closes_are_unique_and_ascending() -> None:
    bars = bars_of(row("A", 4), row("B", 2), row("A", 2), row("A", 1))
    assert (bars.closes() // HOUR).tolist() == [1, 2, 4]
    assert bars_of().closes().tolist() == []


def test_wide_has_nan_where_a_symbol_has_no_bar_at_a_close() -> None:
    bars = bars_of(row("A", 1, 11.0), row("B", 2, 22.0), row("A", 2, 12.0), row("B", 4, 24.0))
    matrix = bars.wide(["B", "Z", "A"], "close", np.array([1, 2, 3]) * HOUR)
    nan = np.nan
    np.testing.assert_array_equal(matrix, [[nan, nan, 11.0], [22.0, nan, 12.0], [nan, nan, nan]])


def test_wide_leaves_out_bars_of_other_symbols_and_other_closes() -> None:
    bars = bars_of(row("A", 3, 13.0), row("B", 1, 21.0), row("B", 2, 22.0))
    matrix = bars.wide(["Z", "B"], "close", np.array([1, 3]) * HOUR)
    np.testing.assert_array_equal(matrix, [[np.nan, 21.0], [np.nan, np.nan]])
    matrix = bars.wide(["B", "Z"], "close", np.array([0, 3]) * HOUR)
    assert np.isnan(matrix).all()


def test_wide_returns_the_asked_field() -> None:
    bars = bars_of(("A", HOUR, 1.0, 4.0, 0.5, 3.0, 9.0))
    closes = bars.closes()
    assert bars.wide(["A"], "open", closes).tolist() == [[1.0]]
    assert bars.wide(["A"], "volume", closes).tolist() == [[9.0]]


def test_wide_of_no_close_or_no_symbol_or_no_bar_has_the_asked_shape() -> None:
    bars = bars_of(row("A", 1))
    assert bars.wide(["A"], "close", np.array([], dtype=np.int64)).shape == (0, 1)
    assert bars.wide([], "close", bars.closes()).shape == (1, 0)
    assert np.isnan(bars_of().wide(["A"], "close", bars.closes())).all()


def test_concatenated_bars_share_one_code_book_and_are_in_order() -> None:
    together = concatenate([bars_of(row("C", 1), row("C", 2)), bars_of(row("A", 2), row("B", 1))])
    assert together.symbols == ("A", "B", "C")
    assert keys(together) == [("B", 1), ("C", 1), ("A", 2), ("C", 2)]


def test_concatenating_bars_that_share_a_key_is_refused() -> None:
    with pytest.raises(DataError, match="A has two"):
        concatenate([bars_of(row("A", 1)), bars_of(row("A", 1))])


def test_concatenating_raw_bars_keeps_their_order_repeats_and_missing_symbols() -> None:
    first = RawBars.from_rows("binance", "1h", [row("C", 2), row(None, 1)])
    second = RawBars.from_rows("binance", "1h", [row("A", 2), row("C", 2)])
    together = concatenate_raw([first, second])
    assert keys(together) == [("C", 2), (None, 1), ("A", 2), ("C", 2)]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [bars_of(venue="okx"), bars_of(venue="binance")],
        [bars_of(timeframe="5m"), bars_of(timeframe="1h")],
    ],
    ids=["no part", "two venues", "two timeframes"],
)
def test_only_parts_of_one_venue_and_timeframe_concatenate(parts: list[Bars]) -> None:
    with pytest.raises(DataError, match="one venue and one timeframe"):
        concatenate(parts)
