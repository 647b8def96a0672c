"""Trends of one quantity with another: a smooth curve with its confidence band, on the host."""

from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.stats import t as student

from xinv.types import Array, InputError

PENALTIES = np.logspace(-9, 3, 49)
"""λ on a unit range of x, from curves through every knot to straight lines."""


class Trend(NamedTuple):
    """A curve over `grid` [G], and the ends of its pointwise confidence band.

    Attributes:
      grid: from the smallest to the largest x, equally spaced.
      mean: the curve.
      low, high: the band's ends.
    """

    grid: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def fit(
    x: Array,
    y: Array,
    level: float = 0.90,
    points: int = 100,
    knots: int = 12,
) -> Trend:
    """Fits a cubic smoothing spline of `y` against `x`, as in Figure 6 of Zhao 2021.

    The natural cubic spline f minimises mean (y − f(x))² + λ ∫ f''², with x on a unit range and λ
    by generalised cross-validation (Wahba 1990). The band is Wahba's (1983):
    f ± t σ̂ √diag(B (BᵀB + nλΩ)⁻¹ Bᵀ). It takes the points as independent and equally noisy. Two
    different x, such as right and wrong, give the line through the two means.

    Args:
      x, y: one number per example, [N].
      level: the band's confidence at each point, in (0,1).
      points: number of points on the grid.
      knots: equally spaced; or the different x, if they are no more.

    Returns:
      The curve and its band.

    Raises:
      InputError: arrays differ in shape or are not finite, there are fewer than three examples, x
        is constant, or the level is outside (0,1).
    """
    x, y = _checked(x, y, level)
    # A basis of natural splines on a unit range, one function per knot
    place = (x - x.min()) / np.ptp(x)
    unit = np.linspace(0, 1, points)
    at = np.unique(place)
    at = at if len(at) <= knots else np.linspace(0, 1, knots)
    basis = CubicSpline(at, np.eye(len(at)), bc_type="natural")
    B = basis(place)
    roughness = _roughness(basis, at)

    # Fit with every λ at once, inverses [L,K,K], and choose by generalised cross-validation
    n = len(x)
    gram = B.T @ B
    moments = B.T @ y
    inverses = np.linalg.inv(gram + n * PENALTIES[:, None, None] * roughness)
    free = n - np.trace(inverses @ gram, axis1=1, axis2=2)
    errors = np.square(y - inverses @ moments @ B.T).sum(axis=1)
    best = np.argmin(errors / free**2)

    # Wahba's band, with the residual variance on the remaining degrees of freedom
    curve = basis(unit)
    mean = curve @ inverses[best] @ moments
    deviation = np.sqrt(
        errors[best] / free[best] * np.einsum("gk,kl,gl->g", curve, inverses[best], curve)
    )
    half = student.ppf((1 + level) / 2, free[best]) * deviation
    return Trend(x.min() + np.ptp(x) * unit, mean, mean - half, mean + half)


def _roughness(basis: CubicSpline, at: np.ndarray) -> np.ndarray:
    """Returns Ω [K,K] with ∫ f''² = βᵀΩβ; Simpson's rule is exact, as f'' is linear in pieces."""
    # Second derivatives at both ends and the middle of each piece
    step = np.diff(at)[:, None, None]
    squares = []
    for place in (at[:-1], (at[:-1] + at[1:]) / 2, at[1:]):
        bend = basis(place, 2)
        squares.append(np.einsum("ik,il->ikl", bend, bend))
    left, middle, right = squares
    return (step / 6 * (left + 4 * middle + right)).sum(axis=0)


def _checked(x: Array, y: Array, level: float) -> tuple[np.ndarray, np.ndarray]:
    # Refuse data without a curve
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise InputError(
            f"a trend of arrays of shapes {x.shape} and {y.shape} is not defined: give two of [N],"
            " N ≥ 3"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("a trend needs finite numbers, got NaN or infinity")
    if np.ptp(x) == 0:
        raise InputError(f"a trend against a constant is not defined: every x is {x[0]}")
    if not 0 < level < 1:
        raise InputError(
            f"confidence level {level} is not allowed: give a number between 0 and 1, both excluded"
        )
    return x, y
