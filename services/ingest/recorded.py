"""Releases recorded bars in lockstep with the fleet."""

from __future__ import annotations

import asyncio

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest import store
from shared.bus import log
from shared.bus.consumer import UnitOfWork
from shared.clock import ms_of_instant, utc_now
from shared.database.engine import autocommit, transaction, write_together
from shared.errors import FatalError
from shared.quant.bar_checks import PriorBar, QuarantinedBar, check_bars
from shared.quant.bars import Bars
from shared.service import Runtime
from shared.settings import Settings
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME
from shared.venues.market import RecordedMarket, bars_closed, load_market
from shared.venues.paper_control import PaperControl

CONSUMERS = ("executor", "features", "portfolio", "screener", "signals", "trainer")
"""Everyone who must have a cursor before the first close: a late one would slow the replay."""
_POLL_SECONDS = 0.003
"""Asking more often takes from the fleet more time than it saves."""
_POLLS_PER_TURN = 10

logger = structlog.get_logger()


class RecordedSource:
    """Replays recorded files, one close after another.

    A close is released only when every consumer has reached the head of its streams and no
    order is in flight, so a replay at any speed gives the same result. How far it has come
    is recorded in the transaction of each release.
    """

    def __init__(self, settings: Settings, runtime: Runtime) -> None:
        self._settings = settings
        self._runtime = runtime
        self._replay = settings.strategy.run_id(settings.replay.start_ms)
        self._market: RecordedMarket | None = None
        self._venue: PaperControl | None = None
        self._closes: list[int] = []
        self._n_released = 0
        self._is_complete = False  # once a consumer has a cursor, it keeps it
        self._is_finished = False

    async def release_next(self) -> bool:
        """Release the next close if the fleet is ready for it; True asks to be called again."""
        if self._is_finished:
            return False
        if self._market is None:
            await self._prepare()
        recorded: frozenset[str] = frozenset()
        async with autocommit(self._runtime.engine) as connection:
            if self._closes:
                # Asked while the fleet is at work: only ingest records bars, and it is here.
                recorded = await self._recorded_timeframes(connection, self._closes[0])
            # Whoever finds the replay finished finds all rows of it.
            if not await self._is_fleet_drained(connection, with_rows=not self._closes):
                return True
        if not self._closes:
            await self._finish()
            return False
        await self._release(self._closes[0], recorded)
        self._closes.pop(0)
        return True

    async def _prepare(self) -> None:
        """Read the files, load the history if need be, and find the place to go on from."""
        replay = self._settings.replay
        market = await asyncio.to_thread(
            load_market,
            replay.bars,
            (SCREEN_TIMEFRAME,),
            self._settings.trade_timeframe,
            self._settings.ingest,
            ms_of_instant(utc_now()),
        )
        token_file = self._settings.api_token_file
        if token_file is None:
            raise FatalError("a replay needs MNT_API_TOKEN_FILE to move the paper venue's time")
        token = (await asyncio.to_thread(token_file.read_text)).strip()
        self._venue = PaperControl(self._settings.venue_url, token)
        async with transaction(self._runtime.engine) as connection:
            is_loaded, last_ms, self._n_released = await store.load_progress(
                connection, self._replay
            )
        if not is_loaded:
            await self._runtime.consumer.work(
                f"recording:{','.join(path.name for path in replay.bars)}",
                lambda unit: self._load_history(market, unit),
            )
        after_ms = replay.start_ms if last_ms is None else last_ms
        self._closes = market.closes(after_ms, replay.end_ms)
        self._market = market
        logger.info("replay prepared", closes=len(self._closes), released=self._n_released)

    async def _load_history(self, market: RecordedMarket, unit: UnitOfWork) -> None:
        """Record the instruments, the bars up to the start, and everything that was refused."""
        start_ms = self._settings.replay.start_ms
        lineage = unit.lineage
        await store.insert_instruments(unit.connection, market.venue, market.instruments, lineage)
        for timeframe, checked in market.checked.items():
            history = checked.accepted.between(None, start_ms) if start_ms is not None else None
            if history is not None:
                await store.copy_bars(unit.connection, history, lineage)
            await store.insert_quarantined(
                unit.connection, market.venue, timeframe, checked.quarantined, lineage
            )
        await store.analyse_bars(unit.connection)
        unit.record(
            store.progress_row(self._replay, closes_at_ms=None, n_closes=0, is_finished=False)
        )

    async def _recorded_timeframes(
        self, connection: AsyncConnection, closes_at_ms: int
    ) -> frozenset[str]:
        """Return the timeframes of which somebody published bars before the recording did."""
        if self._market is None:
            raise FatalError("the replay was not prepared before its first release")
        venue, timeframes = self._market.venue, self._market.checked
        return await store.recorded_timeframes(connection, venue, timeframes, closes_at_ms)

    async def _is_fleet_drained(self, connection: AsyncConnection, *, with_rows: bool) -> bool:
        """Ask for a while whether the fleet is drained."""
        for _ in range(_POLLS_PER_TURN):
            self._is_complete = self._is_complete or await _are_all_here(connection)
            if self._is_complete and await log.is_drained(connection, with_rows=with_rows):
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def _release(self, closes_at_ms: int, recorded: frozenset[str]) -> None:
        """Let the venue's market reach the close, then publish it."""
        market, venue = self._market, self._venue
        if market is None or venue is None:
            raise FatalError("the replay was not prepared before its first release")
        await venue.advance(closes_at_ms)

        async def publish(unit: UnitOfWork) -> None:
            released: list[Bars] = []
            for timeframe, checked in market.checked.items():
                bars = checked.accepted.at(closes_at_ms)
                if timeframe in recorded:
                    bars, revisions = await self._without_recorded(unit.connection, bars)
                    await store.insert_quarantined(
                        unit.connection, market.venue, timeframe, revisions, unit.lineage
                    )
                if len(bars):
                    released.append(bars)
                    unit.publish(f"bars.{timeframe}", bars_closed(bars))
            unit.record(
                store.bar_rows(released, unit.lineage),
                store.progress_row(
                    self._replay,
                    closes_at_ms=closes_at_ms,
                    n_closes=self._n_released + 1,
                    is_finished=False,
                ),
            )
            unit.after_commit(self._count)

        await self._runtime.consumer.work(f"recording:{closes_at_ms}", publish, at_once=True)

    async def _without_recorded(
        self, connection: AsyncConnection, bars: Bars
    ) -> tuple[Bars, tuple[QuarantinedBar, ...]]:
        """Leave out bars that somebody published before the recording reached them."""
        closes_at_ms = int(bars.closes_at_ms[0]) if len(bars) else 0
        keys = [(symbol, closes_at_ms) for symbol in bars.symbols]
        existing = await store.bars_at_keys(connection, bars.venue, bars.timeframe, keys)
        prior = {symbol: PriorBar(at, values[3]) for (symbol, at), values in existing.items()}
        checked = check_bars(
            bars,
            now_ms=closes_at_ms,
            known=None,
            settings=self._settings.ingest,
            prior=prior,
            existing=existing,
        )
        return checked.accepted, checked.quarantined

    def _count(self) -> None:
        self._n_released += 1

    async def _finish(self) -> None:
        async with transaction(self._runtime.engine) as connection:
            _, last_ms, n_closes = await store.load_progress(connection, self._replay)
            progress = store.progress_row(
                self._replay, closes_at_ms=last_ms, n_closes=n_closes, is_finished=True
            )
            await write_together(connection, progress)
        self._is_finished = True
        if self._venue is not None:
            await self._venue.close()
        logger.info("replay finished", closes=n_closes)


async def _are_all_here(connection: AsyncConnection) -> bool:
    present = await connection.execute(
        text("SELECT count(DISTINCT consumer) FROM consumer_offset WHERE consumer = ANY(:names)"),
        {"names": list(CONSUMERS)},
    )
    return bool(present.scalar_one() == len(CONSUMERS))
