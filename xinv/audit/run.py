"""The pipeline, in the order of a run: a config becomes stages, stages become rows."""

import functools
import sys
import time
from pathlib import Path

from xinv import data, store
from xinv.audit import (
    cost,
    environment,
    evaluate,
    examples,
    leaks,
    privacy,
    recorded,
    results,
    validate,
)
from xinv.audit import target as targets
from xinv.audit.attacker import TEST_VIEW, arms, parts
from xinv.audit.results import Config, Rows
from xinv.audit.roles import REPORTED, Roles
from xinv.audit.rows import rows
from xinv.audit.sections import sections
from xinv.audit.service import Classifiers, Service
from xinv.audit.stage import Stages
from xinv.store import Stage, Store


def run(config: Config, workdir: Path, stages: Store, checkpoint_seconds: float = 30.0) -> Rows:
    """Runs the audit of `config`, a complete plain dict, and writes its files to `workdir`.

    Stages in the store are not computed again. The files of an earlier run of another config in
    `workdir` move to `workdir/history/`. A training is saved every `checkpoint_seconds`.

    Raises:
      InputError: the config names something that does not exist or does not fit the data, or
        another run is at work.
    """
    with store.locked(workdir):
        started = time.monotonic()
        service = prepared(config, Stages(stages, workdir, checkpoint_seconds))
        return audited(service, workdir, started)


def prepared(config: Config, stages: Stages) -> Service:
    """Loads the data and the target of a config, and computes nothing.

    Raises:
      InputError: a section is missing, or the data or the target cannot be read.
    """
    sections(config)

    # Load the data
    dataset = _load(config["data"])
    auxiliary = None
    if config["data"]["auxiliary"]:
        auxiliary = _load(config["data"]["auxiliary"])
    roles = Roles(dataset, auxiliary, config["data"], {})

    # Load the target, if it is not trained here
    return Service(Classifiers(config, roles, stages, _target(config, roles)))


def audited(service: Service, workdir: Path, started: float) -> Rows:
    """Computes all stages of a service under attack, and writes the files to `workdir`."""
    config, seeds = service.config, service.classifiers.seeds

    # Find what is wrong before anything is computed
    done = results.is_done(workdir, config) and (workdir / "environment.json").exists()
    if not done:
        validate.validate(service)

    # Compute
    results.begin(workdir, config)
    found, curves = [], []
    for seed in seeds:
        of_seed, lines = _audit(service, seed)
        found += of_seed
        curves += lines

    # Write
    used = None
    if not done:
        used = environment.describe() | {"seconds": round(time.monotonic() - started, 1)}
    results.finish(
        workdir,
        found,
        curves,
        examples.examples(service, seeds[0]),
        examples.factors(service),
        examples.dataset(service, seeds[0]),
        used,
        leaks.scores(service),
    )
    return found


def _load(settings: Config) -> data.Dataset:
    dataset = data.transform(data.build(**settings["source"]), **settings["transform"])
    for note in dataset.notes:
        _print_once(note)
    return dataset


@functools.cache
def _print_once(note: str) -> None:
    """Prints a line to stderr: the units of a sweep read the same data, and so may both sides."""
    print(note, file=sys.stderr, flush=True)


def _target(config: Config, roles: Roles) -> targets.Own | recorded.Recorded | None:
    """The target, where it is not trained here."""
    settings = config["target"]
    if "model" in settings:
        return None
    classes = roles.classes(settings["label"], "target")
    if "recorded" in settings:
        return recorded.read(settings["recorded"], roles.dataset, settings["label"])
    own = targets.load(settings["function"])
    targets.require_classifier(own, settings["function"], roles.dataset.images[:4], classes)
    return own


def _audit(service: Service, seed: int) -> tuple[Rows, Rows]:
    """The rows and the training curves of one seed."""
    found, curves = [], []
    classifiers, reported = service.classifiers, service.roles.count([REPORTED], seed)

    def about(stage: str, name: str) -> dict[str, object]:
        return {"unit": service.config["unit"], "seed": seed, "stage": stage, "arm": name}

    def trained(stage: str, name: str, learned: Stage) -> None:
        curves.extend(
            {"seed": seed, "stage": stage, "arm": name, **line} for line in learned.json("history")
        )

    # Train the classifiers
    for part in parts(service):
        figures = evaluate.classified(service, part, seed)
        found += rows(about(part, part), figures, len(figures["accuracy"]))
        found += rows(about(part, part), *leaks.overfitting(service, part, seed))
        found += rows(about(part, part), *privacy.guarantee(service, part, seed))
        if classifiers.is_trained(part):
            trained(part, part, classifiers.classifier(part, seed))

    # Attack, and measure what the defences that an attack meets cost
    defences: dict[str, tuple[str, Stage]] = {}
    for arm in arms(service):
        trained("attack", arm.name, arm.learned(seed))
        chain = arm.view(TEST_VIEW).release.chain
        for label, learned in chain.learned(seed).items():
            defences.setdefault(learned.digest, (label, learned))
        costs = cost.utility(arm, seed) | cost.defence_cost(arm, seed)
        found += rows(about("defence", arm.name), costs, reported, arm)
        for goal in evaluate.judges(arm):
            count = len(arm.guessed(seed).array("guess"))
            scores = evaluate.scores(arm, goal, seed)
            found += rows(about("attack", arm.name), scores, count, arm, goal.name)

    # What may make an explanation leak membership
    for name in leaks.explained(service):
        found += rows(about("cause", name), *leaks.causes(service, name, seed))

    # Each defence's own training, once
    for label, learned in defences.values():
        trained("defence", label, learned)
    return found, curves
