"""Finds the errors of a config before anything is computed, by names and shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from xinv.audit import cost, measure, recorded
from xinv.audit.attacker import TEST_VIEW, TRAIN_VIEW, arms, parts
from xinv.audit.goals import MEMBERSHIP, RECONSTRUCTION
from xinv.audit.link import Link
from xinv.audit.privacy import require_private
from xinv.audit.release import Release
from xinv.audit.results import Config
from xinv.audit.service import Service
from xinv.audit.usage import (
    may_train_on_reported,
    require_reference,
    require_separate,
    require_training,
)
from xinv.audit.validate_arm import require_arm, require_views
from xinv.metrics import membership
from xinv.types import Batch, InputError, WhiteBox


def validate(service: Service) -> None:
    """Builds every plug-in that the config names, and traces it on the shapes of the data.

    Raises:
      InputError: a name does not exist, or a shape does not fit.
    """
    config = service.config
    shape = service.roles.dataset.images.shape[1:]
    images = jax.ShapeDtypeStruct((2, *shape), np.float32)

    # Reported images have the labels of the data set, and a recorded target's releases
    for seed in service.classifiers.seeds:
        service.roles.require_labels([service.roles.reported], seed)
        if service.classifiers.is_recorded("target"):
            recorded.require_released(service.roles, service.roles.reported, seed)

    # Each arm's section, before arms that read each other are built
    for arm in arms(service):
        require_views(arm)

    # The service
    for part in parts(service):
        require_classifier(service, part, images)
    for name in config["explanations"]:
        require_reference(service, name, service.roles.reported)
        service.shapes("target", (name,), images)

    # The defender's roles, even where no arm is defended
    for role in config["defender"].values():
        if role:
            service.roles.count([role], config["seed"])

    # All defences, even those of no arm
    for name in config["defences"]:
        for link in Link(Release(service, ()), name).referred().values():
            link.check()

    # The arms
    for arm in arms(service):
        require_arm(arm, images)
    if config["arms"]:
        _metrics(service, images)


def require_classifier(service: Service, part: str, images: jax.ShapeDtypeStruct) -> None:
    """Raises InputError unless a classifier can be trained, and applied to such images."""
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
        views = [arm.view(TRAIN_VIEW) for arm in arms(service)]
        halves = any(view.several and part in view.members for view in views)
        reported = halves or may_train_on_reported(service, part)
        require_training(service, f"the {part}", recipe, settings["roles"], reported)
        require_private(service, part, images)
    if not service.classifiers.is_recorded(part):
        service.classifiers.abstract(part, images)
    if "joint" in settings and service.releases_logits:
        raise InputError(
            f"the {part} is trained jointly with an inverter of its probabilities, and the service "
            "releases logits: set service.prediction to 'probabilities'"
        )
    # A student learns from what a service releases, like an attacker
    if "teacher" in settings:
        teacher = settings["teacher"]
        service.shapes(teacher["prediction"], (), images)
        defences = tuple(teacher["defences"])
        release = Release(service, (), teacher["prediction"], defences=defences)
        require_separate(release, attacker=())


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

    # Of explanations, which are measured where there are defences
    if not service.config["defences"]:
        given = _explained(service, "target", images, images)
        for name, hyper in metrics[cost.UTILITY].items():
            measure.metric(name, hyper, given)
        return

    # Once for all arms that see the same maps
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


def _given(judge: WhiteBox) -> dict[str, Any]:
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
