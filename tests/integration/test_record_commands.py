"""Commands on a record whose fleet does not run: they start its Postgres themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pandas as pd
import pytest

MNT = [sys.executable, "-c", "from cli.main import run; run()"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a home and a file of bars, one of them broken."""
    folder = tmp_path_factory.mktemp("record")
    parts = []
    for symbol in ("AAA/USDT", "BBB/USDT"):
        ts = pd.date_range("2024-03-01", periods=100, freq="5min", tz="UTC")
        close = pd.Series(range(100), dtype=float) / 100 + 50
        values = {"open": close, "high": close + 1, "low": close - 1, "close": close}
        parts.append(
            pd.DataFrame({"ts": ts, "symbol": symbol, "exchange": "here", **values, "volume": 2.0})
        )
    bars = pd.concat(parts, ignore_index=True)
    bars.loc[7, "high"] = -1.0
    bars.to_parquet(folder / "bars.parquet")
    return folder


def mnt(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [*MNT, *arguments, "--home", str(folder / "home")]
    return subprocess.run(command, capture_output=True, check=False)


def test_bars_go_in_once_and_come_out_as_they_were(folder: Path) -> None:
    file = str(folder / "bars.parquet")
    first = mnt(folder, "import", "bars", file, "--json")
    assert first.returncode == 0, first.stderr.decode()
    part = {"venue": "here", "timeframe": "5m"}
    assert orjson.loads(first.stdout) == [
        {**part, "accepted": 199, "quarantined": 1, "known": 0},
    ]
    again = orjson.loads(mnt(folder, "import", "bars", file, "--json").stdout)
    assert again[0]["accepted"] == 0
    assert again[0]["known"] == 199

    out = folder / "out.parquet"
    exported = mnt(folder, "export", "bars", "--timeframe", "5m", "--out", str(out), "--json")
    assert exported.returncode == 0, exported.stderr.decode()
    assert orjson.loads(exported.stdout)["rows"] == 199
    came_out = pd.read_parquet(out).set_index(["symbol", "ts"]).sort_index()
    went_in = pd.read_parquet(file).set_index(["symbol", "ts"]).sort_index()
    pd.testing.assert_frame_equal(came_out, went_in.loc[came_out.index], check_index_type=False)


def test_a_period_of_a_table_is_exported_with_its_lineage(folder: Path) -> None:
    mnt(folder, "import", "bars", str(folder / "bars.parquet"))
    out = folder / "quarantine.parquet"
    done = mnt(folder, "export", "bar_quarantine", "--out", str(out), "--end", "2024-03-01T01:00")
    assert done.returncode == 0, done.stderr.decode()
    found = pd.read_parquet(out)
    assert len(found) >= 1
    assert set(found["source_uri"]) == {"file:bars.parquet"}
    assert found["high"].tolist()[0] == -1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "bars", "--out", "x.parquet"], "give --timeframe, one of 1m, 5m"),
        (["export", "barz", "--out", "x.parquet"], "no table 'barz' in the record: choose from"),
        (["export", "stream_head", "--out", "x", "--end", "2024-01-01"], "has no closes"),
        (["export", "screens", "--out", "no/such/folder/x.parquet"], "choose another --out"),
        (["export", "screens", "--out", "x", "--end", "soon"], "'soon' is not an instant"),
        (["import", "bars", "absent.parquet"], "absent.parquet"),
        (["publish", "bars.5m", "{}"], "BarsClosed: closes_at: Field required"),
        (["publish", "bars.7m", "{}"], "unknown stream 'bars.7m'"),
        (["publish", "bars.5m", "@absent.json"], "name a file that can be read"),
        (["train"], "start the fleet with `mnt up`"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_remedy(
    folder: Path, arguments: list[str], message: str
) -> None:
    refused = mnt(folder, *arguments)
    assert refused.returncode == 1
    assert message in " ".join(refused.stderr.decode().split())
    assert "Traceback" not in refused.stderr.decode()


def test_nothing_runs_and_nothing_is_stopped(folder: Path) -> None:
    stopped = mnt(folder, "stop")
    assert stopped.returncode == 0
    assert "no fleet runs in" in stopped.stdout.decode()
