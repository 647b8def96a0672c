"""Host statistics over repeated runs, for tables."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from xinv.metrics import area
from xinv.numbers import require
from xinv.types import InputError


class Interval(NamedTuple):
    """A mean over seeds and its confidence interval mean ± half_width.

    Attributes:
      mean: mean of the seeds' values.
      half_width: half the interval's width; NaN with one seed, as the spread is unknown.
      level: confidence level, in (0,1).
      count: number of seeds, or of groups.
    """

    mean: float
    half_width: float
    level: float
    count: int

    @property
    def low(self) -> float:
        """Returns the interval's lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Returns the interval's upper end."""
        return self.mean + self.half_width


def mean_interval(
    values: Sequence[float],
    level: float = 0.90,
    group: np.ndarray | None = None,
) -> Interval:
    """Returns the mean of `values` with Student's t interval: t_{(1+level)/2, n−1} · s / √n.

    Args:
      values: one per seed, or per example.
      level: confidence, in (0,1).
      group: ids [N] of values that deviate together; n is then the number of groups, and s / √n the
        root of `area.variance`. None if all are independent.

    Raises:
      InputError: there is no value, or `level` is outside (0,1).
    """
    if not 0 < level < 1:
        raise InputError(
            f"confidence level {level} is not allowed: give a number between 0 and 1, both excluded"
        )
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise InputError("a mean needs at least one value, got none")
    # One seed, or group, has a mean, but no known spread
    count = values.size if group is None else len(np.unique(group))
    if count == 1:
        return Interval(float(values.mean()), math.nan, level, 1)
    # s has n − 1 degrees of freedom
    if group is None:
        error = values.std(ddof=1) / math.sqrt(count)
    else:
        error = math.sqrt(area.variance(values, group))
    half = student.ppf((1 + level) / 2, count - 1) * error
    return Interval(float(values.mean()), float(half), level, count)


def overlap(a: Interval, b: Interval) -> bool:
    """Tests if two intervals overlap; an unknown one (one seed) may lie anywhere, so it does."""
    return not (a.low > b.high or b.low > a.high)


def holm(p: Sequence[float]) -> np.ndarray:
    """Returns p-values [N] adjusted for N tests (Holm 1979), in the given order.

    Rejection at an adjusted value of at most α errs in any test with probability at most α,
    whatever the tests' dependence.

    Raises:
      InputError: a value is outside [0,1].
    """
    values = np.asarray(p, np.float64).ravel()
    for value in values:
        require(0 <= value <= 1, "p", float(value), "a p-value from 0 to 1")
    # The smallest counts N times, the next N − 1 times; none falls below an earlier one
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted
