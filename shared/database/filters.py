"""Conditions under which recorded rows are read back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, func


def within(
    column: ColumnElement[datetime], since: datetime | None, until: datetime | None
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions for an instant in [since, until); an open end is `None`."""
    if since is not None:
        yield column >= since
    if until is not None:
        yield column < until


def of_pair(pair: ColumnElement[str], name: str | None) -> Iterator[ColumnElement[bool]]:
    """Yield the condition for a pair, its name written with slashes or without.

    Parameters
    ----------
    pair
        The key `y~x` of a row.
    name
        Such as `BTC/USDT~ETH/USDT` or `BTC-USDT~ETH-USDT`; every pair when `None`.
    """
    if name is not None:
        yield func.replace(pair, "/", "-") == name.replace("/", "-")
