"""Rows of named fields as columns, and columns as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def columns_of(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """Return the columns of rows, all of them empty where there is no row.

    Examples
    --------
    >>> columns_of(("y", "side"), [("A", 1), ("B", -1)])
    {'y': ('A', 'B'), 'side': (1, -1)}
    """
    columns = tuple(zip(*rows, strict=True)) or ((),) * len(names)
    return dict(zip(names, columns, strict=True))


def rows_of(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Return the rows of columns.

    Examples
    --------
    >>> list(rows_of({"y": ["A", "B"], "side": [1, -1]}))
    [{'y': 'A', 'side': 1}, {'y': 'B', 'side': -1}]
    """
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
