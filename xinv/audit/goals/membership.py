"""Membership: whether an image was in a classifier's training set, known from the indices that it was trained on.

Members and others are explained in one pass over a union of roles, so that nothing but the classifier tells them apart.
"""

from collections.abc import Sequence

import numpy as np

from xinv import metrics
from xinv.audit.goals.goal import Goal
from xinv.audit.roles import REPORTED, UNION
from xinv.audit.service import Service
from xinv.store import Stage
from xinv.types import Estimate, InputError

GROUP = "membership"


def _secret(service: Service, part: str, roles: Sequence[str], seed: int) -> np.ndarray:
    """1 for images that the classifier was trained on, 0 for others, int32 [N]."""
    trained = [service.roles.indices(role, seed) for role in service.classifiers.settings(part)["roles"]]
    members = np.concatenate(trained)
    return np.concatenate([np.isin(service.roles.indices(role, seed), members) for role in roles]).astype(np.int32)


def _evaluated(service: Service, part: str) -> str:
    return UNION.join((*service.classifiers.settings(part)["roles"], REPORTED))


def _check(service: Service, part: str) -> None:
    settings = service.classifiers.settings(part)
    if not settings["roles"]:
        raise InputError(f"membership of the {part} cannot be judged: its roles do not say what it was trained on")
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
