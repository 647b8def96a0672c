"""Checks that all attacks share: of options, and of observations beside their images."""

from collections.abc import Collection
from typing import Any

import numpy as np

from xinv.types import Array, InputError, Observation


def choice(kind: str, value: Any, allowed: Collection[str]) -> None:
    """InputError if `value` is not one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"unknown {kind} {value!r}: choose one of {', '.join(allowed)}")


def shapes(observation: Observation, truth: Any) -> None:
    """InputError unless there are predictions [N,K], and explanations [N,h,w,c] or none, of truth [N,H,W,C]."""
    explanation = () if observation.explanation is None else observation.explanation.shape
    known = {"predictions": (observation.prediction.shape, 2), "images": (truth.shape, 4)}
    known |= {"explanations": (explanation, 4)} if explanation else {}
    for name, (shape, axes) in known.items():
        if len(shape) != axes or shape[0] != truth.shape[0]:
            given = ", ".join(f"{name} {list(shape)}" for name, (shape, _) in known.items())
            raise InputError(f"{name} do not fit the others: give [N,K], [N,H,W,C] and [N,h,w,c], and not {given}")


def releases(observation: Observation, several: bool) -> None:
    """InputError unless there is one release, [N,K] and [N,h,w,c], or, if `several`, as many of both, [N,R,K] first."""
    prediction = observation.prediction.shape
    explanation = prediction if observation.explanation is None else observation.explanation.shape
    if len(prediction) < 3 and len(explanation) < 5:
        return
    if not several or len(prediction) != 3 or prediction[1:2] != explanation[1:2] or not prediction[1]:
        allowed = "as many of explanations as of predictions, at least one, [N,R,…]" if several else "one of each image"
        raise InputError(f"releases {list(prediction)} and {list(explanation)} are not allowed: give {allowed}")


def finite(prediction: Array) -> None:
    """InputError unless all of predictions [N,K] are finite."""
    values = np.asarray(prediction)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row, column, wrong = broken[0][0], broken[0][-1], values[tuple(broken[0])]
        raise InputError(f"prediction {row} of class {column} is {wrong}: probabilities must be finite")
