"""The JSON Schemas of the bus; run as a module it writes them to `docs/schemas/`."""

from __future__ import annotations

import json
from pathlib import Path

from shared.events.catalogue import TOPICS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schemas"


def schemas() -> dict[str, str]:
    """Return the JSON Schema of every event by file name."""
    events = {topic.event for topic in TOPICS.values()}
    return {
        f"{event.__name__}.v1.json": json.dumps(event.model_json_schema(), indent=2) + "\n"
        for event in sorted(events, key=lambda e: e.__name__)
    }


def write_schemas() -> None:
    """Write the schemas of the present code, for review and commit."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, document in schemas().items():
        (FOLDER / name).write_text(document)


if __name__ == "__main__":
    write_schemas()
