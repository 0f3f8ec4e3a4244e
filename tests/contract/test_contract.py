"""What the contract's page names exists, and every line of it is shown or called missing."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import typer
from fastapi import FastAPI

from cli.main import app as command_line

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "contract.md").read_text()
ROWS = re.findall(r"^\| (?!asked for|---)(.+?) \| (.+) \|$", PAGE, re.MULTILINE)


def options_by_command() -> dict[str, set[str]]:
    """Return the options of every command, by its words."""
    found: dict[str, set[str]] = {}

    def visit(command: object, words: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children is not None:
            for name, child in children.items():
                visit(child, (*words, name))
            return
        parameters = getattr(command, "params", ())
        found[" ".join(words)] = {
            option for each in parameters for option in (*each.opts, *each.secondary_opts)
        }

    visit(typer.main.get_command(command_line), ())
    return found


def named_commands() -> list[tuple[str, list[str]]]:
    """Return the words and the options of every command that is named."""
    known = options_by_command()
    found = []
    for text in re.findall(r"`mnt ([^`]+)`", PAGE):
        words = text.split()
        fitting = [name for name in known if words[: len(name.split())] == name.split()]
        found.append((max(fitting, key=len, default=f"no command: mnt {text}"),
                      [word for word in words if word.startswith("--")]))  # fmt: skip
    return found


def test_every_command_exists_with_the_options_that_are_named() -> None:
    known = options_by_command()
    named = named_commands()
    assert len(named) > 40
    assert [name for name, _ in named if name not in known] == []
    assert [(n, o) for n, options in named for o in options if o not in known[n]] == []


def test_every_line_names_something_that_can_be_run_or_says_what_is_missing() -> None:
    shows = re.compile(r"`mnt |`tests/|`make |\*\*missing\*\*|\*\*partly\*\*|left out: ")
    assert len(ROWS) > 90
    assert [asked for asked, shown in ROWS if not shows.search(shown)] == []


def test_every_file_that_is_named_exists() -> None:
    shown = " ".join(text for _, text in ROWS)
    named = set(re.findall(r"`((?:tests|docs)/[\w/]+\.\w+|\.[\w.-]+)`", shown))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []


def test_every_view_that_is_named_is_made() -> None:
    named = set(re.findall(r"`((?:bronze|silver|gold|prices)_\w+)`", PAGE))
    migration = PROJECT / "shared/database/migrations/versions/0009_bronze_silver_and_gold.py"
    text = migration.read_text().replace("{timeframe}", "1h") + migration.read_text().replace(
        "{timeframe}", "5m"
    )
    assert len(named) == 8
    assert {name for name in named if f"CREATE VIEW {name} " not in text} == set()


@pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)
def test_every_route_that_is_named_is_the_trainers() -> None:
    app: FastAPI = importlib.import_module("services.trainer.main").create_app()
    known = {
        f"{method.upper()} {path}" for path, of in app.openapi()["paths"].items() for method in of
    }
    shown = " ".join(text for _, text in ROWS)
    named = set(re.findall(r"`((?:GET|POST) /[\w/{}]+)`", shown))
    assert named
    assert named <= known
