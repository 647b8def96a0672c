"""Inversion of hardened explanations: hardening one leak must not open the other."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xinv import attacks, metrics, plugins, train
from xinv.audit import measure
from xinv.audit.stage import key, state_of
from xinv.harden.candidate import Candidate
from xinv.harden.maps import Maps, described, reported, searched
from xinv.harden.subject import Subject
from xinv.types import Estimate, Observation

BEFORE, AFTER = "before", "after"


def rebuilt(
    subject: Subject,
    candidate: Candidate | None,
    label: str,
) -> np.ndarray:
    """Returns the SSIM [N] of the reported images, as rebuilt by an inversion attack.

    The attacker asks the target about images of its own, the shadow's. It learns to rebuild them
    from predictions and maps (Zhao 2021, ExpMI), or without a candidate from predictions alone.
    """
    service = subject.service
    settings = subject.settings
    own = settings["roles"]["shadow"]
    role = settings["roles"]["report"]
    hyper = settings["inversion"]
    section = dict(hyper["attack"])
    inputs = ("prediction", "explanation")
    # Predictions alone are those of every explanation
    if candidate is None:
        section["encoder"] = "none"
        inputs = ("prediction",)
        spec = subject.asked([subject.target], [own, role])
    else:
        spec = subject.spec([subject.target], [role, own])
        spec |= described(subject, candidate, [subject.target])
    inversion = hyper | {"attack": plugins.complete(attacks, section)}
    spec |= {"inversion": inversion, "inputs": list(inputs)}

    # Observations come from the target itself, of the attacker's or the reported images
    def observation(maps: Maps, role: str) -> Observation:
        shown = maps(subject, candidate, subject.target, role) if candidate else None
        return Observation(subject.prediction(subject.target, role), shown)

    recipe = train.Recipe.stated(hyper["train"])
    attack = attacks.build(**section, given={"inputs": inputs, "recipe": recipe})
    name = subject.name if candidate else "predictions"
    label = f"{name}, {label}, seed {subject.seed}"

    # Train on the attacker's own images, and judge on the reported ones
    def fit(session: train.Session) -> dict[str, Any]:
        random = key(subject.seed, "harden", "inversion")
        return dict(
            attack.fit(random, observation(searched, own), subject.images(own), session=session)
        )

    learned = service.stages.trained("inversion", label, spec, fit)
    ssim = service.config["metrics"]["image"]["ssim"]

    def compute() -> dict[str, np.ndarray]:
        guess = attack.predict(state_of(learned), observation(reported, role))
        return measure.judged({"ssim": ssim}, {}, {"truth": subject.images(role), "guess": guess})

    judged = {"inversion": learned.digest, "ssim": ssim}
    return service.stages.computed("rebuilt", label, judged, compute).array("ssim")


def compared(ssim: Mapping[str, np.ndarray], group: np.ndarray | None) -> dict[str, Any]:
    """Returns the mean SSIM by release, and an image's mean change by hardening.

    Args:
      ssim: of each image [N], by release.
      group: ids [N] of near-duplicates, which change together; None if there are none.
    """
    found: dict[str, Any] = {when: float(part.mean()) for when, part in ssim.items()}
    if AFTER in ssim:
        change = np.asarray(ssim[AFTER], np.float64) - ssim[BEFORE]
        ends = metrics.stats.mean_interval(change, metrics.roc.LEVEL, group)
        found["difference"] = Estimate(ends.mean, ends.low, ends.high)._asdict()
    return found
