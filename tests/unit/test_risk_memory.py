from __future__ import annotations

from datetime import UTC, datetime

from services.executor.handlers import RiskMemory


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2024, 3, day, hour, minute, tzinfo=UTC)


def test_losses_are_counted_from_the_peak_and_from_the_last_close_of_the_day_before() -> None:
    memory = RiskMemory([(at(1, 10), 100), (at(1, 20), 130), (at(2, 0), 120), (at(2, 5), 90)])
    assert memory.peak_e8 == 130
    # The close at midnight ends the first day.
    assert memory.day_start_e8(at(2, 6)) == 120
    assert memory.day_start_e8(at(3, 0)) == 120
    assert memory.day_start_e8(at(3, 0, 5)) == 90


def test_a_restart_remembers_what_went_on_would_have() -> None:
    equities = [(at(1 + n // 24, n % 24), (n * 37) % 101) for n in range(1, 72)]
    through = RiskMemory()
    for closes_at, equity_e8 in equities:
        through.note(closes_at, equity_e8)
    restarted = RiskMemory(sorted({max(equities, key=lambda row: row[1]), *equities[-48:]}))
    assert restarted.peak_e8 == through.peak_e8
    assert restarted.day_start_e8(at(3, 23, 30)) == through.day_start_e8(at(3, 23, 30))


def test_a_book_without_a_close_has_nothing_to_lose_from() -> None:
    memory = RiskMemory()
    assert (memory.peak_e8, memory.day_start_e8(at(1, 1))) == (None, None)


def test_after_a_resumption_losses_count_from_the_last_close() -> None:
    memory = RiskMemory([(at(1, 10), 100), (at(1, 11), 60)])
    memory.forget()
    assert (memory.peak_e8, memory.day_start_e8(at(1, 12))) == (60, 60)
