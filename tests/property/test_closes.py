"""However candles come, each is published once, and those in time in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.closes import Closes
from shared.clock import timeframe_ms
from shared.quant.bars import BarRow

START_MS = 1_704_067_200_000
STEP_MS = timeframe_ms("5m")
N_CLOSES = 15
STREAMS = [("5m", "AAA"), ("5m", "BBB"), ("15m", "AAA")]

Candle = tuple[str, str, int]


def closing(stream: tuple[str, str]) -> list[int]:
    bar_ms = timeframe_ms(stream[0])
    closes = (START_MS + n * STEP_MS for n in range(1, N_CLOSES + 1))
    return [at for at in closes if at % bar_ms == 0]


EVERY = [(*stream, at) for stream in STREAMS for at in closing(stream)]


def row(candle: Candle) -> BarRow:
    return (candle[1], candle[2], 1.0, 1.0, 1.0, 1.0, 1.0)


@given(data=st.data())
def test_every_candle_of_the_venue_is_published_once(data: st.DataObject) -> None:
    has = data.draw(st.sets(st.sampled_from(EVERY)), "the venue has")
    # By websocket, in any order and any number of times, before or after its close passed.
    sent = data.draw(st.lists(st.sampled_from(sorted(has)), max_size=60) if has else st.just([]))
    closes = Closes(("5m", "15m"), START_MS)
    for stream in STREAMS:
        closes.join(stream, START_MS)
    in_order: list[tuple[int, str]] = []
    published: list[Candle] = []

    def publish(at: int) -> None:
        rows = closes.at(at)
        published.extend(
            (timeframe, str(r[0]), at) for timeframe, found in rows.items() for r in found
        )
        closes.published(at, rows)

    def ask(at: int) -> None:
        for stream, after in closes.uncovered(at).items():
            candles = sorted(c for c in has if c[:2] == stream and after < c[2] <= at)
            closes.put_page(stream, [row(candle) for candle in candles])

    for n in range(1, N_CLOSES + 1):
        at = START_MS + n * STEP_MS
        assert closes.next_ms == at
        for candle in sent[:4]:
            if candle[2] <= at:
                closes.put(candle[0], row(candle))
        del sent[:4]
        if data.draw(st.booleans(), "asked"):
            ask(at)
        in_order.extend((at, timeframe) for timeframe in closes.at(at))
        publish(at)
        closes.passed(at)
        while data.draw(st.booleans(), "late") and (late := closes.earliest_late()) is not None:
            publish(late)
    ask(START_MS + N_CLOSES * STEP_MS)
    while (late := closes.earliest_late()) is not None:
        publish(late)
    assert sorted(published) == sorted(has)
    assert in_order == sorted(in_order, key=lambda event: (event[0], -timeframe_ms(event[1])))
