"""Errors of a config's section `harden`, found before anything is computed."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from xinv import attacks, defences, explain, plugins, space, train
from xinv.audit import outputs
from xinv.audit.goals import MEMBERSHIP
from xinv.audit.roles import REPORTED
from xinv.audit.sections import HARDEN, require_keys
from xinv.audit.service import Service
from xinv.audit.validate import require_classifier
from xinv.harden.candidate import space_of
from xinv.harden.check_ways import is_file_name, require_names, require_ways
from xinv.harden.search import searched_transforms
from xinv.harden.ways import models
from xinv.numbers import is_number, is_one_of, require, require_count, require_flag
from xinv.types import InputError

FIELDS = (
    "explanations",
    "trials",
    "startup",
    "generation",
    "transforms",
    "transform_all",
    "orders",
    "defences",
    "trainings",
    "search_attack",
    "attack",
    "leak",
    "utility",
    "floors",
    "alpha",
    "sample",
    "queries",
    "roles",
    "target",
    "shadow",
    "controls",
    "inversion",
)
ROLES = ("shadow", "search", "report")
FLOORS = ("spearman", "insertion", "deletion")
UTILITIES = ("spearman", "max_sensitivity")


def check(service: Service) -> None:
    """Checks the section `harden` of a config by names, numbers and roles.

    Raises:
      InputError: a named thing does not exist, or the search would see the reported half.
    """
    config = service.config
    if HARDEN not in config:
        raise InputError("the config has no section 'harden': see configs/deepleak.py for one")
    settings = config[HARDEN]
    require_keys(HARDEN, settings, FIELDS)
    require_keys("harden.roles", settings["roles"], ROLES)
    # A recorded target has no weights, so no other explanation can be made
    if service.classifiers.is_recorded(settings["target"]):
        raise InputError(
            "harden needs a model to explain in other ways, and the target is recorded"
        )
    # Its own roles say what is reported
    if service.roles.reported != REPORTED:
        raise InputError(
            f"harden reports images of harden.roles.report, not of {service.roles.reported!r}: "
            f"leave report.role at {REPORTED!r}"
        )
    # A policy releases probabilities
    if service.releases_logits:
        raise InputError(
            "harden makes policies that release probabilities, and service.prediction is 'logits': "
            "set it to 'probabilities'"
        )
    _numbers(settings)
    require_names(settings)
    _methods(service, settings)
    for seed in service.classifiers.seeds:
        _roles(service, settings, seed)
    # Every model can be trained and explained
    shape = service.roles.dataset.images.shape[1:]
    images = jax.ShapeDtypeStruct((2, *shape), np.float32)
    for part in models(settings):
        require_classifier(service, part, images)
        for name in settings["explanations"]:
            service.shapes(part, (name,), images)
    # Both models need members and others; the attack on images is optional
    pair = (settings["target"], settings["shadow"])
    for part in pair:
        MEMBERSHIP.check(service, {"prediction": part, "explanation": part}, [part])
    if settings["inversion"]:
        _inversion(service, settings["inversion"])
    require_ways(service)


def _numbers(settings: Mapping[str, Any]) -> None:
    # Counts and flags, then levels, then names
    for name in ("trials", "startup", "generation", "sample", "queries"):
        require_count(**{name: settings[name]})
    require_flag(transform_all=settings["transform_all"])
    alpha = settings["alpha"]
    require(
        is_number(alpha) and 0 < alpha < 1,
        "harden.alpha",
        alpha,
        "between 0 and 1",
    )
    for name, pair in settings["controls"].items():
        require(
            isinstance(pair, list | tuple) and len(pair) == 2,
            f"harden.controls.{name}",
            pair,
            "two classifiers: the attacker's own, and the one that it attacks",
        )
    for name, floor in settings["floors"].items():
        if name not in FLOORS:
            raise InputError(f"harden.floors has {name!r}: choose among {', '.join(FLOORS)}")
        require(
            is_number(floor) and floor <= 1,
            f"harden.floors.{name}",
            floor,
            "at most 1",
        )
    utility = settings["utility"]
    leak = settings["leak"]
    require(
        is_one_of(utility, UTILITIES),
        "harden.utility",
        utility,
        " or ".join(UTILITIES),
    )
    require(
        _is_leak(leak),
        "harden.leak",
        leak,
        'either "auc" or "tpr_at_<rate below 1>"',
    )


def _inversion(service: Service, settings: Mapping[str, Any]) -> None:
    require_keys("harden.inversion", settings, ("attack", "train"))
    recipe = train.Recipe.stated(settings["train"])
    given = {"inputs": ("prediction", "explanation"), "recipe": recipe}
    # Build the attack: an unknown name or parameter fails here
    attack = attacks.build(**settings["attack"], given=given)
    _trainable(service, "harden.inversion", recipe)
    if attack.goal != "reconstruction":
        raise InputError(
            f"harden.inversion.attack is {settings['attack']['name']!r}: choose one that rebuilds "
            "images, such as decoder"
        )
    if "ssim" not in service.config["metrics"]["image"]:
        raise InputError("harden.inversion needs metrics.image.ssim: state its sigma and window")


def _trainable(service: Service, what: str, recipe: train.Recipe) -> None:
    """Raises InputError if the attacker's images do not fill a batch."""
    role = service.config[HARDEN]["roles"]["shadow"]
    for seed in service.classifiers.seeds:
        train.steps_per_epoch(recipe, service.roles.count([role], seed), what)


def _is_leak(leak: Any) -> bool:
    if leak == "auc" or not isinstance(leak, str):
        return leak == "auc"
    try:
        return leak.startswith("tpr_at_") and 0 < float(leak.removeprefix("tpr_at_")) < 1
    except ValueError:
        return False


def _methods(service: Service, settings: Mapping[str, Any]) -> None:
    """Finds explanations without a search space, and attacks on other goals than membership."""
    # Each explanation exists, and has something to search
    known = service.config["explanations"]
    names = settings["explanations"]
    if not names:
        raise InputError(f"harden.explanations is empty: choose among {', '.join(known)}")
    # A second one would count as a second seed
    if len(set(names)) < len(names):
        raise InputError(f"harden.explanations names one twice: {', '.join(names)}")
    for name in settings["explanations"]:
        if name not in known:
            raise InputError(f"harden.explanations has {name!r}: choose among {', '.join(known)}")
        if not is_file_name(name):
            raise InputError(
                f"harden.explanations has {name!r}: policies are kept by the names of "
                "explanations, so give one without a slash"
            )
        plugins.find(explain, "explainer", known[name]["name"])
        _transforms("transforms", known, name, searched_transforms(settings, known[name]))
        for order in settings["orders"]:
            _transforms("orders", known, name, order)
    # Each attack infers membership from one model's maps
    recipe = train.Recipe.stated(service.config["attack"]["train"])
    given = {"inputs": ("explanation",), "recipe": recipe}
    for name in ("attack", "search_attack"):
        attack = attacks.build(**settings[name], given=given)
        if plugins.takes(attacks, "attack", settings[name]["name"], "recipe"):
            _trainable(service, f"harden.{name}", recipe)
        if attack.goal != "membership" or attack.paired or attack.needs:
            raise InputError(
                f"harden.{name} is {settings[name]['name']!r}: choose a membership attack that "
                "learns on one shadow model's maps, such as membership_network"
            )


def _transforms(
    field: str,
    known: Mapping[str, Any],
    name: str,
    transforms: Sequence[str],
) -> None:
    """Finds an explanation without anything to search, and transforms that cannot be searched."""
    allowed = ", ".join(one.__name__ for one in defences.FACTORIES if space.of(one))
    for transform in transforms:
        if not space.of(plugins.find(defences, "defence", transform)):
            raise InputError(
                f"harden.{field} has {transform!r}, which has no search space: "
                f"choose among {allowed}"
            )
    if len(set(transforms)) < len(transforms):
        raise InputError(f"harden.{field} names one twice: {list(transforms)}")
    if not space_of(known[name], transforms):
        raise InputError(
            f"explanation {name!r} has nothing to search: give harden.{field} some of {allowed}"
        )


def _roles(service: Service, settings: Mapping[str, Any], seed: int) -> None:
    """Finds halves with common images or groups, or without members or others."""
    roles = service.roles
    names = settings["roles"]
    # Every named classifier exists
    named = itertools.chain(
        [settings["target"], settings["shadow"]], *settings["controls"].values()
    )
    for part in named:
        service.classifiers.settings(part)
    # The search learns nothing of the reported half
    for one, other in itertools.combinations(ROLES, 2):
        if roles.shared([names[one]], [names[other]], seed):
            raise InputError(
                f"harden.roles.{one} and harden.roles.{other} share images: what is searched on "
                "must not be reported"
            )
    asked = {"search": "target", "report": "target", "shadow": "shadow"}
    for role, part in asked.items():
        trained = service.classifiers.settings(settings[part])["roles"]
        member = roles.among(names[role], trained, seed)
        if member.all() or not member.any():
            raise InputError(
                f"harden.roles.{role} needs members and others of the {part}'s training set, "
                f"and has {int(member.sum())} and {int((~member).sum())}"
            )
    # The attacker's models and those of controls know none of the images
    audited = [names["search"], names["report"]]
    for part in models(settings):
        own = service.classifiers.settings(part)["roles"]
        if part != settings["target"] and own and roles.shared(audited, own, seed):
            raise InputError(
                f"harden has {part!r} as a shadow model or a control, which was trained on images "
                "of harden.roles.search or report: name a model that was trained on none"
            )
    # Nor does a reference show one
    for name in settings["explanations"]:
        _reference(service, name, audited, seed)


def _reference(
    service: Service,
    name: str,
    audited: Sequence[str],
    seed: int,
) -> None:
    section = service.config["explanations"][name]
    if "reference" not in section:
        return
    public = outputs.public_reference(section)
    if not public or service.roles.shared(audited, public, seed):
        raise InputError(
            f"explanation {name!r} releases pixels of images that harden.roles.search or report "
            "have: give it a reference with a role of its own, {'role': …, 'count': …}"
        )
