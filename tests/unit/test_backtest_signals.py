from __future__ import annotations

import numpy as np

from shared.backtest.signals import Rows, Signals, raise_signals, rows_by_pair
from shared.quant.typing import Float1D, Int1D
from shared.sleeves.pairs.rules import EXIT_REASONS, SignalSettings, thresholds_of

LIMITS = SignalSettings(
    entry_z=2, exit_z=0.5, stop_z=4, max_hold_bars=9, cooldown_bars=0, missing_closes_limit=1
)
REVERTED, MISSING = EXIT_REASONS.index("reverted"), EXIT_REASONS.index("features_missing")


def rows_of(*pairs: tuple[list[int], list[float]]) -> Rows:
    """Return rows of pairs, each its closes and z scores; the held z is that of the row."""
    close: Int1D = np.concatenate([np.array(closes, dtype=np.int64) for closes, _ in pairs])
    z_score: Float1D = np.concatenate([np.array(scores, dtype=np.float64) for _, scores in pairs])
    one, nothing = np.ones(len(close)), np.zeros(len(close))
    return Rows(
        first_row=np.cumsum([0, *(len(closes) for closes, _ in pairs)]),
        close=close,
        is_active=np.ones(len(close), dtype=np.bool_),
        close_y=10 + z_score,
        close_x=one,
        y=z_score,
        x=nothing,
        z_score=z_score,
        beta=one,
        alpha=nothing,
        spread_mean=nothing,
        spread_std=one,
        half_life=one,
        confidence=np.full(len(close), np.nan),
    )


def raised(rows: Rows, n_closes: int, settings: SignalSettings = LIMITS) -> tuple[Signals, Int1D]:
    closes_at_ms = 1_000 * np.arange(n_closes)
    return raise_signals(rows, closes_at_ms, thresholds_of(settings), False, 0.5)


def test_signals_of_several_pairs_come_in_order_of_close_and_pair() -> None:
    rows = rows_of(([0, 1, 2, 3], [0, 2, 3, 0]), ([1, 2, 3], [-2, 0, -3]))
    signals, first = raised(rows, 4)
    found = zip(*(column.tolist() for column in signals[:5]), strict=True)
    # Of each its close, pair, side, reason and when it was entered.
    assert list(found) == [
        (1, 0, -1, 0, 1_000),
        (1, 1, 1, 0, 1_000),
        (2, 1, 1, REVERTED, 1_000),
        (3, 0, -1, REVERTED, 1_000),
        (3, 1, 1, 0, 3_000),
    ]
    assert first.tolist() == [0, 0, 2, 3, 5]
    assert signals.z_score.tolist() == [2, -2, 0, 0, -3]
    assert signals.close_y.tolist() == [12, 8, 10, 10, 7]


def test_a_pair_that_enters_at_every_row_and_leaves_between_them_does_not_write_over_another() -> (
    None
):
    every_second = list(range(0, 100, 2)), [3.0] * 50
    signals, _ = raised(rows_of(every_second, every_second, every_second), 100)
    assert signals.pair.tolist() == [0, 1, 2] * 100
    assert signals.close.tolist() == np.repeat(np.arange(100), 3).tolist()
    assert signals.reason.tolist() == [0, 0, 0, MISSING, MISSING, MISSING] * 50


def test_a_pair_is_entered_again_when_its_cool_down_is_over() -> None:
    always = list(range(12)), [3.0, 0.0] * 6
    for cooldown, entered_at in ((0, [0, 2, 4, 6, 8, 10]), (3, [0, 4, 8]), (4, [0, 6])):
        settings = LIMITS.model_copy(update={"cooldown_bars": cooldown})
        signals, _ = raised(rows_of(always), 12, settings)
        assert signals.close[signals.reason == 0].tolist() == entered_at


def test_rows_by_close_are_put_in_order_of_pairs_and_keep_their_order_in_time() -> None:
    first_row, order = rows_by_pair(np.array([0, 2, 0, 2, 3]), 4)
    assert first_row.tolist() == [0, 2, 2, 4, 5]
    assert order.tolist() == [0, 2, 1, 3, 4]
