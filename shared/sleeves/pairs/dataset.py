"""The training set of the sleeve: labelled feature rows of every pair, pooled by time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.quant.sample_weights import average_uniqueness
from shared.quant.typing import Float1D, Float2D, Int1D
from shared.sleeves.pairs.features import FeatureSettings, Pair, SpreadSpace, pair_features
from shared.sleeves.pairs.following import JoinedHistory
from shared.sleeves.pairs.labels import LabelSettings, make_labels


@dataclass(frozen=True, slots=True)
class PairRows:
    """Recorded feature rows of one pair, ascending in time.

    Attributes
    ----------
    features
        Shape (n, k).
    close_y, close_x, closes_at_ms
        Shape (n,).
    """

    y: str
    x: str
    features: Float2D
    close_y: Float1D
    close_x: Float1D
    closes_at_ms: Int1D


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled samples in order of the bar their label starts at.

    Attributes
    ----------
    features
        Shape (n, k), columns named by `feature_names`.
    labels
        Shape (n,), 0 or 1.
    starts, ends
        Shape (n,): bar numbers that each label spans.
    weights
        Shape (n,): how much each label tells that others of its pair do not, within (0, 1].
        A function of the spans, so no part of the dataset's id.
    """

    feature_names: tuple[str, ...]
    features: Float2D
    labels: Int1D
    starts: Int1D
    ends: Int1D
    weights: Float1D

    @property
    def dataset_id(self) -> str:
        """The sha256 over names and values: the same rows are the same dataset."""
        total = hashlib.sha256("\n".join(self.feature_names).encode())
        for column in (self.features, self.labels, self.starts, self.ends):
            total.update(np.ascontiguousarray(column).tobytes())
        return total.hexdigest()


def rows_from_history(
    pair: Pair,
    closes_at_ms: Int1D,
    history: JoinedHistory,
    settings: FeatureSettings,
    *,
    after_ms: int,
) -> PairRows:
    """Compute the rows of a pair from its bars, as they would have been recorded.

    Parameters
    ----------
    pair, closes_at_ms, history
        The pair and its joined bars.
    settings
        Windows of the features.
    after_ms
        Rows up to here are left out; their bars warm the windows up.
    """
    features = pair_features(
        history.close_y, history.close_x, history.volume_y, history.volume_x, settings
    )
    is_row = np.isfinite(features[:, 0]) & (closes_at_ms > after_ms)
    return PairRows(
        *pair,
        features[is_row],
        history.close_y[is_row],
        history.close_x[is_row],
        closes_at_ms[is_row],
    )


def make_dataset(
    pairs: Sequence[PairRows],
    feature_names: tuple[str, ...],
    *,
    bar_ms: int,
    spread_space: SpreadSpace,
    settings: LabelSettings,
) -> Dataset:
    """Label and pool the rows of several pairs.

    Parameters
    ----------
    pairs
        Rows by pair.
    feature_names
        Names of their columns.
    bar_ms
        Length of the trade timeframe's bar.
    spread_space, settings
        Of the labels.

    Returns
    -------
    Dataset
        Ties in time are ordered by the names of the pair.
    """
    features, labels, starts, ends, weights = [], [], [], [], []
    for rows in sorted(pairs, key=lambda p: (p.y, p.x)):
        found = make_labels(
            rows.features,
            feature_names,
            rows.close_y,
            rows.close_x,
            rows.closes_at_ms,
            bar_ms=bar_ms,
            spread_space=spread_space,
            settings=settings,
        )
        features.append(rows.features[found.rows])
        labels.append(found.label)
        starts.append(rows.closes_at_ms[found.rows] // bar_ms)
        ends.append(rows.closes_at_ms[found.end] // bar_ms)
        weights.append(average_uniqueness(starts[-1], ends[-1]))
    if not features:
        nothing = np.empty(0, dtype=np.int64)
        no_features = np.empty((0, len(feature_names)))
        return Dataset(feature_names, no_features, nothing, nothing, nothing, np.empty(0))
    start = np.concatenate(starts)
    order = np.argsort(start, kind="stable")
    return Dataset(
        feature_names,
        np.concatenate(features)[order],
        np.concatenate(labels)[order],
        start[order],
        np.concatenate(ends)[order],
        np.concatenate(weights)[order],
    )
