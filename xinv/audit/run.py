"""The pipeline: a config becomes stages, stages become rows. The only file that knows the order of a run."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xinv import data, store
from xinv.audit import attacker as arms
from xinv.audit import environment, results
from xinv.audit import evaluate as scored
from xinv.audit import validate as rehearsal
from xinv.audit.attacker import Arm
from xinv.audit.release import taught
from xinv.audit.results import Config, Rows
from xinv.audit.service import REPORTED, Unit
from xinv.metrics import classification
from xinv.numbers import require_count
from xinv.store import Stage, Store
from xinv.types import InputError

_NO_ARM = {"inputs": None, "explainer": None, "defence": None}
SECTIONS = (
    "unit",
    "seed",
    "seeds",
    "data",
    "target",
    "evaluation",
    "shadows",
    "attributes",
    "explanations",
    "defences",
    "defender",
    "attack",
    "arms",
    "metrics",
    "analysis",
    "report",
)
"""What a config must have."""


def run(config: Config, workdir: Path, stages: Store, checkpoint_seconds: float = 30.0) -> Rows:
    """Runs the audit of `config`, a complete plain dict, and writes the work unit's files to `workdir`.

    Stages that the store holds are not computed again. The files of an earlier run of another config in `workdir` move
    to `workdir/history/`. A training under way is saved every `checkpoint_seconds`.

    Raises:
      InputError: the config names something that does not exist or does not fit the data, or another run is at work.
    """
    with store.locked(workdir):
        started = time.monotonic()
        _check(config)
        dataset, auxiliary = _load(config["data"]), None
        if config["data"]["auxiliary"]:
            auxiliary = _load(config["data"]["auxiliary"])
        unit = Unit(config, dataset, auxiliary, workdir, stages, checkpoint_seconds, {}, taught)
        done = results.is_done(workdir, config) and (workdir / "environment.json").exists()
        if not done:
            rehearsal.rehearse(unit)
        results.begin(workdir, config)
        audited = [_audit(unit, seed) for seed in unit.seeds]
        rows, curves = ([line for lines in part for line in lines] for part in zip(*audited, strict=True))
        first = unit.seeds[0]
        used = None if done else environment.describe() | {"seconds": round(time.monotonic() - started, 1)}
        results.finish(workdir, rows, curves, _examples(unit, first), _factors(unit), _describe(unit, first), used)
    return rows


def _load(settings: Config) -> data.Dataset:
    dataset = data.transform(data.build(**settings["source"]), **settings["transform"])
    for note in dataset.notes:
        print(note, file=sys.stderr, flush=True)
    return dataset


def _audit(unit: Unit, seed: int) -> tuple[Rows, Rows]:
    """The rows and the training curves of one seed."""
    rows, curves, games = [], [], {}

    def report(stage: str, arm: Arm | None, values: Mapping[str, np.ndarray]) -> None:
        about = {"unit": unit.config["unit"], "seed": seed, "stage": stage, "arm": arm.name if arm else stage}
        about |= {"inputs": arm.inputs, "explainer": arm.explainer, "defence": arm.defended} if arm else _NO_ARM
        for name, value in values.items():
            rows.append(about | {"metric": name, "value": float(np.mean(value)), "examples": len(value)})

    def trained(stage: str, name: str, learned: Stage) -> None:
        curves.extend({"seed": seed, "stage": stage, "arm": name, **line} for line in learned.json("history"))

    for part in unit.classifiers():
        report(part, None, scored.classified(unit, part, seed))
        trained(part, part, unit.classifier(part, seed))
    for arm in arms.arms(unit):
        trained("attack", arm.name, arm.learned(seed))
        for label, learned in arm.released(arms.SEES).states(seed).items():
            games.setdefault(learned.digest, (label, learned))
        report("defence", arm, scored.functionality(arm, seed) | scored.budget(arm, seed))
        if arm.settings["scored"]:
            report("attack", arm, scored.scores(arm, seed) | scored.attributes(arm, seed))
    for label, learned in games.values():
        trained("defence", label, learned)
    return rows, curves


def _examples(unit: Unit, seed: int) -> dict[str, np.ndarray]:
    """Some reported images with their explanations, releases and reconstructions, for the report to show."""
    count, label = unit.config["report"]["examples"], unit.config["evaluation"]["label"]
    reported = unit.rows_of([REPORTED], seed)
    shown = np.linspace(0, len(reported.images) - 1, min(count, len(reported.images))).astype(int)
    result = {"images": reported.images[shown], "labels": reported.labels[label][shown]}
    for name in unit.config["explanations"]:
        result[f"explanation/{name}"] = unit.explanation(name, REPORTED, seed).array("explanation")[shown]
    for arm in arms.arms(unit):
        released = arm.released(arms.SEES)
        if released.defences and released.explains:
            result[f"release/{arm.name}"] = released.observation(REPORTED, seed)[0].explanation[shown]
        if arm.settings["scored"]:
            result[f"reconstruction/{arm.name}"] = arm.reconstruction(seed).array("guess")[shown]
            result |= {f"ssim/{arm.name}": v[shown] for name, v in scored.scores(arm, seed).items() if name == "ssim"}
    for part in unit.classifiers():
        classes = len(unit.dataset.classes[unit.settings(part)["label"]])
        result[f"confusion/{part}"] = classification.confusion(*unit.answers(part, seed), classes)
    return result


def _factors(unit: Unit) -> dict[str, np.ndarray]:
    """What Zhao 2021, Figure 6, sets against each other, per reported image of all seeds in turn."""
    found = [scored.factors(unit, seed) for seed in unit.seeds]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _check(config: Config) -> None:
    rehearsal.require_keys("the config", config, SECTIONS)
    rehearsal.require_keys("metrics", config["metrics"], (*scored.RECONSTRUCTION, scored.FUNCTIONALITY))
    rehearsal.require_keys("defender", config["defender"], ("role", "held_out"))
    require_count(seeds=config["seeds"])
    require_count(0, seed=config["seed"])
    named = {"data.source": config["data"]["source"], "target.model": config["target"]["model"]}
    named |= {f"explanations.{name}": settings for name, settings in config["explanations"].items()}
    named |= {f"defences.{name}": settings for name, settings in config["defences"].items()}
    nameless = [path for path, settings in named.items() if not {"name", "trained"} & set(settings)]
    if nameless:
        raise InputError(f"{nameless[0]} has no name: give that of a factory, beside its parameters")


def _describe(unit: Unit, seed: int) -> dict[str, Any]:
    return {
        "name": unit.dataset.name,
        "fingerprint": unit.dataset.fingerprint,
        "image_shape": unit.dataset.images.shape[1:],
        "labels": unit.dataset.classes,
        "roles": {role: len(indices) for role, (_, indices) in unit.roles(seed).items()},
    }
