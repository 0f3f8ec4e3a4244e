"""`mnt features` and `mnt dataset`: from bars and a roster to what a model learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError
from rich.progress import Progress

from cli.cycle.steps import dataset_table
from cli.research.roster import read_rosters, rosters_for
from cli.research.step import FOLDER_MANIFEST, make_once, manifest_beside
from shared.backtest.preparation import Prepared, prepare_with
from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms, utc_now
from shared.errors import DataError
from shared.sleeves.pairs.dataset import PairRows, make_dataset
from shared.sleeves.pairs.features import SpreadSpace
from shared.sleeves.pairs.labels import LabelSettings
from shared.sleeves.pairs.settings import StrategySettings
from shared.venues.market import load_market

IN_SAMPLE_KEY = b"mnt_in_sample"
_FORM_KEY = b"mnt_features"
_OWN_COLUMNS = ("ts", "y", "x", "close_y", "close_x", "is_active")
_INSTANT = pa.timestamp("ms", tz="UTC")
_LAG = "z_lag_"


class FeatureForm(BaseModel, frozen=True, extra="forbid"):
    """What a file of features does not tell by its columns."""

    trade_timeframe: str
    spread_space: SpreadSpace
    in_sample: bool


def make_features(
    bars: Sequence[Path],
    roster: Path,
    strategy: StrategySettings,
    out: Path,
    progress: Progress,
    *,
    start_ms: int | None,
    end_ms: int | None,
    in_sample: bool,
) -> tuple[dict[str, Any], bool]:
    """Write the features of every pair that a roster makes active, one file a pair.

    Parameters
    ----------
    bars, roster
        Files; a roster is in force after its own close.
    strategy
        Windows and the trade timeframe.
    out
        Folder to write to.
    progress
        Where the pairs are counted.
    start_ms, end_ms
        The period, by default from the close of the roster to the last bar.
    in_sample
        Whether the roster may have been screened on bars past the start; every file says so.

    Returns
    -------
    tuple of dict, bool
        As `make_once`.

    Raises
    ------
    DataError
        If a file is unusable.
    SettingsError
        If the roster is late and may not be.
    """
    rosters, start_ms, is_late = rosters_for(read_rosters(roster), start_ms, in_sample=in_sample)
    form = FeatureForm(
        trade_timeframe=strategy.trade_timeframe,
        spread_space=strategy.features.spread_space,
        in_sample=is_late,
    )
    written: list[Path] = []

    def make() -> dict[str, Any]:
        market = load_market(
            bars, (), strategy.trade_timeframe, strategy.ingest, ms_of_instant(utc_now())
        )
        prepared = prepare_with(market, strategy, rosters, start_ms=start_ms, end_ms=end_ms)
        table = prepared.table
        rows = {}
        for code, pair in progress.track(list(enumerate(table.pairs)), description="features"):
            path = out / f"{file_name(*pair)}.parquet"
            of_pair = _pair_table(prepared, code)
            pq.write_table(
                of_pair.replace_schema_metadata({_FORM_KEY: form.model_dump_json()}), path
            )
            written.append(path)
            rows["~".join(pair)] = of_pair.num_rows
        return {"rows": rows, "in_sample": is_late, "feature_names": list(table.feature_names)}

    request = {
        "start": instant_of_ms(start_ms).isoformat(),
        "end_ms": end_ms,
        "in_sample": is_late,
        "trade_timeframe": strategy.trade_timeframe,
        "features": strategy.features.model_dump(),
        "checks": strategy.ingest.model_dump(),
    }
    return make_once(
        "features", out / FOLDER_MANIFEST, (*bars, roster), request, make, lambda: written
    )


def file_name(y: str, x: str) -> str:
    """Return a pair as the name of a file."""
    return f"{y}~{x}".replace("/", "-").replace(":", "_")


def _pair_table(prepared: Prepared, code: int) -> pa.Table:
    table = prepared.table
    rows = np.flatnonzero(table.pair == code)
    y, x = table.pairs[code]
    values = table.values[rows]
    return pa.table(
        {
            "ts": pa.array(table.closes_at_ms[table.row_close()[rows]]).cast(_INSTANT),
            "y": pa.array([y] * len(rows), pa.string()),
            "x": pa.array([x] * len(rows), pa.string()),
            "close_y": table.close_y[rows],
            "close_x": table.close_x[rows],
            "is_active": table.is_active[rows],
            **{name: values[:, n] for n, name in enumerate(table.feature_names)},
        }
    )


def feature_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files of features that are named, or lie in a folder that is.

    Raises
    ------
    DataError
        If there are none.
    """
    found = [
        file
        for path in paths
        for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])
    ]
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))} hold no features: no pair was active, or name the "
            "folder of `mnt features`"
        )
    return found


def make_dataset_file(
    paths: Sequence[Path], label: LabelSettings, lags: int, out: Path, progress: Progress
) -> tuple[dict[str, Any], bool]:
    """Label the rows of files of features and pool them.

    Parameters
    ----------
    paths
        Files of `mnt features`.
    label
        Which rows are labelled, and how.
    lags
        Past z-scores a sample carries, of those that the files have.
    out
        Parquet file to write.
    progress
        Where the files are counted.

    Returns
    -------
    tuple of dict, bool
        As `make_once`.

    Raises
    ------
    DataError
        If a file holds no features, the files differ in form, or have fewer lags.
    """

    def make() -> dict[str, Any]:
        read = [_read_features(path) for path in progress.track(paths, description="dataset")]
        forms = {form for _, _, form in read}
        names = {names for _, names, _ in read}
        if len(forms) > 1 or len(names) > 1:
            raise DataError("the files of features were made with other settings: make them anew")
        (form,), (columns,) = forms, names
        kept = tuple(n for n, name in enumerate(columns) if _lag_of(name) <= lags)
        if max(map(_lag_of, columns)) < lags:
            raise DataError(
                f"the features carry {max(map(_lag_of, columns))} lags, not {lags}: give fewer "
                "--lags or make the features with more"
            )
        # Lags that are not wanted are left out; labels read none of them.
        rows = [
            PairRows(r.y, r.x, r.features[:, kept], r.close_y, r.close_x, r.closes_at_ms)
            for r, _, _ in read
        ]
        dataset = make_dataset(
            rows,
            tuple(columns[n] for n in kept),
            bar_ms=timeframe_ms(form.trade_timeframe),
            spread_space=form.spread_space,
            settings=label,
        )
        table = dataset_table(dataset, label)
        known = dict(table.schema.metadata)
        known[IN_SAMPLE_KEY] = b"true" if form.in_sample else b"false"
        pq.write_table(table.replace_schema_metadata(known), out)
        return {
            "rows": len(dataset.labels),
            "positive": int(dataset.labels.sum()),
            "dataset_id": dataset.dataset_id,
            "in_sample": form.in_sample,
        }

    request = {"label": label.model_dump(mode="json"), "lags": lags}
    return make_once("dataset", manifest_beside(out), paths, request, make, lambda: [out])


def is_in_sample(path: Path) -> bool:
    """Tell whether a dataset was made with a roster from past its start.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    try:
        return (pq.read_schema(path).metadata or {}).get(IN_SAMPLE_KEY) == b"true"
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no dataset ({error}): make one with `mnt dataset`") from error


def _read_features(path: Path) -> tuple[PairRows, tuple[str, ...], FeatureForm]:
    try:
        table = pq.read_table(path)
        form = FeatureForm.model_validate_json((table.schema.metadata or {})[_FORM_KEY])
    except (OSError, pa.ArrowException, KeyError, ValidationError) as error:
        raise DataError(
            f"{path} holds no features ({error!r}): name files of `mnt features`"
        ) from error
    names = tuple(name for name in table.column_names if name not in _OWN_COLUMNS)
    columns = [table[name].to_numpy() for name in names]
    y, x = (table[name][0].as_py() if table.num_rows else "" for name in ("y", "x"))
    rows = PairRows(
        y,
        x,
        np.column_stack(columns),
        table["close_y"].to_numpy(),
        table["close_x"].to_numpy(),
        table["ts"].cast(pa.int64()).to_numpy(),
    )
    return rows, names, form


def _lag_of(name: str) -> int:
    return int(name.removeprefix(_LAG)) if name.startswith(_LAG) else 0
