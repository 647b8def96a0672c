"""The scores of attacks, by their goals, and of the classifiers behind them."""

import numpy as np

from xinv import data, metrics
from xinv.audit.attacker import TEST_VIEW, Arm, arms
from xinv.audit.cost import utility
from xinv.audit.goals import ATTRIBUTE, MEMBERSHIP, Goal
from xinv.audit.goals.attribute import f1
from xinv.audit.goals.membership import restarts
from xinv.audit.release import Release
from xinv.audit.service import Service
from xinv.metrics import classification
from xinv.types import Estimate

Value = np.ndarray | float | Estimate
"""A metric: per example [N], or a statistic of the set with or without its interval."""


def judges(arm: Arm) -> tuple[Goal, ...]:
    """Returns the goals that the guesses of an arm are evaluated by."""
    if not arm.settings["evaluate"]:
        return ()
    if arm.rebuilds and arm.service.config["attributes"]:
        return arm.goal, ATTRIBUTE
    return (arm.goal,)


def scores(arm: Arm, goal: Goal, seed: int) -> dict[str, Value]:
    """Returns each metric of one arm's guesses, judged by a goal."""
    part = arm.view(TEST_VIEW).members[0]
    guess = arm.guessed(seed)
    found = dict(
        goal.scores(
            arm.service,
            part,
            guess,
            f"{arm.name}, seed {seed}",
            seed,
        )
    )
    if goal is MEMBERSHIP and arm.method.build().parts is not None:
        found |= restarts(arm.service, part, guess, seed)
    return found


def classified(service: Service, part: str, seed: int) -> dict[str, Value]:
    """Returns the accuracy of a classifier on reported images; of an attribute's also its F1.

    A shadow model of a random half of the audited images is judged on those that it did not see, a
    target whose training images are reported on these.
    """
    truth, guess = service.answers(part, seed)
    trained = service.classifiers.settings(part)["roles"]
    # Unseen images alone
    if trained and service.roles.reported not in trained:
        unseen = ~service.roles.among(service.roles.reported, trained, seed)
        truth, guess = truth[unseen], guess[unseen]
    found = {
        "accuracy": (truth == guess).astype(np.float32),
        "weighted_f1": classification.weighted_f1(truth, guess),
    }
    if part in service.config["attributes"]:
        found["f1"] = f1(service, part, truth, guess)
    return found


def factors(service: Service, seed: int) -> dict[str, np.ndarray]:
    """Returns properties of reported images, and each arm's scores (Zhao 2021, Figure 6)."""
    reported = service.roles.labelled([service.roles.reported], seed)
    settings = service.config["analysis"]
    explained = (settings["explanation"],) if settings else ()
    observed, _ = Release(service, explained).observation(service.roles.reported, seed)

    # Properties of predictions and explanations
    truth = reported.labels[service.config["target"]["label"]]
    found = {
        "confidence": metrics.factors.confidence(service.probabilities(observed.prediction)),
        "target_accuracy": metrics.factors.target_accuracy(observed.prediction, truth),
    }
    if settings:
        answers = observed.prediction.argmax(axis=-1)
        region = _region(settings["region"], reported)
        found["relevance"] = metrics.factors.relevance(observed.explanation, region)
        found["typicalness"] = metrics.factors.typicalness(observed.explanation, answers)

    # What each attack makes of the image
    for arm in arms(service):
        judged = dict(utility(arm, seed))
        if arm.rebuilds:
            judged |= scores(arm, arm.goal, seed)
        for name in ("ssim", "attack_accuracy", "distortion"):
            if name in judged:
                found[f"{name}/{arm.name}"] = np.asarray(judged[name])
    return found


def _region(name: str, images: data.Dataset) -> np.ndarray:
    if name == "bright":
        return metrics.factors.bright(images.images[:])
    return metrics.factors.ellipse(*images.images.shape[1:3])
