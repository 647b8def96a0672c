"""Finds what is wrong with a config before anything is computed, by names and shapes alone."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from xinv import train
from xinv.audit import evaluate as scored
from xinv.audit.attacker import LEARNS, SEES, Arm, arms
from xinv.audit.release import Released
from xinv.audit.results import Config
from xinv.audit.service import Unit, abstract, map_shape
from xinv.numbers import is_count
from xinv.types import Batch, InputError, Known


def rehearse(unit: Unit) -> None:
    """Builds every plug-in that the config names, and traces it on the shapes it will see.

    Raises:
      InputError: a name does not exist, or a shape does not fit.
    """
    images = jax.ShapeDtypeStruct((2, *unit.dataset.images.shape[1:]), np.float32)
    for part in unit.classifiers():
        _training(unit, f"the {part}", unit.settings(part)["train"], unit.settings(part)["roles"])
        abstract(unit, part, images)
        if "teacher" in unit.settings(part):
            teacher = unit.settings(part)["teacher"]
            abstract(unit, teacher["prediction"], images)
            _defender(Released(unit, (), teacher["prediction"], defences=teacher["defences"]), ())
    target = abstract(unit, "target", images)
    for name in unit.config["explanations"]:
        map_shape(unit.explainer(name, unit.seeds[0]), target.model.apply, target.variables, images)
    for name in unit.config["defences"]:  # also where no arm is defended so
        for one in Released(unit, (), defences=(name,)).needed():
            one.stated()
    for arm in arms(unit):  # first, since arms read each other
        _views(arm)
    for arm in arms(unit):
        _arm(arm, images)
    if unit.config["arms"]:
        _metrics(unit, images)


def require_keys(what: str, settings: Mapping[str, Any], known: Collection[str]) -> None:
    """InputError unless a section of a config states what is `known`, and nothing that would be ignored."""
    missing, odd = [name for name in known if name not in settings], [name for name in settings if name not in known]
    if missing or odd:
        told = f"has no {missing[0]!r}" if missing else f"has {odd[0]!r}, which is ignored"
        raise InputError(f"{what} {told}: it needs {', '.join(known)}")


def _arm(arm: Arm, images: jax.ShapeDtypeStruct) -> None:
    learns = arm.settings[LEARNS]
    if not learns["roles"] and "joint" not in arm.unit.settings(learns["prediction"]):
        raise InputError(f"arm {arm.name!r} learns from no role: name one, or a model that is trained jointly")
    if learns["roles"]:
        _training(arm.unit, f"arm {arm.name!r}", arm.unit.config["attack"]["train"], learns["roles"])
    guess = arm.check(images.shape[1:])
    if arm.settings["scored"] and guess != images.shape[1:]:
        raise InputError(
            f"arm {arm.name!r} guesses {list(guess)}, no images {list(images.shape[1:])}: it cannot be scored"
        )
    for view in (LEARNS, SEES):
        _defender(arm.released(view), learns["roles"])


def _views(arm: Arm) -> None:
    """What an attack learns from and sees is described completely, and by nothing that would be ignored."""
    service = ("prediction", "explanation", "defences", "queries")
    require_keys(f"arm {arm.name!r}", arm.settings, ("reads", "attack", LEARNS, SEES, "known", "scored"))
    for view, known in ((LEARNS, ("roles", "releases", *service)), (SEES, service)):
        settings = arm.settings[view]
        require_keys(f"{view} of arm {arm.name!r}", settings, known)
        for name in ("queries", "releases"):
            if not is_count(settings.get(name, 1), 1):
                raise InputError(
                    f"arm {arm.name!r} {view} {settings[name]!r} {name}, but this must be a whole number of at least 1"
                )
        if settings["queries"] > 1 and not settings["defences"]:
            raise InputError(
                f"arm {arm.name!r} {view} {settings['queries']} queries of what no defence changes: give 1"
            )
    learns = arm.settings[LEARNS]
    if learns["releases"] > 1 and (arm.others or not learns["defences"] or not learns["roles"]):
        raise InputError(
            f"arm {arm.name!r} learns from {learns['releases']} releases of each image: give 1, or more where it "
            "learns from a role what defences release, and reads no other arm"
        )


def _defender(released: Released, attacker: Sequence[str]) -> None:
    """The defender has images of its own, and holds others back, none of which is reported or the attacker's."""
    unit, defender = released.unit, released.unit.config["defender"]
    for one in released.needed():
        name = one.defences[-1]
        measured = released.explains or defender["held_out"]  # predictions may be defended where nobody is held out
        own = {"role": defender["role"]} | ({"held_out": defender["held_out"]} if measured else {})
        for kind, role in own.items():
            recipe = one.settings().get("train") if kind == "role" else None
            _training(unit, f"defender.{kind} of {name!r}", recipe, [role])
            if attacker and unit.shared([role], attacker, unit.seeds[0]):
                raise InputError(
                    f"defender.{kind} {role!r} has images of the attacker, who learns from {list(attacker)}"
                )
        if len(own) > 1 and unit.shared([own["role"]], [own["held_out"]], unit.seeds[0]):
            raise InputError(f"defender.held_out {own['held_out']!r} has images of defender.role {own['role']!r}")


def _training(unit: Unit, what: str, recipe: Config | None, roles: Sequence[str]) -> None:
    for seed in unit.seeds:
        count = unit.require_unseen(what, roles, seed)
        if recipe is not None:
            train.steps_per_epoch(train.Recipe.stated(recipe), count, what)


def _metrics(unit: Unit, images: jax.ShapeDtypeStruct) -> None:
    """Of reconstructions, and of explanations in a unit with defences, on the maps that arms see."""
    labels, metrics = jax.ShapeDtypeStruct((images.shape[0],), np.int32), unit.config["metrics"]
    given = _given(abstract(unit, "evaluation", images))
    for kind, truth in zip(scored.RECONSTRUCTION, (images, labels), strict=True):
        _trace(metrics[kind], given, {"truth": truth, "guess": images})
    defended = arms(unit) if unit.config["defences"] else ()
    distinct = {(arm.released(SEES).explanation, arm.explanations): arm for arm in defended}
    for (part, _), arm in distinct.items():
        maps = arm.maps(SEES, images)
        if maps is not None:
            given = _given(abstract(unit, part, images))
            given["release"] = Partial(lambda *asked, maps=maps: jnp.zeros(maps.shape))
            truth = {"image": images, "label": labels, "explanation": maps}
            _trace(metrics[scored.FUNCTIONALITY], given, {"truth": truth, "guess": maps})


def _given(judge: Known) -> dict[str, Any]:
    return {"apply": judge.model.apply, "embed": judge.model.embed, "variables": judge.variables}


def _trace(metrics: Config, given: Config, batch: Batch) -> None:
    functions = {name: scored.metric(name, hyper, given) for name, hyper in metrics.items()}
    jax.eval_shape(scored.score, functions, batch, None)
