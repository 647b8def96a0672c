"""Predictions and explanations that another stack recorded, as the results of a service."""

from typing import Any

import jax
import numpy as np

from xinv import explain, store
from xinv.audit.results import Config
from xinv.audit.roles import Roles
from xinv.audit.stage import Create, Stages
from xinv.audit.target import Recorded
from xinv.types import Array, InputError

_CHUNK = 64  # maps scaled at once


def prediction(target: Recorded, roles: Roles, role: str, seed: int) -> tuple[Array, list[str]]:
    """Returns the probabilities [N,K] of a role's images, and their digest."""
    rows = _indices(roles, role, seed)
    return np.asarray(target.prediction[rows], np.float32), [store.digest(_spec(target, roles, role, seed))]


def find(target: Recorded, settings: Config) -> Array:
    """Returns an explanation of all images of the data set, by its section of the config.

    Raises:
      InputError: the recording has none of that name.
    """
    if settings["name"] not in target.explanations:
        allowed = ", ".join(target.explanations) or "none"
        raise InputError(f"the recorded target has no explanation {settings['name']!r}: it has {allowed}")
    return target.explanations[settings["name"]]


def explanation(
    target: Recorded,
    roles: Roles,
    stages: Stages,
    settings: Config,
    role: str,
    seed: int,
) -> tuple[Array, list[str]]:
    """Returns the explanations [N,h,w,c] of a role's images on the scale of `settings`, and their digest."""
    found, indices = find(target, settings), _indices(roles, role, seed)
    spec = _spec(target, roles, role, seed) | {"settings": settings}

    def fill(create: Create) -> None:
        scale = jax.jit(jax.vmap(explain.SCALES[settings["normalise"]]))
        maps = create("explanation", (len(indices), *np.shape(found)[1:]))
        for start in range(0, len(indices), _CHUNK):
            rows = slice(start, start + _CHUNK)
            maps[rows] = scale(np.asarray(found[indices[rows]], np.float32))

    label = f"recorded {settings['name']} on {role}, seed {seed}"
    stage = stages.filled("explanation", label, spec, fill)
    return stage.array("explanation"), [stage.digest]


def _spec(target: Recorded, roles: Roles, role: str, seed: int) -> dict[str, Any]:
    return roles.spec(seed, [role]) | {"role": role, "recorded": target.fingerprint}


def _indices(roles: Roles, role: str, seed: int) -> np.ndarray:
    if "auxiliary" in roles.spec(seed, [role]):
        raise InputError(f"role {role!r} has auxiliary images, about which the recorded target released nothing")
    return roles.indices(role, seed)
