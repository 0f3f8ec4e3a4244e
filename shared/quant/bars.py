"""Bars as columns: one row per symbol and close.

`RawBars` are bars as somebody gave them, in any order and with any fault. `Bars` are in
order, unique and, by way of `shared.quant.bar_checks.check_bars`, checked. Everything after
the door takes `Bars`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.quant.typing import Bool1D, Float1D, Float2D, Int1D

Codes1D = NDArray[np.int32]

MISSING_CODE = -1
"""Stands in `symbol_code` of raw bars for a symbol that was not given."""

MISSING_MS = int(np.iinfo(np.int64).min)
"""Stands in `closes_at_ms` of raw bars for an instant that was not given."""

Field = Literal["open", "high", "low", "close", "volume"]

BarRow = tuple[str | None, int | None, float, float, float, float, float]
"""Symbol, close in milliseconds since 1970, open, high, low, close, volume."""

BarColumns = tuple[Codes1D, Int1D, Float1D, Float1D, Float1D, Float1D, Float1D]
"""Symbol code, close, open, high, low, close, volume of every row."""


@dataclass(frozen=True, eq=False)
class RawBars:
    """Bars of one venue and timeframe as they were given: in any order, with any fault.

    Attributes
    ----------
    venue, timeframe
        Where the bars come from and one of `shared.clock.TIMEFRAME_MS`.
    symbols
        Code book: ascending and unique; a symbol in it may have no row.
    symbol_code : ndarray of int32, shape (n,)
        Index into `symbols`, or `MISSING_CODE`.
    closes_at_ms : ndarray of int64, shape (n,)
        Instant of the close (open time plus timeframe) in milliseconds since 1970, or
        `MISSING_MS`.
    open, high, low, close, volume : ndarray of float64, shape (n,)
        Prices in the quote currency, volume in the base currency.

    Raises
    ------
    DataError
        If the columns differ in length.
    """

    venue: str
    timeframe: str
    symbols: tuple[str, ...]
    symbol_code: Codes1D
    closes_at_ms: Int1D
    open: Float1D
    high: Float1D
    low: Float1D
    close: Float1D
    volume: Float1D

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.columns()}
        if len(lengths) > 1:
            raise DataError(
                f"columns of {self.venue} {self.timeframe} bars have {sorted(lengths)} rows: "
                "give all seven the same length"
            )

    @classmethod
    def from_rows(cls, venue: str, timeframe: str, rows: Iterable[BarRow]) -> RawBars:
        """Return rows as raw columns; a symbol or close that is `None` counts as not given."""
        columns = tuple(zip(*rows, strict=True)) or ((),) * 7
        symbols = tuple(sorted({symbol for symbol in columns[0] if symbol is not None}))
        code_of: dict[object, int] = {symbol: code for code, symbol in enumerate(symbols)}
        code_of[None] = MISSING_CODE
        closes = [MISSING_MS if at is None else at for at in columns[1]]
        return RawBars(
            venue,
            timeframe,
            symbols,
            np.array([code_of[symbol] for symbol in columns[0]], dtype=np.int32),
            np.array(closes, dtype=np.int64),
            *(np.array(column, dtype=np.float64) for column in columns[2:]),
        )

    def __len__(self) -> int:
        return len(self.closes_at_ms)

    def row_symbol(self, row: int) -> str | None:
        """Return the symbol of a row, `None` where it was not given."""
        code = int(self.symbol_code[row])
        return None if code == MISSING_CODE else self.symbols[code]

    def of_symbols(self, symbols: Collection[str]) -> Self:
        """Return the rows of some symbols, in the same order."""
        chosen = np.array([symbol in symbols for symbol in self.symbols] + [False])
        return self._rows(chosen[self.symbol_code])  # MISSING_CODE reads the last: False

    def _columns(self) -> tuple[NDArray[np.generic], ...]:
        prices = (self.open, self.high, self.low, self.close)
        return (self.symbol_code, self.closes_at_ms, *prices, self.volume)

    def columns(self) -> BarColumns:
        """Return symbol code, close, open, high, low, close and volume of every row."""
        return (
            self.symbol_code,
            self.closes_at_ms,
            self.open,
            self.high,
            self.low,
            self.close,
            self.volume,
        )

    def _rows(self, rows: Bool1D | Int1D | slice) -> Self:
        return type(self)(
            self.venue,
            self.timeframe,
            self.symbols,
            self.symbol_code[rows],
            self.closes_at_ms[rows],
            self.open[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.volume[rows],
        )


@dataclass(frozen=True, eq=False)
class Bars(RawBars):
    """Bars in ascending order of (close, symbol), one per close and symbol.

    Made by `check_bars`, or by `from_raw` from rows that have been checked before. The
    attributes are those of `RawBars`, with every symbol and close given.
    """

    @classmethod
    def from_raw(cls, raw: RawBars) -> Bars:
        """Put rows that were checked before, such as those of a database, in order.

        Raises
        ------
        DataError
            If a symbol or a close is missing or two rows share both. Prices are trusted.
        """
        missing = (raw.symbol_code == MISSING_CODE) | (raw.closes_at_ms == MISSING_MS)
        if missing.any():
            raise DataError(
                f"{int(missing.sum())} of {len(raw)} {raw.venue} {raw.timeframe} bars lack a "
                "symbol or a close: let check_bars quarantine them"
            )
        bars = cls(raw.venue, raw.timeframe, raw.symbols, *raw.columns())._in_order()
        same_close = bars.closes_at_ms[1:] == bars.closes_at_ms[:-1]
        repeated = np.flatnonzero(same_close & (bars.symbol_code[1:] == bars.symbol_code[:-1]))
        if repeated.size:
            row = int(repeated[0])
            raise DataError(
                f"{bars.row_symbol(row)} has two {raw.venue} {raw.timeframe} bars that close at "
                f"{bars.closes_at_ms[row]} ms: let check_bars tell which to keep"
            )
        return bars

    def take(self, rows: Bool1D | Int1D) -> Bars:
        """Return the rows of a mask, or those at some indices, in ascending order."""
        if rows.dtype == np.bool_:
            return self._rows(rows)
        ascending: Int1D = np.unique(rows).astype(np.int64)
        return self._rows(ascending)

    def between(self, start_ms_exclusive: int | None, end_ms_inclusive: int | None) -> Bars:
        """Return the rows that close in (start, end] as a view; `None` leaves a side open."""
        first, last = 0, len(self)
        if start_ms_exclusive is not None:
            first = int(self.closes_at_ms.searchsorted(start_ms_exclusive, "right"))
        if end_ms_inclusive is not None:
            last = int(self.closes_at_ms.searchsorted(end_ms_inclusive, "right"))
        return self._rows(slice(first, last))

    def at(self, closes_at_ms: int) -> Bars:
        """Return the rows of one close as a view; O(log n)."""
        first = int(self.closes_at_ms.searchsorted(closes_at_ms, "left"))
        last = int(self.closes_at_ms.searchsorted(closes_at_ms, "right"))
        return self._rows(slice(first, last))

    def closes(self) -> Int1D:
        """Return the instants at which any symbol has a bar, ascending and unique."""
        is_first = np.ones(len(self), dtype=np.bool_)
        np.not_equal(self.closes_at_ms[1:], self.closes_at_ms[:-1], out=is_first[1:])
        return self.closes_at_ms[is_first]

    def wide(self, symbols: Sequence[str], field: Field, closes: Int1D) -> Float2D:
        """Return one field as a matrix of closes by symbols.

        Parameters
        ----------
        symbols
            Columns, in the order wanted; N of them.
        field
            Which column of the bars.
        closes : ndarray of int64, shape (T,)
            Rows, ascending and unique.

        Returns
        -------
        ndarray of float64, shape (T, N)
            NaN where the symbol has no bar at that close.
        """
        matrix = np.full((len(closes), len(symbols)), np.nan)
        if matrix.size == 0:
            return matrix
        window = self.between(int(closes[0]) - 1, int(closes[-1]))
        column_of = {symbol: column for column, symbol in enumerate(symbols)}
        columns = np.array([column_of.get(symbol, -1) for symbol in self.symbols], dtype=np.intp)
        column = columns[window.symbol_code]
        row = closes.searchsorted(window.closes_at_ms)
        wanted = (column >= 0) & (closes[row] == window.closes_at_ms)
        values: Float1D = getattr(window, field)
        matrix[row[wanted], column[wanted]] = values[wanted]
        return matrix

    def _in_order(self) -> Bars:
        order = np.lexsort((self.symbol_code, self.closes_at_ms))
        return self._rows(order)


def concatenate(parts: Sequence[Bars]) -> Bars:
    """Return the bars of all parts, in order.

    Raises
    ------
    DataError
        If there is no part, the parts are of several venues or timeframes, or two parts
        share a symbol and close.
    """
    return Bars.from_raw(concatenate_raw(parts))


def concatenate_raw(parts: Sequence[RawBars]) -> RawBars:
    """Return the rows of all parts one after the other, under one code book.

    Raises
    ------
    DataError
        If there is no part or the parts are of several venues or timeframes.
    """
    kinds = sorted({f"{part.venue} {part.timeframe}" for part in parts})
    if len(kinds) != 1:
        raise DataError(
            f"cannot concatenate bars of {kinds}: give parts of one venue and one timeframe"
        )
    symbols = tuple(sorted({symbol for part in parts for symbol in part.symbols}))
    code_of = {symbol: code for code, symbol in enumerate(symbols)}
    codes = []
    for part in parts:
        recoded = [code_of[symbol] for symbol in part.symbols] + [MISSING_CODE]
        codes.append(np.array(recoded, dtype=np.int32)[part.symbol_code])
    return RawBars(
        parts[0].venue,
        parts[0].timeframe,
        symbols,
        np.concatenate(codes),
        np.concatenate([part.closes_at_ms for part in parts]),
        np.concatenate([part.open for part in parts]),
        np.concatenate([part.high for part in parts]),
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.close for part in parts]),
        np.concatenate([part.volume for part in parts]),
    )
