"""REST routes of features."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel

from services.features import store
from shared.access.guard import READ
from shared.database.engine import snapshot
from shared.rest import Limit, Since, Until, path_safe, refusals
from shared.service import ServedBy
from shared.sleeves.pairs.features import Pair

_NAMED_IN_REFUSAL = 50


class RecordedFeatures(BaseModel):
    """The features of one close.

    Attributes
    ----------
    roster_closes_at
        The screen that named the pair.
    """

    closes_at: datetime
    status: Literal["active", "closing_only"]
    roster_closes_at: datetime | None
    close_y: float
    close_x: float
    features: dict[str, float]


class PairFeatures(BaseModel):
    """The features of one pair, newest first."""

    pair: str
    y: str
    x: str
    rows: list[RecordedFeatures]


def features_routes() -> APIRouter:
    """Return the routes of features."""
    router = APIRouter()

    @router.get(
        "/features/{pair:path}",
        dependencies=[READ],
        summary="Features of a pair, newest first",
        responses=refusals(404),
    )
    async def pair_features(
        runtime: ServedBy,
        pair: Annotated[
            str,
            Path(
                max_length=100,
                description="`BTC-USDT~ETH-USDT`, or with slashes, encoded as %2F or not",
                examples=["BTC-USDT~ETH-USDT"],
            ),
        ],
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
    ) -> PairFeatures:
        """Return feature rows by their close; 404 names the pairs that have any."""
        async with snapshot(runtime.engine) as connection:
            known = await store.known_pairs(connection)
            y, x = _named(pair, known)
            rows = await store.find_features(
                connection, (y, x), since=since, until=until, limit=limit
            )
        return PairFeatures(
            pair=f"{y}~{x}",
            y=y,
            x=x,
            rows=[
                RecordedFeatures(
                    **row._mapping,
                    features=dict(zip(row.names, row.feature_values, strict=True)),
                )
                for row in rows
            ],
        )

    return router


def _named(name: str, known: Sequence[Pair]) -> Pair:
    """Return the pair of a name.

    Raises
    ------
    HTTPException
        404 with the known pairs, if none of them has the name.
    """
    names = {path_safe(f"{y}~{x}"): (y, x) for y, x in known}
    found = names.get(path_safe(name))
    if found is None:
        listed = ", ".join(list(names)[:_NAMED_IN_REFUSAL])
        more = len(names) - _NAMED_IN_REFUSAL
        raise HTTPException(
            404,
            f"no features of {name!r}: there are features of "
            + (listed or "no pair yet; the screener names pairs, then they take their warm-up")
            + (f" and {more} more" if more > 0 else ""),
        )
    return found
