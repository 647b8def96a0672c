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
    """InputError unless there are predictions [N,K], and explanations [N,h,w,c] or none, of truth
    [N,H,W,C].
    """
    if observation.explanation is None:
        explanation = ()
    else:
        explanation = observation.explanation.shape
    known = {"predictions": (observation.prediction.shape, 2), "images": (truth.shape, 4)}
    known |= {"explanations": (explanation, 4)} if explanation else {}
    for name, (shape, axes) in known.items():
        if len(shape) != axes or shape[0] != truth.shape[0]:
            given = ", ".join(f"{name} {list(shape)}" for name, (shape, _) in known.items())
            raise InputError(
                f"{name} do not fit the others: give [N,K], [N,H,W,C] and [N,h,w,c], and not"
                f" {given}"
            )


def releases(observation: Observation, several: bool) -> None:
    """InputError unless there is one release, [N,K] and [N,h,w,c], or, if `several`, as many of
    both, [N,R,K] first.
    """
    prediction = observation.prediction.shape
    if observation.explanation is None:
        explanation = prediction
    else:
        explanation = observation.explanation.shape
    if len(prediction) < 3 and len(explanation) < 5:
        return
    if (
        not several
        or len(prediction) != 3
        or prediction[1:2] != explanation[1:2]
        or not prediction[1]
    ):
        if several:
            allowed = "as many of explanations as of predictions, at least one, [N,R,…]"
        else:
            allowed = "one of each image"
        raise InputError(
            f"releases {list(prediction)} and {list(explanation)} are not allowed: give {allowed}"
        )


def finite(prediction: Array) -> None:
    """InputError unless all of predictions [N,K] are finite."""
    values = np.asarray(prediction)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row = broken[0][0]
        column = broken[0][-1]
        wrong = values[tuple(broken[0])]
        raise InputError(
            f"prediction {row} of class {column} is {wrong}: probabilities must be finite"
        )


def members(truth: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns who is a member, as bool; InputError unless `truth` is 0 and 1 and of this shape."""
    member = np.asarray(truth)
    if member.shape != shape:
        given = list(member.shape)
        raise InputError(f"truth has shape {given} but must be {list(shape)}, as observed")
    if not np.isin(member, (0, 1)).all():
        raise InputError("truth has other values than 0 and 1: it says who is a member")
    return member.astype(bool)


def predictions(attack: str, observation: Observation, label: Any) -> None:
    """InputError unless there are predictions [N,K] and labels [N]."""
    _classes(attack, observation.prediction.shape, label, "[N,K]")


def population(attack: str, given: Any, shape: tuple[int, ...]) -> None:
    """InputError unless public examples have predictions [P,...] of this shape, and labels [P]."""
    if given is None:
        raise InputError(f"{attack} compares with public examples: give a population")
    public = tuple(given.prediction.shape)
    labels = tuple(given.label.shape)
    if public[1:] != tuple(shape) or labels != public[:1] or not public[0]:
        wanted = f"[P,{','.join(map(str, shape))}] and labels [P]"
        raise InputError(
            f"{attack} reads predictions {wanted} of public examples, and not {list(public)} and"
            f" {list(labels)}"
        )


def explanations(attack: str, observation: Observation) -> None:
    """InputError unless there are explanations [N,h,w,c]."""
    _explained(attack, observation)
    shape = observation.explanation.shape
    if len(shape) != 4:
        raise InputError(f"{attack} reads explanations [N,h,w,c], and not {list(shape)}")


def shadow_predictions(
    attack: str,
    observation: Observation,
    label: Any,
    least: int,
) -> None:
    """InputError unless there are predictions [N,S,K] of S models, and labels [N]."""
    shape = observation.prediction.shape
    _classes(attack, shape, label, "[N,S,K]")
    _shadows(attack, shape[1], least)


def shadow_statistics(
    attack: str,
    observation: Observation,
    count: int,
    least: int,
) -> None:
    """InputError unless there are `count` statistics of maps [N,S,1,1,T] of S models."""
    _explained(attack, observation)
    shape = observation.explanation.shape
    if len(shape) != 5 or tuple(shape[2:]) != (1, 1, count):
        wanted = f"[N,S,1,1,{count}]"
        raise InputError(f"{attack} reads statistics {wanted} of maps, and not {list(shape)}")
    _shadows(attack, shape[1], least)


def outside(member: np.ndarray) -> None:
    """InputError unless each example has a shadow model that did not train on it; bool [N,S]."""
    always = np.flatnonzero(member.all(axis=1))
    if len(always):
        name = f"example {always[0]}"
        raise InputError(f"{name} was trained on by every shadow model: one must be without it")


def same(fitted: int, given: int, what: str = "examples") -> None:
    """InputError unless as many examples are given as the attack was fitted to."""
    if fitted != given:
        counts = f"{given} {what} and was fitted to {fitted}"
        raise InputError(f"the attack is shown {counts}: show it the same in the same order")


def _explained(attack: str, observation: Observation) -> None:
    if observation.explanation is None:
        raise InputError(f"{attack} reads an explanation, and the arm reads none")


def _classes(attack: str, shape: tuple[int, ...], label: Any, wanted: str) -> None:
    if label is None:
        raise InputError(f"{attack} needs the true classes of the candidates: give label [N]")
    if len(shape) != wanted.count(",") + 1 or tuple(label.shape) != (shape[0],):
        given = f"{list(shape)} and {list(label.shape)}"
        raise InputError(f"{attack} reads predictions {wanted} and labels [N], and not {given}")


def _shadows(attack: str, count: int, least: int) -> None:
    """InputError unless there are enough shadow models, and as many with an example as without."""
    if count < least or count % 2:
        raise InputError(
            f"{attack} learns from {count} shadow models, but must from an even number, at least"
            f" {least}"
        )
