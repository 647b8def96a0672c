"""Errors of the ways to harden that a config compares, found before anything is computed."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from xinv.audit.release import Release
from xinv.audit.roles import UNION
from xinv.audit.service import Service
from xinv.audit.usage import require_separate
from xinv.audit.validate import require_classifier
from xinv.harden.ways import models, part_of, retrained, ways
from xinv.types import InputError, Observation

_TRAINING = ("train", "model")


def require_names(settings: Mapping[str, Any]) -> None:
    """Raises InputError unless each way of a section `harden` has a name of its own."""
    for field in ("orders", "defences"):
        for names in settings[field]:
            if isinstance(names, str) or not names:
                raise InputError(
                    f"harden.{field} has {names!r}: give each as a list of names, first to last"
                )
    found = [way.name for way in ways(settings)]
    for name in found:
        if found.count(name) > 1 or "/" in name:
            raise InputError(
                f"harden has the way {name!r} twice, or with a slash in its name: "
                "policies are kept by the names of ways"
            )


def require_ways(service: Service) -> None:
    """Raises InputError unless the defences and trainings of the section `harden` fit."""
    settings = service.config["harden"]
    size = service.roles.dataset.images.shape[1:]
    images = jax.ShapeDtypeStruct((2, *size), np.float32)
    for names in settings["defences"]:
        for explanation in settings["explanations"]:
            _defended(service, explanation, tuple(names), images)
    for name, training in settings["trainings"].items():
        _retrained(service, name, training, images)


def _defended(
    service: Service,
    explanation: str,
    names: tuple[str, ...],
    images: jax.ShapeDtypeStruct,
) -> None:
    """Finds defences that do not exist, do not fit the maps, or learn from audited images."""
    settings = service.config["harden"]
    # A shadow's releases are made like the target's, by defences of its own
    for part in (settings["target"], settings["shadow"]):
        release = Release(service, (explanation,), part, part, names)
        prediction, _ = service.shapes(part, (), images)
        release.chain.check(Observation(prediction, release.maps(images)), images)
        require_separate(release, _roles(settings))


def _roles(settings: Mapping[str, Any]) -> list[str]:
    """Returns all roles of a section `harden`, those of a union apart."""
    return [role for joined in settings["roles"].values() for role in joined.split(UNION)]


def _retrained(
    service: Service,
    name: str,
    training: Any,
    images: jax.ShapeDtypeStruct,
) -> None:
    """Finds another training that changes nothing, or something that a model does not have."""
    what = f"harden.trainings.{name}"
    if not isinstance(training, Mapping) or not training:
        raise InputError(f"{what} is {training!r}: give changes of train, of model or of both")
    parts = models(service.config["harden"])
    for field, changes in training.items():
        if field not in _TRAINING or not isinstance(changes, Mapping):
            raise InputError(
                f"{what} has {field!r}: give changes of train, of model or of both, as sections"
            )
        for part in parts:
            if field not in part_of(service.config, part):
                raise InputError(f"{what} changes {field}, which the {part} does not have")
    changed = retrained(service, training)
    for part in parts:
        require_classifier(changed, part, images)
