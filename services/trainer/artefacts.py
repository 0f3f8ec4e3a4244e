"""The registry as files: what models there are, and which one trades."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

MOST_MODELS = 1_000
"""Of the newest ones; `GET /models` of the trainer has all."""


def write(folder: Path, rows: Sequence[Any]) -> None:
    """Write `registry.json` and `production_map.json`.

    Parameters
    ----------
    folder
        Where to; made if absent.
    rows
        Models with their stages, as `store.list_models` returns them.

    Notes
    -----
    For people and other tools: the record decides, and nothing reads these files. Each is
    replaced as a whole, so that no reader sees half of one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    registry = [dict(row._mapping) for row in rows]
    holders = {
        stage: next((_holder(each) for each in registry if each["stage"] == stage), None)
        for stage in ("champion", "shadow", "challenger")
    }
    documents: dict[str, Any] = {
        "registry.json": {"models": registry},
        "production_map.json": {"pairs": holders},
    }
    for name, document in documents.items():
        whole = folder / f".{name}.new"
        whole.write_bytes(
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS, default=str)
        )
        whole.replace(folder / name)


def _holder(model: dict[str, Any]) -> dict[str, Any]:
    last = model["promotions"][-1]
    return {
        "sha256": model["sha256"],
        "version": model["model_version"],
        "family": model["family"],
        "since": last["from"],
        "reason": last["reason"],
        "decided_by": last["decided_by"],
        "is_override": last["override"],
        "gates": last["gates"],
    }
