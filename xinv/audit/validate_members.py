"""Finds the errors of a membership attack, and of its controls, before anything is computed."""

from collections.abc import Sequence

import numpy as np

from xinv.audit.attacker import TEST_VIEW, TRAIN_VIEW, Arm
from xinv.audit.goals import MEMBERSHIP
from xinv.types import InputError


def require_members(arm: Arm) -> None:
    """Raises InputError unless an attack can learn members from others, as its target has them."""
    # Confidences in the true class need one kind of class
    classifiers = arm.service.classifiers
    attacked = arm.view(TEST_VIEW).members[0]
    shadows = arm.view(TRAIN_VIEW).members
    label = classifiers.settings(attacked)["label"]
    for part in shadows:
        if classifiers.settings(part)["label"] != label:
            raise InputError(
                f"arm {arm.name!r} learns on {part!r}, a classifier of another label than "
                f"{attacked!r}: name one of {label!r}"
            )
    # Many shadow models differ in each image, one shadow in its images
    if arm.view(TRAIN_VIEW).several:
        _require_shadows(arm)
        _require_both(arm, [arm.evaluated], axis=1)
    else:
        _require_both(arm, arm.settings[TRAIN_VIEW]["roles"], axis=0)
    if arm.settings["population"]:
        _require_public(arm)


def _require_shadows(arm: Arm) -> None:
    """Many shadow models are different ones, of one network, and not the attacked one."""
    named = arm.settings[TRAIN_VIEW]["prediction"]
    classifiers = arm.service.classifiers
    tested = arm.settings[TEST_VIEW]["prediction"]
    attacked = arm.view(TEST_VIEW).members[0]
    what = f"arm {arm.name!r} learns on {', '.join(named)}"
    if len(set(named)) < len(named) or arm.settings[TRAIN_VIEW]["members"]:
        raise InputError(f"{what}: name different shadow models, and leave members empty")
    if tested in named or attacked in named:
        raise InputError(f"{what}, and is tested on {tested!r}: leave it out of the shadow models")
    # Observations of all of them are one array
    networks = [classifiers.settings(part).get("model") for part in named]
    if any(network != networks[0] for network in networks):
        raise InputError(f"{what}, which are different networks: name shadow models of one")


def _require_public(arm: Arm) -> None:
    """A population is of images that are not audited and that no model of the arm has seen."""
    service = arm.service
    role = arm.settings["population"]
    parts = (arm.settings[TEST_VIEW]["prediction"], *arm.view(TRAIN_VIEW).members)
    seen = {arm.evaluated: [arm.evaluated]}
    for part in parts:
        seen[f"the training set of {part!r}"] = _trained_on(arm, part)
    for what, roles in seen.items():
        if any(service.roles.shared(roles, [role], seed) for seed in service.classifiers.seeds):
            raise InputError(
                f"arm {arm.name!r} has population {role!r}, which has images of {what}: "
                "name a role of public images"
            )


def _require_both(arm: Arm, roles: Sequence[str], axis: int) -> None:
    """Requires members and others in training data: over images, or for each of them."""
    service = arm.service
    shadows = arm.view(TRAIN_VIEW).members
    truth = [MEMBERSHIP.secret(service, part, roles, service.config["seed"]) for part in shadows]
    member = np.stack(truth, axis=1).astype(bool)
    if member.any(axis=axis).all() and (~member).any(axis=axis).all():
        return
    lacking = "an image that all of its shadow models, or none, were trained on"
    if axis == 0:
        lacking = (
            f"images of {', '.join(roles)}, of which {shadows[0]!r} was trained on all or none"
        )
    raise InputError(f"arm {arm.name!r} learns from {lacking}: it needs both kinds")


def require_control(arm: Arm) -> None:
    """Raises InputError unless a control is its attack, on a classifier without the images."""
    service = arm.service
    real = Arm(service, arm.settings["control_of"])
    what = f"arm {arm.name!r} is control_of {real.name!r}"
    # What a control finds must not come from another attack
    alike = ("inputs", "attack", "known", "population")
    different = [name for name in alike if arm.settings[name] != real.settings[name]]
    if different or not arm.settings["evaluate"] or arm.goal is not real.goal:
        named = different[0] if different else "evaluate or its goal"
        raise InputError(
            f"{what}, but differs in {named}: a control differs in its classifiers alone"
        )
    tested = arm.settings[TEST_VIEW]["prediction"]
    attacked = real.view(TEST_VIEW).members
    if arm.view(TEST_VIEW).members != attacked or tested in attacked:
        raise InputError(
            f"{what}: let it be tested on another classifier, "
            f"with {attacked[0]!r} as test_view.members"
        )
    # Nor from a classifier that has seen the images
    seed = service.config["seed"]
    if service.roles.shared(_trained_on(arm, tested), [real.evaluated], seed):
        raise InputError(
            f"{what}, but {tested!r} is trained on images of {real.evaluated}: "
            "a control is trained on none of them"
        )


def _trained_on(arm: Arm, part: str) -> Sequence[str]:
    """Returns the roles that a classifier is trained on; an untrained one has seen none."""
    settings = arm.service.classifiers.settings(part)
    if "train" in settings and not settings["train"]:
        return ()
    return settings["roles"]
