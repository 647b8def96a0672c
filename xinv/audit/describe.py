"""The description of an arm in its rows, so that a report needs no config."""

from typing import Any

from xinv import store
from xinv.audit.attacker import TEST_VIEW, TRAIN_VIEW, Arm, arms
from xinv.audit.method import PREDICTION
from xinv.audit.service import Service

NO_ARM = dict.fromkeys(
    (
        "goal",
        "verb",
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
      goal: its name.
      verb: its success, as people say it after "can".
      inputs: their names, joined by "+".
      encoder: of explanations, or the name of its method.
      explainer: the released explanations among its inputs, joined; None for predictions alone.
        Explanations of an attacker's own model are not released.
      defence: names of the defences in its test view, joined; None without one.
      adaptive: True if it is trained on releases by the same defences.
      queries: releases of a tested image, of which it has the mean.
      releases: releases of each training image.
      roles: of its training images, joined.
      attack: a hash; arms with the same differ only in defences and numbers of releases.
      baseline: True if the arms with explanations are compared with it.
      control_of: the arm under this control, or None.
      model: the classifier in its test view.
    """
    trained = arm.settings[TRAIN_VIEW]
    tested = arm.settings[TEST_VIEW]
    # Pairs of shadow models are trained on halves of the very images that are reported
    roles = trained["roles"]
    if not roles and arm.method.build().paired:
        roles = [arm.evaluated]
    explainer = "+".join(arm.explanations) if is_explained(arm) else ""
    return {
        "goal": arm.goal.name,
        "verb": arm.goal.verb,
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
    # Defences and numbers of releases make no other attack
    alike = dict.fromkeys(("defences", "queries", "releases"))
    views = {view: {**arm.settings[view], **alike} for view in (TRAIN_VIEW, TEST_VIEW)}
    read = [_undefended(other) for other in arm.others]
    others = [other.name for other in arm.others]
    own = [name for name in arm.settings["inputs"] if name not in others]
    return {**arm.settings, **views, "inputs": own + read, "evaluate": None}


def _baseline(service: Service) -> str | None:
    """Returns the arm to compare others with: predictions alone, in views with explanations.

    Without such an arm it is the only one of its kind.
    """
    evaluated = [arm for arm in arms(service) if arm.rebuilds]
    undefended = [arm for arm in evaluated if not arm.settings[TEST_VIEW]["defences"]]
    explained = [arm for arm in undefended if is_explained(arm)]
    # Without explanations the only kind of attack is its own baseline
    if not explained:
        kinds = {store.digest(_undefended(arm)) for arm in evaluated}
        return undefended[0].name if undefended and len(kinds) == 1 else None

    # Alike but for the explanation, so that what it adds can be told
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
