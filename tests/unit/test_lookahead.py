from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.signal import filtfilt, lfilter
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from shared.errors import DataError
from shared.quant.lookahead import Columns, Leak, Pipeline, truncation_check, warmup_bars_needed
from shared.quant.typing import Float1D
from shared.sleeves.pairs.features import FeatureSettings, feature_names, pair_features, warmup_bars
from shared.sleeves.pairs.labels import LabelSettings, make_labels

N = 400
BAR_MS = 300_000
POINTS = np.sort(np.random.default_rng(0).choice(np.arange(60, N - 20), 25, replace=False))


def recorded_bars() -> Columns:
    """Return bars of two symbols, the second with gaps, at five minutes."""
    rng = np.random.default_rng(1)
    close = 100 * np.exp(rng.normal(0, 0.01, N).cumsum())
    other = 50 * np.exp(rng.normal(0, 0.01, N).cumsum())
    sparse = np.where(rng.random(N) < 0.3, np.nan, other)
    sparse[0] = other[0]
    return {
        "close": close,
        "open": np.concatenate([close[:1], close[:-1]]),
        "high": close * (1 + rng.uniform(0.001, 0.01, N)),
        "low": close * (1 - rng.uniform(0.001, 0.01, N)),
        "volume": rng.uniform(1, 10, N),
        "other": other,
        "sparse": sparse,
        "closes_at_ms": np.arange(1, N + 1) * BAR_MS,
    }


def series(bars: Columns, name: str = "close") -> pd.Series[float]:
    return pd.Series(bars[name])


def simple_returns(bars: Columns) -> Any:
    return np.diff(bars["close"], prepend=bars["close"][:1]) / bars["close"]


def side(bars: Columns) -> Any:
    """Return the side that a rule takes on the close of each bar."""
    return np.sign(bars["close"] - series(bars).rolling(10, min_periods=1).mean().to_numpy())


def shifted(values: Float1D, n_bars: int = 1) -> Float1D:
    """Return values of `n_bars` bars before."""
    return pd.Series(values).shift(n_bars).to_numpy()


def hourly(bars: Columns, label: str) -> Any:
    """Return each bar's hourly close: of the hour it is in, or of the last one that is over."""
    hour = (bars["closes_at_ms"] - 1) // (12 * BAR_MS)
    closes = pd.Series(bars["close"]).groupby(hour).last()
    is_last = bars["closes_at_ms"] % (12 * BAR_MS) == 0
    known = hour if label == "left" else np.where(is_last, hour, hour - 1)
    return closes.reindex(known).to_numpy()


def joined(bars: Columns, direction: Any) -> Float1D:
    """Return quotes that come every seventh bar, joined to all bars."""
    left = pd.DataFrame({"at": bars["closes_at_ms"]})
    quotes = pd.DataFrame({"at": bars["closes_at_ms"], "quote": bars["other"]})[::7]
    return pd.merge_asof(left, quotes, on="at", direction=direction)["quote"].to_numpy()


def swing_highs(bars: Columns, confirmed: bool) -> Any:
    high = series(bars, "high")
    is_swing = (high == high.rolling(5, center=True).max()).to_numpy()
    return shifted(is_swing.astype(np.float64), 2) if confirmed else is_swing


def fitted_probability(bars: Columns, n_train: int | None) -> Any:
    past = simple_returns(bars)
    features = np.column_stack([past, np.nan_to_num(shifted(past))])
    labels = np.append(past[1:] > 0, False)
    model = LogisticRegression().fit(
        features[: n_train and n_train - 1], labels[: n_train and n_train - 1]
    )
    return model.predict_proba(features)[:, 1]


def principal(bars: Columns, n_train: int | None) -> Any:
    columns = np.log(np.column_stack([bars["close"], bars["other"]]))
    return PCA(1, svd_solver="full").fit(columns[:n_train]).transform(columns)


def hedge_ratio_residual(bars: Columns, n_train: int | None) -> Any:
    y, x = np.log(bars["close"]), np.log(bars["other"])
    slope, intercept = np.polyfit(x[:n_train], y[:n_train], 1)
    return y - slope * x - intercept


def labelled_ahead(bars: Columns, n_bars: int) -> Any:
    return (shifted(bars["close"], -n_bars) > bars["close"]).astype(np.int64)


SMOOTHING = ([0.2], [1.0, -0.8])

# What each leak gets wrong, and beside it the same thing done right. A result may look no
# further than its row, except that what is held or ordered during a bar was decided before it,
# and that a label looks three bars ahead.
REACH = {"held": -1, "limit": -1, "label": 3}
Result = Callable[[Columns], Any]
LEAKS_AND_CLEAN: dict[str, tuple[str, Result, Result]] = {
    "centred window": (
        "feature",
        lambda b: series(b).rolling(5, center=True).mean(),
        lambda b: series(b).rolling(5).mean(),
    ),
    "future join": (
        "feature",
        lambda b: joined(b, "forward"),
        lambda b: joined(b, "backward"),
    ),
    "nearest join": (
        "feature",
        lambda b: joined(b, "nearest"),
        lambda b: joined(b, "backward"),
    ),
    "target among features": (
        "feature",
        lambda b: np.column_stack([b["volume"], shifted(simple_returns(b), -1)]),
        lambda b: np.column_stack([b["volume"], shifted(simple_returns(b), 1)]),
    ),
    "same-bar fill": (
        "held",
        side,
        lambda b: shifted(side(b)),
    ),
    "limit at the low of the bar it is filled in": (
        "limit",
        lambda b: np.where(side(b) > 0, b["low"], b["high"]),
        lambda b: np.where(shifted(side(b)) > 0, shifted(b["low"]), shifted(b["high"])),
    ),
    "full-sample z-score": (
        "feature",
        lambda b: (b["close"] - b["close"].mean()) / b["close"].std(),
        lambda b: (series(b) - series(b).expanding().mean()) / series(b).expanding().std(),
    ),
    "scaler fitted on everything": (
        "feature",
        lambda b: StandardScaler().fit_transform(b["close"][:, np.newaxis]),
        lambda b: (
            StandardScaler().fit(b["close"][:50, np.newaxis]).transform(b["close"][:, np.newaxis])
        ),
    ),
    "gaps filled backwards": (
        "feature",
        lambda b: series(b, "sparse").bfill(),
        lambda b: series(b, "sparse").ffill(),
    ),
    "gaps interpolated": (
        "feature",
        lambda b: series(b, "sparse").interpolate(),
        lambda b: series(b, "sparse").ffill().diff(),
    ),
    "gaps filled with the mean of all": (
        "feature",
        lambda b: series(b, "sparse").fillna(np.nanmean(b["sparse"])),
        lambda b: series(b, "sparse").fillna(series(b, "sparse").expanding().mean()),
    ),
    "principal component of everything": (
        "feature",
        lambda b: principal(b, None),
        lambda b: principal(b, 50),
    ),
    "hedge ratio of everything": (
        "signal",
        lambda b: hedge_ratio_residual(b, None) > 0,
        lambda b: hedge_ratio_residual(b, 50) > 0,
    ),
    "rank within everything": (
        "feature",
        lambda b: series(b).rank(pct=True),
        lambda b: series(b).rolling(50).rank(pct=True),
    ),
    "model fitted on what it forecasts": (
        "feature",
        lambda b: fitted_probability(b, None),
        lambda b: fitted_probability(b, 50),
    ),
    "filter run both ways": (
        "feature",
        lambda b: filtfilt(*SMOOTHING, b["close"]),
        lambda b: lfilter(*SMOOTHING, b["close"]),
    ),
    "swing high before its confirmation": (
        "feature",
        lambda b: swing_highs(b, confirmed=False),
        lambda b: swing_highs(b, confirmed=True),
    ),
    "hour labelled by its start": (
        "feature",
        lambda b: hourly(b, "left"),
        lambda b: hourly(b, "right"),
    ),
    "lag that wraps around": (
        "feature",
        lambda b: np.roll(b["close"], 3),
        lambda b: shifted(b["close"], 3),
    ),
    "outliers clipped at quantiles of everything": (
        "feature",
        lambda b: np.clip(simple_returns(b), *np.quantile(simple_returns(b), [0.05, 0.95])),
        lambda b: np.clip(simple_returns(b), *np.quantile(simple_returns(b)[:50], [0.05, 0.95])),
    ),
    "size by the volatility of everything": (
        "signal",
        lambda b: side(b) / simple_returns(b).std(),
        lambda b: side(b) / pd.Series(simple_returns(b)).rolling(20).std(),
    ),
    "price relative to the last": (
        "feature",
        lambda b: b["close"] / b["close"][-1],
        lambda b: b["close"] / b["close"][0],
    ),
    "label beyond its horizon": (
        "label",
        lambda b: labelled_ahead(b, 4),
        lambda b: labelled_ahead(b, 3),
    ),
}


def check(name: str, result: Result) -> tuple[Leak, ...]:
    reach = {name: REACH[name]} if name in REACH else {}
    return truncation_check(
        lambda bars: {name: result(bars)},
        recorded_bars(),
        POINTS.tolist(),
        rng=np.random.default_rng(2),
        reach_bars=reach,
    )


def test_there_are_at_least_twenty_of_each() -> None:
    assert len(LEAKS_AND_CLEAN) >= 20


@pytest.mark.parametrize("what", LEAKS_AND_CLEAN)
def test_a_planted_leak_is_found(what: str) -> None:
    name, leak, _ = LEAKS_AND_CLEAN[what]
    assert check(name, leak)


@pytest.mark.parametrize("what", LEAKS_AND_CLEAN)
def test_the_same_done_right_passes(what: str) -> None:
    name, _, clean = LEAKS_AND_CLEAN[what]
    assert check(name, clean) == ()


def pair_pipeline(bars: Columns) -> Columns:
    """Return the sleeve's own features and labels."""
    settings = FeatureSettings(beta_window=30, z_window=20, volume_window=10, trend_window=10)
    features = pair_features(bars["close"], bars["other"], bars["volume"], bars["volume"], settings)
    found = make_labels(
        features,
        feature_names(settings),
        bars["close"],
        bars["other"],
        bars["closes_at_ms"],
        bar_ms=BAR_MS,
        spread_space="log",
        settings=LabelSettings(kind="triple_barrier", threshold=0.5, horizon_bars=3),
    )
    label = np.full(len(features), -1)
    label[found.rows] = found.label
    return {"features": features, "label": label}


def test_the_features_and_labels_of_the_pairs_sleeve_pass() -> None:
    rng = np.random.default_rng(3)
    points = POINTS.tolist()
    bars = recorded_bars()
    assert truncation_check(pair_pipeline, bars, points, rng=rng, reach_bars={"label": 3}) == ()
    leaks = truncation_check(pair_pipeline, bars, points, rng=rng, reach_bars={"label": 2})
    assert {leak.output for leak in leaks} == {"label"}


def test_a_leak_is_reported_where_it_shows_first() -> None:
    def pipeline(bars: Columns) -> Columns:
        return {"clean": bars["close"], "ahead": np.append(bars["close"][2:], [0.0, 0.0])}

    bars = {"close": np.arange(1.0, 11.0)}
    found = truncation_check(pipeline, bars, [7, 5], rng=np.random.default_rng(4))
    assert found[0] == Leak("ahead", "cut", point=5, row=4, n_rows=2)
    assert [leak.future for leak in found] == ["cut", "replaced"]


def test_a_pipeline_that_writes_into_its_bars_harms_no_other_run() -> None:
    def pipeline(bars: Columns) -> Columns:
        bars["close"][:] = bars["close"].cumsum()
        return {"sum": bars["close"]}

    bars = {"close": np.arange(20.0)}
    assert truncation_check(pipeline, bars, [5, 9], rng=np.random.default_rng(5)) == ()
    assert bars["close"][-1] == 19


def test_unsound_pipelines_are_refused() -> None:
    rng = np.random.default_rng(6)
    bars = {"close": np.arange(20.0)}

    def run(pipeline: Pipeline, point: int = 5, **reach: int) -> None:
        truncation_check(pipeline, bars, [point], rng=rng, reach_bars=reach)

    with pytest.raises(DataError, match="differs between two runs"):
        run(lambda b: {"noise": rng.normal(size=len(b["close"]))})
    with pytest.raises(DataError, match="one row for each bar"):
        run(lambda b: {"short": b["close"][1:]})
    with pytest.raises(DataError, match="point 19 of 20 bars"):
        run(lambda b: {"close": b["close"]}, point=19)
    with pytest.raises(DataError, match="reach of label"):
        run(lambda b: {"close": b["close"]}, label=3)
    with pytest.raises(DataError, match=r"lengths \[19, 20\]"):
        truncation_check(
            lambda b: b, {**bars, "open": np.arange(19.0)}, [5], rng=np.random.default_rng(7)
        )
    with pytest.raises(DataError, match="returns other results"):
        run(lambda b: {"close" if len(b["close"]) == 20 else "other": b["close"]})


def test_the_warm_up_of_every_feature_is_found() -> None:
    def pipeline(bars: Columns) -> Columns:
        close = series(bars)
        results = {
            "window": close.rolling(24).max(),
            "lag": close.shift(7),
            "now": close,
            "exponential": close.ewm(halflife=5, adjust=False).mean(),
            "so far": close.expanding().min().cumsum(),
            "never": close * np.nan,
        }
        return {name: values.to_numpy() for name, values in results.items()}

    exact = warmup_bars_needed(pipeline, recorded_bars(), [300, 350, 399])
    assert (exact["window"], exact["lag"], exact["now"]) == (24, 8, 1)
    assert (exact["so far"], exact["never"]) == (None, None)
    near = warmup_bars_needed(pipeline, recorded_bars(), [350, 399], tolerance=1e-6)
    # What is left of the first bar after n bars is 2^(-n/5), a millionth after about 100.
    assert near["exponential"] is not None
    assert 50 < near["exponential"] < 110
    # The short memory of an exponential mean ends only where its bits do.
    assert exact["exponential"] is None or exact["exponential"] > 150


def test_the_warm_up_of_the_pairs_sleeve_is_what_it_says() -> None:
    settings = FeatureSettings(beta_window=30, z_window=20, volume_window=10, trend_window=10)

    def pipeline(bars: Columns) -> Columns:
        rows = pair_features(bars["close"], bars["other"], bars["volume"], bars["volume"], settings)
        return dict(zip(feature_names(settings), rows.T, strict=True))

    found = warmup_bars_needed(pipeline, recorded_bars(), [200, 399])
    assert max(n_bars or 0 for n_bars in found.values()) == warmup_bars(settings)
    assert None not in found.values()
    with pytest.raises(DataError, match="point 400 of 400 bars"):
        warmup_bars_needed(pipeline, recorded_bars(), [400])
    with pytest.raises(DataError, match="fewest_bars 0"):
        warmup_bars_needed(pipeline, recorded_bars(), [300], fewest_bars=0)
