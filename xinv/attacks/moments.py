"""Mean and variance of signals over shadow models, also over few of a kind."""

from typing import NamedTuple

import numpy as np

VARIANCES = ("shrunk", "shared", "own")
_VARIANCE_FLOOR = 1e-12


class Moments(NamedTuple):
    """Mean and variance of the signals of each example.

    Attributes:
      mean: float64 [N,T].
      variance: float64 [N,T], above 0.
    """

    mean: np.ndarray
    variance: np.ndarray


def moments(values: np.ndarray, chosen: np.ndarray, rule: str) -> Moments:
    """Returns the moments of signals [N,S,T] over the shadow models `chosen` [N,S].

    Args:
      values: the signals.
      chosen: bool, the models of one kind; an example without any has the mean 0.
      rule: one of `VARIANCES`, see `likelihood_ratio`.
    """
    # Sums over the chosen models only; an example may have none
    chosen = chosen[:, :, None]
    count = chosen.sum(axis=1)
    mean = np.where(chosen, values, 0).sum(axis=1) / np.maximum(count, 1)
    squares = np.where(chosen, np.square(values - mean[:, None]), 0).sum(axis=1)

    # Each example's own variance s², and the shared one s0²
    freedom = count - 1.0 * (count > 0)
    own = squares / np.maximum(freedom, 1)
    if freedom.any():
        shared = squares.sum(axis=0) / freedom.sum()
    else:
        shared = np.var(values, axis=(0, 1), where=chosen)

    # The weight of s²: d / (ν0 + d)
    if rule == "own":
        weight = 1.0 * (freedom > 0)
    elif rule == "shared":
        weight = 0.0 * freedom
    else:
        prior = prior_freedom(own, freedom, shared)
        weight = freedom / (prior + freedom)
    variance = weight * own + (1 - weight) * shared
    return Moments(mean, np.maximum(variance, _VARIANCE_FLOOR))


def prior_freedom(
    own: np.ndarray,
    freedom: np.ndarray,
    shared: np.ndarray,
) -> np.ndarray:
    """Returns ν0 [T], the degrees of freedom of the shared variance as a prior.

    True variances σ² scatter about s0² with a squared coefficient of variation C. Since
    E[s⁴] = (1 + 2/d) E[σ⁴] for normal signals, 1 + C is the mean of s⁴ / (1 + 2/d) over examples,
    weighted by d, as a multiple of s0⁴. The best linear estimate of σ² has ν0 = 2 (1 + C) / C
    (Bühlmann's credibility); ν0 is infinite if C ≤ 0.

    Args:
      own: s² [N,T].
      freedom: d [N,1].
      shared: s0² [T].
    """
    # 1 + C is the mean of the corrected fourth moments, relative to s0⁴
    fourth = np.square(own) / (1 + 2 / np.maximum(freedom, 1))
    mean = (freedom * fourth).sum(axis=0) / max(1, freedom.sum())
    excess = mean / np.square(np.maximum(shared, _VARIANCE_FLOOR)) - 1
    # Without scatter beyond chance, all examples share one variance
    scattered = excess > 0
    return np.where(
        scattered,
        2 * (1 + excess) / np.where(scattered, excess, 1),
        np.inf,
    )
