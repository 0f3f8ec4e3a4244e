"""The commands of the checks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="Whether features, labels, signals and orders keep to their time.", no_args_is_help=True
)

Bars = Annotated[
    list[Path], typer.Option("--bars", help="Parquet file of bars; give it once per file.")
]
PairName = Annotated[
    str | None, typer.Option("--pair", help="As Y~X; by default the two of the largest turnover.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, such as features.z_window=200.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the points.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


@app.command()
def lookahead(
    bars: Bars,
    pair: PairName = None,
    last: Annotated[int, typer.Option("--last", min=1, help="Newest bars to look at.")] = 3000,
    points: Annotated[int, typer.Option("--points", min=1, help="Where to cut the future.")] = 20,
    seed: Seed = 0,
    overrides: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Take the future away and see what changes that should not; exit code 1 on a leak."""
    from cli.checks import check_lookahead

    found = check_lookahead(
        bars, overrides or (), pair=pair, n_bars=last, n_points=points, seed=seed
    )
    if as_json:
        _print_json(asdict(found))
    else:
        console = Console()
        console.print(
            f"{'~'.join(found.pair)}: {len(found.outputs)} results of {found.n_bars:,} bars with "
            f"{found.n_orders} orders, the future cut and replaced at {found.n_points} points: "
            f"{len(found.leaks)} leaks",
            highlight=False,
        )
        for leak in found.leaks:
            console.print(
                f"  {leak.output}: {leak.n_rows} values up to bar {leak.point} change when the "
                f"bars after it are {leak.future}, the first at bar {leak.row}",
                style="bold red",
                highlight=False,
            )
        if not found.n_orders:
            console.print("  no order fell into these bars: choose another pair or more bars")
    if found.leaks:
        raise typer.Exit(1)


@app.command()
def warmup(
    bars: Bars,
    pair: PairName = None,
    points: Annotated[int, typer.Option("--points", min=1, help="Bars to compare at.")] = 5,
    seed: Seed = 0,
    overrides: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Find how many bars each feature needs; exit code 1 where it is given fewer."""
    from cli.checks import check_warmup

    found = check_warmup(bars, overrides or (), pair=pair, n_points=points, seed=seed)
    if as_json:
        _print_json(asdict(found) | {"too_long": found.too_long})
    else:
        console = Console()
        table = Table("feature", "bars needed")
        for name, needed in found.needed.items():
            table.add_row(name, "not stable" if needed is None else f"{needed:,}")
        console.print(table)
        console.print(f"{'~'.join(found.pair)}: a row is given {found.given:,} bars")
    if found.too_long:
        raise typer.Exit(1)


def _print_json(document: Mapping[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
