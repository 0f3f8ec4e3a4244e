"""The bookkeeping of closes, without a venue."""

from __future__ import annotations

import pytest

from services.ingest import closes as closes_module
from services.ingest.backfill import missing_spans
from services.ingest.closes import Closes
from services.ingest.venue_time import VenueTime
from shared.quant.bars import BarRow
from tests.stub_venue import BAR_MS, HOUR_MS

START_MS = 1_704_067_200_000
ONE, TWO = ("5m", "AAA"), ("5m", "BBB")
HOURLY = ("1h", "AAA")


def row(symbol: str, closes_at_ms: int) -> BarRow:
    return (symbol, closes_at_ms, 1.0, 1.0, 1.0, 1.0, 1.0)


def bar(n: int) -> int:
    return START_MS + n * BAR_MS


def following(*streams: tuple[str, str]) -> Closes:
    closes = Closes(("1h", "5m"), START_MS)
    for stream in streams:
        closes.join(stream, START_MS)
    return closes


def publish(closes: Closes, at_ms: int) -> list[tuple[str, str | None]]:
    """Let a close pass, and return what it had."""
    rows = closes.at(at_ms)
    closes.published(at_ms, rows)
    closes.passed(at_ms)
    return [(timeframe, row[0]) for timeframe, found in rows.items() for row in found]


def publish_late(closes: Closes) -> list[tuple[int, str | None]]:
    found = []
    while (at_ms := closes.earliest_late()) is not None:
        rows = closes.at(at_ms)
        found += [(at_ms, row[0]) for of_timeframe in rows.values() for row in of_timeframe]
        closes.published(at_ms, rows)
    return found


def test_closes_come_step_by_step_of_the_shortest_timeframe() -> None:
    closes = following(ONE, HOURLY)
    for n in range(1, 13):
        assert closes.next_ms == bar(n)
        publish(closes, bar(n))


def test_a_close_holds_the_longest_timeframe_first() -> None:
    closes = following(ONE, TWO, HOURLY)
    for n in range(1, 12):
        publish(closes, bar(n))
    for symbol in ("BBB", "AAA"):
        closes.put("5m", row(symbol, bar(12)))
    closes.put("1h", row("AAA", bar(12)))
    assert publish(closes, bar(12)) == [("1h", "AAA"), ("5m", "AAA"), ("5m", "BBB")]


def test_a_close_waits_for_every_stream_that_was_in_time_before() -> None:
    closes = following(ONE, TWO)
    closes.put("5m", row("AAA", bar(1)))
    assert closes.awaited(bar(1)) == [TWO]
    publish(closes, bar(1))
    closes.put("5m", row("AAA", bar(2)))
    assert closes.awaited(bar(2)) == []
    assert closes.uncovered(bar(2)) == {TWO: START_MS}
    closes.put("5m", row("BBB", bar(2)))
    publish(closes, bar(2))
    assert closes.awaited(bar(3)) == [ONE, TWO]


def test_a_candle_after_its_close_is_late_and_comes_once() -> None:
    closes = following(ONE, TWO)
    closes.put("5m", row("AAA", bar(1)))
    publish(closes, bar(1))
    for _ in range(2):
        closes.put("5m", row("BBB", bar(1)))
    assert publish_late(closes) == [(bar(1), "BBB")]
    closes.put("5m", row("BBB", bar(1)))
    assert publish_late(closes) == []


def test_a_candle_that_comes_while_its_close_is_published_is_late() -> None:
    closes = following(ONE, TWO)
    closes.put("5m", row("AAA", bar(1)))
    rows = closes.at(bar(1))
    closes.put("5m", row("BBB", bar(1)))
    closes.published(bar(1), rows)
    closes.passed(bar(1))
    assert publish_late(closes) == [(bar(1), "BBB")]
    assert closes.awaited(bar(2)) == [ONE, TWO]


def test_a_hole_before_a_candle_is_asked_for_and_the_candle_not_held_up() -> None:
    closes = following(ONE)
    publish(closes, bar(1))
    closes.put("5m", row("AAA", bar(2)))
    assert closes.awaited(bar(2)) == []
    assert publish(closes, bar(2)) == [("5m", "AAA")]
    assert closes.uncovered(bar(2)) == {ONE: START_MS}
    assert closes.put_page(ONE, [row("AAA", bar(1)), row("AAA", bar(2))]) == 1
    assert publish_late(closes) == [(bar(1), "AAA")]
    assert closes.uncovered(bar(2)) == {}


def test_what_lies_between_two_candles_of_one_answer_is_a_gap_of_the_venue() -> None:
    closes = following(ONE)
    assert closes.put_page(ONE, [row("AAA", bar(1)), row("AAA", bar(4))]) == 2
    for n in (1, 2, 3):
        assert closes.awaited(bar(n)) == []
        publish(closes, bar(n))
    assert publish(closes, bar(4)) == [("5m", "AAA")]


def test_a_gap_that_was_none_after_all_is_late() -> None:
    closes = following(ONE)
    closes.put_page(ONE, [row("AAA", bar(1)), row("AAA", bar(3))])
    for n in (1, 2, 3):
        publish(closes, bar(n))
    closes.put("5m", row("AAA", bar(2)))
    assert publish_late(closes) == [(bar(2), "AAA")]


def test_an_answer_without_a_later_candle_proves_no_gap() -> None:
    closes = following(ONE)
    assert closes.put_page(ONE, []) == 0
    assert closes.awaited(bar(1)) == [ONE]


def test_what_nobody_follows_has_no_effect() -> None:
    closes = following(ONE)
    closes.put("5m", row("ZZZ", bar(1)))
    assert closes.put_page(TWO, [row("BBB", bar(1))]) == 0
    closes.put("5m", row("AAA", bar(1)))
    closes.leave(ONE)
    assert publish(closes, bar(1)) == []
    assert publish_late(closes) == []


def test_a_stream_joins_at_the_last_close_of_its_timeframe() -> None:
    closes = Closes(("1h", "5m"), bar(13))
    closes.join(HOURLY, bar(13))
    closes.put("1h", row("AAA", START_MS + 2 * HOUR_MS))
    assert closes.uncovered(START_MS + 2 * HOUR_MS) == {}


def test_a_candle_off_the_grid_is_handed_on_at_once_and_holds_nothing_up() -> None:
    closes = following(ONE)
    closes.put("5m", row("AAA", bar(2) + 7))
    assert publish_late(closes) == [(bar(2) + 7, "AAA")]
    closes.put_page(ONE, [row("AAA", bar(1)), row("AAA", bar(1) + 9)])
    assert publish_late(closes) == [(bar(1) + 9, "AAA")]
    closes.put("5m", row("AAA", bar(2)))
    assert closes.uncovered(bar(2)) == {}
    assert publish(closes, bar(1)) == publish(closes, bar(2)) == [("5m", "AAA")]


def test_what_does_not_fit_is_asked_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closes_module, "KEPT_ROWS", 3)
    closes = following(ONE)
    closes.put_page(ONE, [row("AAA", bar(n)) for n in range(1, 9)])
    found = []
    for n in range(1, 9):
        if closes.awaited(bar(n)):
            [after] = closes.uncovered(bar(n)).values()
            closes.put_page(ONE, [row("AAA", bar(m)) for m in range(1, 9) if bar(m) > after])
        found += publish(closes, bar(n))
    assert found == [("5m", "AAA")] * 8


def test_the_venues_clock_never_goes_back() -> None:
    time = VenueTime()
    assert time.now_ms is None
    for heard in (START_MS, START_MS + 5, START_MS + 3):
        time.hear(heard)
    assert time.now_ms == START_MS + 5


def test_a_close_is_timed_from_when_it_was_first_heard_to_be_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("services.ingest.venue_time.monotonic_seconds", lambda: now[0])
    time = VenueTime()
    for seconds, heard in ((100.0, bar(1)), (101.0, bar(1) + 30_000), (107.0, bar(4) + 1)):
        now[0] = seconds
        time.hear(heard)
    now[0] = 110.0
    assert [time.seconds_since(bar(n)) for n in (1, 2, 3, 4)] == [10.0, 3.0, 3.0, 3.0]
    assert time.seconds_since(bar(5)) == 0.0
    assert time.silent_seconds() == 3.0


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], [(10, 50)]),
        ([20, 30, 40, 50], []),
        ([30, 40, 50], [(10, 20)]),
        ([20, 50], [(20, 40)]),
        ([20, 30], [(30, 50)]),
    ],
)
def test_missing_spans_are_what_is_not_recorded(
    known: list[int], expected: list[tuple[int, int]]
) -> None:
    assert missing_spans(known, 10, 50, 10) == expected


def test_nothing_is_missing_of_an_empty_span() -> None:
    assert missing_spans([], 50, 50, 10) == []
