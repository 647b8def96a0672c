"""Holdings of an attacker beside its observations: a model, or candidates for membership."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from xinv.audit.goals import MEMBERSHIP
from xinv.audit.method import HELD, PREDICTION
from xinv.audit.view import TEST_VIEW, TRAIN_VIEW
from xinv.types import Attack, InputError, Population, WhiteBox

if TYPE_CHECKING:
    from xinv.audit.attacker import Arm


def held(arm: "Arm", view: str, roles: Sequence[str], seed: int) -> dict[str, Any]:
    """Returns the holdings that the attack of an arm needs, of the images of some roles.

    Returns:
      known: the model that the arm may differentiate.
      label: true classes int32 [N], in the order of the roles.
      image: uint8 [N,H,W,C], in the same order.
      population: public images, as the models of the view answer them.
    """
    service = arm.service
    needs = arm.method.build().needs
    found = {}
    classifiers = service.classifiers
    if "known" in needs:
        part = arm.settings["known"]
        found["known"] = WhiteBox(classifiers.model(part), classifiers.variables(part, seed))
    # Of one role after the other, in the order of their observations
    if "label" in needs:
        name = label(arm)
        labels = [service.roles.labelled([role], seed).labels[name] for role in roles]
        found["label"] = np.concatenate(labels).astype(np.int32)
    if "image" in needs:
        found["image"] = service.roles.images(roles, seed)
    if "population" in needs:
        found["population"], _ = population(arm, view, seed)
    return found


def population(arm: "Arm", view: str, seed: int) -> tuple[Population, list[str]]:
    """Returns the public images of an arm, as a view shows them, and the digests of its sources."""
    role = arm.settings["population"]
    observed, sources = arm.view(view).observation(role, seed)
    labels = arm.service.roles.labelled([role], seed).labels[label(arm)]
    return Population(observed.prediction, labels.astype(np.int32)), sources


def spec(arm: "Arm", view: str, seed: int) -> dict[str, Any]:
    """Returns the part of a spec from the labels and the population of an attack."""
    needs = arm.method.build().needs
    found = {}
    if "label" in needs:
        found["label"] = label(arm)
    if "population" in needs:
        found["population"] = population(arm, view, seed)[1]
    return found


def label(arm: "Arm") -> str:
    """Returns the name of the labels that the attacked classifier was trained on."""
    attacked = arm.view(TEST_VIEW).members[0]
    return arm.service.classifiers.settings(attacked)["label"]


def shapes(arm: "Arm", images: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """Returns the shapes of the holdings, for images [N,H,W,C].

    Raises:
      InputError: the arm names no model where one is needed, or its inputs are not what it needs.
    """
    attack = arm.method.build()
    known = arm.settings["known"]
    found = {}
    if "known" in attack.needs:
        if not known:
            raise InputError(
                f"arm {arm.name!r} needs a model it can differentiate: "
                "known is empty, name a classifier"
            )
        found["known"] = arm.service.classifiers.abstract(known, images)
    elif known:
        raise InputError(
            f"arm {arm.name!r} has known {known!r}, which its attack does not read: leave it empty"
        )
    _require_population(arm, attack)
    # The inputs of an arm say what its attacker has, no more and no less
    for name in HELD:
        _require_listed(arm, attack, name)
    _require_read(arm, attack)
    if "label" in attack.needs:
        found["label"] = jax.ShapeDtypeStruct(images.shape[:1], np.int32)
    if "image" in attack.needs:
        found["image"] = images
    if "population" in attack.needs:
        public = arm.view(TRAIN_VIEW).shapes(images, ()).prediction
        found["population"] = Population(public, found["label"])
    return found


def _require_population(arm: "Arm", attack: Attack) -> None:
    """A public role is named if, and only if, the attack compares with one."""
    named = arm.settings["population"]
    needed = "population" in attack.needs
    if needed and not named:
        raise InputError(
            f"arm {arm.name!r} compares with a population: population is empty, "
            "name a role of public images"
        )
    if named and not needed:
        raise InputError(
            f"arm {arm.name!r} has population {named!r}, which its attack does not read: "
            "leave it empty"
        )


def _require_listed(arm: "Arm", attack: Attack, name: str) -> None:
    """Labels and images of candidates are inputs if, and only if, the attack needs them."""
    listed = name in arm.settings["inputs"]
    needed = name in attack.needs
    if listed and attack.goal != MEMBERSHIP.name:
        raise InputError(
            f"arm {arm.name!r} has {name!r} among its inputs, which {attack.goal} "
            "is to find: only a membership attack holds it"
        )
    if listed and not needed:
        raise InputError(f"arm {arm.name!r} does not need {name!r} among its inputs: leave it out")
    if needed and not listed:
        raise InputError(f"arm {arm.name!r} needs {name!r} among its inputs: add it")


def _require_read(arm: "Arm", attack: Attack) -> None:
    """Refuses inputs that a membership attack does not read: they would be blamed for the leak."""
    if not attack.inputs:
        return
    for kind in (PREDICTION, "explanation"):
        listed = kind in arm.method.kinds
        read = kind in attack.inputs
        name = arm.method.stated["name"]
        if listed and not read:
            raise InputError(
                f"arm {arm.name!r} has {kind} among its inputs, which {name} does not read: "
                "leave it out"
            )
        if read and not listed:
            raise InputError(f"arm {arm.name!r} needs {kind} among its inputs: {name} reads it")
