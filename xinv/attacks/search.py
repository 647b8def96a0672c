"""Random search on a logarithmic scale: coarse, then fine around the best (Thielen 2024, 5.1)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv.numbers import is_count
from xinv.types import InputError, Key

FINE = (0.5, 1.5)
"""The fine ranges, as factors of the best coarse values."""


class Trials(NamedTuple):
    """All trials of a search, in order, the coarse ones first.

    Attributes:
      values: float32 [T, P], one column per parameter.
      scores: float32 [T], higher is better.
    """

    values: np.ndarray
    scores: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """Returns the values of the highest score, float32 [P]."""
        return self.values[self.scores.argmax()]


def log_uniform_search(
    key: Key,
    score: Callable[..., float],
    ranges: tuple[tuple[float, float], ...],
    coarse: int = 20,
    fine: int = 10,
) -> Trials:
    """Tries `coarse` log-uniform points, then `fine` in 0.5 to 1.5 times the best of them.

    Args:
      key: of the draws.
      score: called with one float32 per parameter; higher is better.
      ranges: lowest and highest value of each parameter, above 0.
      coarse: number of coarse trials, at least 1.
      fine: number of fine trials.

    Returns:
      All trials.

    Raises:
      InputError: a range is empty or not above 0, or there is no coarse trial.
    """
    # A logarithm needs values above 0
    for low, high in ranges:
        if not 0 < low <= high:
            raise InputError(
                f"search range {(low, high)} is not allowed: give 0 < lowest <= highest"
            )
    check_trials((coarse, fine))
    # The coarse trials fix the ranges of the fine ones
    coarse_key, fine_key = jax.random.split(key)
    first = _try(score, _draw(coarse_key, np.array(ranges), coarse))
    second = _try(score, _draw(fine_key, np.outer(first.best, FINE), fine))
    return Trials(*map(np.concatenate, zip(first, second, strict=True)))


def check_trials(trials: Any) -> None:
    """Raises InputError unless these are two numbers of trials, at least one of them coarse."""
    pair = isinstance(trials, tuple) and len(trials) == 2
    if not (pair and is_count(trials[0], 1) and is_count(trials[1], 0)):
        raise InputError(
            f"search {trials!r} is not allowed: give numbers of coarse and fine trials, at least"
            " (1, 0)"
        )


def _draw(key: Key, ranges: np.ndarray, count: int) -> np.ndarray:
    """Draws float32 [count, P], log-uniform in the ranges [P, 2]."""
    # Uniform in the logarithm, in float64 until the end
    low, high = np.log(ranges).T
    share = np.asarray(jax.random.uniform(key, (count, len(ranges))), np.float64)
    return np.exp(low + share * (high - low)).astype(np.float32)


def _try(score: Callable[..., float], values: np.ndarray) -> Trials:
    return Trials(values, np.array([score(*point) for point in values], np.float32))
