"""Arrays for a report: some reported images with all releases and reconstructions of them."""

from typing import Any

import numpy as np

from xinv.audit import evaluate
from xinv.audit.attacker import TEST_VIEW, arms, parts
from xinv.audit.service import Service
from xinv.metrics import classification


def examples(service: Service, seed: int) -> dict[str, np.ndarray]:
    """Returns reported images with releases, reconstructions, SSIM, and confusion matrices."""
    # Evenly spaced, so that nothing is selected
    label = service.config["evaluation"]["label"]
    reported = service.roles.labelled([service.roles.reported], seed)
    total = len(reported.images)
    count = min(service.config["report"]["examples"], total)
    shown = np.linspace(0, total - 1, count).astype(int)
    found = {
        "images": reported.images[shown],
        "labels": reported.labels[label][shown],
    }

    # What the service releases without a defence
    for name in service.config["explanations"]:
        found[f"explanation/{name}"] = _maps(service, name, shown, seed)

    # What each attack is shown, and what it makes of that
    for arm in arms(service):
        release = arm.view(TEST_VIEW).release
        if release.defences and release.explains:
            observed, _ = release._replace(summary=()).observation(service.roles.reported, seed)
            found[f"release/{arm.name}"] = observed.explanation[shown]
        if arm.rebuilds:
            found[f"reconstruction/{arm.name}"] = arm.guessed(seed).array("guess")[shown]
            scores = evaluate.scores(arm, arm.goal, seed)
            if "ssim" in scores:
                found[f"ssim/{arm.name}"] = scores["ssim"][shown]

    # How each classifier confuses classes
    for part in parts(service):
        answers = service.answers(part, seed)
        classes = service.classifiers.classes(part)
        found[f"confusion/{part}"] = classification.confusion(*answers, classes)
    return found


def _maps(service: Service, name: str, shown: np.ndarray, seed: int) -> np.ndarray:
    """The target's explanations of some reported images, from whatever stage an attack needs."""
    readers = [arm for arm in arms(service) if name in arm.explanations]
    if readers and not any(arm.rebuilds for arm in readers):
        # Explained already, in one pass with the members
        role = readers[0].evaluated
        places = service.roles.indices(service.roles.reported, seed)[shown]
        maps, _ = service.explanation(name, role, seed)
        return maps[np.searchsorted(service.roles.indices(role, seed), places)]
    return service.explanation(name, service.roles.reported, seed)[0][shown]


def factors(service: Service) -> dict[str, np.ndarray]:
    """Returns `evaluate.factors` of reported images, seed by seed (Zhao 2021, Figure 6)."""
    # Each seed reports other images, so that all of them count
    found = [evaluate.factors(service, seed) for seed in service.classifiers.seeds]
    joined = {}
    for name in found[0]:
        joined[name] = np.concatenate([part[name] for part in found])
    return joined


def dataset(service: Service, seed: int) -> dict[str, Any]:
    """Returns what a report says of the data set."""
    images = service.roles.dataset
    counts = {}
    for role, (_, indices) in service.roles.of(seed).items():
        counts[role] = len(indices)
    return {
        "name": images.name,
        "fingerprint": images.fingerprint,
        "image_shape": images.images.shape[1:],
        "labels": images.classes,
        "roles": counts,
    }
