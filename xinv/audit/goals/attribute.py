"""Attributes, such as glasses, found by a classifier on reconstructions (Jeong 2022, Fig. 6)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from xinv import parallel
from xinv.audit.goals.reconstruction import RECONSTRUCTION
from xinv.audit.service import FORWARD, Service
from xinv.images import as_float
from xinv.metrics import classification
from xinv.store import Stage
from xinv.types import Apply


def f1(service: Service, name: str, truth: np.ndarray, guess: np.ndarray) -> float:
    """Returns the F1 of an attribute's presence; of several values their weighted mean."""
    # Of two values presence alone is asked for; a weighted mean would count absence, too
    two_values = service.classifiers.classes(name) == 2
    statistic = classification.binary_f1 if two_values else classification.weighted_f1
    return statistic(truth, guess)


def _secret(
    service: Service,
    part: str,
    roles: Sequence[str],
    seed: int,
) -> np.ndarray:
    """Values of the attribute of classifier `part`, int32 [N]."""
    label = service.classifiers.settings(part)["label"]
    return service.roles.labelled(roles, seed).labels[label]


def _scores(
    service: Service,
    part: str,
    guess: Stage,
    label: str,
    seed: int,
) -> dict[str, float]:
    del part
    # Every attribute is judged on the same reconstructions
    found = {}
    for name in service.config["attributes"]:
        truth = _secret(service, name, [service.roles.reported], seed)
        answers = _answers(service, name, guess, f"{name} of {label}", seed)
        found[f"f1_{name}"] = f1(service, name, truth, answers)
    return found


def _answers(
    service: Service,
    name: str,
    guess: Stage,
    label: str,
    seed: int,
) -> np.ndarray:
    """Returns the answer of an attribute's classifier to each reconstruction, int32 [N]."""
    classifiers = service.classifiers

    def compute() -> dict[str, np.ndarray]:
        answer = _classify(classifiers.model(name).apply)
        variables = classifiers.variables(name, seed)
        rebuilt = guess.array("guess")
        return {"said": parallel.map_batches(answer, variables, rebuilt, FORWARD)}

    spec = {"judge": classifiers.identity(name, seed), "guess": guess.digest}
    return service.stages.computed("attribute", label, spec, compute).array("said")


@functools.lru_cache(64)
def _classify(apply: Apply) -> Callable[..., jax.Array]:
    # One function for each network, so that it is compiled once
    def answer(variables: Any, images: jax.Array, keys: Any) -> jax.Array:
        del keys
        return apply(variables, as_float(images)).argmax(axis=-1)

    return answer


ATTRIBUTE = RECONSTRUCTION._replace(
    name="attribute",
    verb="show attributes in rebuilt inputs",
    secret=_secret,
    scores=_scores,
    metrics=(),
)
"""Judges the guesses of an attack that rebuilds images."""
