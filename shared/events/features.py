"""Events published by features."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

from pydantic import model_validator

from shared.events.base import Event, Finite, Instant, Symbol, require_one_length

PairStatus = Literal["active", "closing_only"]


class FeatureRow(NamedTuple):
    """The features of one pair at the close, in the order of `feature_names`."""

    y: str
    x: str
    status: PairStatus
    close_y: float
    close_x: float
    values: tuple[float, ...]


class FeaturesComputed(Event):
    """Features of every followed pair whose two legs closed, as columns of one length.

    Attributes
    ----------
    roster_closes_at
        The screen whose roster was followed; `None` before the first one.
    y, x, status, close_y, close_x, values
        One entry for each pair; `values` in the order of `feature_names`.
    warming_up
        Pairs on the roster that lack bars for a full row, or a leg of this close.
    """

    version: Literal[2] = 2  # type: ignore[assignment]  # the first had an object for each pair

    timeframe: str
    roster_closes_at: Instant | None
    feature_names: tuple[str, ...]
    y: tuple[Symbol, ...]
    x: tuple[Symbol, ...]
    status: tuple[PairStatus, ...]
    close_y: tuple[Finite, ...]
    close_x: tuple[Finite, ...]
    values: tuple[tuple[Finite, ...], ...]
    warming_up: tuple[str, ...]

    @property
    def columns(self) -> dict[str, tuple[Any, ...]]:
        """The columns of the pairs by the names that a `FeatureRow` has for them."""
        return {name: getattr(self, name) for name in FeatureRow._fields}

    @property
    def rows(self) -> tuple[FeatureRow, ...]:
        """The columns pair by pair."""
        return tuple(map(FeatureRow._make, zip(*self.columns.values(), strict=True)))

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        require_one_length(self.columns)
        n_features = len(self.feature_names)
        for y, x, values in zip(self.y, self.x, self.values, strict=True):
            if len(values) != n_features:
                raise ValueError(f"{y}~{x} has {len(values)} values for {n_features} features")
        return self
