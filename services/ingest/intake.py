"""How bars enter: checked, the good recorded, the bad quarantined with their reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from services.ingest import metrics, store
from shared.bus.consumer import UnitOfWork
from shared.quant.bar_checks import (
    BarCheckSettings,
    CheckedBars,
    PriorBar,
    check_bars,
    keys_to_look_up,
)
from shared.quant.bars import Bars, RawBars


async def take_in(
    unit: UnitOfWork,
    raw: RawBars,
    *,
    now_ms: int,
    known: frozenset[str],
    settings: BarCheckSettings,
    source: str,
) -> Bars:
    """Check bars of up-to-date symbols against the record, and record what is good.

    Parameters
    ----------
    unit
        The transaction.
    raw
        The bars.
    now_ms
        No bar closes after it.
    known
        Symbols that may enter.
    settings
        Bounds of the checks.
    source
        Label of the metric.

    Returns
    -------
    Bars
        Those recorded.
    """
    place = (unit.connection, raw.venue, raw.timeframe)
    prior = await store.prior_bars(*place, sorted(set(raw.symbols) & known))
    existing = await store.bars_at_keys(*place, keys_to_look_up(raw, prior))
    checked = check_bars(
        raw, now_ms=now_ms, known=known, settings=settings, prior=prior, existing=existing
    )
    await store.insert_quarantined(*place, checked.quarantined, unit.lineage)
    await store.insert_bars(unit.connection, checked.accepted, unit.lineage)
    unit.after_commit(lambda: _count(checked, source))
    return checked.accepted


async def take_in_page(
    unit: UnitOfWork,
    raw: RawBars,
    *,
    now_ms: int,
    settings: BarCheckSettings,
    prior: Mapping[str, PriorBar],
) -> CheckedBars:
    """Check a page of history, and record what is good in bulk.

    The state of the checks is handed from page to page, because looking it up would go
    through everything newer of the other symbols. What somebody published meanwhile is seen
    by its keys.

    Parameters
    ----------
    unit, raw, now_ms, settings
        As `take_in`.
    prior
        State of the checks after the page before.
    """
    place = (unit.connection, raw.venue, raw.timeframe)
    given = {
        (raw.symbols[code], at)
        for code, at in zip(raw.symbol_code.tolist(), raw.closes_at_ms.tolist(), strict=True)
    }
    existing = await store.bars_at_keys(*place, sorted(given | {*keys_to_look_up(raw, prior)}))
    if any(symbol not in prior or at > prior[symbol].closes_at_ms for symbol, at in existing):
        prior = {**prior, **await store.last_bars(*place, raw.symbols)}
        existing = await store.bars_at_keys(*place, sorted(given | {*keys_to_look_up(raw, prior)}))
    checked = check_bars(
        raw, now_ms=now_ms, known=None, settings=settings, prior=prior, existing=existing
    )
    await store.insert_quarantined(*place, checked.quarantined, unit.lineage)
    await store.copy_bars(unit.connection, checked.accepted, unit.lineage)
    unit.after_commit(lambda: _count(checked, "history"))
    return checked


def _count(checked: CheckedBars, source: str) -> None:
    timeframe = checked.accepted.timeframe
    metrics.BARS.labels(timeframe, source).inc(len(checked.accepted))
    for reason, n_bars in Counter(bar.reason.value for bar in checked.quarantined).items():
        metrics.QUARANTINED.labels(timeframe, reason).inc(n_bars)
