"""Fetching what a venue has and the record lacks: page by page, each in a transaction of its own.

A restart in the middle goes on after the last page that was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from services.ingest import metrics, store
from services.ingest.intake import take_in_page
from services.ingest.turns import Turns
from shared.bus.consumer import UnitOfWork
from shared.clock import monotonic_seconds, timeframe_ms
from shared.database.engine import transaction
from shared.errors import StoreError, VenueError, VenueRejectedError
from shared.quant.bar_checks import PriorBar
from shared.quant.bars import BarRow, RawBars
from shared.service import Runtime
from shared.settings import Settings
from shared.venues.candles import PAGE_CANDLES, VenueCandles

LOG_SECONDS = 5.0
"""How often a backfill in progress is logged."""

Span = tuple[int, int]
"""Closes in (after, until], in milliseconds since 1970."""

logger = structlog.get_logger()


@dataclass(slots=True)
class Backfill:
    """One piece of history to fetch, and how far it has come.

    Attributes
    ----------
    backfill_id
        Its name.
    since_ms
        Opening of the first bar wanted.
    until_ms
        Close of the last bar wanted; `None` for the last close that has passed.
    is_tail
        Whether only what comes after the last recorded bar is wanted, and not its gaps.
    symbols_done, bars
        Symbols that are complete, and bars recorded.
    error
        Why it failed, or why the venue refused some symbol.
    """

    backfill_id: str
    timeframe: str
    symbols: tuple[str, ...]
    since_ms: int
    until_ms: int | None = None
    is_tail: bool = True
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    symbols_done: int = 0
    bars: int = 0
    error: str | None = None
    part_of_symbol: float = 0.0
    began_seconds: float = field(default_factory=monotonic_seconds)

    @property
    def ratio(self) -> float:
        """The share that is done."""
        if self.state == "done":
            return 1.0
        return min(1.0, (self.symbols_done + self.part_of_symbol) / max(1, len(self.symbols)))

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until it is done if it goes on as so far; `None` while that is unknown."""
        if self.state != "running" or not self.ratio:
            return None
        return (monotonic_seconds() - self.began_seconds) * (1 - self.ratio) / self.ratio

    def begin(self) -> None:
        """Start, or start a further round over the same symbols."""
        self.state, self.error = "running", None
        self.symbols_done, self.part_of_symbol = 0, 0.0
        self.began_seconds = monotonic_seconds()

    def fail(self, error: str) -> None:
        """Note why it ended before it was done."""
        self.state, self.error = "failed", error

    def describe(self) -> dict[str, Any]:
        """Return how far it has come, for the log."""
        eta = self.eta_seconds
        return {
            "backfill": self.backfill_id,
            "timeframe": self.timeframe,
            "symbols": f"{self.symbols_done} of {len(self.symbols)}",
            "bars": self.bars,
            "percent": round(100 * self.ratio, 1),
            "eta_seconds": None if eta is None else round(eta),
        }


class HistoryFetcher:
    """Fetches history symbol by symbol, as slowly as the venue wishes.

    Parameters
    ----------
    settings, runtime
        Of the process.
    turns
        Where the transactions are done.
    """

    def __init__(self, settings: Settings, runtime: Runtime, turns: Turns) -> None:
        self._settings = settings
        self._runtime = runtime
        self._turns = turns
        self._logged_seconds = monotonic_seconds()

    async def fetch(self, candles: VenueCandles, backfill: Backfill, until_ms: int) -> None:
        """Record what the venue has up to a close; nothing of it is published.

        Parameters
        ----------
        candles
            The venue.
        backfill
            What to fetch.
        until_ms
            Last close to fetch, no later than the venue's time.

        Raises
        ------
        VenueUnknownError
            If the venue does not answer. Pages that came before are recorded. A symbol it
            refuses is left out.
        StoreError
            If the database does not answer.
        """
        backfill.begin()
        try:
            await self._fetch(candles, backfill, until_ms)
        except (VenueError, StoreError) as error:
            backfill.fail(str(error))
            raise
        backfill.state = "done"
        metrics.BACKFILL_RATIO.set(1)
        logger.info("backfill done", **backfill.describe())

    async def _fetch(self, candles: VenueCandles, backfill: Backfill, until_ms: int) -> None:
        async with transaction(self._runtime.engine) as connection:
            prior: Mapping[str, PriorBar] = await store.last_bars(
                connection, self._settings.venue_name, backfill.timeframe, backfill.symbols
            )
        for symbol in backfill.symbols:
            first_ms = max(backfill.since_ms, candles.listings[symbol].listed_at_ms)
            spans = await self._spans(backfill, symbol, prior.get(symbol), first_ms, until_ms)
            try:
                for span in spans:
                    prior = await self._fetch_span(candles, backfill, symbol, span, prior)
            except VenueRejectedError as error:
                backfill.error = str(error)
                logger.warning("the venue refuses its history", symbol=symbol, error=str(error))
            backfill.symbols_done += 1
            self._show(backfill)

    async def _spans(
        self,
        backfill: Backfill,
        symbol: str,
        last: PriorBar | None,
        first_ms: int,
        until_ms: int,
    ) -> list[Span]:
        """Return what the record lacks of a symbol."""
        if backfill.is_tail:
            after_ms = first_ms if last is None else max(first_ms, last.closes_at_ms)
            return [(after_ms, until_ms)]
        async with transaction(self._runtime.engine) as connection:
            known = await store.recorded_closes(
                connection,
                self._settings.venue_name,
                backfill.timeframe,
                symbol,
                first_ms,
                until_ms,
            )
        return missing_spans(known, first_ms, until_ms, timeframe_ms(backfill.timeframe))

    async def _fetch_span(
        self,
        candles: VenueCandles,
        backfill: Backfill,
        symbol: str,
        span: Span,
        prior: Mapping[str, PriorBar],
    ) -> Mapping[str, PriorBar]:
        first_ms, until_ms = span
        known = prior
        at_ms = first_ms
        page_ms = PAGE_CANDLES * timeframe_ms(backfill.timeframe)
        async for rows in candles.history(symbol, backfill.timeframe, first_ms, until_ms):
            if rows:
                known, n_bars = await self._record(backfill, symbol, rows, until_ms, known)
                backfill.bars += n_bars
            at_ms = (rows[-1][1] or 0) if rows else at_ms + page_ms
            backfill.part_of_symbol = min(1.0, (at_ms - first_ms) / (until_ms - first_ms))
            self._show(backfill)
        backfill.part_of_symbol = 0.0
        return known

    async def _record(
        self,
        backfill: Backfill,
        symbol: str,
        rows: list[BarRow],
        now_ms: int,
        prior: Mapping[str, PriorBar],
    ) -> tuple[Mapping[str, PriorBar], int]:
        venue, timeframe = self._settings.venue_name, backfill.timeframe
        raw = RawBars.from_rows(venue, timeframe, rows)
        outcome: list[tuple[Mapping[str, PriorBar], int]] = []

        async def record(unit: UnitOfWork) -> None:
            checked = await take_in_page(
                unit, raw, now_ms=now_ms, settings=self._settings.ingest, prior=prior
            )
            outcome.append((checked.prior, len(checked.accepted)))

        await self._turns.take(f"venue:{venue}/history/{timeframe}/{symbol}", record)
        return outcome[-1]

    def _show(self, backfill: Backfill) -> None:
        metrics.BACKFILL_RATIO.set(backfill.ratio)
        if monotonic_seconds() - self._logged_seconds >= LOG_SECONDS:
            self._logged_seconds = monotonic_seconds()
            logger.info("backfill", **backfill.describe())


def missing_spans(known: list[int], after_ms: int, until_ms: int, bar_ms: int) -> list[Span]:
    """Return the spans in (after, until] of which no close is known.

    Parameters
    ----------
    known
        Closes in that span, ascending.
    after_ms, until_ms, bar_ms
        The span and the length of a bar, in milliseconds.

    Examples
    --------
    >>> missing_spans([20, 30, 60], 10, 80, 10)
    [(30, 50), (60, 80)]
    """
    spans = []
    for close, following in zip([after_ms, *known], [*known, until_ms + bar_ms], strict=True):
        if following - close > bar_ms:
            spans.append((close, following - bar_ms))
    return spans
