"""Finds the errors of a config before anything is computed, by names and shapes alone."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from xinv import train
from xinv.audit import cost, measure
from xinv.audit.attacker import TEST_VIEW, TRAIN_VIEW, Arm, arms
from xinv.audit.goals import MEMBERSHIP, RECONSTRUCTION
from xinv.audit.link import Link
from xinv.audit.release import Release
from xinv.audit.results import Config
from xinv.audit.roles import REPORTED
from xinv.audit.sections import require_keys
from xinv.audit.service import Service
from xinv.metrics import membership
from xinv.numbers import is_count
from xinv.types import Batch, InputError, Known


def validate(service: Service) -> None:
    """Builds every plug-in that the config names, and traces it on the shapes of the data.

    Raises:
      InputError: a name does not exist, or a shape does not fit.
    """
    config = service.config
    shape = service.roles.dataset.images.shape[1:]
    images = jax.ShapeDtypeStruct((2, *shape), np.float32)

    # The service
    for part in service.classifiers.parts():
        _classifier(service, part, images)
    for name in config["explanations"]:
        service.shapes("target", (name,), images)

    # All defences, even those of no arm
    for name in config["defences"]:
        for link in Link(Release(service, ()), name).referred().values():
            link.check()

    # The arms: first all views, since arms read each other
    for arm in arms(service):
        _views(arm)
    for arm in arms(service):
        _arm(arm, images)
    if config["arms"]:
        _metrics(service, images)


def _classifier(service: Service, part: str, images: jax.ShapeDtypeStruct) -> None:
    settings = service.classifiers.settings(part)
    service.classifiers.classes(part)
    if service.classifiers.is_trained(part):
        recipe = settings.get("train") or None
        own = service.classifiers.own(part)
        if own is not None and own.train is None:
            raise InputError(
                f"{part} is to be trained like the target, but the module of "
                f"{settings['function']!r} has no train(images, labels, key) -> variables"
            )
        _training(service, f"the {part}", recipe, settings["roles"])
    if not service.classifiers.is_recorded(part):
        service.classifiers.abstract(part, images)
    if "teacher" in settings:
        teacher = settings["teacher"]
        service.shapes(teacher["prediction"], (), images)
        defences = tuple(teacher["defences"])
        release = Release(service, (), teacher["prediction"], defences=defences)
        _defender(release, attacker=())


def _arm(arm: Arm, images: jax.ShapeDtypeStruct) -> None:
    train_view = arm.settings[TRAIN_VIEW]
    if not train_view["roles"] and "joint" not in arm.service.classifiers.settings(
        train_view["prediction"]
    ):
        raise InputError(
            f"arm {arm.name!r} learns from no role: name one, or a model that is trained jointly"
        )
    if train_view["roles"]:
        _training(
            arm.service,
            f"arm {arm.name!r}",
            arm.service.config["attack"]["train"],
            train_view["roles"],
        )
    guess, goal = arm.check(images.shape[1:]), arm.goal
    if arm.settings["scored"] and guess != goal.guess_shape(images.shape[1:]):
        raise InputError(
            f"arm {arm.name!r} guesses {list(guess)}, no images {list(images.shape[1:])}: "
            "it cannot be scored"
        )
    for view in (TEST_VIEW, TRAIN_VIEW):
        goal.check(arm.service, arm.settings[view])
    reported = goal.evaluated(arm.service, arm.settings[TEST_VIEW]["prediction"])
    if train_view["roles"] and arm.service.roles.shared(
        train_view["roles"], [reported], arm.service.config["seed"]
    ):
        raise InputError(
            f"arm {arm.name!r} learns from images of {reported}, which are reported for {goal.name}"
        )
    for view in (TRAIN_VIEW, TEST_VIEW):
        _defender(arm.view(view).release, train_view["roles"])


def _views(arm: Arm) -> None:
    """Checks that the views of an attack are complete, without settings of no effect."""
    service = ("prediction", "explanation", "defences", "queries")
    require_keys(
        f"arm {arm.name!r}",
        arm.settings,
        ("inputs", "attack", TRAIN_VIEW, TEST_VIEW, "known", "scored"),
    )
    for view, known in ((TRAIN_VIEW, ("roles", "releases", *service)), (TEST_VIEW, service)):
        settings = arm.settings[view]
        require_keys(f"{view} of arm {arm.name!r}", settings, known)
        for name in ("queries", "releases"):
            if not is_count(settings.get(name, 1), 1):
                raise InputError(
                    f"{view} of arm {arm.name!r} has {settings[name]!r} {name}: "
                    "this must be a whole number of at least 1"
                )
        if settings["queries"] > 1 and not settings["defences"]:
            raise InputError(
                f"{view} of arm {arm.name!r} has {settings['queries']} queries "
                "of what no defence changes: give 1"
            )
    train_view = arm.settings[TRAIN_VIEW]
    if train_view["releases"] > 1 and (
        arm.others or not train_view["defences"] or not train_view["roles"]
    ):
        raise InputError(
            f"arm {arm.name!r} learns from {train_view['releases']} releases of each image: "
            "give 1, or more where it learns from a role what defences release, "
            "and reads no other arm"
        )


def _defender(release: Release, attacker: Sequence[str]) -> None:
    """Checks the images that the defences of a release learn from and are measured on.

    None of them is reported, none is the `attacker`'s, and none has both uses.
    """
    service, defender = release.service, release.service.config["defender"]
    seed = service.config["seed"]
    for link in release.chain.needed():
        own = {"role": defender["role"]}
        # Without images held back, predictions may be defended, but no explanations
        if release.explains or defender["held_out"]:
            own["held_out"] = defender["held_out"]
        for kind, role in own.items():
            recipe = None
            if kind == "role":
                recipe = link.settings().get("train")
            _training(service, f"defender.{kind} of {link.name!r}", recipe, [role])
            if attacker and service.roles.shared([role], attacker, seed):
                raise InputError(
                    f"defender.{kind} {role!r} has images of the attacker, "
                    f"who learns from {list(attacker)}"
                )
        if "held_out" in own and service.roles.shared([own["role"]], [own["held_out"]], seed):
            raise InputError(
                f"defender.held_out {own['held_out']!r} has images of defender.role {own['role']!r}"
            )


def _training(service: Service, what: str, recipe: Config | None, roles: Sequence[str]) -> None:
    """Checks that a training has enough images, and no reported one."""
    for seed in service.classifiers.seeds:
        if service.roles.shared(roles, [REPORTED], seed):
            raise InputError(
                f"{what} trains on images of {REPORTED}, which is reported: "
                f"its roles are {list(roles)}"
            )
        if recipe is not None:
            stated = train.Recipe.stated(recipe)
            train.steps_per_epoch(stated, service.roles.count(roles, seed), what)


def _metrics(service: Service, images: jax.ShapeDtypeStruct) -> None:
    """Checks the metrics of members, of reconstructions and of defended explanations."""
    metrics = service.config["metrics"]
    labels = jax.ShapeDtypeStruct((images.shape[0],), np.int32)

    # Of members
    for group in MEMBERSHIP.metrics:
        for name, hyper in metrics[group].items():
            membership.build(name, **hyper)

    # Of reconstructions
    if any(arm.rebuilds for arm in arms(service)):
        given = _given(service.classifiers.abstract("evaluation", images))
        for kind, truth in zip(RECONSTRUCTION.metrics, (images, labels), strict=True):
            _trace(metrics[kind], given, {"truth": truth, "guess": images})

    # Of explanations, once for all arms that see the same maps
    if not service.config["defences"]:
        return
    releases = {}
    for arm in arms(service):
        release = arm.view(TEST_VIEW).release
        releases[release.explanation, release.inputs] = release
    for release in releases.values():
        maps = release.maps(images)
        if maps is not None:
            given = _explained(service, release.explanation, images, maps)
            truth = {"image": images, "label": labels, "explanation": maps}
            _trace(metrics[cost.UTILITY], given, {"truth": truth, "guess": maps})


def _explained(
    service: Service,
    part: str,
    images: jax.ShapeDtypeStruct,
    maps: jax.ShapeDtypeStruct,
) -> dict[str, Any]:
    """Returns the arguments of metrics that ask the explained classifier `part`, if they can."""
    if service.classifiers.is_recorded(part):
        return {}

    def released(*asked: Any) -> jax.Array:
        del asked
        return jnp.zeros(maps.shape)

    given = _given(service.classifiers.abstract(part, images))
    return given | {"release": Partial(released)}


def _given(judge: Known) -> dict[str, Any]:
    return {
        "apply": judge.model.apply,
        "embed": judge.model.embed,
        "variables": judge.variables,
    }


def _trace(metrics: Config, given: Config, batch: Batch) -> None:
    functions = {}
    for name, hyper in metrics.items():
        functions[name] = measure.metric(name, hyper, given)
    jax.eval_shape(measure.score, functions, batch, None)
