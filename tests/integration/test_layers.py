"""The record by the names of bronze, silver and gold."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import create_engine, insert

from shared.clock import instant_of_ms
from shared.database import tables
from shared.sleeves.pairs.features import FeatureSettings, feature_names, pair_features
from shared.sleeves.pairs.labels import LabelKind, LabelSettings, make_labels

BAR_MS = 300_000
FIRST_MS = 1_704_067_200_000
LINEAGE = {"source_uri": "test", "transform_id": "test/1"}
SETTINGS = FeatureSettings(beta_window=10, z_window=10, lags=1, volume_window=2, trend_window=2)


def rows_of(url: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(url.replace("+asyncpg", ""), row_factory=dict_row) as connection:
        connection.execute("SET timezone = 'UTC'")
        return connection.execute(query.encode()).fetchall()


def record(url: str, table: Any, rows: list[dict[str, Any]]) -> None:
    engine = create_engine(url.replace("+asyncpg", "+psycopg"))
    with engine.begin() as connection:
        connection.execute(insert(table), rows)
    engine.dispose()


def record_features(url: str, closes_at_ms: np.ndarray[Any, Any], close: Any, values: Any) -> None:
    names = list(feature_names(SETTINGS))
    record(url, tables.feature_sets, [{"feature_set": "set", "names": names}])
    record(
        url,
        tables.features,
        [
            {
                "closes_at": instant_of_ms(int(at_ms)), "y": "AAA", "x": "BBB", "status": "active",
                "roster_closes_at": None, "close_y": float(close[0, n]),
                "close_x": float(close[1, n]), "feature_set": "set",
                "feature_values": values[n].tolist(), **LINEAGE,
            }
            for n, at_ms in enumerate(closes_at_ms.tolist())
        ],
    )  # fmt: skip


@pytest.fixture
def recorded(database_url: str) -> tuple[str, Any, Any, Any]:
    rng = np.random.default_rng(3)
    walk = rng.normal(0, 0.01, 400).cumsum()
    close = np.exp(np.stack([walk + rng.normal(0, 0.01, 400), walk]))
    volume = np.ones(400)
    values = pair_features(close[0], close[1], volume, volume, SETTINGS)
    at_ms = FIRST_MS + np.arange(1, 401) * BAR_MS
    kept = np.isfinite(values[:, 0])
    kept[200:203] = False  # no row at three closes: what follows them is no next bar
    at_ms, close, values = at_ms[kept], close[:, kept], values[kept]
    record_features(database_url, at_ms, close, values)
    return database_url, at_ms, close, values


@pytest.mark.parametrize("kind", ["next_bar_sign", "z_threshold"])
def test_labels_of_the_gold_dataset_are_those_that_models_learn(
    recorded: tuple[str, Any, Any, Any], kind: LabelKind
) -> None:
    url, at_ms, close, values = recorded
    labels = make_labels(
        values, feature_names(SETTINGS), close[0], close[1], at_ms,
        bar_ms=BAR_MS, spread_space="log", settings=LabelSettings(kind=kind),
    )  # fmt: skip
    expected = {int(at_ms[r]): int(v) for r, v in zip(labels.rows, labels.label, strict=True)}
    assert 0 < sum(expected.values()) < len(expected)
    query = f"SELECT ts, {kind} AS label FROM gold_dataset WHERE abs(z_score) >= 1.5"
    found = {
        int(row["ts"].timestamp() * 1000): row["label"]
        for row in rows_of(url, query)
        if row["label"] is not None
    }
    assert found == expected


def test_features_have_names_and_the_compatible_view_three_columns(
    recorded: tuple[str, Any, Any, Any],
) -> None:
    url, at_ms, close, values = recorded
    names = feature_names(SETTINGS)
    rows = rows_of(url, "SELECT * FROM gold_features_5m ORDER BY ts")
    assert len(rows) == len(at_ms)
    for name in names[:-1]:
        assert [row[name] for row in rows] == values[:, names.index(name)].tolist()
    legs = rows_of(url, "SELECT * FROM silver_features_5m WHERE symbol = 'BBB' ORDER BY ts")
    assert list(legs[0]) == ["ts", "symbol", "close"]
    assert [row["close"] for row in legs] == close[1].tolist()


def test_bars_are_bronze_by_their_open_and_prices_by_their_close(database_url: str) -> None:
    closes_at = instant_of_ms(FIRST_MS)
    bar = {
        "venue": "binance", "symbol": "AAA", "open": 2.0, "high": 3.0, "low": 1.0, "close": 2.5,
        "volume": 0.0, "closes_at": closes_at, **LINEAGE,
    }  # fmt: skip
    record(database_url, tables.bars, [{**bar, "timeframe": name} for name in ("1h", "5m", "1d")])
    for timeframe, length in (("1h", timedelta(hours=1)), ("5m", timedelta(minutes=5))):
        (row,) = rows_of(database_url, f"SELECT * FROM bronze_ohlcv_{timeframe}")
        assert row["ts"] == closes_at - length
        assert (row["close"], row["source_uri"]) == (2.5, "test")
    (price,) = rows_of(database_url, "SELECT * FROM prices_5m")
    assert price == {"ts": closes_at, "venue": "binance", "symbol": "AAA", "close": 2.5}


def test_screened_pairs_and_signals_have_their_names(database_url: str) -> None:
    closes_at = instant_of_ms(FIRST_MS)
    numbers = ("statistic", "p_value", "q_value", "hedge_ratio", "intercept", "half_life_bars")
    member = {
        "closes_at": closes_at, "y": "AAA", "x": "BBB", "status": "candidate",
        "accepted_screens": 1, "missed_screens": 0, "lag": 0, "hurst": 0.4, "correlation": 0.5,
        "crossings": 20, "n_bars": 1000, **dict.fromkeys(numbers, 0.5), **LINEAGE,
    }  # fmt: skip
    screen = {
        "timeframe": "1h", "closes_at": closes_at, "method": "p_value", "level": 0.05,
        "n_symbols": 2, "n_tests": 2, "n_accepted": 1, "excluded": {}, "summary": "s", **LINEAGE,
    }  # fmt: skip
    record(database_url, tables.screens, [screen])
    record(database_url, tables.roster, [member])
    (pair,) = rows_of(database_url, "SELECT * FROM silver_pairs_screened")
    assert (pair["ts"], pair["y"], pair["method"], pair["n_tests"]) == (
        closes_at,
        "AAA",
        "p_value",
        2,
    )
    signal = {
        "closes_at": closes_at, "y": "AAA", "x": "BBB", "action": "enter", "sleeve": "pairs",
        "side": -1, "reason": "z_score", "strength": 2.0, "z_score": 2.0, "hedge_ratio": 1.0,
        "intercept": 0.0, "spread_mean": 0.0, "spread_std": 1.0, "entered_at": closes_at,
        "close_y": 1.0, "close_x": 1.0, **LINEAGE,
    }  # fmt: skip
    record(database_url, tables.signals, [signal, {**signal, "action": "exit"}])
    rows = rows_of(database_url, "SELECT pair, action, signal FROM gold_signals ORDER BY action")
    assert [(row["pair"], row["signal"]) for row in rows] == [("AAA~BBB", -1), ("AAA~BBB", 0)]
