"""The commands of a cycle."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer
from rich.console import Console

from cli.fleet.home import resolve_home
from shared.clock import ms_of_instant
from shared.errors import DataError, SettingsError
from shared.settings import as_utc

Kind = Annotated[
    Literal["short", "full"],
    typer.Argument(help="short: one family and label; full: several, parameters searched."),
]
Bars = Annotated[
    list[Path], typer.Option("--bars", help="Parquet file of bars; give it once per file.")
]
RecordedBars = Annotated[
    list[Path] | None,
    typer.Option("--bars", help="Parquet file of bars; once per file (those of the record)."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for artefacts, report and manifest.")]
Start = Annotated[
    str | None,
    typer.Option("--start", help="Bars up to here only choose pairs and warm up (ISO 8601, UTC)."),
]
TestStart = Annotated[
    str | None, typer.Option("--test-start", help="Where training ends and the test begins.")
]
End = Annotated[str | None, typer.Option("--end", help="Last close (ISO 8601, UTC).")]
Roster = Annotated[
    Path | None, typer.Option("--roster", help="Roster of `mnt screen --out`, for all of the time.")
]
InSample = Annotated[
    bool, typer.Option("--in-sample", help="Accept a roster screened past the start; labelled.")
]
Family = Annotated[list[str] | None, typer.Option("--family", help="Model family; once for each.")]
Label = Annotated[list[str] | None, typer.Option("--label", help="Kind of label; once for each.")]
Trials = Annotated[
    int | None, typer.Option("--trials", min=1, help="Choices of parameters tried a column.")
]
Threshold = Annotated[
    float, typer.Option("--threshold", help="Rows with |z| of this are labelled.")
]
Horizon = Annotated[int, typer.Option("--horizon", min=1, help="Bars a label looks ahead.")]
Splits = Annotated[int, typer.Option("--n-splits", min=2, help="Folds of the cross-validation.")]
Gap = Annotated[int, typer.Option("--gap", min=0, help="Bars between training and test.")]
TrainSize = Annotated[
    int | None, typer.Option("--max-train-size", min=1, help="Bars a training looks back on.")
]
Calibrated = Annotated[
    Literal["platt", "isotonic"], typer.Option("--calibration", help="platt or isotonic.")
]
Probability = Annotated[
    float | None, typer.Option("--proba-threshold", help="Smallest probability that enters.")
]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Most pairs held at once.")]
Every = Annotated[int, typer.Option("--screen-every-days", min=1, help="Days between two rosters.")]
Seed = Annotated[int, typer.Option("--seed", help="Of models, search and bootstrap.")]
Ledger = Annotated[
    Path | None, typer.Option("--ledger", help="Ledger of trials (the home's trials.jsonl).")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, such as screener.method=p_value.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Home = Annotated[
    Path | None, typer.Option("--home", help="Folder of the fleet's state (MNT_HOME, else .mnt).")
]


def cycle(
    kind: Kind,
    out: Out,
    bars: RecordedBars = None,
    start: Start = None,
    test_start: TestStart = None,
    end: End = None,
    roster: Roster = None,
    in_sample: InSample = False,
    family: Family = None,
    label: Label = None,
    trials: Trials = None,
    threshold: Threshold = 1.5,
    horizon: Horizon = 3,
    n_splits: Splits = 5,
    gap: Gap = 24,
    max_train_size: TrainSize = None,
    calibration: Calibrated = "platt",
    proba_threshold: Probability = None,
    top_k: TopK = None,
    screen_every_days: Every = 7,
    seed: Seed = 0,
    ledger: Ledger = None,
    overrides: Settings = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """From recorded bars to a verdict: screen, train, backtest, judge and report."""
    _run(**locals())


def _run(**given: Any) -> None:
    from pydantic import ValidationError

    from cli.cycle.request import CycleRequest
    from cli.cycle.run import cycle_to_folder
    from cli.replay import progress_bar
    from shared.events.base import describe_faults
    from shared.settings import strategy_of

    overrides = list(given["overrides"] or ())
    bars = given["bars"] or _bars_of_record(given["home"], given["out"])
    if given["proba_threshold"] is not None:
        overrides.append(f"signals.probability_threshold={given['proba_threshold']}")
    if given["top_k"] is not None:
        overrides.append(f"portfolio.top_k={given['top_k']}")
    try:
        request = CycleRequest(
            kind=given["kind"],
            bars=tuple(bars),
            roster=given["roster"],
            start_ms=_ms(given["start"]),
            test_start_ms=_ms(given["test_start"]),
            end_ms=_ms(given["end"]),
            in_sample=given["in_sample"],
            families=tuple(given["family"] or ()),
            labels=tuple(given["label"] or ()),
            n_trials=given["trials"],
            threshold=given["threshold"],
            horizon_bars=given["horizon"],
            n_splits=given["n_splits"],
            gap_bars=given["gap"],
            train_bars=given["max_train_size"],
            calibration=given["calibration"],
            seed=given["seed"],
            screen_every_days=given["screen_every_days"],
        )
    except ValidationError as error:
        raise SettingsError(f"options: {describe_faults(error)}") from error
    out: Path = given["out"]
    ledger_path = given["ledger"] or resolve_home(given["home"]).path / "trials.jsonl"
    with progress_bar() as progress:
        summary, is_new = cycle_to_folder(
            request, strategy_of(overrides), out=out, ledger_path=ledger_path, progress=progress
        )
    if given["as_json"]:
        document = {
            "verdict": summary["verdict"],
            "candidate": summary["candidate"],
            "gates": summary["gates"],
            "is_in_sample": summary["is_in_sample"],
            "is_new": is_new,
            "report": str(out / "report.html"),
        }
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    console = Console()
    if summary["is_in_sample"]:
        console.print("IN SAMPLE: pairs were chosen on bars past the start", style="bold red")
    console.print(f"verdict: {summary['verdict']['decision']}", style="bold", highlight=False)
    for reason in summary["verdict"]["reasons"]:
        console.print(f"  {reason}", highlight=False, markup=False)
    note = "" if is_new else " (made before from the same files, settings and code)"
    console.print(f"report: {out / 'report.html'}{note}", highlight=False)


def _bars_of_record(home: Path | None, out: Path) -> list[Path]:
    """Write the bars of the record beside a folder of artefacts, and return the files."""
    from cli.export import ExportRequest, export_table
    from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME, StrategySettings

    files = []
    for timeframe in (SCREEN_TIMEFRAME, StrategySettings().trade_timeframe):
        path = out.with_name(f"{out.name}-bars-{timeframe}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        request = ExportRequest("bars", path, timeframe=timeframe)
        if not asyncio.run(export_table(resolve_home(home), request)):
            raise DataError(
                f"the record holds no bar of {timeframe}: give files with --bars, or let the fleet "
                "gather bars first"
            )
        files.append(path)
    return files


def _ms(instant: str | None) -> int | None:
    return None if instant is None else ms_of_instant(as_utc(instant))


def report(folder: Path) -> None:
    """Make the report of a cycle's folder anew from its summary."""
    from cli.cycle.artefacts import read_json
    from cli.cycle.report import write_report

    write_report(read_json(folder / "summary.json"), folder)
    Console().print(f"report: {folder / 'report.html'}", highlight=False)


def select(
    folders: Annotated[list[Path], typer.Argument(help="Folders of `mnt cycle`.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file of the registry.")] = Path(
        "registry.json"
    ),
    min_sharpe: Annotated[float, typer.Option("--min-sharpe", help="Of the test, net.")] = 1.0,
    max_drawdown: Annotated[float, typer.Option("--max-drawdown", help="Of the test.")] = 0.2,
    min_stability: Annotated[
        float, typer.Option("--min-stability", help="Share of months that did not lose.")
    ] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Choose a champion among the candidates of cycles by gates and rules."""
    from pydantic import ValidationError

    from cli.cycle import steps
    from shared.events.base import describe_faults

    try:
        rules = steps.SelectionRules(
            min_sharpe=min_sharpe, max_drawdown=max_drawdown, min_stability=min_stability
        )
    except ValidationError as error:
        raise SettingsError(f"options: {describe_faults(error)}") from error
    registry, is_new = steps.select_to_file(folders, rules, out)
    if as_json:
        sys.stdout.write(orjson.dumps(registry, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    console = Console()
    for entry in registry["candidates"]:
        word = "; ".join(entry["refused"]) or "fit for the shadow"
        console.print(f"{entry['candidate'] or 'no candidate'}: {word}", highlight=False)
    note = "" if is_new else " (up to date: nothing done)"
    console.print(f"champion: {registry['champion'] or 'none'}, in {out}{note}", highlight=False)
