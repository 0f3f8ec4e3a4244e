"""The ingest service against a venue with faults, a real Postgres and a real Valkey."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.bus import log
from shared.bus.streams import Streams
from shared.clock import instant_of_ms, ms_of_instant
from shared.database.engine import create_engine, transaction
from shared.events.screener import PairsScreened, RosterPair
from tests import stub_venue
from tests.serving import Served, serving, settings_in_environment
from tests.stub_venue import BAR_MS, HOUR_MS, Answer, StubVenue, kline, values_at
from tests.support import eventually_async

START_MS = 1_704_067_200_000  # 2024-01-01T00:00Z
NOW_MS = START_MS + 30 * HOUR_MS
SYMBOLS = {"AAAUSDT": 0, "BBBUSDT": 0, "CCCUSDT": 0}


class Fleet:
    """The servers and the venue of a test, and what the service has made of them."""

    def __init__(self, engine: AsyncEngine, redis_url: str, venue: StubVenue) -> None:
        self.engine = engine
        self.redis_url = redis_url
        self.venue = venue

    async def rows(self, query: str, **values: object) -> list[Any]:
        async with transaction(self.engine) as connection:
            return [tuple(row) for row in await connection.execute(text(query), values)]

    async def events(self, topic: str = "bars.%") -> list[tuple[str, int, tuple[str, ...]]]:
        """Return stream, close and symbols of each event, in the order of their recording."""
        found = await self.rows(
            "SELECT topic, payload FROM event_log WHERE topic LIKE :topic "
            "ORDER BY ingested_at, ctid",
            topic=topic,
        )
        events = []
        for name, payload in found:
            event = orjson.loads(payload)
            closes_at_ms = ms_of_instant(datetime.fromisoformat(event["closes_at"]))
            symbols = tuple(bar["symbol"][:3] for bar in event["bars"])
            events.append((name, closes_at_ms, symbols))
        return events

    async def n_bars(self, timeframe: str = "1h") -> dict[str, int]:
        rows = await self.rows(
            "SELECT symbol, count(*) FROM bars WHERE timeframe = :timeframe GROUP BY 1",
            timeframe=timeframe,
        )
        return {symbol[:3]: n for symbol, n in rows}

    async def has_events(self, n: int, topic: str = "bars.%") -> bool:
        return len(await self.events(topic)) >= n

    async def publish_roster(self, *pairs: tuple[str, str, str], at_ms: int) -> None:
        event = PairsScreened(
            closes_at=instant_of_ms(at_ms),
            timeframe="1h",
            method="p_value",
            level=0.05,
            n_symbols=3,
            n_tests=6,
            n_accepted=len(pairs),
            summary="by hand",
            pairs=tuple(roster_pair(*pair, at_ms=at_ms) for pair in pairs),
        )
        async with transaction(self.engine) as connection:
            await log.append(
                connection, "pairs.screened", event, source_uri="test", transform_id="test"
            )


def roster_pair(y: str, x: str, status: Any, *, at_ms: int) -> RosterPair:
    at = None if status == "candidate" else instant_of_ms(at_ms)
    return RosterPair(
        y=f"{y}/USDT",
        x=f"{x}/USDT",
        status=status,
        accepted_screens=3,
        missed_screens=0,
        entered_at=at,
        left_at=at if status == "closing_only" else None,
        statistic=-5.0,
        p_value=0.001,
        q_value=0.01,
        lag=1,
        hedge_ratio=1.0,
        intercept=0.0,
        half_life_bars=5.0,
        hurst=0.3,
        correlation=0.9,
        crossings=20,
        n_bars=30,
    )


Start = Callable[[], contextlib.AbstractAsyncContextManager[Served]]


@pytest.fixture
async def fleet(database_url: str, redis_url: str) -> AsyncIterator[Fleet]:
    engine = create_engine(database_url, application="test")
    async with stub_venue.serving(StubVenue(NOW_MS, dict(SYMBOLS))) as venue:
        yield Fleet(engine, redis_url, venue)
    await engine.dispose()


@pytest.fixture
def start(
    fleet: Fleet, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Start:
    settings = [
        ("MNT_VENUE_URL", fleet.venue.url),
        ("MNT_FOLLOW__SINCE", "2024-01-01T00:00:00Z"),
        ("MNT_FOLLOW__GRACE_SECONDS", "0.2"),
        ("MNT_FOLLOW__TRADE_HISTORY_BARS", "100"),
    ]
    settings_in_environment(monkeypatch, tmp_path, database_url, fleet.redis_url, settings)
    following, close_follower = "services.ingest.following", "services.ingest.close_follower"
    monkeypatch.setattr(f"{close_follower}.SILENCE_SECONDS", 0.05)
    for module in (following, close_follower):
        monkeypatch.setattr(f"{module}.FIRST_WAIT_SECONDS", 0.05)
        monkeypatch.setattr(f"{module}.LONGEST_WAIT_SECONDS", 0.2)
    return lambda: serving("ingest")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the service give up soon on an answer that does not come."""
    monkeypatch.setattr("services.ingest.following.ANSWER_SECONDS", 0.5)


async def follower(service: Served) -> dict[str, Any]:
    """Return how the service says it follows."""
    found: dict[str, Any] = (await service.get("/coverage"))["follower"]
    return found


async def until_subscribed(fleet: Fleet, n_streams: int) -> None:
    async def are_there() -> bool:
        return len(fleet.venue.streams()) == n_streams

    await eventually_async(are_there)


# --- history ------------------------------------------------------------------------------


async def test_the_history_is_fetched_in_pages_and_only_its_last_close_published(
    fleet: Fleet, start: Start
) -> None:
    fleet.venue.now_ms = START_MS + 2_500 * HOUR_MS
    fleet.venue.symbols["CCCUSDT"] = START_MS + 2_400 * HOUR_MS
    async with start() as service:
        await until_subscribed(fleet, 3)
        assert await fleet.n_bars() == {"AAA": 2_500, "BBB": 2_500, "CCC": 100}
        assert await fleet.events() == [("bars.1h", fleet.venue.now_ms, ("AAA", "BBB", "CCC"))]
        assert len(fleet.venue.calls) == 3 + 3 + 1
        shown = await service.get("/coverage")
        assert [each["state"] for each in shown["backfills"]] == ["done"]
        assert shown["backfills"][0]["bars"] == 5_100
        assert shown["coverage"][0] == {
            "symbol": "AAA/USDT",
            "timeframe": "1h",
            "first_bar": "2024-01-01T01:00:00Z",
            "last_bar": instant_of_ms(fleet.venue.now_ms).isoformat().replace("+00:00", "Z"),
            "bars": 2_500,
            "gaps": 0,
            "largest_gap_bars": 0,
            "quarantined": 0,
        }
    [(opening, close)] = await fleet.rows(
        "SELECT open, close FROM bars WHERE symbol = 'AAA/USDT' AND closes_at = :at",
        at=instant_of_ms(START_MS + 7 * HOUR_MS),
    )
    values = values_at("AAAUSDT", START_MS + 6 * HOUR_MS)
    assert (opening, close) == (values[0], values[3])
    instruments = await fleet.rows("SELECT symbol, price_decimals FROM instruments ORDER BY 1")
    assert instruments == [("AAA/USDT", 2), ("BBB/USDT", 2), ("CCC/USDT", 2)]


async def test_a_restart_in_the_middle_of_the_history_goes_on_after_the_last_page(
    fleet: Fleet, start: Start
) -> None:
    fleet.venue.now_ms = START_MS + 2_500 * HOUR_MS
    fleet.venue.dies_at = ("BBBUSDT", START_MS + 1_000 * HOUR_MS)
    async with start() as service:

        async def has_failed() -> bool:
            return (await follower(service))["last_error"] is not None

        await eventually_async(has_failed)
    assert await fleet.n_bars() == {"AAA": 2_500, "BBB": 1_000}
    assert await fleet.events() == []
    fleet.venue.dies_at = None
    fleet.venue.calls.clear()
    async with start():
        await until_subscribed(fleet, 3)
    assert fleet.venue.calls[0][:3] == ("BBBUSDT", "1h", START_MS + 1_000 * HOUR_MS)
    assert await fleet.n_bars() == {"AAA": 2_500, "BBB": 2_500, "CCC": 2_500}
    assert len(await fleet.events()) == 1


async def test_gaps_of_the_venue_are_left_and_counted(fleet: Fleet, start: Start) -> None:
    for hours in (5, 6, 7, 20):
        fleet.venue.missing.add(("BBBUSDT", "1h", START_MS + hours * HOUR_MS))
    async with start() as service:
        await until_subscribed(fleet, 3)
        row = (await service.get("/coverage", symbol="BBB/USDT"))["coverage"][0]
    assert (row["bars"], row["gaps"], row["largest_gap_bars"]) == (26, 2, 3)


async def test_bad_bars_of_the_history_are_quarantined_with_a_reason(
    fleet: Fleet, start: Start
) -> None:
    fleet.venue.odd["BBBUSDT", "1h", START_MS + 5 * HOUR_MS] = (100.0, 90.0, 95.0, 97.0, 1.0)
    fleet.venue.odd["BBBUSDT", "1h", START_MS + 9 * HOUR_MS] = (900.0, 900.0, 900.0, 900.0, 1.0)
    async with start() as service:
        await until_subscribed(fleet, 3)
        row = (await service.get("/coverage", symbol="BBB/USDT"))["coverage"][0]
    assert (row["bars"], row["quarantined"]) == (28, 2)
    reasons = await fleet.rows("SELECT reason FROM bar_quarantine ORDER BY closes_at")
    assert reasons == [("inverted",), ("spike",)]


@pytest.mark.parametrize("answer", ["hang up", "html", "stall", "nonsense", "break off"])
async def test_a_venue_that_is_ill_at_the_start_is_waited_for(
    fleet: Fleet, start: Start, impatient: None, answer: Answer
) -> None:
    fleet.venue.answer = answer
    async with start() as service:

        async def has_said_so() -> bool:
            error = (await follower(service))["last_error"]
            return error is not None and fleet.venue.url in error and "MNT_VENUE_URL" in error

        await eventually_async(has_said_so)
        assert (await service.client.get("/health")).status_code == 200
        assert not (await follower(service))["connected"]
        fleet.venue.answer = "well"
        await until_subscribed(fleet, 3)
        assert (await follower(service))["connected"]


async def test_a_start_of_history_in_the_venues_future_is_explained(
    fleet: Fleet, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNT_FOLLOW__SINCE", "2025-01-01T00:00:00Z")
    async with start() as service:

        async def is_explained() -> bool:
            return "MNT_FOLLOW__SINCE" in ((await follower(service))["last_error"] or "")

        await eventually_async(is_explained)


async def test_only_the_symbols_named_are_followed(
    fleet: Fleet, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNT_FOLLOW__SYMBOLS", '["CCC/USDT:USDT", "AAA/USDT", "ZZZ/USDT"]')
    async with start():
        await until_subscribed(fleet, 2)
        assert await fleet.n_bars() == {"AAA": 30, "CCC": 30}


# --- closes -------------------------------------------------------------------------------


async def test_every_close_is_published_once_with_all_its_symbols(
    fleet: Fleet, start: Start
) -> None:
    async with start():
        await until_subscribed(fleet, 3)
        for hours in range(1, 5):
            await fleet.venue.step(NOW_MS + hours * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(5))
    everyone = ("AAA", "BBB", "CCC")
    expected = [("bars.1h", NOW_MS + hours * HOUR_MS, everyone) for hours in range(5)]
    assert await fleet.events() == expected
    assert set((await fleet.n_bars()).values()) == {34}


async def test_closes_that_pass_while_the_service_is_down_are_published_in_order(
    fleet: Fleet, start: Start
) -> None:
    async with start():
        await until_subscribed(fleet, 3)
    await fleet.venue.step(NOW_MS + 5 * HOUR_MS)
    async with start():
        await eventually_async(lambda: fleet.has_events(6))
        await until_subscribed(fleet, 3)
        await fleet.venue.step(NOW_MS + 6 * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(7))
    everyone = ("AAA", "BBB", "CCC")
    expected = [("bars.1h", NOW_MS + hours * HOUR_MS, everyone) for hours in range(7)]
    assert await fleet.events() == expected


async def test_closes_missed_during_a_cut_are_fetched_and_published_in_order(
    fleet: Fleet, start: Start
) -> None:
    async with start() as service:
        await until_subscribed(fleet, 3)
        await fleet.venue.step(NOW_MS + HOUR_MS)
        await eventually_async(lambda: fleet.has_events(2))
        fleet.venue.accepts_websockets = False
        await fleet.venue.cut()
        await fleet.venue.step(NOW_MS + 4 * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(5))

        async def is_cut() -> bool:
            return not (await follower(service))["streaming"]

        await eventually_async(is_cut)
        fleet.venue.accepts_websockets = True
        await until_subscribed(fleet, 3)
        fleet.venue.calls.clear()
        await fleet.venue.step(NOW_MS + 5 * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(6))
        assert fleet.venue.calls == []
    everyone = ("AAA", "BBB", "CCC")
    expected = [("bars.1h", NOW_MS + hours * HOUR_MS, everyone) for hours in range(6)]
    assert await fleet.events() == expected


async def test_a_websocket_that_is_open_and_silent_is_replaced(fleet: Fleet, start: Start) -> None:
    async with start():
        await until_subscribed(fleet, 3)
        await fleet.venue.step(NOW_MS + HOUR_MS)
        await eventually_async(lambda: fleet.has_events(2))
        silent = set(fleet.venue.subscriptions)
        fleet.venue.is_silent = True
        await fleet.venue.step(NOW_MS + 2 * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(3))
        assert silent == set(fleet.venue.subscriptions)
        await fleet.venue.step(NOW_MS + 3 * HOUR_MS)

        async def is_replaced() -> bool:
            return not silent & set(fleet.venue.subscriptions)

        await eventually_async(is_replaced)
        await eventually_async(lambda: fleet.has_events(4))
    everyone = ("AAA", "BBB", "CCC")
    expected = [("bars.1h", NOW_MS + hours * HOUR_MS, everyone) for hours in range(4)]
    assert await fleet.events() == expected


async def test_a_late_symbol_comes_in_a_further_event_of_its_close(
    fleet: Fleet, start: Start
) -> None:
    late = ("BBBUSDT", "1h", NOW_MS)
    fleet.venue.held_back.add(late)
    async with start():
        await until_subscribed(fleet, 3)
        await fleet.venue.step(NOW_MS + HOUR_MS)
        await eventually_async(lambda: fleet.has_events(2))
        await fleet.venue.step(NOW_MS + 2 * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(3))
        await fleet.venue.release(*late)
        await eventually_async(lambda: fleet.has_events(4))
    assert (await fleet.events())[1:] == [
        ("bars.1h", NOW_MS + HOUR_MS, ("AAA", "CCC")),
        ("bars.1h", NOW_MS + 2 * HOUR_MS, ("AAA", "BBB", "CCC")),
        ("bars.1h", NOW_MS + HOUR_MS, ("BBB",)),
    ]


async def test_a_symbol_that_comes_within_the_grace_is_no_late_one(
    fleet: Fleet, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNT_FOLLOW__GRACE_SECONDS", "4")
    held_back = ("BBBUSDT", "1h", NOW_MS)
    fleet.venue.held_back.add(held_back)
    async with start():
        await until_subscribed(fleet, 3)
        fleet.venue.calls.clear()
        await fleet.venue.step(NOW_MS + HOUR_MS)

        async def was_asked_for() -> bool:
            return [call[0] for call in fleet.venue.calls] == ["BBBUSDT"]

        await eventually_async(was_asked_for)
        await fleet.venue.release(*held_back)
        await eventually_async(lambda: fleet.has_events(2))
    assert (await fleet.events())[1:] == [("bars.1h", NOW_MS + HOUR_MS, ("AAA", "BBB", "CCC"))]


async def test_a_symbol_that_is_late_without_a_word_is_asked_for_at_the_next_close(
    fleet: Fleet, start: Start
) -> None:
    late = ("BBBUSDT", "1h", NOW_MS)
    fleet.venue.held_back.add(late)
    async with start():
        await until_subscribed(fleet, 3)
        await fleet.venue.step(NOW_MS + HOUR_MS)
        await eventually_async(lambda: fleet.has_events(2))
        fleet.venue.held_back.discard(late)
        await fleet.venue.step(NOW_MS + 2 * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(4))
    # The one asked for and those of the stream may come in either order.
    assert sorted((await fleet.events())[2:]) == [
        ("bars.1h", NOW_MS + HOUR_MS, ("BBB",)),
        ("bars.1h", NOW_MS + 2 * HOUR_MS, ("AAA", "BBB", "CCC")),
    ]


async def test_a_bad_bar_is_quarantined_and_the_others_of_its_close_go_on(
    fleet: Fleet, start: Start
) -> None:
    fleet.venue.odd["BBBUSDT", "1h", NOW_MS] = (100.0, 90.0, 95.0, 97.0, 1.0)
    async with start():
        await until_subscribed(fleet, 3)
        await fleet.venue.step(NOW_MS + HOUR_MS)
        await eventually_async(lambda: fleet.has_events(2))
    assert (await fleet.events())[1][2] == ("AAA", "CCC")
    assert await fleet.rows("SELECT symbol, reason FROM bar_quarantine") == [
        ("BBB/USDT", "inverted")
    ]


@pytest.mark.parametrize("answer", ["hang up", "html", "stall", "limit"])
async def test_closes_go_on_by_websocket_while_questions_are_not_answered(
    fleet: Fleet, start: Start, impatient: None, answer: Answer
) -> None:
    async with start() as service:
        await until_subscribed(fleet, 3)
        fleet.venue.answer = answer
        await fleet.venue.step(NOW_MS + 2 * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(3))
        assert (await service.client.get("/health")).status_code == 200


async def test_nothing_is_skipped_while_neither_websocket_nor_questions_are_answered(
    fleet: Fleet, start: Start
) -> None:
    async with start() as service:
        await until_subscribed(fleet, 3)
        fleet.venue.answer = "hang up"
        fleet.venue.accepts_websockets = False
        await fleet.venue.cut()
        await fleet.venue.step(NOW_MS + 3 * HOUR_MS)

        async def has_said_so() -> bool:
            return fleet.venue.url in ((await follower(service))["last_error"] or "")

        await eventually_async(has_said_so)
        assert len(await fleet.events()) == 1
        fleet.venue.answer = "well"
        await eventually_async(lambda: fleet.has_events(4))
    everyone = ("AAA", "BBB", "CCC")
    expected = [("bars.1h", NOW_MS + hours * HOUR_MS, everyone) for hours in range(4)]
    assert await fleet.events() == expected


async def test_a_halt_of_the_venue_is_no_close(fleet: Fleet, start: Start) -> None:
    fleet.venue.missing.update((symbol, "1h", NOW_MS) for symbol in SYMBOLS)
    async with start():
        await until_subscribed(fleet, 3)
        await fleet.venue.step(NOW_MS + 2 * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(2))
    assert [event[1] for event in await fleet.events()] == [NOW_MS, NOW_MS + 2 * HOUR_MS]


async def test_a_candle_from_the_far_future_moves_no_clock(fleet: Fleet, start: Start) -> None:
    far_ms = NOW_MS + 10_000 * HOUR_MS
    message = kline("AAAUSDT", "1h", far_ms - HOUR_MS, (1.0, 1.0, 1.0, 1.0, 1.0), True, far_ms)
    async with start() as service:
        await until_subscribed(fleet, 3)
        for socket in list(fleet.venue.subscriptions):
            await fleet.venue.send_raw(socket, orjson.dumps(message).decode())
        await fleet.venue.step(NOW_MS + 2 * HOUR_MS)
        await eventually_async(lambda: fleet.has_events(3))
        venue_time = datetime.fromisoformat((await follower(service))["venue_time"])
        assert ms_of_instant(venue_time) == NOW_MS + 2 * HOUR_MS
    assert [event[1] for event in await fleet.events()] == [
        NOW_MS + hours * HOUR_MS for hours in range(3)
    ]


async def test_closes_wait_while_the_service_is_paused(fleet: Fleet, start: Start) -> None:
    async with start() as service:
        await until_subscribed(fleet, 3)
        await service.send("POST", "/pause")
        await fleet.venue.step(NOW_MS + 3 * HOUR_MS)
        now = instant_of_ms(fleet.venue.now_ms)

        async def has_heard() -> bool:
            return datetime.fromisoformat((await follower(service))["venue_time"]) == now

        await eventually_async(has_heard)
        assert len(await fleet.events()) == 1
        await service.send("POST", "/resume")
        await eventually_async(lambda: fleet.has_events(4))
    assert [event[1] for event in await fleet.events()] == [
        NOW_MS + hours * HOUR_MS for hours in range(4)
    ]


# --- the roster ---------------------------------------------------------------------------


async def test_a_symbol_that_enters_the_roster_is_backfilled_and_then_followed(
    fleet: Fleet, start: Start
) -> None:
    async with start() as service:
        await until_subscribed(fleet, 3)
        await fleet.publish_roster(("AAA", "BBB", "active"), at_ms=NOW_MS)
        await until_subscribed(fleet, 5)
        assert await fleet.n_bars("5m") == {"AAA": 100, "BBB": 100}
        assert await fleet.events("bars.5m") == [("bars.5m", NOW_MS, ("AAA", "BBB"))]
        await fleet.venue.step(NOW_MS + HOUR_MS)
        await eventually_async(lambda: fleet.has_events(13, "bars.5m"))
        assert (await follower(service))["streams"] == {"1h": 3, "5m": 2}
    expected = [("bars.5m", NOW_MS + bars * BAR_MS, ("AAA", "BBB")) for bars in range(13)]
    assert await fleet.events("bars.5m") == expected
    # The longest timeframe of an instant first, and all of an instant before the next.
    assert (await fleet.events())[-3:] == [
        ("bars.5m", NOW_MS + 11 * BAR_MS, ("AAA", "BBB")),
        ("bars.1h", NOW_MS + HOUR_MS, ("AAA", "BBB", "CCC")),
        ("bars.5m", NOW_MS + HOUR_MS, ("AAA", "BBB")),
    ]


async def test_a_backfill_is_announced_by_bars_before_the_last_close(
    fleet: Fleet, start: Start
) -> None:
    async with start():
        await until_subscribed(fleet, 3)
        await fleet.publish_roster(("AAA", "BBB", "active"), at_ms=NOW_MS)
        await until_subscribed(fleet, 5)
        await fleet.venue.step(NOW_MS + 3 * BAR_MS)
        await eventually_async(lambda: fleet.has_events(4, "bars.5m"))
        await fleet.publish_roster(
            ("AAA", "BBB", "active"), ("AAA", "CCC", "candidate"), at_ms=NOW_MS
        )
        await until_subscribed(fleet, 6)
        events = await fleet.events("bars.5m")
        assert events[4:] == [("bars.5m", NOW_MS + 2 * BAR_MS, ("CCC",))]
        await fleet.venue.step(NOW_MS + 4 * BAR_MS)
        await eventually_async(lambda: fleet.has_events(6, "bars.5m"))
    events = await fleet.events("bars.5m")
    assert events[5:] == [("bars.5m", NOW_MS + 4 * BAR_MS, ("AAA", "BBB", "CCC"))]
    assert await fleet.n_bars("5m") == {"AAA": 104, "BBB": 104, "CCC": 101}


async def test_a_symbol_is_followed_until_no_pair_of_it_has_to_be_closed(
    fleet: Fleet, start: Start
) -> None:
    async with start():
        await until_subscribed(fleet, 3)
        await fleet.publish_roster(("AAA", "BBB", "active"), at_ms=NOW_MS)
        await until_subscribed(fleet, 5)
        await fleet.publish_roster(("AAA", "BBB", "closing_only"), at_ms=NOW_MS + HOUR_MS)
        await fleet.venue.step(NOW_MS + BAR_MS)
        await eventually_async(lambda: fleet.has_events(2, "bars.5m"))
        await fleet.publish_roster(("AAA", "CCC", "active"), at_ms=NOW_MS + 2 * HOUR_MS)
        # The websocket goes on bringing BBB until it is next connected.
        await until_subscribed(fleet, 6)
        await fleet.venue.step(NOW_MS + 2 * BAR_MS)
        await eventually_async(lambda: fleet.has_events(4, "bars.5m"))
    events = await fleet.events("bars.5m")
    assert events[1] == ("bars.5m", NOW_MS + BAR_MS, ("AAA", "BBB"))
    assert events[-1] == ("bars.5m", NOW_MS + 2 * BAR_MS, ("AAA", "CCC"))


async def test_after_a_restart_the_roster_is_followed_in_order(fleet: Fleet, start: Start) -> None:
    async with start():
        await until_subscribed(fleet, 3)
        await fleet.publish_roster(("AAA", "BBB", "active"), at_ms=NOW_MS)
        await until_subscribed(fleet, 5)
        await fleet.venue.step(NOW_MS + 2 * BAR_MS)
        await eventually_async(lambda: fleet.has_events(3, "bars.5m"))
    await fleet.venue.step(NOW_MS + 14 * BAR_MS)
    async with start():
        await until_subscribed(fleet, 5)
        await eventually_async(lambda: fleet.has_events(16, "bars.5m"))
    events = await fleet.events("bars.5m")
    announced, missed = events[3], events[4:]
    assert announced == ("bars.5m", NOW_MS + BAR_MS, ("AAA", "BBB"))
    assert missed == [("bars.5m", NOW_MS + bars * BAR_MS, ("AAA", "BBB")) for bars in range(3, 15)]


# --- by hand ------------------------------------------------------------------------------


async def test_a_gap_is_filled_on_request(fleet: Fleet, start: Start) -> None:
    for hours in (5, 6, 20):
        fleet.venue.missing.add(("BBBUSDT", "1h", START_MS + hours * HOUR_MS))
    async with start() as service:
        await until_subscribed(fleet, 3)
        await fleet.venue.step(NOW_MS + HOUR_MS)
        await eventually_async(lambda: fleet.has_events(2))
        fleet.venue.missing.clear()
        fleet.venue.calls.clear()
        body = {"symbols": ["BBB/USDT"], "timeframe": "1h", "since": "2024-01-01T00:00:00Z"}
        answer = await service.attempt("POST", "/backfill", body)
        assert answer.status_code == 202

        async def is_done() -> bool:
            backfills = (await service.get("/coverage"))["backfills"]
            return any(
                each["backfill_id"] == answer.json()["backfill_id"] and each["state"] == "done"
                for each in backfills
            )

        await eventually_async(is_done)
        row = (await service.get("/coverage", symbol="BBB/USDT", timeframe="1h"))["coverage"][0]
        assert (row["bars"], row["gaps"]) == (31, 0)
        assert [call[2:] for call in fleet.venue.calls] == [
            (START_MS + 5 * HOUR_MS, 3),
            (START_MS + 20 * HOUR_MS, 2),
        ]
        # Those who keep a window of it learn of the change by a late bar.
        await eventually_async(lambda: fleet.has_events(3))
        assert (await fleet.events())[-1] == ("bars.1h", NOW_MS, ("BBB",))


async def test_a_timeframe_nobody_follows_is_fetched_on_request(fleet: Fleet, start: Start) -> None:
    async with start() as service:
        await until_subscribed(fleet, 3)
        body = {
            "symbols": ["AAA/USDT"],
            "timeframe": "15m",
            "since": "2024-01-01T10:00:00Z",
            "until": "2024-01-01T12:00:00Z",
        }
        answer = await service.attempt("POST", "/backfill", body)
        assert answer.status_code == 202

        async def is_there() -> bool:
            return await fleet.n_bars("15m") == {"AAA": 8}

        await eventually_async(is_there)
        assert await fleet.events("bars.15m") == []


@pytest.mark.parametrize(
    ("change", "status", "shown"),
    [
        ({"symbols": ["ZZZ/USDT"]}, 422, "ZZZ/USDT do not trade at the venue"),
        ({"timeframe": "7m"}, 422, "timeframe"),
        ({"since": "2030-01-01T00:00:00Z"}, 409, "is in the future of the venue"),
        ({"until": "2030-01-01T00:00:00Z"}, 409, "is in the future of the venue"),
        ({"until": "2023-01-01T00:00:00Z"}, 409, "give a longer span"),
        ({"since": "yesterday"}, 422, "since"),
        ({"symbols": []}, 422, "symbols"),
    ],
)
async def test_a_backfill_that_cannot_be_is_refused_with_the_remedy(
    fleet: Fleet, start: Start, change: dict[str, Any], status: int, shown: str
) -> None:
    body = {"symbols": ["AAA/USDT"], "timeframe": "1h", "since": "2024-01-01T00:00:00Z"} | change
    async with start() as service:
        await until_subscribed(fleet, 3)
        answer = await service.attempt("POST", "/backfill", body)
        assert (answer.status_code, shown in answer.text) == (status, True), answer.text


async def test_a_backfill_needs_the_token_and_a_venue(fleet: Fleet, start: Start) -> None:
    body = {"symbols": ["AAA/USDT"], "timeframe": "1h", "since": "2024-01-01T00:00:00Z"}
    fleet.venue.answer = "hang up"
    async with start() as service:
        assert (await service.client.post("/backfill", json=body)).status_code == 401
        answer = await service.attempt("POST", "/backfill", body)
        assert (answer.status_code, "ask again" in answer.text) == (503, True)


async def test_without_following_bars_are_only_adopted(
    fleet: Fleet, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNT_FOLLOW__ENABLED", "false")
    body = {"symbols": ["AAA/USDT"], "timeframe": "1h", "since": "2024-01-01T00:00:00Z"}
    async with start() as service:
        assert await follower(service) == {
            "enabled": False,
            "connected": False,
            "streaming": False,
            "venue_time": None,
            "last_close": None,
            "streams": {},
            "last_error": None,
            "last_error_at": None,
        }
        answer = await service.attempt("POST", "/backfill", body)
        assert (answer.status_code, "MNT_FOLLOW__ENABLED" in answer.text) == (409, True)
    assert fleet.venue.calls == []


def bars_by_hand(closes_at_ms: int, close: float = 150.0) -> bytes:
    bar = {"open": close, "high": close, "low": close, "close": close, "volume": 5.0}
    return orjson.dumps(
        {
            "venue": "binance",
            "timeframe": "15m",
            "closes_at": instant_of_ms(closes_at_ms).isoformat(),
            "bars": [{"symbol": "AAA/USDT", **bar}],
        }
    )


async def test_now_is_the_venues_time_for_bars_by_hand(fleet: Fleet, start: Start) -> None:
    client = Streams(fleet.redis_url)
    async with start():
        await until_subscribed(fleet, 3)
        await client.add_plain("bars.15m", bars_by_hand(NOW_MS))
        await client.add_plain("bars.15m", bars_by_hand(NOW_MS + 3 * BAR_MS))
        await eventually_async(lambda: _are(fleet.rows("SELECT reason FROM bar_quarantine"), 1))
    assert await fleet.rows("SELECT reason FROM bar_quarantine") == [("future",)]
    assert await fleet.events("bars.15m") == [("bars.15m", NOW_MS, ("AAA",))]
    await client.stop()


async def test_entries_are_adopted_while_the_venue_does_not_answer(
    fleet: Fleet, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Streams(fleet.redis_url)
    async with start():
        await until_subscribed(fleet, 3)
        monkeypatch.setattr("services.ingest.following.ANSWER_SECONDS", 600.0)
    fleet.venue.answer = "stall"
    async with start():
        await client.add_plain("bars.15m", bars_by_hand(NOW_MS))
        await eventually_async(lambda: fleet.has_events(1, "bars.15m"))
    await client.stop()


async def _are(found: Any, n: int) -> bool:
    return len(await found) == n


async def test_the_numbers_are_on_the_metrics_page(fleet: Fleet, start: Start) -> None:
    async with start() as service:
        await until_subscribed(fleet, 3)
        await fleet.venue.step(NOW_MS + HOUR_MS)
        await eventually_async(lambda: fleet.has_events(2))
        page = (await service.client.get("/metrics")).text
    for name in (
        'mnt_ingest_bars_total{source="history",timeframe="1h"}',
        'mnt_ingest_closes_published_total{timeframe="1h"}',
        "mnt_ingest_close_lateness_seconds_count",
        "mnt_ingest_backfill_progress_ratio 1.0",
        "mnt_ingest_websocket_connected 1.0",
        "mnt_ingest_websocket_reconnects_total",
        "mnt_ingest_fetched_bars_total",
    ):
        assert name in page, name
