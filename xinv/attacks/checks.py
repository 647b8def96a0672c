"""Checks of options and observations, shared by all attacks."""

from collections.abc import Collection
from typing import Any

import numpy as np

from xinv.types import Array, InputError, Observation


def choice(kind: str, value: Any, allowed: Collection[str]) -> None:
    """Raises InputError if `value` is not one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"unknown {kind} {value!r}: choose one of {', '.join(allowed)}")


def shapes(observation: Observation, truth: Any) -> None:
    """Requires predictions [N,K], explanations [N,h,w,c] or none, and truth [N,H,W,C].

    Raises:
      InputError: a shape differs, or the examples are not as many.
    """
    if observation.explanation is None:
        explanation = ()
    else:
        explanation = observation.explanation.shape
    known = {"predictions": (observation.prediction.shape, 2), "images": (truth.shape, 4)}
    known |= {"explanations": (explanation, 4)} if explanation else {}
    # Name all shapes in the error: any of them may be the wrong one
    for name, (shape, axes) in known.items():
        if len(shape) != axes or shape[0] != truth.shape[0]:
            given = ", ".join(f"{name} {list(shape)}" for name, (shape, _) in known.items())
            raise InputError(
                f"{name} do not fit the others: give [N,K], [N,H,W,C] and [N,h,w,c], and not"
                f" {given}"
            )


def releases(observation: Observation, several: bool) -> None:
    """Requires one release, [N,K] and [N,h,w,c], or R releases of both, if `several`.

    Raises:
      InputError: there are several and `several` is False, or the numbers differ.
    """
    prediction = observation.prediction.shape
    if observation.explanation is None:
        explanation = prediction
    else:
        explanation = observation.explanation.shape
    # Single releases need no further look
    if len(prediction) < 3 and len(explanation) < 5:
        return
    if (
        not several
        or len(prediction) != 3
        or prediction[1:2] != explanation[1:2]
        or not prediction[1]
    ):
        # Say which of the two forms is allowed here
        if several:
            allowed = "as many of explanations as of predictions, at least one, [N,R,…]"
        else:
            allowed = "one of each image"
        raise InputError(
            f"releases {list(prediction)} and {list(explanation)} are not allowed: give {allowed}"
        )


def finite(prediction: Array) -> None:
    """Raises InputError unless all of predictions [N,K] are finite."""
    values = np.asarray(prediction)
    broken = np.argwhere(~np.isfinite(values))
    # Name the first broken value by its example and class
    if len(broken):
        row = broken[0][0]
        column = broken[0][-1]
        wrong = values[tuple(broken[0])]
        raise InputError(
            f"prediction {row} of class {column} is {wrong}: predictions must be finite"
        )


def members(truth: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns membership as bool; raises InputError unless `truth` is 0 and 1 in this shape."""
    # A wrong shape would broadcast, a wrong value count as a member
    member = np.asarray(truth)
    if member.shape != shape:
        given = list(member.shape)
        raise InputError(f"truth has shape {given} but must be {list(shape)}, as observed")
    if not np.isin(member, (0, 1)).all():
        raise InputError("truth has other values than 0 and 1: it says who is a member")
    return member.astype(bool)


def predictions(attack: str, observation: Observation, label: Any) -> None:
    """Raises InputError unless there are predictions [N,K] and labels [N]."""
    _classes(attack, observation.prediction.shape, label, "[N,K]")


def population(attack: str, given: Any, shape: tuple[int, ...]) -> None:
    """Requires public examples: predictions [P,...] of this shape, and labels [P].

    Raises:
      InputError: there are none, or a shape differs.
    """
    if given is None:
        raise InputError(f"{attack} compares with public examples: give a population")
    # The public predictions have the candidates' own form
    public = tuple(given.prediction.shape)
    labels = tuple(given.label.shape)
    if public[1:] != tuple(shape) or labels != public[:1] or not public[0]:
        wanted = f"[P,{','.join(map(str, shape))}] and labels [P]"
        raise InputError(
            f"{attack} reads predictions {wanted} of public examples, and not {list(public)} and"
            f" {list(labels)}"
        )


def explanations(attack: str, observation: Observation) -> None:
    """Raises InputError unless there are explanations [N,h,w,c]."""
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
    """Raises InputError unless there are predictions [N,S,K] of S models, and labels [N]."""
    shape = observation.prediction.shape
    _classes(attack, shape, label, "[N,S,K]")
    _shadows(attack, shape[1], least)


def shadow_statistics(
    attack: str,
    observation: Observation,
    count: int,
    least: int,
) -> None:
    """Raises InputError unless there are `count` statistics of maps [N,S,1,1,T] of S models."""
    _explained(attack, observation)
    shape = observation.explanation.shape
    if len(shape) != 5 or tuple(shape[2:]) != (1, 1, count):
        wanted = f"[N,S,1,1,{count}]"
        raise InputError(f"{attack} reads statistics {wanted} of maps, and not {list(shape)}")
    _shadows(attack, shape[1], least)


def outside(member: np.ndarray) -> None:
    """Raises InputError if every shadow model trained on some example; bool [N,S]."""
    # Without an outside model an example has no reference
    always = np.flatnonzero(member.all(axis=1))
    if len(always):
        name = f"example {always[0]}"
        raise InputError(f"{name} was trained on by every shadow model: one must be without it")


def same(fitted: int, given: int, what: str = "examples") -> None:
    """Raises InputError unless as many examples are given as the attack was fitted to."""
    if fitted != given:
        counts = f"{given} {what} and was fitted to {fitted}"
        raise InputError(f"the attack is shown {counts}: show it the same in the same order")


def _explained(attack: str, observation: Observation) -> None:
    if observation.explanation is None:
        raise InputError(f"{attack} reads an explanation, and the arm reads none")


def _classes(attack: str, shape: tuple[int, ...], label: Any, wanted: str) -> None:
    # The labels are a holding: a config may lack them
    if label is None:
        raise InputError(f"{attack} needs the true classes of the candidates: give label [N]")
    if len(shape) != wanted.count(",") + 1 or tuple(label.shape) != (shape[0],):
        given = f"{list(shape)} and {list(label.shape)}"
        raise InputError(f"{attack} reads predictions {wanted} and labels [N], and not {given}")


def _shadows(attack: str, count: int, least: int) -> None:
    """Raises InputError unless the shadow models are enough, and an even number.

    Each example is in the training set of half of them.
    """
    if count < least or count % 2:
        raise InputError(
            f"{attack} learns from {count} shadow models, but must from an even number, at least"
            f" {least}"
        )
