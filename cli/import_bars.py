"""`mnt import bars`: recorded files into the record, as history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.fleet.access import record_of
from cli.fleet.home import FleetHome
from services.ingest import store
from shared.book.instrument import instruments_from_bars
from shared.clock import ms_of_instant, utc_now
from shared.database.engine import transaction
from shared.quant.bar_checks import check_bars, keys_to_look_up
from shared.quant.bars import RawBars
from shared.sleeves.pairs.settings import StrategySettings
from shared.venues.recorded import read_bar_files


@dataclass(frozen=True, slots=True)
class ImportedBars:
    """What became of the bars of one timeframe; `known` were recorded already."""

    venue: str
    timeframe: str
    accepted: int
    quarantined: int
    known: int


async def import_bars(
    home: FleetHome, paths: Sequence[Path], strategy: StrategySettings
) -> list[ImportedBars]:
    """Record the bars of Parquet files: the good, and the bad with their reasons.

    They are history: nothing is published. A bar that is recorded already is left as it is,
    so an import can be repeated; a spike that was refused for want of a witness is then taken
    if the bar after it bears it out.

    Parameters
    ----------
    home
        Whose record to add to.
    paths
        Files as `--bars` takes them.
    strategy
        Its bounds of the checks, and the timeframe whose symbols become instruments.

    Raises
    ------
    DataError
        If a file cannot be used; nothing of its timeframe is recorded.
    """
    imported = []
    async with record_of(home) as engine:
        for raw in read_bar_files(paths):
            async with transaction(engine) as connection:
                place = (connection, raw.venue, raw.timeframe)
                prior = await store.prior_bars(*place, raw.symbols)
                existing = await store.bars_at_keys(*place, keys_to_look_up(raw, prior))
                checked = check_bars(
                    raw,
                    now_ms=ms_of_instant(utc_now()),
                    known=None,
                    settings=strategy.ingest,
                    prior=prior,
                    existing=existing,
                )
                lineage = {"source_uri": _source(paths), "transform_id": "import/1"}
                await store.copy_bars(connection, checked.accepted, lineage)
                await store.insert_quarantined(*place, checked.quarantined, lineage)
                if raw.timeframe == strategy.trade_timeframe and len(checked.accepted):
                    instruments = instruments_from_bars(checked.accepted)
                    await store.insert_instruments(connection, raw.venue, instruments, lineage)
                await store.analyse_bars(connection)
            imported.append(_counted(raw, len(checked.accepted), len(checked.quarantined)))
    return imported


def _source(paths: Sequence[Path]) -> str:
    return f"file:{','.join(path.name for path in paths)}"


def _counted(raw: RawBars, accepted: int, quarantined: int) -> ImportedBars:
    n_known = len(raw.closes_at_ms) - accepted - quarantined
    return ImportedBars(raw.venue, raw.timeframe, accepted, quarantined, n_known)
