"""`mnt job`: cycles under a name, applied to a running fleet from files."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from cli import control
from cli.cycle.artefacts import read_json
from cli.cycle.commands import AsJson, Home
from cli.fleet.home import FleetHome, resolve_home
from shared.errors import DataError

app = typer.Typer(help="Cycles under a name: defined once, run again.", no_args_is_help=True)

_NAME = re.compile("[a-z0-9][a-z0-9_-]{0,62}")


@app.command("apply")
def apply(
    files: Annotated[
        list[Path],
        typer.Argument(help='JSON files: {"name": ..., "kind": "short", "options": {...}}.'),
    ],
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Create or change jobs of the running fleet as files define them, and print their ids."""
    definitions = [read_definition(file) for file in files]
    found = asyncio.run(apply_all(resolve_home(home), definitions))
    if as_json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    for job in found:
        words = f"{job['name']} {job['sha256'][:12]} {job['outcome']}"
        Console().print(words, highlight=False, markup=False)


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="Of the job.")],
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Start the cycle of a job and print its id."""
    route = f"/jobs/{checked_name(name)}/run"
    started = asyncio.run(control.post(resolve_home(home), "trainer", route))
    if as_json:
        sys.stdout.write(orjson.dumps(started, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    Console().print(f"{started['cycle_id']} {started['state']}", highlight=False, markup=False)


def read_definition(file: Path) -> dict[str, Any]:
    """Return the job that a file defines.

    Raises
    ------
    DataError
        If it is no JSON object with a name; the rest is the trainer's to judge.
    """
    definition = read_json(file)
    if not isinstance(definition.get("name"), str):
        raise DataError(f'{file} names no job: give it a "name"')
    checked_name(definition["name"])
    return definition


def checked_name(name: str) -> str:
    """Return the name of a job, which is part of an address.

    Raises
    ------
    DataError
        If it cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"{name!r} is no name of a job: use small letters, digits, - and _")
    return name


async def apply_all(home: FleetHome, definitions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Apply definitions one after another and return what each changed.

    Raises
    ------
    FleetError
        If the trainer does not run or refuses one; those before it are applied.
    """
    found = []
    for definition in definitions:
        body = {name: value for name, value in definition.items() if name != "name"}
        found.append(await control.put(home, "trainer", f"/jobs/{definition['name']}", body))
    return found
