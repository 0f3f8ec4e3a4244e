from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import DataError
from shared.quant.bar_checks import BarCheckSettings, check_bars
from shared.quant.bars import MISSING_CODE, MISSING_MS
from shared.venues.recorded import read_bar_files, read_bars

HOUR = 3_600_000
START = datetime(2024, 1, 1, tzinfo=UTC)
START_MS = 1_704_067_200_000


def columns(
    n_bars: int = 3,
    symbols: tuple[str, ...] = ("B/USDT", "A/USDT"),
    step_ms: int = HOUR,
    exchange: str = "binance",
) -> dict[str, Any]:
    """Return the columns of a sound file: symbol after symbol, as recorders write them."""
    n_rows = n_bars * len(symbols)
    opens = [START_MS + step_ms * i for i in range(n_bars)] * len(symbols)
    close = np.linspace(10.0, 11.0, n_rows)
    return {
        "ts": pa.array(opens, pa.timestamp("ms", tz="UTC")),
        "symbol": np.repeat(symbols, n_bars).tolist(),
        "exchange": [exchange] * n_rows,
        "open": close - 0.1,
        "high": close + 0.2,
        "low": close - 0.2,
        "close": close,
        "volume": np.arange(n_rows, dtype=np.float64),
    }


def write(path: Path, content: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(content), path, **options)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bars.parquet"


def test_every_row_is_read_with_its_close_one_timeframe_after_its_open(file: Path) -> None:
    content = columns()
    bars = read_bars(write(file, content | {"note": ["ignored"] * 6}))
    assert (bars.venue, bars.timeframe, bars.symbols) == ("binance", "1h", ("A/USDT", "B/USDT"))
    assert bars.symbol_code.tolist() == [1, 1, 1, 0, 0, 0]
    assert ((bars.closes_at_ms - START_MS) // HOUR).tolist() == [1, 2, 3, 1, 2, 3]
    for name in ("open", "high", "low", "close", "volume"):
        assert getattr(bars, name).tolist() == content[name].tolist()
    kinds = [column.dtype.name for column in bars.columns()]
    assert kinds == ["int32", "int64"] + ["float64"] * 5


@pytest.mark.parametrize(
    "opens",
    [
        pa.array([START + timedelta(hours=i) for i in range(3)], pa.timestamp("s", tz="UTC")),
        pa.array([START + timedelta(hours=i) for i in range(3)], pa.timestamp("ms")),
        pa.array([START + timedelta(hours=i) for i in range(3)], pa.timestamp("us", tz="UTC")),
        pa.array([START + timedelta(hours=i) for i in range(3)], pa.timestamp("ns")),
        pa.array([START + timedelta(hours=i) for i in range(3)], pa.timestamp("ms", tz="+05:00")),
        pa.array([START_MS + HOUR * i for i in range(3)], pa.int64()),
    ],
    ids=["s", "ms without zone", "us", "ns without zone", "ms of another zone", "int64 ms"],
)
def test_open_times_of_every_unit_are_the_same_instants(file: Path, opens: pa.Array) -> None:
    bars = read_bars(write(file, columns(symbols=("A/USDT",)) | {"ts": opens}))
    assert ((bars.closes_at_ms - START_MS) / HOUR).tolist() == [1, 2, 3]


@pytest.mark.parametrize("offset_us", [400, -400])
def test_a_fraction_of_a_millisecond_stays_off_the_grid(file: Path, offset_us: int) -> None:
    opens = [START + timedelta(hours=i) for i in range(6)]
    opens[2] += timedelta(microseconds=offset_us)
    content = columns(6, ("A/USDT",)) | {"ts": pa.array(opens, pa.timestamp("us", tz="UTC"))}
    checked = check_bars(
        read_bars(write(file, content)),
        now_ms=START_MS + 9 * HOUR,
        known=None,
        settings=BarCheckSettings(),
        prior={},
    )
    assert [bar.reason for bar in checked.quarantined] == ["misaligned"]


@pytest.mark.parametrize("timeframe", ["1m", "5m", "15m", "1h", "4h", "1d"])
def test_each_supported_timeframe_is_told_from_the_opens(file: Path, timeframe: str) -> None:
    lengths = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 14400, "1d": 86400}
    bars = read_bars(write(file, columns(step_ms=lengths[timeframe] * 1000)))
    assert bars.timeframe == timeframe
    assert bars.closes_at_ms[0] == START_MS + lengths[timeframe] * 1000


def test_gaps_repeats_and_disorder_do_not_mislead_the_timeframe(file: Path) -> None:
    hours = [9, 0, 1, 2, 2, 2, 2, 6, 7]
    content = columns(9, ("A/USDT",))
    content["ts"] = pa.array([START_MS + HOUR * hour for hour in hours], pa.int64())
    assert read_bars(write(file, content)).timeframe == "1h"


def test_the_timeframe_of_a_file_ordered_by_time_is_told_per_symbol(file: Path) -> None:
    content = columns(6, ("A/USDT",))
    content["symbol"] = ["A/USDT", "B/USDT"] * 3
    content["ts"] = pa.array([START_MS + HOUR * (i // 2) for i in range(6)], pa.int64())
    assert read_bars(write(file, content)).timeframe == "1h"


def test_rows_without_symbol_or_open_time_are_kept_for_the_quarantine(file: Path) -> None:
    content = columns(4, ("A/USDT",))
    content["symbol"] = ["A/USDT", None, "", "A/USDT"]
    content["ts"] = pa.array([START_MS, START_MS, START_MS, None], pa.timestamp("ms"))
    content = {
        name: pa.concat_arrays([pa.array(values), pa.array(columns(3, ("B/USDT",))[name])])
        if name != "ts"
        else pa.concat_arrays(
            [values, pa.array([START_MS + HOUR * i for i in range(3)], pa.timestamp("ms"))]
        )
        for name, values in content.items()
    }
    bars = read_bars(write(file, content))
    assert bars.symbols == ("A/USDT", "B/USDT")
    assert bars.symbol_code.tolist() == [0, MISSING_CODE, MISSING_CODE, 0, 1, 1, 1]
    assert bars.closes_at_ms[3] == MISSING_MS
    checked = check_bars(
        bars, now_ms=START_MS + 9 * HOUR, known=None, settings=BarCheckSettings(), prior={}
    )
    assert [bar.reason for bar in checked.quarantined] == ["missing_key"] * 3
    assert len(checked.accepted) == 4


def test_missing_values_are_read_as_nan_for_the_quarantine(file: Path) -> None:
    content = columns(3, ("A/USDT",)) | {"close": pa.array([10.0, None, 10.0])}
    assert np.isnan(read_bars(write(file, content)).close).tolist() == [False, True, False]


def test_numbers_of_other_types_are_read_as_floats(file: Path) -> None:
    content = columns(3, ("A/USDT",))
    content["high"] = pa.array(["12.5", "13", "14"]).cast(pa.decimal128(10, 2))
    content["volume"] = pa.array([1, 2, 2**60 + 1])
    bars = read_bars(write(file, content))
    assert bars.high.tolist() == [12.5, 13.0, 14.0]
    assert bars.volume.tolist() == [1.0, 2.0, 2.0**60]


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"row_group_size": 2}])
def test_the_encoding_and_the_row_groups_of_a_file_change_nothing(
    file: Path, options: dict[str, Any]
) -> None:
    bars = read_bars(write(file, columns(symbols=("C/USDT", "A/USDT", "B/USDT")), **options))
    assert bars.symbol_code.tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1]


def test_symbols_stored_as_dictionary_are_read(file: Path) -> None:
    content = columns()
    content["symbol"] = pa.array(content["symbol"]).dictionary_encode()
    assert read_bars(write(file, content)).symbol_code.tolist() == [1, 1, 1, 0, 0, 0]


def test_an_open_beyond_the_calendar_is_quarantined_as_future(file: Path) -> None:
    content = columns(4, ("A/USDT",))
    opens_at_ms = [*(START_MS + HOUR * i for i in range(3)), np.iinfo(np.int64).max // HOUR * HOUR]
    content["ts"] = pa.array(opens_at_ms, pa.int64())
    checked = check_bars(
        read_bars(write(file, content)),
        now_ms=START_MS + 9 * HOUR,
        known=None,
        settings=BarCheckSettings(),
        prior={},
    )
    assert len(checked.accepted) == 3
    assert [bar.reason for bar in checked.quarantined] == ["future"]


def test_an_absent_file_is_refused(file: Path) -> None:
    with pytest.raises(DataError, match=r"bars\.parquet does not exist: give"):
        read_bars(file)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder: name the Parquet files"):
        read_bars(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"ts,symbol\n1,A\n" * 100, b"PAR1" * 99])
def test_a_file_that_is_empty_or_not_parquet_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"bars\.parquet cannot be read as Parquet .* again"):
        read_bars(file)


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(file: Path, kept: float) -> None:
    whole = write(file, columns(300)).read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_bars(file)


def test_a_file_damaged_in_its_pages_is_refused(file: Path) -> None:
    whole = bytearray(write(file, columns(300), compression="zstd").read_bytes())
    whole[4 : len(whole) // 2] = bytes(len(whole) // 2 - 4)
    file.write_bytes(whole)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_bars(file)


def test_a_file_without_rows_is_refused(file: Path) -> None:
    pq.write_table(pa.table(columns()).slice(0, 0), file)
    with pytest.raises(DataError, match="has no row: record some"):
        read_bars(file)


def test_missing_columns_are_named_with_those_expected(file: Path) -> None:
    content = columns()
    del content["exchange"], content["volume"]
    with pytest.raises(DataError) as refusal:
        read_bars(write(file, content))
    assert (
        "lacks or repeats exchange, volume: bars need the columns ts, symbol, exchange, open"
        in str(refusal.value)
    )


def test_a_repeated_column_is_refused(file: Path) -> None:
    table = pa.table(columns())
    pq.write_table(table.append_column("open", table["open"]), file)
    with pytest.raises(DataError, match="lacks or repeats open"):
        read_bars(file)


@pytest.mark.parametrize(
    ("exchanges", "told"),
    [
        (["binance"] * 5 + ["okx"], r"\['binance', 'okx'\]: split it"),
        (["binance"] * 5 + [None], r"\['binance', None\]"),
        ([""] * 6, r"\[''\]"),
        ([7] * 6, r"\[7\]"),
    ],
)
def test_a_file_of_no_or_several_exchanges_is_refused(
    file: Path, exchanges: list[Any], told: str
) -> None:
    with pytest.raises(DataError, match=f"names the exchanges {told}"):
        read_bars(write(file, columns() | {"exchange": exchanges}))


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("ts", pa.array(["2024-01-01"] * 6), "ts of type string: write a timestamp"),
        ("ts", pa.array([1.0] * 6), "ts of type double"),
        ("ts", pa.array([1] * 6, pa.int32()), "ts of type int32"),
        ("symbol", pa.array([1, 2, 3, 4, 5, 6]), "symbols of type int64: write strings"),
        ("open", pa.array(["1.0"] * 6), "open of type string: write numbers"),
        ("volume", pa.array([True] * 6), "volume of type bool: write numbers"),
    ],
)
def test_a_column_of_another_type_is_refused(
    file: Path, column: str, values: pa.Array, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        read_bars(write(file, columns() | {column: values}))


def test_a_symbol_that_is_not_text_is_refused(file: Path) -> None:
    raw = pa.array([b"\xff\xfe"] * 6, pa.binary())
    symbols = pa.StringArray.from_buffers(6, raw.buffers()[1], raw.buffers()[2])
    with pytest.raises(DataError, match="not UTF-8"):
        read_bars(write(file, columns() | {"symbol": symbols}))


@pytest.mark.parametrize(
    ("n_bars", "step_ms", "told"),
    [
        (3, 7 * 60_000, "bars 420000 ms apart: record bars of 1m, 5m, 15m, 1h, 4h, 1d"),
        (1, HOUR, "no two bars of one symbol"),
        (3, 0, "no two bars of one symbol"),
    ],
)
def test_a_file_whose_timeframe_cannot_be_told_or_is_unknown_is_refused(
    file: Path, n_bars: int, step_ms: int, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        read_bars(write(file, columns(n_bars, step_ms=step_ms)))


def test_several_files_come_longest_timeframe_first_and_joined_per_timeframe(
    tmp_path: Path,
) -> None:
    paths = [
        write(tmp_path / "5m.parquet", columns(step_ms=300_000)),
        write(tmp_path / "1d.parquet", columns(step_ms=24 * HOUR)),
        write(tmp_path / "5m_more.parquet", columns(symbols=("C/USDT",), step_ms=300_000)),
        write(tmp_path / "1h.parquet", columns()),
    ]
    files = read_bar_files(paths)
    assert [bars.timeframe for bars in files] == ["1d", "1h", "5m"]
    assert files[2].symbols == ("A/USDT", "B/USDT", "C/USDT")
    assert files[2].symbol_code.tolist() == [1, 1, 1, 0, 0, 0, 2, 2, 2]


def test_files_of_one_timeframe_and_two_exchanges_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, columns(exchange=name)) for name in ("okx", "bybit")]
    with pytest.raises(DataError, match=r"\['bybit 1h', 'okx 1h'\]"):
        read_bar_files(paths)


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="name at least one"):
        read_bar_files([])


def test_the_recorded_files_are_read_longest_timeframe_first(data_folder: Path) -> None:
    folder = data_folder / "crypto"
    files = read_bar_files(
        [folder / "binance_spot_5m_2024.parquet", folder / "binance_spot_1h_2024.parquet"]
    )
    shapes = [(bars.venue, bars.timeframe, len(bars.symbols), len(bars)) for bars in files]
    assert shapes == [("binance", "1h", 123, 728_613), ("binance", "5m", 24, 1_506_816)]


def test_a_recorded_file_of_several_exchanges_is_refused_by_their_names(data_folder: Path) -> None:
    with pytest.raises(DataError, match="'binance', 'bybit', 'okx'"):
        read_bars(data_folder / "crypto_xexch" / "spot_perp_15m_2024.parquet")
