"""Membership: whether an image was in a classifier's training set, known from the indices that it was trained on.

Members and others are explained in one pass over a union of roles, so that nothing but the classifier tells them apart.
"""

from collections.abc import Sequence

import numpy as np

from xinv import metrics
from xinv.audit.goals.goal import Goal
from xinv.audit.release import NONE
from xinv.audit.results import Config
from xinv.audit.roles import REPORTED, UNION
from xinv.audit.service import Service
from xinv.store import Stage
from xinv.types import Estimate, InputError

GROUP = "membership"


def _secret(service: Service, part: str, roles: Sequence[str], seed: int) -> np.ndarray:
    """1 for images that the classifier was trained on, 0 for others, int32 [N]."""
    trained = service.classifiers.settings(part)["roles"]
    return np.concatenate([service.roles.among(role, trained, seed) for role in roles]).astype(np.int32)


def _evaluated(service: Service, part: str) -> str:
    return UNION.join((*service.classifiers.settings(part)["roles"], REPORTED))


def _check(service: Service, view: Config) -> None:
    part = view["prediction"]
    if view["explanation"] not in (part, NONE):
        raise InputError(
            f"membership is of one classifier, but an arm has predictions of {part!r} and explanations of "
            f"{view['explanation']!r}: name the same"
        )
    if not service.classifiers.is_trained(part):
        raise InputError(f"membership of the {part} cannot be judged: xinv did not train it, nor deal its training set")
    settings = service.classifiers.settings(part)
    if settings.get("train", {}).get("validation", 0):
        raise InputError(
            f"membership needs to know each image that the {part} was trained on, but it holds out a validation part: "
            "set validation to 0"
        )


def _scores(service: Service, part: str, guess: Stage, label: str, seed: int) -> dict[str, Estimate]:
    settings, role = service.config["metrics"][GROUP], _evaluated(service, part)
    spec = {"metrics": settings, "guess": guess.digest, "part": service.classifiers.settings(part)["roles"]}

    def compute() -> dict[str, np.ndarray]:
        member = _secret(service, part, [role], seed)
        scores = guess.array("guess")
        named = {name: metrics.membership.build(name, **hyper) for name, hyper in settings.items()}
        return {name: np.array(metric(member, scores)) for name, metric in named.items()}

    stage = service.stages.computed("metrics", label, spec, compute)
    return {name: Estimate(*map(float, stage.array(name))) for name in settings}


MEMBERSHIP = Goal("membership", _secret, _evaluated, _check, lambda image: (), _scores, (GROUP,))
