"""The protocol of a goal."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from xinv.types import Array, Estimate


class Goal(NamedTuple):
    """The aim of an attack. `part` is the name of a classifier in the config.

    Attributes:
      name: as an attack states it.
      verb: the success of an attack, as people say it after "can".
      secret: `(service, part, roles, seed) -> truth [N,...]` of the images of some roles, one role
        after the other; `part` is the classifier under attack.
      evaluated: `(service, part) -> role` of the reported examples; none of them trains the attack.
      check: `(service, view, members)`; raises InputError if a view of an attack does not allow
        this goal, or `members`, the classifiers with the training sets in question, do not.
      guess_shape: `(image shape [H,W,C]) -> shape` of one guess.
      scores: `(service, part, guess, label, seed) -> {metric: value}`: per example [N], or an
        Estimate.
      metrics: the groups of the config's metrics for it.
    """

    name: str
    verb: str
    secret: Callable[..., Array]
    evaluated: Callable[..., str]
    check: Callable[..., None]
    guess_shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    scores: Callable[..., Mapping[str, Array | Estimate]]
    metrics: tuple[str, ...]
