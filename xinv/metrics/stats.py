"""Host statistics over repeated runs: what a table states beside a mean."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from xinv.types import InputError


class Interval(NamedTuple):
    """A mean over seeds and its confidence interval mean ± half_width.

    Attributes:
      mean: mean of the seeds' values.
      half_width: half the interval's width; NaN with one seed, which says nothing about the spread.
      level: confidence level, in (0,1).
      count: number of seeds.
    """

    mean: float
    half_width: float
    level: float
    count: int

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.mean + self.half_width


def mean_interval(values: Sequence[float], level: float = 0.90) -> Interval:
    """Mean of `values`, one per seed, with Student's t interval: t_{(1+level)/2, n−1} · s / √n.

    Raises:
      InputError: there is no value, or `level` is outside (0,1).
    """
    if not 0 < level < 1:
        raise InputError(f"confidence level {level} is not allowed: give a number between 0 and 1, both excluded")
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise InputError("a mean needs at least one value, got none")
    if values.size == 1:
        return Interval(float(values[0]), math.nan, level, 1)
    half = student.ppf((1 + level) / 2, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size)
    return Interval(float(values.mean()), float(half), level, values.size)


def overlap(a: Interval, b: Interval) -> bool:
    """Tells if two intervals overlap; an unknown interval (one seed) may lie anywhere, so it does."""
    return not (a.low > b.high or b.low > a.high)
