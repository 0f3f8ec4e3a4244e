"""Whether spreads that came home have begun to wander: the likelihood ratio of two processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.quant.typing import Float1D


@dataclass(frozen=True, slots=True)
class ReversionSums:
    """What the steps of spreads say of the speed at which they come home.

    Attributes
    ----------
    n_steps
        Steps of one bar, of all stretches.
    pull, room
        Sums over the steps of distance times step, and of distance squared, each over the
        variance of the steps of its stretch.
    """

    n_steps: int
    pull: float
    room: float

    @property
    def speed(self) -> float:
        """Share of the distance that is made good in a bar; not positive where it grows."""
        return -self.pull / self.room if self.room > 0.0 else 0.0


def reversion_sums(stretches: Iterable[tuple[Float1D, Float1D]]) -> ReversionSums:
    """Pool stretches of spreads, each of which is held to a mean that is known before it.

    Parameters
    ----------
    stretches : iterable of (ndarray of float64, ndarray of float64), each of shape (n,)
        Distance from the mean before each step, and the step. The scale of a stretch does not
        matter. One that stands still says nothing.

    Returns
    -------
    ReversionSums
        Of all stretches together.
    """
    n_steps, pull, room = 0, 0.0, 0.0
    for distance, step in stretches:
        variance = float(step @ step) / max(len(step), 1)
        if variance > 0.0:
            n_steps += len(step)
            pull += float(distance @ step) / variance
            room += float(distance @ distance) / variance
    return ReversionSums(n_steps, pull, room)


def walk_log_odds(found: ReversionSums, speed: float) -> float:
    """Return how much likelier steps are if spreads wander than if they still come home.

    Parameters
    ----------
    found
        Of the steps in question.
    speed
        At which they came home before, positive.

    Returns
    -------
    float
        Natural logarithm of the ratio of the likelihoods.

    Notes
    -----
    Coming home is the discrete Ornstein-Uhlenbeck process dx_t = -k x_(t-1) + u_t with speed k,
    wandering is dx_t = u_t, with normal u_t of variance s^2 in both. The logarithm of the ratio
    is sum ((dx + k x)^2 - dx^2) / (2 s^2) = k pull + k^2 room / 2.

    While spreads come home with speed k, the ratio exceeds c with a probability of at most 1 / c
    (Markov's inequality, for its expectation is one). A spread that wanders goes ever further
    from its mean, so that `room`, and the logarithm with it, grows with the square of time.

    References
    ----------
    Wald, A. (1945), "Sequential tests of statistical hypotheses", Annals of Mathematical
    Statistics 16, 117-186.

    Examples
    --------
    >>> import numpy as np
    >>> home = np.array([0.5**t for t in range(20)])
    >>> found = reversion_sums([(home[:-1], np.diff(home))])
    >>> found.speed, walk_log_odds(found, 0.5) < -9.0
    (0.5, True)
    """
    return speed * found.pull + 0.5 * speed**2 * found.room
