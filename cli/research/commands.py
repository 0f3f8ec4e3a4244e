"""The commands of research, each a step on files."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer
from rich.console import Console

from cli.cycle.commands import (
    AsJson,
    Bars,
    Calibrated,
    End,
    Gap,
    Home,
    InSample,
    Seed,
    Settings,
    Splits,
    TrainSize,
)
from cli.fleet.home import resolve_home
from shared.clock import TIMEFRAME_MS, ms_of_instant
from shared.errors import SettingsError
from shared.settings import as_utc, load_settings, strategy_of
from shared.sleeves.pairs.labels import LabelKind

if TYPE_CHECKING:
    from shared.registry import ModelRegistry

SINCE = "2025-01-01T00:00:00Z"
_MOST_SHOWN = 12
"""Entries of a list that are named one by one; of more only their number is told."""
VENUE_URL = "https://fapi.binance.com"

Made = tuple[dict[str, Any], bool]
"""Manifest of a step, and whether anything had to be made."""

RosterFile = Annotated[Path, typer.Option("--roster", help="Roster of `mnt screen` or a cycle.")]
MlflowUri = Annotated[
    str | None,
    typer.Option("--mlflow", help="Tracking store or server of MLflow (MNT_MLFLOW_URL)."),
]
Prefix = Annotated[str, typer.Option("--prefix", help="Path in the store.")]
Store = Annotated[
    str | None, typer.Option("--store", help="Folder or s3://bucket (MNT_ARTEFACTS__STORE).")
]
PeriodStart = Annotated[
    str | None,
    typer.Option("--start", help="Bars up to here warm windows up (the roster's close)."),
]


def ingest(
    out: Annotated[Path, typer.Option("--out", help="Parquet file of the bars.")],
    timeframe: Annotated[str, typer.Option("--timeframe", help="Length of a bar.")] = "1h",
    symbols: Annotated[
        list[str] | None, typer.Option("--symbol", help="Once for each; all if none is named.")
    ] = None,
    roster: Annotated[
        Path | None, typer.Option("--roster", help="Take the symbols of this roster's pairs.")
    ] = None,
    since: Annotated[str, typer.Option("--since", help="First bar opens here or later.")] = SINCE,
    until: Annotated[
        str | None, typer.Option("--until", help="Last bar closes here or before (the present).")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Newest bars of each symbol.")
    ] = None,
    bars: Annotated[
        list[Path] | None,
        typer.Option("--bars", help="Recorded Parquet file to take them from; once per file."),
    ] = None,
    venue_url: Annotated[
        str, typer.Option("--venue-url", help="Else the venue to fetch them from.")
    ] = VENUE_URL,
    venue: Annotated[str, typer.Option("--venue", help="Name of the venue.")] = "binance",
    overrides: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Gather bars of a venue, or of recorded files, as one checked Parquet file."""
    from cli.replay import progress_bar
    from cli.research.bars import IngestRequest, ingest_recorded, ingest_venue
    from cli.research.roster import read_rosters, symbols_of

    if timeframe not in TIMEFRAME_MS:
        raise SettingsError(f"--timeframe {timeframe}: use one of {', '.join(TIMEFRAME_MS)}")
    wanted = tuple(symbols or ())
    if roster is not None:
        wanted += symbols_of(read_rosters(roster))
        if not wanted:
            raise SettingsError(f"{roster} has no active pair: there is no symbol to gather")
    request = IngestRequest(timeframe, wanted, ms_of_instant(as_utc(since)), _ms(until), limit)
    checks = strategy_of(overrides or ()).ingest
    if bars:
        made = ingest_recorded(bars, request, checks, out)
    else:
        with progress_bar() as progress:
            made = asyncio.run(ingest_venue(venue_url, venue, request, checks, out, progress))
    _tell(made, out, as_json)


def features(
    bars: Bars,
    roster: RosterFile,
    out: Annotated[Path, typer.Option("--out", help="Folder, one file a pair.")] = Path("features"),
    start: PeriodStart = None,
    end: End = None,
    beta_window: Annotated[int, typer.Option("--beta-window", help="Of the hedge ratio.")] = 1000,
    z_window: Annotated[int, typer.Option("--z-window", help="Of the z-score.")] = 300,
    lags: Annotated[int, typer.Option("--lags", min=0, help="Past z-scores of a row.")] = 10,
    in_sample: InSample = False,
    overrides: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Compute the features of every active pair of a roster, from its close on."""
    from cli.replay import progress_bar
    from cli.research.features import make_features

    strategy = strategy_of(
        [
            f"features.beta_window={beta_window}",
            f"features.z_window={z_window}",
            f"features.lags={lags}",
            *(overrides or ()),
        ]
    )
    with progress_bar() as progress:
        made = make_features(
            bars,
            roster,
            strategy,
            out,
            progress,
            start_ms=_ms(start),
            end_ms=_ms(end),
            in_sample=in_sample,
        )
    _tell(made, out, as_json)


def dataset(
    paths: Annotated[list[Path], typer.Argument(help="Folder or files of `mnt features`.")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file.")] = Path("dataset.parquet"),
    label: Annotated[LabelKind, typer.Option("--label", help="Kind of label.")] = "z_threshold",
    threshold: Annotated[
        float, typer.Option("--threshold", help="Rows with |z| of this are labelled.")
    ] = 1.5,
    horizon: Annotated[int, typer.Option("--horizon", min=1, help="Bars a label looks ahead.")] = 3,
    lags: Annotated[int, typer.Option("--lags", min=0, help="Past z-scores of a sample.")] = 10,
    to_store: Annotated[
        bool, typer.Option("--upload", help="Then copy it to the artefact store, if it changed.")
    ] = False,
    prefix: Prefix = "",
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Label the rows of features and pool them into a dataset.

    A second run does nothing that is done already, so that any scheduler may repeat it.
    """
    from cli.replay import progress_bar
    from cli.research.features import feature_files, make_dataset_file
    from cli.research.step import manifest_beside
    from cli.research.store import open_store, upload_files
    from shared.sleeves.pairs.labels import LabelSettings

    settings = LabelSettings(kind=label, threshold=threshold, horizon_bars=horizon)
    # Opened first: a store that is not named is better known before the work than after it.
    opened = open_store(load_settings().artefacts, store) if to_store else None
    with progress_bar() as progress:
        made = make_dataset_file(feature_files(paths), settings, lags, out, progress)
        if opened is not None:
            files = (out, manifest_beside(out))
            uploaded = upload_files(files, out.parent, opened, prefix, progress)
            made = _with_found(made, {"uploaded": uploaded})
    _tell(made, out, as_json)


def train(
    offline: Annotated[
        Path | None,
        typer.Option("--offline", help="Train on a dataset file instead of the running fleet."),
    ] = None,
    families: Annotated[
        list[str] | None, typer.Option("--family", help="Offline: model family; once for each.")
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Offline: choices of parameters tried.")
    ] = 1,
    n_splits: Splits = 5,
    gap: Gap = 24,
    max_train_size: TrainSize = None,
    calibration: Calibrated = "platt",
    seed: Seed = 0,
    in_sample: InSample = False,
    out: Annotated[
        Path, typer.Option("--out", help="Offline: JSON file of the candidates.")
    ] = Path("candidates.json"),
    mlflow: MlflowUri = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Train a challenger on everything up to the last close of the running fleet."""
    from cli import control
    from cli.replay import progress_bar
    from cli.research.training import train_file
    from shared.backtest.candidates import FitTerms

    if offline is None:
        _show(asyncio.run(control.post(resolve_home(home), "trainer", "/train")), as_json)
        return
    with progress_bar() as progress:
        made = train_file(
            offline,
            families or ["logistic_regression"],
            FitTerms(n_splits, gap, max_train_size, calibration, seed),
            out,
            progress,
            n_trials=trials,
            ledger_path=resolve_home(home).path / "trials.jsonl",
            in_sample=in_sample,
        )
    registry = _registry(mlflow, home)
    if registry is not None:
        from cli.research.production import read_candidates

        made = _logged(made, registry, read_candidates(out))
    _tell(made, out, as_json)


def promote(
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why a model that passed no gates is taken.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="The model; else the newest, or the champion.")
    ] = None,
    to: Annotated[
        Literal["shadow", "champion"], typer.Option("--to", help="Stage the model is to have.")
    ] = "champion",
    by_gates: Annotated[
        bool, typer.Option("--by-gates", help="Only if its gates say so; else it is an override.")
    ] = False,
    registry: Annotated[
        Path | None, typer.Option("--registry", help="Offline: registry of `mnt select`.")
    ] = None,
    cycle: Annotated[
        Path | None, typer.Option("--cycle", help="Offline: folder of the candidate's cycle.")
    ] = None,
    z_rule: Annotated[
        bool, typer.Option("--z-rule", help="Offline: freeze the z rule, without a model.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="Offline: JSON file of the production map.")
    ] = Path("production_map.json"),
    mlflow: MlflowUri = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Make a model champion of the running fleet, or freeze a choice as the production map."""
    from cli import control
    from cli.cycle.artefacts import read_json
    from cli.research.production import PromotionChoice, freeze_map

    if registry is None:
        if reason is None:
            raise SettingsError("--reason is missing: say why the model is promoted")
        body: dict[str, Any] = {"reason": reason, "to": to, "override": not by_gates}
        body |= {} if sha256 is None else {"sha256": sha256}
        _show(asyncio.run(control.post(resolve_home(home), "trainer", "/promote", body)), as_json)
        return
    if cycle is None:
        raise SettingsError("--cycle is missing: name the folder of the cycle of the candidate")
    made = freeze_map(registry, cycle, PromotionChoice(sha256, reason, z_rule), out)
    tracked = _registry(mlflow, home)
    model = read_json(out)["model"]
    if tracked is not None and model is not None:
        made = _logged(made, tracked, [model["recipe"]])
    _tell(made, out, as_json)


def rollback(
    reason: Annotated[str, typer.Option("--reason", help="Why the champion is taken back.")],
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Make the champion before the present one champion of the running fleet again."""
    from cli import control

    body = {"reason": reason}
    _show(asyncio.run(control.post(resolve_home(home), "trainer", "/rollback", body)), as_json)


def infer(
    bars: Bars,
    production: Annotated[
        Path, typer.Option("--production-map", "--registry-in", help="Map of `mnt promote`.")
    ] = Path("production_map.json"),
    out: Annotated[Path, typer.Option("--out", help="JSON lines.")] = Path("signals.jsonl"),
    last: Annotated[
        int | None, typer.Option("--last", min=1, help="Only the newest closes; all without.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="First fetch the pairs' bars anew into the one --bars.")
    ] = False,
    venue_url: Annotated[
        str, typer.Option("--venue-url", help="Where --update fetches them.")
    ] = VENUE_URL,
    mlflow: MlflowUri = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Write the signals of the production map on the bars after its roster."""
    from cli.replay import progress_bar
    from cli.research.inference import infer as run
    from cli.research.inference import update_bars

    if update:
        if len(bars) != 1:
            raise SettingsError("--update writes one file: give one --bars")
        with progress_bar() as progress:
            asyncio.run(update_bars(production, bars[0], venue_url, progress))
    made = run(production, bars, out, last_closes=last, registry=_registry(mlflow, home))
    _tell(made, out, as_json)


def aggregate(
    signals: Annotated[list[Path], typer.Argument(help="Files of `mnt infer`.")],
    bars: Bars,
    out: Annotated[Path, typer.Option("--out", help="JSON file.")] = Path("latest_orders.json"),
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Most pairs held at once.")] = 10,
    target_volatility: Annotated[
        float | None,
        typer.Option(
            "--target-volatility",
            min=1e-4,
            help="Most annual volatility of the book, such as 0.12; entries are made smaller.",
        ),
    ] = None,
    window: Annotated[
        int, typer.Option("--volatility-window", min=101, help="Bars it is measured on.")
    ] = 2016,
    overrides: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Merge signals within slots, caps and a volatility into targets, weights and orders."""
    from cli.research.inference import aggregate as run

    strategy = strategy_of([f"portfolio.top_k={top_k}", *(overrides or ())])
    made = run(
        signals, bars, strategy, out, target_volatility=target_volatility, window_bars=window
    )
    _tell(made, out, as_json)


def upload(
    folder: Annotated[Path, typer.Argument(help="Folder of artefacts.")],
    prefix: Prefix = "",
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Copy a folder to the artefact store; what is there already is left alone."""
    from cli.replay import progress_bar
    from cli.research.store import open_store
    from cli.research.store import upload as run

    with progress_bar() as progress:
        found = run(folder, open_store(load_settings().artefacts, store), prefix, progress)
    _show(found, as_json)


def _registry(uri: str | None, home: Path | None) -> ModelRegistry | None:
    """Return the registry that is named here or by the settings, None where none is."""
    from shared.registry import open_registry

    settings = load_settings()
    named = uri or settings.mlflow_url
    if named is None:
        return None
    return open_registry(resolve_home(home).path, named, settings.mlflow_artifacts)


def _logged(made: Made, registry: ModelRegistry, candidates: list[dict[str, Any]]) -> Made:
    """Log candidates, and add their runs to what a step tells."""
    from cli.research.tracking import log_candidates

    return _with_found(made, {"mlflow_runs": log_candidates(registry, candidates)})


def _with_found(made: Made, more: dict[str, Any]) -> Made:
    manifest, is_new = made
    return {**manifest, "found": {**manifest["found"], **more}}, is_new


def _tell(made: Made, out: Path, as_json: bool) -> None:
    manifest, is_new = made
    if as_json:
        _show(
            {"out": str(out), "is_new": is_new, "run_id": manifest["run_id"], **manifest["found"]},
            as_json,
        )
        return
    console = Console()
    note = "" if is_new else " is up to date: made before from the same content, nothing done"
    console.print(f"{out}{note}", highlight=False, markup=False)
    for name, value in manifest["found"].items():
        is_long = isinstance(value, list | dict) and len(value) > _MOST_SHOWN
        shown = len(value) if is_long else value
        console.print(f"  {name.replace('_', ' ')}: {shown}", highlight=False, markup=False)


def _show(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    for name, value in document.items():
        Console().print(f"{name.replace('_', ' ')}: {value}", highlight=False, markup=False)


def _ms(instant: str | None) -> int | None:
    return None if instant is None else ms_of_instant(as_utc(instant))
