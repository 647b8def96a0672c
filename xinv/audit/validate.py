"""Finds what is wrong with a config before anything is computed, by names and shapes alone."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from xinv import train
from xinv.audit import cost, measure
from xinv.audit.attacker import TEST_VIEW, TRAIN_VIEW, Arm, arms, parts
from xinv.audit.chain import Link
from xinv.audit.goals import MEMBERSHIP, RECONSTRUCTION
from xinv.audit.release import Release
from xinv.audit.results import Config
from xinv.audit.roles import REPORTED, UNION
from xinv.audit.service import Service, public_reference
from xinv.metrics import membership
from xinv.numbers import described, is_count, require_count
from xinv.types import Batch, InputError, Known

SECTIONS = (
    "unit",
    "seed",
    "seeds",
    "data",
    "target",
    "evaluation",
    "shadows",
    "attributes",
    "explanations",
    "defences",
    "defender",
    "attack",
    "arms",
    "metrics",
    "analysis",
    "report",
)
"""What a config must have."""
TARGETS = {"model": ("model", "train"), "function": ("function",), "recorded": ("recorded",)}
"""What a target section states beside label and roles, by what names the target."""


def sections(config: Config) -> None:
    """Checks that a config has every section, and names a factory wherever one is needed.

    Raises:
      InputError: it does not.
    """
    require_keys("the config", config, SECTIONS)
    require_keys("metrics", config["metrics"], (*RECONSTRUCTION.metrics, cost.UTILITY, *MEMBERSHIP.metrics))
    require_keys("defender", config["defender"], ("role", "held_out"))
    require_keys("report", config["report"], ("examples", "published"))
    require_count(seeds=config["seeds"])
    require_count(0, seed=config["seed"])
    _target(config["target"])
    named = {"data.source": config["data"]["source"]}
    if "model" in config["target"]:
        named["target.model"] = config["target"]["model"]
    named |= {f"explanations.{name}": settings for name, settings in config["explanations"].items()}
    named |= {f"defences.{name}": settings for name, settings in config["defences"].items()}
    nameless = [path for path, settings in named.items() if not {"name", "reuse_state_of"} & set(settings)]
    if nameless:
        raise InputError(f"{nameless[0]} has no name: give that of a factory, beside its parameters")


def validate(service: Service) -> None:
    """Builds every plug-in that the config names, and traces it on the shapes it will see.

    Raises:
      InputError: a name does not exist, or a shape does not fit.
    """
    config, images = service.config, jax.ShapeDtypeStruct((2, *service.roles.dataset.images.shape[1:]), np.float32)
    # Each arm's section first, since arms read each other
    for arm in arms(service):
        _views(arm)
    for part in parts(service):
        _classifier(service, part, images)
    for name in config["explanations"]:
        _reference(service, name, REPORTED)
        service.shapes("target", (name,), images)
    for name in config["defences"]:  # also where no arm is defended so
        for link in Link(Release(service, ()), name).referred().values():
            link.check()
    for arm in arms(service):
        _arm(arm, images)
    if config["arms"]:
        _metrics(service, images)


def require_keys(what: str, settings: Mapping[str, Any], known: Collection[str]) -> None:
    """InputError unless a section of a config states what is `known`, and nothing that would be ignored."""
    missing = [name for name in known if name not in settings]
    unknown = [name for name in settings if name not in known]
    if missing or unknown:
        problem = f"has no {missing[0]!r}" if missing else f"has {unknown[0]!r}, which is ignored"
        raise InputError(f"{what} {problem}: it needs {', '.join(known)}")


def _target(settings: Config) -> None:
    found = [kind for kind in TARGETS if kind in settings]
    if len(found) != 1:
        raise InputError(f"the target has {', '.join(found) or 'no model'}: give one of {', '.join(TARGETS)}")
    further = [name for name in ("joint", "teacher") if name in settings and found == ["model"]]
    require_keys(f"a target with {found[0]}", settings, ("label", "roles", *TARGETS[found[0]], *further))


def _classifier(service: Service, part: str, images: jax.ShapeDtypeStruct) -> None:
    settings = service.classifiers.settings(part)
    service.classifiers.classes(part)
    if service.classifiers.is_trained(part):
        recipe = settings.get("train") or None
        own = service.classifiers.own(part)
        if own is not None and own.train is None:
            raise InputError(
                f"{part} is to be trained like the target, but the module of {settings['function']!r} has no "
                "train(images, labels, key) -> variables"
            )
        halves = any(part in arm.view(TRAIN_VIEW).members for arm in arms(service) if arm.view(TRAIN_VIEW).several)
        _training(service, f"the {part}", recipe, settings["roles"], halves)
    if not service.classifiers.is_recorded(part):
        service.classifiers.abstract(part, images)
    if "teacher" in settings:
        teacher = settings["teacher"]
        service.shapes(teacher["prediction"], (), images)
        _defender(Release(service, (), teacher["prediction"], defences=tuple(teacher["defences"])), ())


def _reference(service: Service, name: str, reported: str) -> None:
    """The reference of an explanation is a number, or public images of which none is reported."""
    settings, what = service.config["explanations"][name], f"explanations.{name}.reference"
    if "reference" not in settings:
        return
    count = settings["reference"]
    if isinstance(count, Mapping):
        require_keys(what, count, ("role", "count"))
        count = count["count"]
    if not is_count(count, 1):
        raise InputError(
            f"{what} is {described(count)} but must be a number of the classifier's own images, "
            "or the role and the count of public ones"
        )
    for seed in service.classifiers.seeds:
        for role in public_reference(settings):
            if service.roles.shared([role], reported.split(UNION), seed):
                problem = f"{what} {role!r} has images of {reported}, which are reported"
                raise InputError(f"{problem}: name another role")


def _arm(arm: Arm, images: jax.ShapeDtypeStruct) -> None:
    learns, service, goal = arm.settings[TRAIN_VIEW], arm.service, arm.goal
    paired = arm.method.build().paired
    _learned_from(arm, paired)

    # What it makes of the shapes of what it is given
    guess = arm.check(images.shape[1:])
    if arm.settings["scored"] and guess != goal.guess_shape(images.shape[1:]):
        raise InputError(
            f"arm {arm.name!r} guesses {list(guess)}, no images {list(images.shape[1:])}: it cannot be scored"
        )

    # What its goal asks of the classifiers, and that nothing it is fitted to is reported
    for view in (TEST_VIEW, TRAIN_VIEW):
        goal.check(service, arm.settings[view], arm.view(view).members)
    reported = arm.evaluated
    if learns["roles"] and service.roles.shared(learns["roles"], [reported], service.config["seed"]):
        raise InputError(f"arm {arm.name!r} learns from images of {reported}, which are reported for {goal.name}")
    for name in arm.explanations:
        _reference(arm.service, name, reported)

    for view in (TRAIN_VIEW, TEST_VIEW):
        _defender(arm.view(view).release, learns["roles"])


def _learned_from(arm: Arm, paired: bool) -> None:
    """An attack learns from images of a role, from the reported ones by many shadow models, or with the target."""
    learns, service = arm.settings[TRAIN_VIEW], arm.service
    if paired != arm.view(TRAIN_VIEW).several:
        needs = "needs several shadow models: name" if paired else "learns from one model, but is given"
        raise InputError(f"arm {arm.name!r} {needs} a tuple of classifiers in train_view.prediction and .explanation")
    if paired and (learns["roles"] or arm.others or learns["releases"] > 1):
        raise InputError(
            f"arm {arm.name!r} learns what shadow models say of the reported images: leave its roles empty, give 1 "
            "release, and no other arm among its inputs"
        )
    if paired:
        return
    if learns["roles"]:
        _training(service, f"arm {arm.name!r}", service.config["attack"]["train"], learns["roles"])
    elif "joint" not in service.classifiers.settings(learns["prediction"]):
        raise InputError(f"arm {arm.name!r} learns from no role: name one, or a model that is trained jointly")


def _views(arm: Arm) -> None:
    """What an attack learns from and sees is described completely, and by nothing that would be ignored."""
    service = ("prediction", "explanation", "defences", "queries", "members")
    require_keys(
        f"arm {arm.name!r}", arm.settings, ("inputs", "attack", TRAIN_VIEW, TEST_VIEW, "known", "scored", "control_of")
    )
    for view, known in ((TRAIN_VIEW, ("roles", "releases", *service)), (TEST_VIEW, service)):
        settings = arm.settings[view]
        require_keys(f"{view} of arm {arm.name!r}", settings, known)
        _counts(f"{view} of arm {arm.name!r}", settings)
        explained = settings["explanation"]
        alike = isinstance(settings["prediction"], str) == isinstance(explained, str)
        if not alike or (not isinstance(explained, str) and tuple(explained) != tuple(settings["prediction"])):
            raise InputError(
                f"{view} of arm {arm.name!r} has several shadow models in prediction or in explanation: "
                "name the same in both"
            )
    if not isinstance(arm.settings[TEST_VIEW]["prediction"], str):
        raise InputError(f"test_view of arm {arm.name!r} is of several classifiers: name the one that is attacked")
    learns = arm.settings[TRAIN_VIEW]
    if learns["releases"] > 1 and (arm.others or not learns["defences"] or not learns["roles"]):
        raise InputError(
            f"arm {arm.name!r} learns from {learns['releases']} releases of each image: give 1, or more where it "
            "learns from a role what defences release, and reads no other arm"
        )
    real = arm.settings["control_of"]
    if real and real not in arm.service.config["arms"]:
        raise InputError(f"arm {arm.name!r} is control_of {real!r}, which is no arm")


def _counts(what: str, settings: Config) -> None:
    for name in ("queries", "releases"):
        if not is_count(settings.get(name, 1), 1):
            raise InputError(f"{what} has {settings[name]!r} {name}: this must be a whole number of at least 1")
    if settings["queries"] > 1 and not settings["defences"]:
        raise InputError(f"{what} has {settings['queries']} queries of what no defence changes: give 1")


def _defender(release: Release, attacker: Sequence[str]) -> None:
    """The defender has images of its own, and holds others back, none of which is reported or the attacker's."""
    service, defender = release.service, release.service.config["defender"]
    for link in release.chain.needed():
        measured = release.explains or defender["held_out"]  # predictions may be defended where nobody is held out
        own = {"role": defender["role"]} | ({"held_out": defender["held_out"]} if measured else {})
        for kind, role in own.items():
            recipe = link.settings().get("train") if kind == "role" else None
            _training(service, f"defender.{kind} of {link.name!r}", recipe, [role])
            if attacker and service.roles.shared([role], attacker, service.config["seed"]):
                raise InputError(
                    f"defender.{kind} {role!r} has images of the attacker, who learns from {list(attacker)}"
                )
        if len(own) > 1 and service.roles.shared([own["role"]], [own["held_out"]], service.config["seed"]):
            raise InputError(f"defender.held_out {own['held_out']!r} has images of defender.role {own['role']!r}")


def _training(service: Service, what: str, recipe: Config | None, roles: Sequence[str], halves: bool = False) -> None:
    """A training has enough images, none of which is reported; `halves` of the reported ones are meant to be."""
    for seed in service.classifiers.seeds:
        if not halves and service.roles.shared(roles, [REPORTED], seed):
            raise InputError(f"{what} trains on images of {REPORTED}, which is reported: its roles are {list(roles)}")
        if recipe is not None:
            # Raises if there are too few images
            train.steps_per_epoch(train.Recipe.stated(recipe), service.roles.count(roles, seed), what)


def _metrics(service: Service, images: jax.ShapeDtypeStruct) -> None:
    """Of reconstructions, of members, and of explanations in a unit with defences, on the maps that arms see."""
    labels, metrics = jax.ShapeDtypeStruct((images.shape[0],), np.int32), service.config["metrics"]
    for group in MEMBERSHIP.metrics:
        for name, hyper in metrics[group].items():
            membership.build(name, **hyper)
    if any(arm.rebuilds for arm in arms(service)):
        given = _given(service.classifiers.abstract("evaluation", images))
        for kind, truth in zip(RECONSTRUCTION.metrics, (images, labels), strict=True):
            _trace(metrics[kind], given, {"truth": truth, "guess": images})
    defended = arms(service) if service.config["defences"] else ()
    distinct = {(arm.view(TEST_VIEW).release.explanation, arm.explanations): arm for arm in defended}
    for (part, _), arm in distinct.items():
        maps = arm.view(TEST_VIEW).release.maps(images)
        if maps is None:
            continue
        given = {}
        if not service.classifiers.is_recorded(part):
            given = _given(service.classifiers.abstract(part, images))
            given["release"] = Partial(lambda *asked, maps=maps: jnp.zeros(maps.shape))
        truth = {"image": images, "label": labels, "explanation": maps}
        _trace(metrics[cost.UTILITY], given, {"truth": truth, "guess": maps})


def _given(judge: Known) -> dict[str, Any]:
    return {"apply": judge.model.apply, "embed": judge.model.embed, "variables": judge.variables}


def _trace(metrics: Config, given: Config, batch: Batch) -> None:
    functions = {name: measure.metric(name, hyper, given) for name, hyper in metrics.items()}
    jax.eval_shape(measure.score, functions, batch, None)
