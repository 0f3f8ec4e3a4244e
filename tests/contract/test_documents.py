"""What the documents name exists, and what should be in them is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(PROJECT).as_posix()
    for path in (PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md"))
)

each_document = pytest.mark.parametrize("document", DOCUMENTS)


def text_of(document: str) -> str:
    return (PROJECT / document).read_text()


def registered_metrics() -> dict[str, str]:
    """Return the type of every metric of ours that a service registers when it is imported."""
    for main in PROJECT.glob("services/*/main.py"):
        importlib.import_module(f"services.{main.parent.name}.main")
    return {
        metric.name + ("_total" if metric.type == "counter" else ""): metric.type
        for metric in REGISTRY.collect()
        if metric.name.startswith("mnt_")
    }


def test_every_metric_is_in_the_catalogue_with_its_type_and_healthy_value() -> None:
    rows = re.findall(
        r"^\| `(mnt_\w+)` \| (\w+)[^|]* \| [^|]+ \| ([^|]*\S) \|$",
        text_of("docs/metrics.md"),
        re.MULTILINE,
    )
    assert len({name for name, _, _ in rows}) == len(rows)
    assert {name: kind for name, kind, _ in rows} == registered_metrics()


@each_document
def test_a_test_that_a_document_names_exists(document: str) -> None:
    named = re.findall(r"tests/[\w/]+\.py", text_of(document))
    assert [name for name in named if not (PROJECT / name).is_file()] == []


@each_document
def test_a_document_that_another_links_to_exists(document: str) -> None:
    targets = re.findall(r"\]\((?!\w+:|#)([^)#]+)(?:#[^)]*)?\)", text_of(document))
    folder = (PROJECT / document).parent
    assert [target for target in targets if not (folder / target).exists()] == []


@each_document
def test_a_decision_that_a_document_refers_to_is_recorded(document: str) -> None:
    numbers = re.findall(r"\bADR (\d+)", text_of(document))
    recorded = {int(path.name[:4]) for path in (PROJECT / "docs/adr").glob("*.md")}
    assert {int(number) for number in numbers} <= recorded


def test_every_decision_has_a_number_of_its_own() -> None:
    files = sorted((PROJECT / "docs/adr").glob("*.md"))
    numbers = [int(path.name[:4]) for path in files]
    assert len(set(numbers)) == len(numbers)
    titled = [int(path.read_text().removeprefix("# ").split(".", 1)[0]) for path in files]
    assert titled == numbers
