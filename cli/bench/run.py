"""Which benchmarks there are, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cli.bench import backtests, bar_to_order, features, lockstep, memory, screens
from cli.bench.figure import Figure
from shared.errors import SettingsError

_EXACTNESS_PAIRS = 2_000


def benchmarks(data_folder: Path) -> dict[str, Callable[[], Figure | tuple[Figure, ...]]]:
    """Return every benchmark by its name.

    Parameters
    ----------
    data_folder
        With the recorded market data; a benchmark that needs absent files says so.
    """
    return {
        # First: a process inherits the largest memory of the one that starts it.
        "screen_memory": memory.screen_memory,
        "screen_1000": lambda: screens.all_pairs(1_000),
        "screen_8760": lambda: screens.all_pairs(8_760),
        "stream_moments": screens.stream_moments,
        "stream_rescreen": screens.stream_rescreen,
        "exactness": lambda: screens.exactness(data_folder, _EXACTNESS_PAIRS),
        "features": features.one_close,
        "backtest_nautilustrader": lambda: backtests.against("nautilustrader", data_folder),
        "backtest_vectorbt": lambda: backtests.against("vectorbt", data_folder),
        "backtest_backtesting": lambda: backtests.against("backtesting.py", data_folder),
        "bar_to_order": bar_to_order.bar_to_order,
        "lockstep_replay": lockstep.lockstep_replay,
    }


def run(names: Sequence[str], data_folder: Path) -> Iterator[Figure]:
    """Run benchmarks one after another, all when none is named.

    Raises
    ------
    SettingsError
        If a name is unknown.
    """
    known = benchmarks(data_folder)
    for name in names:
        if name not in known:
            raise SettingsError(f"no benchmark {name!r}: choose from {', '.join(known)}")
    for name in names or known:
        try:
            measured = known[name]()
        except FileNotFoundError as error:
            reason = f"{error.filename} is not there: set MNT_DATA to the recorded market data"
            measured = Figure(name, float("nan"), "", None, None, "", reason)
        yield from measured if isinstance(measured, tuple) else (measured,)
