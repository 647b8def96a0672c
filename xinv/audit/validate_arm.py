"""Finds the errors of an arm before anything is computed, by names and shapes alone."""

import jax

from xinv import attacks, plugins
from xinv.audit.attacker import TEST_VIEW, TRAIN_VIEW, Arm
from xinv.audit.goals import MEMBERSHIP
from xinv.audit.release import NONE
from xinv.audit.results import Config
from xinv.audit.sections import require_keys
from xinv.audit.usage import require_reference, require_separate, require_training
from xinv.audit.validate_members import require_control, require_members
from xinv.numbers import is_count
from xinv.types import InputError

_ARM = ("inputs", "attack", TRAIN_VIEW, TEST_VIEW, "known", "population", "evaluate", "control_of")
_VIEW = ("prediction", "explanation", "defences", "queries", "members")


def require_views(arm: Arm) -> None:
    """Raises InputError unless the views of an arm are complete, without settings of no effect."""
    what = f"arm {arm.name!r}"
    require_keys(what, arm.settings, _ARM)
    require_keys(
        f"{TRAIN_VIEW} of {what}",
        arm.settings[TRAIN_VIEW],
        ("roles", "releases", *_VIEW),
    )
    require_keys(f"{TEST_VIEW} of {what}", arm.settings[TEST_VIEW], _VIEW)
    for view in (TRAIN_VIEW, TEST_VIEW):
        _require_counts(f"{view} of {what}", arm.settings[view])
        _require_one_service(f"{view} of {what}", arm.settings[view])
        _require_classifiers(arm, view)

    # An input that stands twice would be stacked twice
    inputs = list(arm.settings["inputs"])
    twice = [name for name in inputs if inputs.count(name) > 1]
    if twice:
        raise InputError(f"{what} has {twice[0]!r} twice among its inputs: name it once")

    # What an attack is tested on is one classifier
    if not isinstance(arm.settings[TEST_VIEW]["prediction"], str):
        raise InputError(
            f"test_view of {what} is of several classifiers: name the one that is attacked"
        )

    # Several releases need a defence that draws, and images to draw for
    trained = arm.settings[TRAIN_VIEW]
    drawn = trained["defences"] and trained["roles"] and not arm.others
    if trained["releases"] > 1 and not drawn:
        raise InputError(
            f"{what} learns from {trained['releases']} releases of each image: "
            "give 1, or more where it learns from a role what defences release, "
            "and reads no other arm"
        )

    # Controls are of attacks, not of each other
    real = arm.settings["control_of"]
    if real and real not in arm.service.config["arms"]:
        raise InputError(f"{what} is control_of {real!r}, which is no arm")
    if real == arm.name or (real and arm.service.config["arms"][real]["control_of"]):
        raise InputError(f"{what} is control_of {real!r}, but a control is of an attack")


def require_arm(arm: Arm, images: jax.ShapeDtypeStruct) -> None:
    """Raises InputError unless an arm can be trained and evaluated on such images."""
    trained = arm.settings[TRAIN_VIEW]
    service = arm.service
    goal = arm.goal
    _require_training_set(arm)

    # What it makes of the shapes of what it is given
    guess = arm.check(images.shape[1:])
    if arm.settings["evaluate"] and guess != goal.guess_shape(images.shape[1:]):
        raise InputError(
            f"arm {arm.name!r} guesses {list(guess)}, no images {list(images.shape[1:])}: "
            "it cannot be evaluated"
        )

    # What its goal asks of the classifiers
    for view in (TEST_VIEW, TRAIN_VIEW):
        if arm.settings[view]["members"] and goal is not MEMBERSHIP:
            raise InputError(
                f"{view} of arm {arm.name!r} names members, which {goal.name} does not ask for: "
                "leave it empty"
            )
        goal.check(service, arm.settings[view], arm.view(view).members)

    # Nothing that it is fitted to is reported
    reported = arm.evaluated
    seed = service.config["seed"]
    if trained["roles"] and service.roles.shared(trained["roles"], [reported], seed):
        raise InputError(
            f"arm {arm.name!r} learns from images of {reported}, which are reported for {goal.name}"
        )
    if goal is MEMBERSHIP:
        require_members(arm)
    if arm.settings["control_of"]:
        require_control(arm)
    # A shadow's own images in its maps would tell its members, and not the target's
    attacker = trained["roles"] if goal is MEMBERSHIP else ()
    for name in arm.explanations:
        require_reference(service, name, reported, attacker)
    for view in (TRAIN_VIEW, TEST_VIEW):
        require_separate(arm.view(view).release, trained["roles"])


def _require_training_set(arm: Arm) -> None:
    """An attack learns from a role, from many shadow models, or together with the target."""
    trained = arm.settings[TRAIN_VIEW]
    service = arm.service
    paired = arm.method.build().paired
    if paired != arm.view(TRAIN_VIEW).several:
        needs = "learns from one model, but is given"
        if paired:
            needs = "needs several shadow models: name"
        raise InputError(
            f"arm {arm.name!r} {needs} a tuple of classifiers in train_view.prediction "
            "and .explanation"
        )
    if paired:
        if trained["roles"] or trained["releases"] > 1 or arm.others:
            raise InputError(
                f"arm {arm.name!r} learns what shadow models say of the reported images: "
                "leave its roles empty, give 1 release, and no other arm among its inputs"
            )
        return
    if trained["roles"]:
        # A threshold or a search has no batches to fill
        recipe = None
        if plugins.takes(attacks, "attack", arm.method.stated["name"], "recipe"):
            recipe = service.config["attack"]["train"]
        require_training(service, f"arm {arm.name!r}", recipe, trained["roles"])
    elif "joint" not in service.classifiers.settings(trained["prediction"]):
        raise InputError(
            f"arm {arm.name!r} learns from no role: name one, or a model that is trained jointly"
        )


def _require_counts(what: str, settings: Config) -> None:
    for name in ("queries", "releases"):
        if not is_count(settings.get(name, 1), 1):
            raise InputError(
                f"{what} has {settings[name]!r} {name}: this must be a whole number of at least 1"
            )
    if settings["queries"] > 1 and not settings["defences"]:
        raise InputError(
            f"{what} has {settings['queries']} queries of what no defence changes: give 1"
        )


def _require_classifiers(arm: Arm, view: str) -> None:
    """The explained classifiers exist, also where an arm reads no explanation."""
    named = arm.settings[view]["explanation"]
    if isinstance(named, str):
        named = (named,)
    for part in named:
        if part != NONE:
            arm.service.classifiers.settings(part)


def _require_one_service(what: str, settings: Config) -> None:
    """Several shadow models are named alike for predictions and explanations."""
    prediction = settings["prediction"]
    explanation = settings["explanation"]
    if isinstance(prediction, str) and isinstance(explanation, str):
        return
    if isinstance(prediction, str) or isinstance(explanation, str):
        alike = False
    else:
        alike = tuple(prediction) == tuple(explanation)
    if not alike:
        raise InputError(
            f"{what} has several shadow models in prediction or in explanation: "
            "name the same in both"
        )
