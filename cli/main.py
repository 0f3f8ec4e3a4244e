"""The `mnt` command."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

# Fixed before numpy is first imported: sums must not depend on how many cores are free.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import orjson
import structlog
import typer
from rich.console import Console
from rich.table import Table

from cli import check_commands, job_commands, models
from cli.cycle import commands as cycle_commands
from cli.fleet.home import resolve_home
from cli.research import commands as research_commands
from shared.clock import ms_of_instant
from shared.errors import DataError, MntError
from shared.settings import as_utc

app = typer.Typer(
    help="Research, backtest and run the mntrading fleet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
dead_app = typer.Typer(help="Messages that could not be handled.", no_args_is_help=True)
db_app = typer.Typer(help="The record in Postgres.", no_args_is_help=True)
events_app = typer.Typer(help="The events on the bus.", no_args_is_help=True)
app.add_typer(dead_app, name="dead")
import_app = typer.Typer(help="Bring recorded data into the record.", no_args_is_help=True)
app.add_typer(events_app, name="events")
app.add_typer(import_app, name="import")
app.add_typer(db_app, name="db")
token_app = typer.Typer(help="Tokens of the REST routes.", no_args_is_help=True)
app.add_typer(token_app, name="token")
app.add_typer(check_commands.app, name="check")
app.add_typer(job_commands.app, name="job")
app.command("cycle")(cycle_commands.cycle)
app.command("report")(cycle_commands.report)
app.command("select")(cycle_commands.select)
for _command in (
    models.models,
    research_commands.ingest,
    research_commands.features,
    research_commands.dataset,
    research_commands.train,
    research_commands.promote,
    research_commands.rollback,
    research_commands.infer,
    research_commands.aggregate,
    research_commands.upload,
):
    app.command(_command.__name__)(_command)

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder of the fleet's state (MNT_HOME, else .mnt).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
BarsOption = Annotated[
    list[Path], typer.Option("--bars", help="Parquet file of bars; give it once per file.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, such as screener.method=p_value.")
]
StartOption = Annotated[
    str | None, typer.Option("--start", help="Bars up to here are history (ISO 8601, UTC).")
]
EndOption = Annotated[str | None, typer.Option("--end", help="Last close (ISO 8601, UTC).")]


def run() -> None:
    """Run the command; an error of ours is a message and exit code 1, not a traceback."""
    # Standard output belongs to results, which programs read.
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    try:
        app()
    except MntError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, markup=True)
        sys.exit(1)


def _emit(document: Any, as_json: bool, show: Callable[[Console], None]) -> None:
    if as_json:
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show(Console())


def _payload(data: str) -> bytes:
    """Return what a data argument stands for: itself, the file after `@`, or standard input."""
    if data == "-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return data.encode()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise DataError(f"{data}: {error.strerror}; name a file that can be read") from error


def _show_report(report: dict[str, Any]) -> Callable[[Console], None]:
    def show(console: Console) -> None:
        table = Table("what", "count")
        for name, count in report["counts"].items():
            table.add_row(name, f"{count:,}")
        console.print(table)
        if report.get("in_sample"):
            console.print("IN SAMPLE: pairs were chosen on bars past the start", style="bold red")
        for name in ("cash_e8", "equity_e8"):
            if report[name] is not None:
                console.print(f"{name.removesuffix('_e8')}: {report[name] / 1e8:,.2f} USDT")
        digests = Table("digest", "sha256")
        for name, value in report["digests"].items():
            digests.add_row(name, value)
        console.print(digests)
        if "last_screen" in report:
            console.print(report["last_screen"])

    return show


def _sweep_table(runs: list[dict[str, Any]]) -> Table:
    """Return one line a run; amounts in units of the quote."""
    table = Table(*(name.replace("_e8", " USDT") for name in runs[0]))
    for run_ in runs:
        table.add_row(
            *(
                f"{value / 1e8:,.2f}" if name.endswith("_e8") else str(value)
                for name, value in run_.items()
            )
        )
    return table


@app.command()
def up(
    market: Annotated[
        str | None, typer.Option("--market", help="simulated, recorded or live.")
    ] = None,
    bars: Annotated[
        list[Path] | None,
        typer.Option("--bars", help="Parquet file of a recorded market; once per file."),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="Where a recorded market begins (ISO 8601, UTC).")
    ] = None,
    overrides: SetOption = None,
    with_mlflow: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="Run MLflow's own server.")
    ] = True,
    home: HomeOption = None,
) -> None:
    """Bring the whole fleet up on this machine, until Ctrl-C."""
    from cli.up import UpRequest, market_source, run_up

    request = UpRequest(
        None if market is None else market_source(market),
        tuple(bars or ()),
        None if start is None else as_utc(start),
        tuple(overrides or ()),
        with_mlflow,
    )
    asyncio.run(run_up(resolve_home(home), request, Console()))


@app.command()
def stop(home: HomeOption = None) -> None:
    """Stop the fleet of a home in order."""
    from cli.fleet.status import stop_fleet

    place = resolve_home(home)
    was_running = stop_fleet(place)
    Console().print("stopped" if was_running else f"no fleet runs in {place.path}")


@app.command()
def publish(
    stream: Annotated[str, typer.Argument(help="Such as bars.5m.")],
    data: Annotated[str, typer.Argument(help="JSON; @FILE reads a file, - standard input.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Send even what is no event of the stream.")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Publish an event by hand, as any Redis client can."""
    from cli import events

    payload = _payload(data)
    published = asyncio.run(events.publish(resolve_home(home), stream, payload, is_checked=not raw))

    def show(console: Console) -> None:
        if published.dead_letter_id is not None:
            letter = published.dead_letter_id
            console.print(f"refused as dead letter {letter}: {published.error}", markup=False)
            return
        for reason in published.quarantined:
            console.print(f"quarantined: {reason}", highlight=False, markup=False)
        if published.seq is not None:
            console.print(f"taken as {stream} #{published.seq}", highlight=False)
        elif not published.quarantined:
            console.print(
                f"waits in {stream} as {published.entry_id}: its owner has not taken it yet"
            )

    _emit(asdict(published), as_json, show)
    if published.dead_letter_id is not None or published.quarantined:
        raise typer.Exit(1)


@events_app.command("tail")
def events_tail(
    streams: Annotated[
        list[str] | None, typer.Argument(help="Streams, such as signals.raised; all if none.")
    ] = None,
    last: Annotated[int, typer.Option("--last", min=0, help="Events of each to begin with.")] = 5,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on with those that come.")
    ] = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show events as they pass."""
    from cli import events

    console = Console()

    async def show() -> None:
        found = events.tail(resolve_home(home), streams or (), last, is_following=follow)
        async for each in found:
            if as_json:
                body = orjson.loads(each.event.to_bytes())
                document = {"stream": each.topic, "seq": each.seq, "event": body}
                sys.stdout.write(orjson.dumps(document).decode() + "\n")
                sys.stdout.flush()
            else:
                console.print(
                    f"{each.event.closes_at:%Y-%m-%d %H:%M}  {each.topic:<18} #{each.seq:<6} "
                    f"{events.describe(each.event)}",
                    highlight=False,
                    markup=False,
                )

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(show())


@import_app.command("bars")
def import_bars(
    files: Annotated[list[Path], typer.Argument(help="Parquet files of bars.")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Add recorded bars to the record as history; those it has are left as they are."""
    from cli.import_bars import import_bars as run_import
    from shared.settings import strategy_of

    imported = asyncio.run(run_import(resolve_home(home), files, strategy_of(overrides or ())))

    def show(console: Console) -> None:
        table = Table("venue", "timeframe", "accepted", "quarantined", "known already")
        for part in imported:
            counts = (part.accepted, part.quarantined, part.known)
            table.add_row(part.venue, part.timeframe, *(f"{count:,}" for count in counts))
        console.print(table)

    _emit([asdict(part) for part in imported], as_json, show)


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="bars, or a table of the record.")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    start: StartOption = None,
    end: EndOption = None,
    timeframe: Annotated[
        str | None, typer.Option("--timeframe", help="Of the bars to export.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write a table of the record to a Parquet file; bars in the form `--bars` reads."""
    from cli.export import ExportRequest, export_table

    request = ExportRequest(
        what,
        out,
        None if start is None else as_utc(start),
        None if end is None else as_utc(end),
        timeframe,
    )
    n_rows = asyncio.run(export_table(resolve_home(home), request))
    _emit(
        {"file": str(out), "rows": n_rows},
        as_json,
        lambda console: console.print(f"{n_rows:,} rows of {what} in {out}", highlight=False),
    )


@app.command()
def backtest(
    bars: BarsOption,
    start: StartOption = None,
    end: EndOption = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results.")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--sweep", help="Values of a setting to try, as signals.entry_z=1.5,2,2.5."),
    ] = None,
    roster: Annotated[
        Path | None, typer.Option("--roster", help="Trade this roster; else screen every close.")
    ] = None,
    in_sample: cycle_commands.InSample = False,
    model: Annotated[
        Path | None, typer.Option("--model", help="Candidates of `mnt train`; the first decides.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="What the model was trained on.")
    ] = None,
    signals_from: Annotated[
        str | None,
        typer.Option("--signals-from", help="model, z, or auto (default): the model, if any."),
    ] = None,
    proba_threshold: cycle_commands.Probability = None,
    fee: Annotated[
        float | None, typer.Option("--fee", help="Share of every fill's notional (0.0005).")
    ] = None,
    top_k: cycle_commands.TopK = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Trade recorded bars in one process; same digests as a replay."""
    from cli.backtest import BacktestRequest, backtest_to_folder, sweep

    del home  # a backtest keeps no state
    start_ms = None if start is None else ms_of_instant(as_utc(start))
    end_ms = None if end is None else ms_of_instant(as_utc(end))
    settings = [
        *(overrides or ()),
        *([] if signals_from is None else [f"signals.signals_from={signals_from}"]),
        *([] if proba_threshold is None else [f"signals.probability_threshold={proba_threshold}"]),
        *([] if fee is None else [f"execution.fee_ppm={round(fee * 1_000_000)}"]),
        *([] if top_k is None else [f"portfolio.top_k={top_k}"]),
    ]
    if grid:
        runs = sweep(bars, start_ms, end_ms, settings, grid)
        _emit(runs, as_json, lambda console: console.print(_sweep_table(runs)))
        return
    request = BacktestRequest(
        tuple(bars), start_ms, end_ms, tuple(settings), roster, in_sample, model, dataset
    )
    report, is_new = backtest_to_folder(request, out)
    _emit(report, as_json, _show_report(report))
    if not is_new:
        Console(stderr=True).print(f"{out} is up to date: nothing done", highlight=False)


@app.command()
def replay(
    bars: BarsOption,
    start: StartOption = None,
    end: EndOption = None,
    overrides: SetOption = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="Keep the fleet up afterwards, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Trade recorded bars with the whole fleet: real processes, bus, database and venue."""
    from cli.replay import ReplayRequest, progress_bar, run_replay

    request = ReplayRequest(
        tuple(bars),
        None if start is None else as_utc(start),
        None if end is None else as_utc(end),
        tuple(overrides or ()),
        stay,
    )

    def deliver(report: dict[str, Any]) -> None:
        _emit(report, as_json, _show_report(report))
        sys.stdout.flush()

    with progress_bar() as progress:
        asyncio.run(run_replay(resolve_home(home), request, progress, deliver))


@app.command()
def screen(
    bars: BarsOption,
    timeframe: Annotated[str, typer.Option("--timeframe", help="Bars to screen on.")] = "1h",
    end: EndOption = None,
    window_bars: Annotated[
        int | None, typer.Option("--window-bars", help="Bars of the window.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file of the roster.")] = None,
    tests_out: Annotated[
        Path | None, typer.Option("--tests-out", help="Parquet file with every test.")
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Find cointegrated pairs among all symbols of a file."""
    from cli import screen as screening

    del home  # a screen keeps no state
    settings = list(overrides or ())
    if window_bars is not None:
        settings.append(f"screener.window_bars={window_bars}")
    end_ms = None if end is None else ms_of_instant(as_utc(end))
    found = screening.screen_to_files(bars, timeframe, end_ms, settings, out, tests_out)
    if found is None:
        note = {"out": str(out), "is_new": False}
        _emit(note, as_json, lambda console: console.print(f"{out} is up to date: nothing done"))
        return
    screened = found

    def show(console: Console) -> None:
        console.print(screened.event.summary)
        table = Table("y", "x", "status", "p", "q", "hedge ratio", "half-life (bars)")
        for pair in screened.event.pairs:
            table.add_row(
                pair.y,
                pair.x,
                pair.status,
                f"{pair.p_value:.2e}",
                f"{pair.q_value:.2e}",
                f"{pair.hedge_ratio:.3f}",
                f"{pair.half_life_bars:.1f}",
            )
        console.print(table)

    _emit(screening.summary(screened), as_json, show)


@app.command("compile")
def compile_() -> None:
    """Compile the numeric kernels, so that nothing waits for them later."""
    from cli.kernels import compile_kernels

    compile_kernels()


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Benchmarks to run; all if none is named.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure speed and exactness beside references, in one run on the same data."""
    from cli.bench.run import run as run_benchmarks

    data_folder = Path(os.environ.get("MNT_DATA") or "../shared/data")
    console = Console(stderr=True)
    figures = []
    for figure in run_benchmarks(names or (), data_folder):
        console.print(f"{figure.name} done", highlight=False)
        figures.append(figure)

    def show(out: Console) -> None:
        table = Table("name", "figure", "reference", "unit", "ratio", "data")
        for figure in figures:
            table.add_row(
                figure.name,
                f"{figure.figure:,.4g}",
                figure.reason or f"{figure.reference:,.4g}",
                figure.unit,
                "" if figure.ratio is None else f"{figure.ratio:,.4g}",
                figure.data,
            )
        out.print(table)

    _emit([asdict(figure) for figure in figures], as_json, show)


@app.command()
def status(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show every process of the fleet."""
    from cli.status import fleet_status

    rows = asyncio.run(fleet_status(resolve_home(home)))

    def show(console: Console) -> None:
        if not rows:
            console.print("no fleet has run in this home")
            return
        table = Table("name", "pid", "port", "state", "lag")
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        console.print(table)

    _emit(rows, as_json, show)


@dead_app.command("list")
def dead_list(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List dead letters, oldest first."""
    from cli import dead

    letters = asyncio.run(dead.find(resolve_home(home)))
    rows = [
        {key: value for key, value in asdict(letter).items() if key != "payload"}
        for letter in letters
    ]

    def show(console: Console) -> None:
        table = Table("id", "stream", "consumer", "status", "attempts", "error")
        for letter in letters:
            table.add_row(
                str(letter.dead_letter_id),
                letter.topic,
                letter.consumer,
                letter.status,
                str(letter.attempts),
                letter.error,
            )
        console.print(table)

    _emit(rows, as_json, show)


@dead_app.command("show")
def dead_show(dead_letter_id: int, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show one dead letter with its payload."""
    from cli import dead
    from cli.fleet.home import FleetError

    letters = asyncio.run(dead.find(resolve_home(home), dead_letter_id=dead_letter_id))
    if not letters:
        raise FleetError(f"there is no dead letter {dead_letter_id}: see mnt dead list")
    document = asdict(letters[0])
    document["payload"] = letters[0].payload.decode(errors="replace")

    def show(console: Console) -> None:
        for name, value in document.items():
            console.print(f"{name}: {value}", markup=False, highlight=False)

    _emit(document, as_json, show)


@dead_app.command("replay")
def dead_replay(
    dead_letter_id: int,
    data: Annotated[
        str | None, typer.Option("--data", help="Corrected JSON; @FILE reads it from a file.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Send a dead letter through the fleet again, as it was or corrected."""
    from cli import dead

    corrected = None if data is None else _payload(data)
    place = asyncio.run(dead.replay(resolve_home(home), dead_letter_id, corrected))
    _emit(
        {"dead_letter_id": dead_letter_id, "sent_to": place},
        as_json,
        lambda console: console.print(f"sent to {place}", highlight=False),
    )


@token_app.command("create")
def token_create(
    label: Annotated[str, typer.Argument(help="Who bears it; decisions are recorded under it.")],
    scopes: Annotated[
        list[str], typer.Option("--scope", help="read, control or trade; give it once per scope.")
    ],
    days: Annotated[int, typer.Option("--days", min=1, help="Until it expires.")] = 90,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Create a token; its text is shown this once and kept nowhere."""
    from cli import token

    created = asyncio.run(token.create(resolve_home(home), label, scopes, days))

    def show(console: Console) -> None:
        console.print(created["token"], highlight=False, markup=False, soft_wrap=True)
        Console(stderr=True).print(
            f"{label} may {', '.join(created['scopes'])} until "
            f"{created['expires_at']:%Y-%m-%d}; this text is not shown again",
            highlight=False,
        )

    _emit(created, as_json, show)


@token_app.command("list")
def token_list(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List tokens, newest first; their texts are not known."""
    from cli import token

    found = asyncio.run(token.find_all(resolve_home(home)))

    def show(console: Console) -> None:
        table = Table("label", "scopes", "state", "created", "expires", "last used")
        for each in found:
            instants = (each[name] for name in ("created_at", "expires_at", "last_used_at"))
            table.add_row(
                each["label"],
                ", ".join(each["scopes"]),
                each["state"],
                *("" if at is None else f"{at:%Y-%m-%d %H:%M}" for at in instants),
            )
        console.print(table)

    _emit(found, as_json, show)


@token_app.command("revoke")
def token_revoke(label: str, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Revoke a token for good; running services notice within seconds."""
    from cli import token

    revoked = asyncio.run(token.revoke(resolve_home(home), label))
    _emit(revoked, as_json, lambda console: console.print(f"{label} is revoked", highlight=False))


@token_app.command("rotate")
def token_rotate(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Replace the token of the home, in secrets/token, by a new one."""
    from cli import token

    place = resolve_home(home)
    rotated = asyncio.run(token.rotate(place))
    _emit(
        rotated,
        as_json,
        lambda console: console.print(f"a new token is in {place.token_file}", highlight=False),
    )


@db_app.command("upgrade")
def db_upgrade(home: HomeOption = None) -> None:
    """Bring the record to the present schema."""
    from cli.fleet.access import record_of

    async def upgrade() -> None:
        async with record_of(resolve_home(home)):
            pass

    asyncio.run(upgrade())
    Console().print("the schema is up to date")
