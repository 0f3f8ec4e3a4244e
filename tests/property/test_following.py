from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.events.features import FeatureRow
from shared.events.ingest import BarsClosed
from shared.events.screener import PairsScreened
from shared.sleeves.pairs.features import FeatureSettings, Pair, pair_features, warmup_bars
from shared.sleeves.pairs.following import PairFollower, followed_at, join_legs
from tests.support import BAR_MS, MIDNIGHT_MS, closing_bars, roster

SETTINGS = FeatureSettings(beta_window=10, z_window=10, lags=2, volume_window=4, trend_window=3)
SYMBOLS = ("A/USDT", "B/USDT", "C/USDT", "D/USDT")
PAIRS = (
    ("A/USDT", "B/USDT"),
    ("A/USDT", "C/USDT"),
    ("D/USDT", "B/USDT"),
    ("C/USDT", "D/USDT"),
)
Bars = dict[str, dict[datetime, tuple[float, float]]]
Rows = dict[tuple[int, Pair], FeatureRow]


def arrivals(
    random: Random, bars: Mapping[int, Mapping[str, tuple[float, float]]], faults: float
) -> list[BarsClosed]:
    """Return the events by which bars arrive: missing, in a further event, or closes late."""
    events: list[BarsClosed] = []
    late: list[tuple[int, BarsClosed]] = []
    for n, (closes_at_ms, at_close) in enumerate(bars.items()):
        parts: dict[str, dict[str, tuple[float, float]]] = {"now": {}, "soon": {}, "late": {}}
        for symbol, bar in at_close.items():
            fate = "now"
            if random.random() < faults:
                fate = random.choice(["soon", "late", "never"])
            if fate != "never":
                parts[fate][symbol] = bar
        events += [closing_bars(closes_at_ms, parts[p]) for p in ("now", "soon") if parts[p]]
        events += [event for due, event in late if due == n]
        if parts["late"]:
            due = n + random.randint(1, 4)
            late.append((due, closing_bars(closes_at_ms, parts["late"])))
    return events


def rosters(random: Random, closes: Sequence[int]) -> list[PairsScreened]:
    """Return screens that put pairs on the roster and take them off again."""
    found = []
    for closes_at_ms in sorted({closes[0] - BAR_MS, *(random.choice(closes) for _ in range(4))}):
        listed = {pair: random.choice(["active", "closing_only", "candidate"]) for pair in PAIRS}
        kept = {pair: status for pair, status in listed.items() if random.random() < 0.8}
        found.append(roster(closes_at_ms, kept))  # type: ignore[arg-type]
    return found


def at_close(store: Bars, closed: BarsClosed) -> BarsClosed:
    """Return an event with the bars of its close that came in earlier ones."""
    known = {bar.symbol for bar in closed.bars}
    earlier = {
        symbol: bars[closed.closes_at]
        for symbol, bars in store.items()
        if symbol not in known and closed.closes_at in bars
    }
    if not earlier:
        return closed
    more = closing_bars(closed.closes_at_ms, earlier).bars
    return closed.model_copy(update={"bars": (*closed.bars, *more)})


def keep(store: Bars, closed: BarsClosed) -> None:
    for bar in closed.bars:
        bars = store.setdefault(bar.symbol, {})
        bars[closed.closes_at] = (bar.close, bar.volume)
        store[bar.symbol] = dict(sorted(bars.items()))


def follow(
    events: Sequence[BarsClosed],
    screens: Sequence[PairsScreened],
    settings: FeatureSettings,
    restarts: Collection[int] = (),
) -> Rows:
    """Run a follower over events as its service does, in a new process at every restart."""
    store: Bars = {}
    rows: Rows = {}
    last_closes_at_ms: int | None = None
    follower = PairFollower(settings, "5m")
    for number, event in enumerate(events):
        if number in restarts:
            follower = PairFollower(settings, "5m", last_closes_at_ms)
        keep(store, event)
        closed = at_close(store, event)
        followed, screen = followed_at(screens, closed.closes_at_ms)
        for pair in follower.unknown_pairs(followed, closed):
            legs = [
                {at: bar for at, bar in store.get(leg, {}).items() if at < closed.closes_at}
                for leg in pair
            ]
            history = join_legs(legs[0], legs[1], follower.history_bars)[1]
            follower.learn(pair, closed.closes_at_ms, history)
        for row in follower.compute(closed, followed, screen).rows:
            key = closed.closes_at_ms, (row.y, row.x)
            assert rows.setdefault(key, row) == row, "a row was computed twice, and differs"
        last_closes_at_ms = max(closed.closes_at_ms, last_closes_at_ms or 0)
    return rows


def definition(
    events: Sequence[BarsClosed], screens: Sequence[PairsScreened], settings: FeatureSettings
) -> Rows:
    """Return the rows by their definition: the batch over all joined bars known at the event."""
    store: Bars = {}
    rows: Rows = {}
    newest = events[0].closes_at
    for event in events:
        keep(store, event)
        is_late, newest = event.closes_at < newest, max(newest, event.closes_at)
        for pair, status in followed_at(screens, event.closes_at_ms)[0].pairs.items():
            key = event.closes_at_ms, pair
            legs = [store.get(leg, {}) for leg in pair]
            if is_late or key in rows or any(event.closes_at not in leg for leg in legs):
                continue
            _, known = join_legs(legs[0], legs[1], warmup_bars(settings))
            batch = pair_features(
                known.close_y, known.close_x, known.volume_y, known.volume_x, settings
            )
            if np.isfinite(batch[-1]).all():
                rows[key] = FeatureRow(
                    y=pair[0],
                    x=pair[1],
                    status=status,
                    close_y=known.close_y[-1],
                    close_x=known.close_x[-1],
                    values=tuple(batch[-1].tolist()),
                )
    return rows


@hypothesis_settings(max_examples=60)
@given(
    st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.4]), st.sets(st.integers(0, 60), max_size=4)
)
def test_rows_are_those_of_the_batch_whatever_comes_late_or_restarts(
    seed: int, faults: float, restarts: set[int]
) -> None:
    random = Random(seed)
    n_closes = warmup_bars(SETTINGS) + 14
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.01, (n_closes, 1)).cumsum(axis=0)
    closes = np.exp(3 + common + rng.normal(0, 0.005, (n_closes, 4)))
    volumes = rng.exponential(100, (n_closes, 4))
    bars = {
        MIDNIGHT_MS + n * BAR_MS: dict(
            zip(SYMBOLS, zip(closes[n].tolist(), volumes[n].tolist(), strict=True), strict=True)
        )
        for n in range(n_closes)
    }
    events = arrivals(random, bars, faults)
    screens = rosters(random, list(bars))
    expected = definition(events, screens, SETTINGS)
    assert follow(events, screens, SETTINGS) == expected
    assert follow(events, screens, SETTINGS, restarts) == expected


def test_rows_of_recorded_bars_are_those_of_the_batch(data_folder: Path) -> None:
    symbols = dict(zip(SYMBOLS, ("LTC/USDT", "ETC/USDT", "BTC/USDT", "ETH/USDT"), strict=True))
    found = pd.read_parquet(
        data_folder / "crypto" / "binance_spot_5m_2024.parquet",
        columns=["ts", "symbol", "close", "volume"],
        filters=[
            ("symbol", "in", list(symbols.values())),
            ("ts", ">=", pd.Timestamp("2024-03-01", tz="UTC")),
            ("ts", "<", pd.Timestamp("2024-03-03", tz="UTC")),
        ],
    )
    wide = found.pivot_table(index="ts", columns="symbol", values=["close", "volume"])
    assert len(wide) == 2 * 288
    bars = {
        MIDNIGHT_MS + n * BAR_MS: {
            name: (float(close), float(volume))
            for name, close, volume in zip(
                symbols,
                wide["close"][list(symbols.values())].iloc[n],
                wide["volume"][list(symbols.values())].iloc[n],
                strict=True,
            )
        }
        for n in range(len(wide))
    }
    settings = FeatureSettings(beta_window=100, z_window=60)
    random = Random(7)
    events = arrivals(random, bars, faults=0.02)
    screens = rosters(random, list(bars))
    expected = definition(events, screens, settings)
    assert len(expected) > 500
    assert follow(events, screens, settings) == expected
    assert follow(events, screens, settings, random.sample(range(len(events)), 40)) == expected
