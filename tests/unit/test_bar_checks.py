from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.errors import DataError
from shared.quant.bar_checks import (
    BarCheckSettings,
    BarKey,
    BarValues,
    CheckedBars,
    PriorBar,
    Reason,
    check_bars,
    keys_to_look_up,
    prior_of,
)
from shared.quant.bars import BarRow, RawBars
from shared.venues.recorded import read_bars

HOUR = 3_600_000
NOW = 1000 * HOUR
NAN, INF = float("nan"), float("inf")


def row(symbol: str | None, hour: int | None, close: float = 10.0, volume: float = 5.0) -> BarRow:
    at = None if hour is None else hour * HOUR
    return (symbol, at, close, close * 1.1, close * 0.9, close, volume)


def check(
    *rows: BarRow,
    known: frozenset[str] | None = None,
    prior: Mapping[str, PriorBar] | None = None,
    existing: Mapping[BarKey, BarValues] | None = None,
    max_log_change: float = 0.5,
    now_ms: int = NOW,
) -> CheckedBars:
    return check_bars(
        RawBars.from_rows("binance", "1h", rows),
        now_ms=now_ms,
        known=known,
        settings=BarCheckSettings(max_log_change=max_log_change),
        prior=prior or {},
        existing=existing or {},
    )


def accepted(checked: CheckedBars) -> list[tuple[str | None, int, float]]:
    bars = checked.accepted
    hours = (bars.closes_at_ms // HOUR).tolist()
    return [(bars.row_symbol(i), hours[i], close) for i, close in enumerate(bars.close.tolist())]


def refused(checked: CheckedBars) -> list[tuple[str | None, int | None, str]]:
    return [
        (bar.symbol, None if bar.closes_at_ms is None else bar.closes_at_ms // HOUR, bar.reason)
        for bar in checked.quarantined
    ]


@pytest.mark.parametrize(
    ("faulty", "reason", "told"),
    [
        (row(None, 3), Reason.MISSING_KEY, "no symbol is given"),
        (row("A", None), Reason.MISSING_KEY, "no open time is given"),
        (row("Z", 3), Reason.UNKNOWN_SYMBOL, "Z is not followed"),
        (("A", 3 * HOUR, NAN, 11.0, 9.0, 10.0, 5.0), Reason.NOT_FINITE, "open nan"),
        (("A", 3 * HOUR, 10.0, NAN, 9.0, 10.0, 5.0), Reason.NOT_FINITE, "high nan"),
        (("A", 3 * HOUR, 10.0, INF, 9.0, 10.0, 5.0), Reason.NOT_FINITE, "high inf"),
        (("A", 3 * HOUR, 10.0, 11.0, NAN, 10.0, 5.0), Reason.NOT_FINITE, "low nan"),
        (("A", 3 * HOUR, 10.0, 11.0, -INF, 10.0, 5.0), Reason.NOT_FINITE, "low -inf"),
        (("A", 3 * HOUR, 10.0, 11.0, 9.0, NAN, 5.0), Reason.NOT_FINITE, "close nan"),
        (("A", 3 * HOUR, 10.0, 11.0, 9.0, 10.0, NAN), Reason.NOT_FINITE, "volume nan"),
        (("A", 3 * HOUR, 10.0, 11.0, 9.0, 10.0, INF), Reason.NOT_FINITE, "volume inf"),
        (("A", 3 * HOUR, 10.0, 11.0, 0.0, 10.0, 5.0), Reason.PRICE_NOT_POSITIVE, "low 0.0"),
        (("A", 3 * HOUR, -1.0, -1.0, -1.0, -1.0, 5.0), Reason.PRICE_NOT_POSITIVE, "close -1.0"),
        (("A", 3 * HOUR, 10.0, 9.0, 11.0, 10.0, 5.0), Reason.INVERTED, "high 9.0, low 11.0"),
        (("A", 3 * HOUR, 8.0, 11.0, 9.0, 10.0, 5.0), Reason.INVERTED, "open 8.0"),
        (("A", 3 * HOUR, 12.0, 11.0, 9.0, 10.0, 5.0), Reason.INVERTED, "open 12.0"),
        (("A", 3 * HOUR, 10.0, 11.0, 9.0, 8.0, 5.0), Reason.INVERTED, "close 8.0"),
        (("A", 3 * HOUR, 10.0, 11.0, 9.0, 12.0, 5.0), Reason.INVERTED, "close 12.0"),
        (("A", 3 * HOUR, 10.0, 11.0, 9.0, 10.0, -0.1), Reason.VOLUME_NEGATIVE, "volume -0.1"),
        (("A", 3 * HOUR + 1, 10.0, 11.0, 9.0, 10.0, 5.0), Reason.MISALIGNED, "03:00:00.001Z"),
        (("A", 5 * HOUR // 2, 10.0, 11.0, 9.0, 10.0, 5.0), Reason.MISALIGNED, "02:30:00.000Z"),
        (row("A", 1001), Reason.FUTURE, "after 1970-02-11T16:00:00.000Z"),
    ],
)
def test_a_bar_that_breaks_a_rule_is_quarantined_with_its_reason_and_value(
    faulty: BarRow, reason: Reason, told: str
) -> None:
    checked = check(row("A", 2), faulty, row("A", 4), known=frozenset("AB"))
    assert accepted(checked) == [("A", 2, 10.0), ("A", 4, 10.0)]
    (bar,) = checked.quarantined
    assert bar.reason is reason
    assert told in bar.message
    assert repr(bar[:7]) == repr(faulty)  # as it was given; repr, because nan != nan


@pytest.mark.parametrize(
    "edge",
    [
        ("A", 2 * HOUR, 10.0, 10.0, 10.0, 10.0, 0.0),
        ("A", 2 * HOUR, 9.0, 11.0, 9.0, 11.0, -0.0),
        ("A", NOW, 10.0, 11.0, 9.0, 10.0, 5.0),
        ("A", 0, 1e-300, 1e300, 1e-320, 1e300, 1e300),
        ("A", -HOUR, 10.0, 11.0, 9.0, 10.0, 5.0),
    ],
)
def test_a_bar_at_the_edge_of_the_rules_is_accepted(edge: BarRow) -> None:
    assert len(check(edge, known=frozenset("A")).accepted) == 1


def test_instants_beyond_the_calendar_are_quarantined_with_a_message() -> None:
    far = 9_000_000_000_000_000_000 // HOUR
    assert refused(check(row("A", far))) == [("A", far, "future")]


def test_accepted_bars_are_in_order_of_close_and_symbol_whatever_the_order_given() -> None:
    checked = check(row("B", 2), row("A", 3), row("B", 1), row("A", 2))
    assert [place[:2] for place in accepted(checked)] == [("B", 1), ("A", 2), ("B", 2), ("A", 3)]


def test_no_bar_gives_no_bar_and_keeps_the_state() -> None:
    prior = {"A": PriorBar(HOUR, 10.0)}
    checked = check(prior=prior)
    assert (len(checked.accepted), checked.quarantined, checked.duplicates) == (0, (), 0)
    assert checked.prior == prior


def test_the_same_bar_again_is_counted_and_ignored() -> None:
    checked = check(row("A", 1), row("A", 2), row("A", 2), row("A", 2), row("A", 3))
    assert [hour for _, hour, _ in accepted(checked)] == [1, 2, 3]
    assert checked.duplicates == 2
    assert checked.quarantined == ()


def test_the_first_of_two_different_bars_of_one_close_stays() -> None:
    checked = check(row("A", 1), row("A", 2, 10.5), row("A", 2, 10.6), row("A", 3))
    assert accepted(checked) == [("A", 1, 10.0), ("A", 2, 10.5), ("A", 3, 10.0)]
    assert refused(checked) == [("A", 2, "revision")]
    assert "close 10.5 became 10.6" in checked.quarantined[0].message


def test_a_revision_in_volume_alone_is_told_from_a_duplicate() -> None:
    checked = check(row("A", 1, volume=5.0), row("A", 1, volume=6.0))
    assert refused(checked) == [("A", 1, "revision")]
    assert checked.quarantined[0].message.startswith("volume 5.0 became 6.0: ")


def test_a_refused_revision_is_no_reference_for_the_next_bar() -> None:
    # 40 is far from the accepted 10 and near the refused 30.
    checked = check(row("A", 1), row("A", 1, 30.0), row("A", 2, 40.0))
    assert refused(checked) == [("A", 1, "revision"), ("A", 2, "spike")]


def test_a_single_bad_tick_is_quarantined_and_the_next_bar_is_judged_by_the_good_one() -> None:
    checked = check(row("A", 1), row("A", 2, 30.0), row("A", 3, 10.2), row("A", 4, 10.3))
    assert [hour for _, hour, _ in accepted(checked)] == [1, 3, 4]
    assert refused(checked) == [("A", 2, "spike")]
    assert "close 30.0 is more than a factor of 1.649 away from 10.0" in (
        checked.quarantined[0].message
    )


def test_a_true_level_is_refused_once_and_accepted_from_the_bar_that_confirms_it() -> None:
    checked = check(row("A", 1), row("A", 2, 30.0), row("A", 3, 28.0), row("A", 4, 29.0))
    assert accepted(checked) == [("A", 1, 10.0), ("A", 3, 28.0), ("A", 4, 29.0)]
    assert refused(checked) == [("A", 2, "spike")]


def test_a_level_that_keeps_running_is_confirmed_by_the_latest_spike() -> None:
    checked = check(row("A", 1), row("A", 2, 30.0), row("A", 3, 90.0), row("A", 4, 95.0))
    assert accepted(checked) == [("A", 1, 10.0), ("A", 4, 95.0)]
    assert refused(checked) == [("A", 2, "spike"), ("A", 3, "spike")]


def test_a_spike_forgotten_by_an_accepted_bar_confirms_nothing() -> None:
    checked = check(row("A", 1), row("A", 2, 30.0), row("A", 3), row("A", 4, 30.0))
    assert refused(checked) == [("A", 2, "spike"), ("A", 4, "spike")]


def test_a_spike_given_twice_does_not_confirm_itself() -> None:
    rows = [row("A", 1), row("A", 2, 30.0), row("A", 2, 30.0)]
    assert refused(check(*rows)) == [("A", 2, "spike"), ("A", 2, "spike")]
    first = check(*rows[:2])
    again = check(rows[2], prior=first.prior)
    assert refused(again) == [("A", 2, "spike")]
    assert again.prior == first.prior


def test_a_better_bar_takes_the_key_of_a_quarantined_one() -> None:
    checked = check(row("A", 1), row("A", 2, 30.0), row("A", 2, 10.1), row("A", 2, 10.1))
    assert accepted(checked) == [("A", 1, 10.0), ("A", 2, 10.1)]
    assert refused(checked) == [("A", 2, "spike")]
    assert checked.duplicates == 1


def test_bars_of_other_rules_do_not_stand_between_a_spike_and_its_confirmation() -> None:
    checked = check(row("A", 1), row("A", 2, 30.0), row("A", 3, -1.0), row("A", 4, 30.0))
    assert [hour for _, hour, _ in accepted(checked)] == [1, 4]


def test_the_limit_of_a_change_is_inclusive_both_ways() -> None:
    up = 10.0 * math.exp(0.5)
    assert refused(check(row("A", 1), row("A", 2, up * (1 - 1e-12)))) == []
    assert refused(check(row("A", 1), row("A", 2, up * (1 + 1e-12)))) == [("A", 2, "spike")]
    assert refused(check(row("A", 1, up * (1 - 1e-12)), row("A", 2))) == []
    assert refused(check(row("A", 1, up * (1 + 1e-12)), row("A", 2))) == [("A", 2, "spike")]
    assert refused(check(row("A", 1), row("A", 2, up * 1.1), max_log_change=0.7)) == []


def test_the_change_from_the_tiniest_to_the_largest_price_is_a_spike_without_a_warning() -> None:
    checked = check(
        ("A", HOUR, 1e-308, 1e-308, 1e-308, 1e-308, 1.0),
        ("A", 2 * HOUR, 1e308, 1e308, 1e308, 1e308, 1.0),
    )
    assert refused(checked) == [("A", 2, "spike")]


def test_symbols_are_judged_apart() -> None:
    checked = check(row("A", 1), row("B", 1, 500.0), row("A", 2), row("B", 2, 501.0))
    assert len(checked.accepted) == 4


def test_the_state_carries_the_last_bar_and_a_pending_spike() -> None:
    checked = check(row("A", 1), row("A", 2, 30.0), row("B", 1), row("B", 2, 11.0))
    assert checked.prior == {
        "A": PriorBar(HOUR, 10.0, 2 * HOUR, 30.0),
        "B": PriorBar(2 * HOUR, 11.0),
    }
    after = check(row("A", 3, 31.0), prior=checked.prior)
    assert accepted(after) == [("A", 3, 31.0)]
    assert after.prior == {"A": PriorBar(3 * HOUR, 31.0), "B": PriorBar(2 * HOUR, 11.0)}


def test_a_bar_between_the_prior_bar_and_a_pending_spike_leaves_the_spike_pending() -> None:
    prior = {"A": PriorBar(HOUR, 10.0, 3 * HOUR, 30.0)}
    assert check(row("A", 2, 29.0), prior=prior).prior == prior  # before it: no confirmation
    filled = check(row("A", 2, 11.0), prior=prior)
    assert filled.prior == {"A": PriorBar(2 * HOUR, 11.0, 3 * HOUR, 30.0)}
    assert accepted(check(row("A", 4, 31.0), prior=filled.prior)) == [("A", 4, 31.0)]


def test_a_bar_repeated_while_a_later_spike_is_pending_is_told_by_its_own_values() -> None:
    prior = {"A": PriorBar(HOUR, 10.0, 4 * HOUR, 30.0)}
    checked = check(
        row("A", 2, 11.0), row("A", 3, 12.0), row("A", 3, 12.0), row("A", 3, 13.0), prior=prior
    )
    assert accepted(checked) == [("A", 2, 11.0), ("A", 3, 12.0)]
    assert checked.duplicates == 1
    assert refused(checked) == [("A", 3, "revision")]
    assert "close 12.0 became 13.0" in checked.quarantined[0].message


def test_a_late_bar_is_accepted_far_from_the_prior_bar_and_leaves_the_state() -> None:
    prior = {"A": PriorBar(9 * HOUR, 100.0)}
    checked = check(row("A", 3), row("A", 10, 101.0), prior=prior)
    assert accepted(checked) == [("A", 3, 10.0), ("A", 10, 101.0)]
    assert checked.prior == {"A": PriorBar(10 * HOUR, 101.0)}
    assert check(row("A", 3), prior=prior).prior == prior


def test_a_late_bar_that_breaks_another_rule_is_quarantined() -> None:
    prior = {"A": PriorBar(9 * HOUR, 10.0)}
    assert refused(check(row("A", 3, -1.0), prior=prior)) == [("A", 3, "price_not_positive")]


def test_a_late_bar_is_a_spike_only_when_no_bar_beside_it_is_near() -> None:
    prior = {"A": PriorBar(9 * HOUR, 10.0)}
    ten, thirty = row("A", 0, 10.0)[2:], row("A", 0, 30.0)[2:]
    before, after = ("A", 2 * HOUR), ("A", 4 * HOUR)
    late = row("A", 3, 29.0)
    verdicts = [
        refused(check(late, prior=prior, existing=existing))
        for existing in (
            {before: ten, after: ten},
            {before: ten},
            {after: ten},
            {before: ten, after: thirty},
            {before: thirty, after: ten},
            {("B", 2 * HOUR): ten},
        )
    ]
    assert [len(verdict) for verdict in verdicts] == [1, 1, 1, 0, 0, 0]
    assert verdicts[0] == [("A", 3, "spike")]


def test_late_bars_are_judged_by_the_late_bars_accepted_before_them() -> None:
    prior = {"A": PriorBar(9 * HOUR, 10.0)}
    checked = check(row("A", 4), row("A", 3, 30.0), row("A", 3, 31.0), row("A", 4), prior=prior)
    assert accepted(checked) == [("A", 3, 30.0)]
    assert refused(checked) == [("A", 3, "revision"), ("A", 4, "spike"), ("A", 4, "spike")]


def test_stored_bars_tell_a_repeat_of_a_late_bar_from_a_revision() -> None:
    prior = {"A": PriorBar(9 * HOUR, 10.0)}
    stored = {("A", 3 * HOUR): row("A", 3)[2:], ("A", 9 * HOUR): row("A", 9)[2:]}
    checked = check(
        row("A", 3), row("A", 9), row("A", 9, 10.4), row("A", 3, 10.4), prior=prior, existing=stored
    )
    assert len(checked.accepted) == 0
    assert checked.duplicates == 2
    assert refused(checked) == [("A", 3, "revision"), ("A", 9, "revision")]
    assert checked.prior == prior


def test_a_repeat_of_the_prior_bar_needs_the_stored_bar() -> None:
    with pytest.raises(DataError, match="A has a prior bar that closes at 32400000 ms"):
        check(row("A", 9), prior={"A": PriorBar(9 * HOUR, 10.0)})


def test_only_bars_that_are_not_newer_than_the_prior_bar_need_a_look_up() -> None:
    prior = {"A": PriorBar(9 * HOUR, 10.0), "B": PriorBar(2 * HOUR, 10.0)}
    given = [row("A", 10), row("B", 3), row("C", 1), row(None, 1), row("A", None)]
    assert keys_to_look_up(RawBars.from_rows("binance", "1h", given), prior) == []
    late = RawBars.from_rows("binance", "1h", [*given, row("A", 9), row("B", 1)])
    assert keys_to_look_up(late, prior) == [
        ("A", 8 * HOUR),
        ("A", 9 * HOUR),
        ("A", 10 * HOUR),
        ("B", 0),
        ("B", HOUR),
        ("B", 2 * HOUR),
    ]


def test_quarantined_bars_come_in_order_with_those_without_key_first() -> None:
    checked = check(row("B", 2, -1.0), row(None, 1), row("A", 2, -1.0), row("A", None))
    assert refused(checked) == [
        ("A", None, "missing_key"),
        (None, 1, "missing_key"),
        ("A", 2, "price_not_positive"),
        ("B", 2, "price_not_positive"),
    ]


def test_rebuilding_the_state_takes_the_latest_pending_spike_only() -> None:
    checked = check(
        row("A", 1), row("A", 2, 30.0), row("A", 3, 90.0), row("A", 3, 91.0), row("A", 4, -1.0)
    )
    assert checked.prior == {"A": PriorBar(HOUR, 10.0, 3 * HOUR, 90.0)}
    assert prior_of(checked.accepted, checked.quarantined) == checked.prior
    settled = check(row("A", 1), row("A", 2, 30.0), row("A", 3))
    assert prior_of(settled.accepted, settled.quarantined) == {"A": PriorBar(3 * HOUR, 10.0)}


def test_an_unknown_timeframe_is_refused() -> None:
    raw = RawBars.from_rows("binance", "7m", [row("A", 1)])
    with pytest.raises(DataError, match="unknown timeframe '7m'"):
        check_bars(raw, now_ms=NOW, known=None, settings=BarCheckSettings(), prior={})


@pytest.mark.parametrize("value", [0.0, -0.5, NAN, 11.0])
def test_a_limit_that_is_no_limit_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        BarCheckSettings(max_log_change=value)


@pytest.mark.parametrize(
    ("name", "n_bars", "spikes"),
    [
        (
            "binance_spot_1h_2024",
            728_613,
            # Both are true: the next hour confirms them.
            [("PEOPLE/USDT", 1_704_301_200_000), ("STG/USDT", 1_717_056_000_000)],
        ),
        ("binance_spot_5m_2024", 1_506_816, []),
        ("okx_perp_5m_2022", 35_712, []),
    ],
)
def test_recorded_bars_are_accepted_but_for_the_first_hour_of_two_true_moves(
    data_folder: Path, name: str, n_bars: int, spikes: list[BarKey]
) -> None:
    raw = read_bars(data_folder / "crypto" / f"{name}.parquet")
    checked = check_bars(
        raw, now_ms=1_800_000_000_000, known=None, settings=BarCheckSettings(), prior={}
    )
    assert len(raw) == n_bars
    assert [(bar.symbol, bar.closes_at_ms) for bar in checked.quarantined] == spikes
    assert {bar.reason for bar in checked.quarantined} <= {Reason.SPIKE}
    assert checked.duplicates == 0
    assert len(checked.accepted) == n_bars - len(spikes)
    for symbol, closes_at_ms in spikes:
        next_close = checked.accepted.at(closes_at_ms + HOUR)
        assert symbol in [next_close.row_symbol(i) for i in range(len(next_close))]
