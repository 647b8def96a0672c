"""The pipeline: a config becomes stages, stages become rows. The only file that knows the order of a run."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xinv import data, store
from xinv.audit import environment, evaluate, results, validate
from xinv.audit import target as targets
from xinv.audit.attacker import SEES, Arm, arms
from xinv.audit.results import Config, Rows
from xinv.audit.roles import REPORTED, Roles
from xinv.audit.service import Classifiers, Service
from xinv.audit.stage import Stages
from xinv.metrics import classification
from xinv.store import Stage, Store
from xinv.types import Estimate

_NO_ARM = {"goal": None, "inputs": None, "explainer": None, "defence": None}


def run(config: Config, workdir: Path, stages: Store, checkpoint_seconds: float = 30.0) -> Rows:
    """Runs the audit of `config`, a complete plain dict, and writes the work unit's files to `workdir`.

    Stages that the store holds are not computed again. The files of an earlier run of another config in `workdir` move
    to `workdir/history/`. A training under way is saved every `checkpoint_seconds`.

    Raises:
      InputError: the config names something that does not exist or does not fit the data, or another run is at work.
    """
    with store.locked(workdir):
        started = time.monotonic()
        # Load the data and the target
        validate.sections(config)
        dataset = _load(config["data"])
        auxiliary = _load(config["data"]["auxiliary"]) if config["data"]["auxiliary"] else None
        roles = Roles(dataset, auxiliary, config["data"], {})
        service = Service(
            Classifiers(config, roles, Stages(stages, workdir, checkpoint_seconds), _target(config, roles))
        )
        return audited(service, workdir, started)


def audited(service: Service, workdir: Path, started: float) -> Rows:
    """Computes all stages of a service under attack, and writes the work unit's files to `workdir`."""
    config = service.config
    # Find what is wrong before anything is computed
    done = results.is_done(workdir, config) and (workdir / "environment.json").exists()
    if not done:
        validate.validate(service)
    # Compute
    results.begin(workdir, config)
    rows, curves = [], []
    for seed in service.classifiers.seeds:
        found, lines = _audit(service, seed)
        rows += found
        curves += lines
    # Write
    first = service.classifiers.seeds[0]
    used = None if done else environment.describe() | {"seconds": round(time.monotonic() - started, 1)}
    examples, factors = _examples(service, first), _factors(service)
    results.finish(workdir, rows, curves, examples, factors, _describe(service, first), used)
    return rows


def _load(settings: Config) -> data.Dataset:
    dataset = data.transform(data.build(**settings["source"]), **settings["transform"])
    for note in dataset.notes:
        print(note, file=sys.stderr, flush=True)
    return dataset


def _target(config: Config, roles: Roles) -> targets.Own | targets.Recorded | None:
    """The target, where it is not trained here."""
    settings = config["target"]
    if "model" in settings:
        return None
    classes = roles.classes(settings["label"], "target")
    if "recorded" in settings:
        return targets.read(settings["recorded"], roles.dataset, settings["label"])
    own = targets.load(settings["function"])
    targets.require_classifier(own, settings["function"], roles.dataset.images[:4], classes)
    return own


def _audit(service: Service, seed: int) -> tuple[Rows, Rows]:
    """The rows and the training curves of one seed."""
    rows, curves, defences = [], [], {}

    def report(stage: str, arm: Arm | None, values: Mapping[str, np.ndarray]) -> None:
        about = {"unit": service.config["unit"], "seed": seed, "stage": stage, "arm": arm.name if arm else stage}
        about |= arm.description() if arm else _NO_ARM
        for name, value in values.items():
            if isinstance(value, Estimate):
                figure, examples = value._asdict(), len(arm.guessed(seed).array("guess"))
            else:
                figure = {"value": float(np.mean(value)), "low": None, "high": None, "p": None}
                examples = np.size(value)
            rows.append(about | {"metric": name} | figure | {"examples": examples})

    def trained(stage: str, name: str, learned: Stage) -> None:
        curves.extend({"seed": seed, "stage": stage, "arm": name, **line} for line in learned.json("history"))

    # The classifiers
    for part in service.classifiers.parts():
        report(part, None, evaluate.classified(service, part, seed))
        if service.classifiers.is_trained(part):
            trained(part, part, service.classifiers.classifier(part, seed))
    # Each attack, and what the defences that it meets cost
    for arm in arms(service):
        trained("attack", arm.name, arm.learned(seed))
        for label, learned in arm.release(SEES).chain.learned(seed).items():
            defences.setdefault(learned.digest, (label, learned))
        report("defence", arm, evaluate.utility(arm, seed) | evaluate.defence_cost(arm, seed))
        if arm.settings["scored"]:
            attributes = evaluate.attributes(arm, seed) if arm.rebuilds else {}
            report("attack", arm, evaluate.scores(arm, seed) | attributes)
    # The defences' own trainings, each once
    for label, learned in defences.values():
        trained("defence", label, learned)
    return rows, curves


def _examples(service: Service, seed: int) -> dict[str, np.ndarray]:
    """Some reported images with their explanations, releases and reconstructions, for the report to show."""
    count, label = service.config["report"]["examples"], service.config["evaluation"]["label"]
    reported = service.roles.labelled([REPORTED], seed)
    shown = np.linspace(0, len(reported.images) - 1, min(count, len(reported.images))).astype(int)
    result = {"images": reported.images[shown], "labels": reported.labels[label][shown]}
    for name in service.config["explanations"]:
        result[f"explanation/{name}"] = service.explanation(name, REPORTED, seed)[0][shown]
    for arm in arms(service):
        release = arm.release(SEES)
        if release.defences and release.explains:
            result[f"release/{arm.name}"] = release.observation(REPORTED, seed)[0].explanation[shown]
        if arm.rebuilds:
            result[f"reconstruction/{arm.name}"] = arm.guessed(seed).array("guess")[shown]
            scores = evaluate.scores(arm, seed)
            if "ssim" in scores:
                result[f"ssim/{arm.name}"] = scores["ssim"][shown]
    for part in service.classifiers.parts():
        result[f"confusion/{part}"] = classification.confusion(
            *service.answers(part, seed), service.classifiers.classes(part)
        )
    return result


def _factors(service: Service) -> dict[str, np.ndarray]:
    """What Zhao 2021, Figure 6, sets against each other, per reported image of all seeds in turn."""
    found = [evaluate.factors(service, seed) for seed in service.classifiers.seeds]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _describe(service: Service, seed: int) -> dict[str, Any]:
    dataset = service.roles.dataset
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "image_shape": dataset.images.shape[1:],
        "labels": dataset.classes,
        "roles": {role: len(indices) for role, (_, indices) in service.roles.of(seed).items()},
    }
