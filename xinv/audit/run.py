"""The pipeline, in the order of a run: a config becomes stages, stages become rows."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xinv import data, leases, processes
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
from xinv.audit.form import LOGITS
from xinv.audit.results import Config, Rows
from xinv.audit.roles import Roles
from xinv.audit.rows import rows
from xinv.audit.sections import sections
from xinv.audit.service import Classifiers, Service
from xinv.audit.stage import Stages, Watch
from xinv.leases import Busy
from xinv.store import Stage, Store
from xinv.types import InputError

_PAUSE = 1.0  # seconds until a stage that another process builds is looked for again


class Found(NamedTuple):
    """The results of one seed, as JSON values.

    Attributes:
      rows: the figures.
      curves: those of the trainings.
    """

    rows: Rows
    curves: Rows


def run(
    config: Config,
    workdir: Path,
    stages: Store,
    checkpoint_seconds: float = 30.0,
    watch: Watch = Watch(),  # noqa: B008 (it does nothing)
) -> Rows:
    """Runs the audit of `config`, a complete plain dict, and writes its files to `workdir`.

    Stages in the store are not computed again, and one that another process builds is waited for.
    The files of an earlier run of another config in `workdir` move to `workdir/history/`. A
    training is saved every `checkpoint_seconds`, and when `watch` ends the run.

    Raises:
      InputError: the config names something that does not exist or does not fit the data, or
        another run is at work in `workdir`.
      Stopped: `watch` has ended the run.
    """
    with leases.locked(workdir, stages.leases):
        started = time.monotonic()
        kept = Stages(stages, workdir, checkpoint_seconds, watch)
        return audited(opened(config, kept), workdir, started)


def opened(
    config: Config,
    stages: Stages,
    load: Callable[..., data.Dataset] | None = None,
) -> Service:
    """Returns the service that `config` describes, with its data loaded and nothing computed.

    Args:
      config: complete and plain.
      stages: the place of results.
      load: `load(settings)` returns the data of a section; None builds it.

    Raises:
      InputError: a section is wrong, or its data is not there.
    """
    sections(config)
    load = load or load_data

    # Load the data
    dataset = load(config["data"])
    auxiliary = None
    if config["data"]["auxiliary"]:
        auxiliary = load(config["data"]["auxiliary"])
        own, other = dataset.images.shape[1:], auxiliary.images.shape[1:]
        if own != other:
            raise InputError(
                f"data.auxiliary has images of {list(other)} and data of {list(own)}: give both "
                "the same resize and grayscale"
            )
    roles = Roles(dataset, auxiliary, config["data"], {}, config["report"]["role"])

    # Load the target, if it is not trained here
    target = _target(config, roles)
    return Service(Classifiers(config, roles, stages, target))


def audited(service: Service, workdir: Path, started: float) -> Rows:
    """Computes all stages of a service under attack, and writes the files to `workdir`."""
    # Find what is wrong before anything is computed
    done = processes.led(lambda: is_written(service, workdir))
    if not done:
        validate.validate(service)

    # Compute and write
    processes.led(lambda: results.begin(workdir, service.config))
    seeds = service.classifiers.seeds
    found = each(seeds, lambda seed: computed(service, seed))
    by_seed = dict(zip(seeds, found, strict=True))
    (figures,) = each(
        [by_seed], lambda parts: write(service, workdir, parts, time.monotonic() - started)
    )
    return figures


def each(pieces: Sequence[Any], compute: Callable[[Any], Any]) -> list[Any]:
    """Returns `compute` of each piece, in their order; pieces that are Busy come last."""
    found: dict[int, Any] = {}
    announced: set[str] = set()
    while True:
        for number, piece in enumerate(pieces):
            if number in found:
                continue
            try:
                found[number] = compute(piece)
            except Busy as error:
                busy = str(error)
        if len(found) == len(pieces):
            return [found[number] for number in range(len(pieces))]
        # Say once what is waited for
        if busy not in announced:
            processes.say(f"waiting: {busy}")
            announced.add(busy)
        time.sleep(_PAUSE)


def is_written(service: Service, workdir: Path) -> bool:
    """Tells if the results of a service are in `workdir`."""
    done = results.is_done(workdir, service.config)
    return done and (workdir / "environment.json").exists()


def computed(service: Service, seed: int) -> Found:
    """Computes all that is reported of one seed.

    Raises:
      Busy: another process builds a stage of it.
    """
    return Found(*_audit(service, seed))


def write(
    service: Service,
    workdir: Path,
    found: Mapping[int, Found],
    seconds: float,
) -> Rows:
    """Writes the results of all seeds, which took so many seconds, and returns the rows.

    Raises:
      Busy: another process builds a stage that only the report needs.
    """
    seeds = service.classifiers.seeds
    figures = []
    curves = []
    for seed in seeds:
        figures += found[seed].rows
        curves += found[seed].curves
    shown = examples.examples(service, seeds[0])
    factors = examples.factors(service)
    dataset = examples.dataset(service, seeds[0])
    members = leaks.scores(service)

    def finish() -> None:
        # A run that only writes its report again keeps the environment that computed it
        used = None
        if not is_written(service, workdir):
            used = environment.describe() | {"seconds": round(seconds, 1)}
        results.finish(workdir, figures, curves, shown, factors, dataset, used, members)

    processes.led(finish)
    return figures


def load_data(settings: Config) -> data.Dataset:
    """Returns the data set of a section of the config."""
    dataset = data.transform(data.build(**settings["source"]), **settings["transform"])
    for note in dataset.notes:
        _print_once(note)
    return dataset


@functools.cache
def _print_once(note: str) -> None:
    """Prints a line to stderr: the units of a sweep read the same data, and so may both sides."""
    processes.say(note)


def _target(config: Config, roles: Roles) -> targets.Own | recorded.Recorded | None:
    """The target, where it is not trained here."""
    settings = config["target"]
    if "model" in settings:
        return None
    classes = roles.classes(settings["label"], "target")
    if "recorded" in settings:
        logits = config["service"]["prediction"] == LOGITS
        return recorded.read(settings["recorded"], roles.dataset, settings["label"], logits)
    own = targets.load(settings["function"])
    targets.require_classifier(
        own,
        settings["function"],
        roles.dataset.images[:4],
        classes,
    )
    return own


def _audit(service: Service, seed: int) -> tuple[Rows, Rows]:
    """The rows and the training curves of one seed."""
    found = []
    curves = []
    classifiers = service.classifiers
    reported = service.roles.count([service.roles.reported], seed)

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
