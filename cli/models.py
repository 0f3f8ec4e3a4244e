"""`mnt models`: which models there are, at what stage, and what their gates say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from cli.control import get
from cli.fleet.home import resolve_home

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder of the fleet's state (MNT_HOME, else .mnt).")
]


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    home: HomeOption = None,
) -> None:
    """List the models with their stages, gates and the reasons of every decision."""
    found = asyncio.run(get(resolve_home(home), "trainer", "/models"))
    if as_json:
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    Console().print(models_table(found))


def models_table(found: list[dict[str, Any]]) -> Table:
    """Return a table of models as the trainer lists them, one row each."""
    table = Table(
        "model", "family", "version", "stage", "since", "shadow closes", "gates", "reason"
    )
    for model in found:
        last = model["promotions"][-1] if model["promotions"] else None
        table.add_row(
            model["sha256"][:12],
            model["family"] or "logistic_regression",
            str(model["model_version"]),
            model["stage"] or "",
            last["from"] if last else "",
            str(model["n_shadow_closes"]),
            "\n".join(_spelled(gate) for gate in _gates(model)),
            _reason(last) if last else "",
        )
    return table


def _gates(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the gates as they were judged last."""
    judged = [given["gates"] for given in model["promotions"] if given["gates"]]
    return judged[-1] if judged else []


def _spelled(gate: dict[str, Any]) -> str:
    value = "nothing" if gate["value"] is None else f"{gate['value']:.3g}"
    return f"{gate['gate']} {value} {gate['comparison']} {gate['threshold']:g} {gate['verdict']}"


def _reason(given: dict[str, Any]) -> str:
    how = "override by" if given["override"] else "by"
    return f"{given['reason']} ({how} {given['decided_by']})"
