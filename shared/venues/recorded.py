"""Recorded bars from Parquet files.

A file holds the bars of one exchange and one timeframe in the columns `ts` (open time,
UTC), `symbol`, `exchange`, `open`, `high`, `low`, `close` and `volume`; further columns are
ignored. What is wrong with a file as a whole is refused here with its path and the remedy;
what is wrong with a row is left to `shared.quant.bar_checks.check_bars`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shared.clock import TIMEFRAME_MS
from shared.errors import DataError
from shared.quant.bars import (
    MISSING_CODE,
    MISSING_MS,
    Codes1D,
    RawBars,
    concatenate_raw,
)
from shared.quant.typing import Float1D, Int1D

VALUE_COLUMNS = ("open", "high", "low", "close", "volume")
COLUMNS = ("ts", "symbol", "exchange", *VALUE_COLUMNS)

_DAY_MS = TIMEFRAME_MS["1d"]
# The last midnight whose next one is still an int64: on the grid of every timeframe.
_LATEST_MS = (int(np.iinfo(np.int64).max) // _DAY_MS - 1) * _DAY_MS
# Parquet stores no coarser unit: a timestamp in seconds is written as milliseconds.
_UNITS_PER_MS = {"ms": 1, "us": 1000, "ns": 1_000_000}
_GRID_MS = min(TIMEFRAME_MS.values())


def read_bars(path: Path) -> RawBars:
    """Read one file.

    Parameters
    ----------
    path
        A Parquet file. `ts` is a timestamp of any unit, with or without time zone (UTC
        without), or an integer number of milliseconds since 1970.

    Returns
    -------
    RawBars
        Every row of the file in its order, the good and the bad. The timeframe is the most
        frequent distance between two consecutive opens of a symbol.

    Raises
    ------
    DataError
        If the file is absent, empty, not Parquet or damaged, has no row, lacks a column or
        has one of another type, names no exchange or several, or its opens are not one of
        `shared.clock.TIMEFRAME_MS` apart.
    """
    table = _read_table(path)
    venue = _only_exchange(path, table["exchange"])
    symbols, symbol_code = _encoded_symbols(path, table["symbol"])
    opens_at_ms = _opens_at_ms(path, table["ts"])
    timeframe = _inferred_timeframe(path, symbol_code, opens_at_ms)
    is_given = opens_at_ms != MISSING_MS
    # An instant beyond the calendar stays beyond it, so that it is quarantined as future.
    closes_at_ms = np.minimum(opens_at_ms, _LATEST_MS) + TIMEFRAME_MS[timeframe]
    return RawBars(
        venue,
        timeframe,
        symbols,
        symbol_code,
        np.where(is_given, closes_at_ms, MISSING_MS),
        *(_values(path, name, table[name]) for name in VALUE_COLUMNS),
    )


def read_bar_files(paths: Iterable[Path]) -> tuple[RawBars, ...]:
    """Read several files, one result per timeframe, the longest first.

    Files of one timeframe are joined in the order given.

    Raises
    ------
    DataError
        As `read_bars`; also if there is no file, or files of one timeframe are of several
        exchanges.
    """
    by_timeframe: dict[str, list[RawBars]] = {}
    for path in paths:
        bars = read_bars(path)
        by_timeframe.setdefault(bars.timeframe, []).append(bars)
    if not by_timeframe:
        raise DataError("no file of recorded bars is given: name at least one")
    longest_first = sorted(by_timeframe, key=TIMEFRAME_MS.__getitem__, reverse=True)
    return tuple(concatenate_raw(by_timeframe[timeframe]) for timeframe in longest_first)


def _read_table(path: Path) -> pa.Table:
    if not path.exists():
        raise DataError(f"{path} does not exist: give the path of a recorded Parquet file")
    if path.is_dir():
        raise DataError(f"{path} is a folder: name the Parquet files in it one by one")
    try:
        names = pq.read_schema(path).names
        wrong = [name for name in COLUMNS if names.count(name) != 1]
        if wrong:
            raise DataError(
                f"{path} lacks or repeats {', '.join(wrong)}: "
                f"bars need the columns {', '.join(COLUMNS)}"
            )
        with pq.ParquetFile(path, read_dictionary=["symbol", "exchange"]) as file:
            table = file.read(columns=list(COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({error}): fetch or record it again"
        ) from error
    if table.num_rows == 0:
        raise DataError(f"{path} has no row: record some bars or leave the file out")
    return table


def _only_exchange(path: Path, column: pa.ChunkedArray) -> str:
    found = column.unique().to_pylist()
    if len(found) != 1 or not isinstance(found[0], str) or not found[0]:
        raise DataError(
            f"{path} names the exchanges {found}: split it into files of one exchange each"
        )
    return found[0]


def _encoded_symbols(path: Path, column: pa.ChunkedArray) -> tuple[tuple[str, ...], Codes1D]:
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    try:
        names = encoded.dictionary.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} has a symbol that is not UTF-8: {error}") from error
    if not all(name is None or isinstance(name, str) for name in names):
        raise DataError(f"{path} has symbols of type {encoded.type.value_type}: write strings")
    symbols = tuple(sorted({name for name in names if name}))
    code_of = {name: code for code, name in enumerate(symbols)}
    recoded = [code_of.get(name, MISSING_CODE) for name in names] + [MISSING_CODE]
    indices = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return symbols, np.array(recoded, dtype=np.int32)[indices]


def _opens_at_ms(path: Path, column: pa.ChunkedArray) -> Int1D:
    is_timestamp = pa.types.is_timestamp(column.type)
    if not is_timestamp and not pa.types.is_int64(column.type):
        raise DataError(
            f"{path} has ts of type {column.type}: write a timestamp, or milliseconds as int64"
        )
    unit = column.type.unit if is_timestamp else "ms"
    raw: Int1D = column.cast(pa.int64()).fill_null(MISSING_MS).to_numpy()
    is_given = raw != MISSING_MS
    whole, rest = np.divmod(raw, _UNITS_PER_MS[unit])
    # A fraction of a millisecond must not vanish onto the grid: the open is not aligned.
    whole[(rest != 0) & (whole % _GRID_MS == 0)] += 1
    return np.where(is_given, whole, MISSING_MS)


def _inferred_timeframe(path: Path, symbol_code: Codes1D, opens_at_ms: Int1D) -> str:
    rows = np.flatnonzero((symbol_code != MISSING_CODE) & (opens_at_ms != MISSING_MS))
    rows = rows[np.lexsort((opens_at_ms[rows], symbol_code[rows]))]
    steps = np.diff(opens_at_ms[rows])[np.diff(symbol_code[rows]) == 0]
    distances, counts = np.unique(steps[steps > 0], return_counts=True)
    known = ", ".join(TIMEFRAME_MS)
    if not distances.size:
        raise DataError(
            f"{path} has no two bars of one symbol to tell its timeframe by: "
            f"record more of them, of {known}"
        )
    distance_ms = int(distances[np.argmax(counts)])
    for timeframe, length_ms in TIMEFRAME_MS.items():
        if length_ms == distance_ms:
            return timeframe
    raise DataError(f"{path} has bars {distance_ms} ms apart: record bars of {known}")


def _values(path: Path, name: str, column: pa.ChunkedArray) -> Float1D:
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"{path} has {name} of type {kind}: write numbers")
    values: Float1D = column.cast(pa.float64(), safe=False).to_numpy()
    return values
