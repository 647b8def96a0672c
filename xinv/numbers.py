"""Checks of numbers in a person's input: no text, no booleans, nothing infinite."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from xinv.types import InputError

HALF_ROUNDING = 1e-3
"""By so much may probabilities that were computed in half precision leave [0,1]."""


def described(value: Any) -> str:
    """Returns a short form of a bad value: an array's type and shape, or its first characters."""
    # An array's values would fill the screen
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        return f"{value.dtype} {list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_count(value: Any, least: int) -> bool:
    """Tests if `value` is a whole number of at least `least`."""
    # Python counts True as the integer 1; here it is none
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Tests if `value` is a finite number."""
    # Text and booleans convert to numbers, but were not meant as such
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return isinstance(value, int) or math.isfinite(value)


def is_one_of(value: Any, names: Collection[str]) -> bool:
    """Tests if `value` is one of these names."""
    return isinstance(value, str) and value in names


def optional(
    name: str,
    value: Any,
    default: Any,
    reader: str,
    is_read: bool,
) -> Any:
    """Returns the value of an option with `reader` as its only reader; None gives its default.

    Raises:
      InputError: it was given, but is not read.
    """
    if value is None:
        return default
    # An ignored option would mislead its author
    if not is_read:
        raise InputError(f"{name} is {described(value)} but {reader} alone reads it: leave it out")
    return value


def require(holds: bool, name: str, value: Any, allowed: str) -> None:
    """Raises InputError, with the allowed values, unless `holds`."""
    if not holds:
        raise InputError(f"{name} is {described(value)} but must be {allowed}")


def require_positive(**values: float) -> None:
    """Raises InputError for the first value other than a positive, finite number."""
    for name, value in values.items():
        require(is_number(value) and value > 0, name, value, "positive and finite")


def require_not_negative(**values: float) -> None:
    """Raises InputError for the first value other than a finite number of at least 0."""
    for name, value in values.items():
        require(
            is_number(value) and value >= 0,
            name,
            value,
            "finite and at least 0",
        )


def require_count(least: int = 1, **values: int) -> None:
    """Raises InputError for the first value other than a whole number of at least `least`."""
    for name, value in values.items():
        require(
            is_count(value, least),
            name,
            value,
            f"a whole number of at least {least}",
        )


def require_flag(**values: bool) -> None:
    """Raises InputError for the first value other than True and False."""
    for name, value in values.items():
        require(isinstance(value, bool), name, value, "True or False")
