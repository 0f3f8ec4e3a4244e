"""The JSON Schema of every event, for clients in other languages.

`python -m shared.events.schemas` writes them to `docs/schemas`, where they are committed; a
contract test compares them with the code, so that no event changes its shape unnoticed.
"""

from __future__ import annotations

import json
from pathlib import Path

from shared.events.base import Event
from shared.events.catalogue import TOPICS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schemas"


def schema_documents() -> dict[str, str]:
    """Return the schema of every event of the catalogue, by the name of its file."""
    events = {topic.event.__name__: topic.event for topic in TOPICS.values()}
    return {
        f"{name}.v{_version(event)}.json": _document(name, event) for name, event in events.items()
    }


def write_schemas(folder: Path) -> None:
    """Write every schema to a folder and remove those of events that are no more.

    Parameters
    ----------
    folder
        Made if missing; its other `*.json` files are removed.
    """
    documents = schema_documents()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        if path.name not in documents:
            path.unlink()
    for name, document in documents.items():
        (folder / name).write_text(document)


def _version(event: type[Event]) -> int:
    return int(event.model_fields["version"].default)


def _document(name: str, event: type[Event]) -> str:
    streams = [topic.name for topic in TOPICS.values() if topic.event is event]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **event.model_json_schema(),
        "title": name,
        "x-streams": streams,
    }
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    write_schemas(FOLDER)
