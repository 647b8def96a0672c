"""Errors of the ways to harden that a config compares, found before anything is computed."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv.audit.goals import MEMBERSHIP
from xinv.audit.release import Release
from xinv.audit.roles import UNION
from xinv.audit.service import Service
from xinv.audit.usage import require_separate
from xinv.audit.validate import require_classifier
from xinv.harden.ways import models, part_of, retrained, ways
from xinv.types import Defence, InputError, Observation

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
        if found.count(name) > 1 or not is_file_name(name):
            raise InputError(
                f"harden has the way {name!r} twice, or as no name of a folder: "
                "policies are kept by the names of ways"
            )


def is_file_name(name: Any) -> bool:
    """Tells if a name is that of one file or folder, within the folder where it is kept."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name


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
        for link in release.chain.links():
            _require_of_maps(link.name, link.check(), prediction.shape, release)
        require_separate(release, _roles(settings))


def _require_of_maps(
    name: str,
    defence: Defence,
    shape: tuple[int, ...],
    release: Release,
) -> None:
    """Finds a defence that changes predictions: a hardening measures the leak of maps alone."""
    # What learns, learns to change maps
    if defence.learns:
        return
    size = release.service.roles.dataset.images.shape[1:]
    maps = release.maps(jax.ShapeDtypeStruct((2, *size), np.float32))
    # Probabilities that no rounding keeps
    prediction = jax.nn.softmax(jnp.linspace(0.0, 1.0, shape[0] * shape[1]).reshape(shape))
    observed = Observation(prediction, jnp.zeros(maps.shape, maps.dtype))
    changed = defence.apply({}, observed, jax.random.key(0)).prediction
    if not np.array_equal(changed, prediction):
        raise InputError(
            f"harden.defences has {name!r}, which changes predictions: name defences of "
            "explanations, and audit those of predictions with launch/run.py"
        )


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
    # Paired figures are of the same members
    settings = service.config["harden"]
    for part in (settings["target"], settings["shadow"]):
        MEMBERSHIP.check(changed, {"prediction": part, "explanation": part}, [part])
        for role, seed in itertools.product(settings["roles"].values(), service.classifiers.seeds):
            before, after = (
                MEMBERSHIP.secret(one, part, [role], seed) for one in (service, changed)
            )
            if not np.array_equal(before, after):
                raise InputError(
                    f"{what} leaves other images out of the training of the {part}: "
                    "give more epochs, or a batch_size that divides its images"
                )
