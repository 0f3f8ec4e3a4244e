"""How far the features of today have moved from those a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D, Float2D

_SMOOTHING = 0.5
"""Added to the count of every bin: an empty one would make the divergences infinite."""


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """How one feature has moved.

    Attributes
    ----------
    name
        The feature.
    stability_index
        Population stability index (PSI): below 0.1 is held to be no drift, above 0.25 a clear
        one.
    divergence
        Kullback-Leibler divergence (KL) of today's distribution from that of training, in nats.
    ks_statistic, ks_p_value
        Largest distance of the two distribution functions, and the probability of as much
        without drift, were samples independent.
    """

    name: str
    stability_index: float
    divergence: float
    ks_statistic: float
    ks_p_value: float


def feature_drift(
    training: Float2D, present: Float2D, names: Sequence[str], *, n_bins: int = 10
) -> tuple[FeatureDrift, ...]:
    """Measure the drift of every feature.

    Parameters
    ----------
    training : ndarray of float64, shape (n, k)
        Features that the model was trained on.
    present : ndarray of float64, shape (m, k)
        Features of late.
    names
        Names of the k features.
    n_bins
        Bins of equally many training samples. A value at which two of them meet is a bin of
        its own, so that a flag, or any value that repeats, is not mixed with its neighbours.

    Returns
    -------
    tuple of FeatureDrift
        In the order of the names.

    Raises
    ------
    DataError
        If the shapes do not fit, there are fewer samples than bins, fewer than two bins or a
        value is not finite.

    Notes
    -----
    With p and q the shares of training and present samples in the bins, PSI is
    sum (q - p) ln(q / p) and KL is sum q ln(q / p). Without drift PSI is about
    (n_bins - 1) (1/n + 1/m) for independent samples. Rows of consecutive bars are alike, so
    p-values are far too small: compare statistics with those of earlier periods.

    References
    ----------
    Yurdakul, B. (2018), "Statistical properties of population stability index", dissertation,
    Western Michigan University, chapter 3.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> training, present = rng.normal(size=(1000, 2)), rng.normal([0, 2], 1, (500, 2))
    >>> [drift.stability_index > 0.25 for drift in feature_drift(training, present, ["a", "b"])]
    [False, True]
    """
    # Importing scipy.stats takes half a second, which services without a model need not pay.
    from scipy.stats import ks_2samp

    _require_sound(training, present, names, n_bins)
    drifts = []
    for column, name in enumerate(names):
        before, now = training[:, column], present[:, column]
        edges = np.unique(np.quantile(before, np.arange(1, n_bins) / n_bins))
        expected, found = _shares(before, now, edges)
        log_ratio = np.log(found / expected)
        test = ks_2samp(before, now, method="asymp")
        drifts.append(
            FeatureDrift(
                name,
                stability_index=float(((found - expected) * log_ratio).sum()),
                divergence=float((found * log_ratio).sum()),
                ks_statistic=float(test.statistic),
                ks_p_value=float(test.pvalue),
            )
        )
    return tuple(drifts)


def _shares(before: Float1D, now: Float1D, edges: Float1D) -> tuple[Float1D, Float1D]:
    """Return the share of either sample in every bin that holds any of them."""
    counts = np.zeros((2, 2 * len(edges) + 1))
    for sample, values in enumerate((before, now)):
        # Even bins lie between two edges, odd ones are the edges themselves.
        bin_of = np.searchsorted(edges, values) + np.searchsorted(edges, values, side="right")
        counts[sample] = np.bincount(bin_of, minlength=counts.shape[1])
    held = counts[:, counts.any(axis=0)] + _SMOOTHING
    expected, found = held / held.sum(axis=1, keepdims=True)
    return expected, found


def _require_sound(training: Float2D, present: Float2D, names: Sequence[str], n_bins: int) -> None:
    if (
        training.ndim != 2
        or present.ndim != 2
        or not (training.shape[1] == present.shape[1] == len(names))
    ):
        raise DataError(
            f"features of shapes {training.shape} and {present.shape} with {len(names)} names: "
            "give the same named columns twice"
        )
    if n_bins < 2 or len(training) < n_bins or len(present) < n_bins:
        raise DataError(
            f"{len(training)} and {len(present)} samples in {n_bins} bins: give at least two bins "
            "and as many samples on both sides"
        )
    for values, what in ((training, "training"), (present, "present")):
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise DataError(
                f"{what} feature {names[column]} of row {row} is {values[row, column]}: drop "
                "rows of bars in warm-up"
            )
