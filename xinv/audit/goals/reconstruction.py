"""Reconstruction: the private image is hidden, and a guess is judged by how close it comes."""

from collections.abc import Sequence

import numpy as np

from xinv import data
from xinv.audit import measure
from xinv.audit.goals.goal import Goal
from xinv.audit.results import Config
from xinv.audit.service import Service
from xinv.store import Stage

GROUPS = ("image", "label")
"""Groups of metrics, by what a reconstruction is compared with."""


def _secret(
    service: Service,
    part: str,
    roles: Sequence[str],
    seed: int,
) -> data.Images:
    del part
    return service.roles.images(roles, seed)


def _evaluated(service: Service, part: str) -> str:
    del part
    return service.roles.reported


def _check(service: Service, view: Config, members: Sequence[str]) -> None:
    del service, view, members


def _scores(
    service: Service,
    part: str,
    guess: Stage,
    label: str,
    seed: int,
) -> dict[str, np.ndarray]:
    del part
    classifiers = service.classifiers
    settings = {kind: service.config["metrics"][kind] for kind in GROUPS}
    spec = {
        "metrics": settings,
        "guess": guess.digest,
        "evaluation": classifiers.identity("evaluation", seed),
    }

    def compute() -> dict[str, np.ndarray]:
        # The judge has not seen the reported images
        judge = classifiers.model("evaluation")
        reported = service.roles.labelled([service.roles.reported], seed)
        truths = {
            "image": reported.images,
            "label": reported.labels[service.config["evaluation"]["label"]],
        }
        given = {
            "apply": judge.apply,
            "embed": judge.embed,
            "variables": classifiers.variables("evaluation", seed),
        }
        found = {}
        for kind, named in settings.items():
            found |= measure.judged(
                named, given, {"truth": truths[kind], "guess": guess.array("guess")}
            )
        return found

    stage = service.stages.computed("metrics", label, spec, compute)
    return {name: stage.array(name) for named in settings.values() for name in named}


RECONSTRUCTION = Goal(
    "reconstruction",
    "rebuild inputs",
    _secret,
    _evaluated,
    _check,
    lambda image: image,
    _scores,
    GROUPS,
)
