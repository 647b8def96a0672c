"""What rows say of an arm, so that a report needs no config."""

from typing import Any

from xinv import store
from xinv.audit.attacker import TEST_VIEW, TRAIN_VIEW, Arm, arms
from xinv.audit.method import PREDICTION
from xinv.audit.service import Service

NO_ARM = dict.fromkeys(
    (
        "goal",
        "inputs",
        "encoder",
        "explainer",
        "defence",
        "adaptive",
        "queries",
        "releases",
        "roles",
        "attack",
        "baseline",
        "control_of",
        "model",
    )
)
"""The same fields, of rows that are of no arm."""


def describe(arm: Arm) -> dict[str, Any]:
    """Returns the fields of the rows of an arm.

    Returns:
      goal: what it is after.
      inputs: names of what it reads, joined by "+".
      encoder: how it reads an explanation, or the name of its method.
      explainer: the explanations among its inputs that the service releases, joined; None for predictions alone. What
        an attacker explains on a model of its own is not released.
      defence: names of the defences of what it is tested on, joined; None without one.
      adaptive: whether it is trained on releases by the same defences.
      queries: releases of a tested image whose mean it is given.
      releases: releases of each image that it is trained on.
      roles: whose images it is trained on, joined.
      attack: a hash; arms that share it differ in nothing but defences and numbers of releases.
      baseline: whether the arms with explanations are compared with it.
      control_of: the arm whose control it is, or None.
      model: the classifier that it is tested on.
    """
    trained, tested = arm.settings[TRAIN_VIEW], arm.settings[TEST_VIEW]
    roles = trained["roles"] or ([arm.evaluated] if arm.method.build().paired else [])
    explainer = "+".join(arm.explanations) if is_explained(arm) else ""
    return {
        "goal": arm.goal.name,
        "inputs": "+".join(arm.settings["inputs"]),
        "encoder": arm.method.encoder,
        "explainer": explainer or None,
        "defence": "+".join(tested["defences"]) or None,
        "adaptive": tuple(trained["defences"]) == tuple(tested["defences"]),
        "queries": tested["queries"],
        "releases": trained["releases"],
        "roles": "+".join(roles),
        "attack": store.digest(_undefended(arm)),
        "baseline": arm.name == _baseline(arm.service),
        "control_of": arm.settings["control_of"] or None,
        "model": tested["prediction"],
    }


def _undefended(arm: Arm) -> dict[str, Any]:
    """An arm's section without defences and numbers of releases; so are the arms that it reads."""
    alike = dict.fromkeys(("defences", "queries", "releases"))
    views = {view: {**arm.settings[view], **alike} for view in (TRAIN_VIEW, TEST_VIEW)}
    read = [_undefended(other) for other in arm.others]
    others = [other.name for other in arm.others]
    own = [name for name in arm.settings["inputs"] if name not in others]
    return {**arm.settings, **views, "inputs": own + read, "scored": None}


def _baseline(service: Service) -> str | None:
    """The arm that others are compared with: predictions alone, in the views of an arm with explanations.

    Without such an arm it is the only one of its kind.
    """
    scored = [arm for arm in arms(service) if arm.rebuilds]
    undefended = [arm for arm in scored if not arm.settings[TEST_VIEW]["defences"]]
    explained = [arm for arm in undefended if is_explained(arm)]
    if not explained:
        kinds = {store.digest(_undefended(arm)) for arm in scored}
        return undefended[0].name if undefended and len(kinds) == 1 else None

    views = explained[0].settings[TRAIN_VIEW], explained[0].settings[TEST_VIEW]
    for arm in undefended:
        same = (arm.settings[TRAIN_VIEW], arm.settings[TEST_VIEW]) == views
        trained_alike = arm.method.stated["name"] == explained[0].method.stated["name"]
        if same and trained_alike and tuple(arm.settings["inputs"]) == (PREDICTION,):
            return arm.name
    return None


def is_explained(arm: Arm) -> bool:
    """Tells if it reads explanations that the service releases."""
    tested = arm.settings[TEST_VIEW]
    return bool(arm.explanations) and tested["explanation"] == tested["prediction"]
