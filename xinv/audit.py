"""The pipeline: a config becomes stages, stages become rows. The only file that knows the order of a run."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xinv import data, environment, results, store, train
from xinv.results import Config, Rows
from xinv.store import Stage, Store
from xinv.types import InputError, Observation
from xinv.unit import ATTACKER, REPORTED, Arm, Unit, map_shape, metric, score

SECTIONS = ("unit", "seed", "seeds", "data", "target", "evaluation", "explanations", "attack", "metrics", "report")
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
        _require_sections(config)
        dataset = data.transform(data.build(**config["data"]["source"]), **config["data"]["transform"])
        unit = Unit(config, dataset, workdir, stages, checkpoint_seconds)
        done = results.is_done(workdir, config) and (workdir / "environment.json").exists()
        if not done:
            rehearse(unit)
        results.begin(workdir, config)
        audited = [_audit(unit, seed) for seed in unit.seeds]
        rows, curves = ([line for lines in part for line in lines] for part in zip(*audited, strict=True))
        first = unit.seeds[0]
        about = _describe(dataset, unit.roles(first))
        used = None if done else environment.describe() | {"seconds": round(time.monotonic() - started, 1)}
        results.finish(workdir, rows, curves, _examples(unit, first), about, used)
    return rows


def _audit(unit: Unit, seed: int) -> tuple[Rows, Rows]:
    """The rows and the training curves of one seed."""
    rows, curves = [], []

    def report(stage: str, arm: Arm | None, result: Stage, values: Mapping[str, np.ndarray]) -> None:
        about = {"unit": unit.config["unit"], "seed": seed, "stage": stage, "arm": arm.name if arm else stage}
        about |= {"inputs": arm.encoder if arm else None, "explainer": arm.explainer if arm else None}
        rows.extend(
            about | {"metric": name, "value": float(np.mean(value)), "examples": len(value)}
            for name, value in values.items()
        )
        curves.extend({"seed": seed, "stage": stage, "arm": about["arm"], **line} for line in result.json("history"))

    for name in ("target", "evaluation") if unit.arms() else ("target",):
        stage = unit.classifier(name, seed)
        report(name, None, stage, {"accuracy": unit.correct(name, seed)})
    for arm in unit.arms():
        report("attack", arm, unit.attack(arm, seed), unit.scores(arm, seed))
    return rows, curves


def rehearse(unit: Unit) -> None:
    """Finds what is wrong with the config before anything is computed, by shapes alone.

    Raises:
      InputError: a name does not exist, or a shape does not fit.
    """
    images = jax.ShapeDtypeStruct((2, *unit.dataset.images.shape[1:]), np.float32)
    target, key = unit.model("target"), jax.random.key(0)
    _rehearse_training(unit, "target", unit.config["target"]["roles"])
    variables = jax.eval_shape(target.init, key, images)
    logits = jax.eval_shape(target.apply, variables, images)
    maps = {
        name: jax.ShapeDtypeStruct((2, *map_shape(unit.explainer(name), target.apply, variables, images)), np.float32)
        for name in unit.config["explanations"]
    }
    if not unit.arms():
        return
    judge = unit.model("evaluation")
    _rehearse_training(unit, "evaluation", unit.config["evaluation"]["roles"])
    _rehearse_training(unit, "attack", [ATTACKER])
    for arm in unit.arms():
        unit.attacker(arm).check(Observation(logits, maps.get(arm.explainer)), images)
    given = {"apply": judge.apply, "embed": judge.embed, "variables": jax.eval_shape(judge.init, key, images)}
    truths = {"image": images, "label": jax.ShapeDtypeStruct((2,), np.int32)}
    for kind, named in unit.config["metrics"].items():
        functions = {name: metric(name, hyper, given) for name, hyper in named.items()}
        jax.eval_shape(score, functions, {"truth": truths[kind], "guess": images}, None)


def _rehearse_training(unit: Unit, part: str, roles: Sequence[str]) -> None:
    recipe = train.Recipe(**unit.config[part]["train"])
    for seed in unit.seeds:
        if np.intersect1d(unit.indices(roles, seed), unit.indices([REPORTED], seed)).size:
            raise InputError(
                f"the {part} trains on images of {REPORTED}, which is reported: its roles are {list(roles)}"
            )
        train.steps_per_epoch(recipe, len(unit.indices(roles, seed)), part)


def _examples(unit: Unit, seed: int) -> dict[str, np.ndarray]:
    """The first reported images with their explanations and reconstructions, for the report to show."""
    count = unit.config["report"]["examples"]
    reported = unit.rows_of([REPORTED], seed)
    result = {
        "images": reported.images[:count],
        "labels": reported.labels[unit.config["evaluation"]["label"]][:count],
    }
    for name in unit.config["explanations"]:
        result[f"explanation/{name}"] = unit.explanation(name, REPORTED, seed).array("explanation")[:count]
    for arm in unit.arms():
        result[f"reconstruction/{arm.name}"] = unit.attack(arm, seed).array("reconstruction")[:count]
        result |= {f"ssim/{arm.name}": v[:count] for name, v in unit.scores(arm, seed).items() if name == "ssim"}
    return result


def _require_sections(config: Config) -> None:
    missing = [name for name in SECTIONS if name not in config]
    if missing:
        raise InputError(f"the config has no {missing[0]!r}: it needs {', '.join(SECTIONS)}")
    if config["seeds"] < 1:
        raise InputError(f"seeds is {config['seeds']} but must be at least 1")


def _describe(dataset: data.Dataset, roles: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "image_shape": dataset.images.shape[1:],
        "labels": dataset.classes,
        "roles": {role: len(indices) for role, indices in roles.items()},
    }
