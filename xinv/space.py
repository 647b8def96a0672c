"""Search spaces: the values that a factory's parameters may take in a search.

A factory states its space beside its parameters:

    @searched(stdev=Number(0.01, 1.0, log=True))
    def smoothgrad(stdev: float = 0.15, ...) -> Explainer: ...
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Number(NamedTuple):
    """A number from `low` to `high`, both included.

    Attributes:
      low, high: the ends.
      log: True draws its logarithm evenly.
      whole: True for an integer.
      scaled: True for the unit of the maps' standard deviation.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    scaled: bool = False


class Fixed(NamedTuple):
    """A number outside the search, in units of the maps' standard deviation."""

    value: float


class Choice(NamedTuple):
    """One of several values."""

    values: tuple[Any, ...]


Space = Mapping[str, Number | Choice | Fixed]
"""The search space of each searched parameter."""


def searched(
    **space: Number | Choice | Fixed,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator that states the search space of a factory's parameters."""

    def state(factory: Callable[..., Any]) -> Callable[..., Any]:
        # Fail at import: a misspelt name would never be searched
        unknown = set(space) - set(inspect.signature(factory).parameters)
        if unknown:
            raise TypeError(f"{factory.__name__} has no parameter {sorted(unknown)[0]!r} to search")
        # The space is an attribute of the factory: there is no registry
        factory.space = space
        return factory

    return state


def of(factory: Callable[..., Any]) -> Space:
    """Returns the search space of a factory; {} if it states none."""
    return getattr(factory, "space", {})
