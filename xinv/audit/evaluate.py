"""What an attack is worth: its guesses, and what defences do to explanations, judged image by image."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from xinv import data, defences, metrics, parallel, plugins, store, train
from xinv.audit.attacker import SEES, Arm, arms
from xinv.audit.release import Released, stack, state_of
from xinv.audit.results import Config
from xinv.audit.service import FORWARD, REPORTED, Unit, key
from xinv.images import as_float
from xinv.metrics import classification
from xinv.store import Stage
from xinv.types import Apply, Array, Batch, Defence, Explainer, InputError, Key, Observation, Variables

RECONSTRUCTION = ("image", "label")
"""Groups of metrics, by what the truth of a reconstruction is."""
FUNCTIONALITY = "explanation"
"""The group of metrics whose truth is the explanation before the defences."""


def scores(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Each metric of reconstructions, per reported image, of one arm."""
    unit, settings = arm.unit, {kind: arm.unit.config["metrics"][kind] for kind in RECONSTRUCTION}
    guess, evaluation = arm.reconstruction(seed), unit.classifier("evaluation", seed)
    spec = {"metrics": settings, "guess": guess.digest, "evaluation": evaluation.digest}

    def build(folder: Path, session: train.Session) -> None:
        del session
        reported, judge = unit.rows_of([REPORTED], seed), unit.model("evaluation")
        truths = {"image": reported.images, "label": reported.labels[unit.config["evaluation"]["label"]]}
        given = {"apply": judge.apply, "embed": judge.embed, "variables": evaluation.tree("variables")}
        for kind, named in settings.items():
            _save(folder, named, given, {"truth": truths[kind], "guess": guess.array("guess")})

    stage = unit.stage("metrics", f"{arm.name}, seed {seed}", spec, build)
    return {name: stage.array(name) for named in settings.values() for name in named}


def functionality(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Each metric of explanations, per reported image, of what one arm sees, in a unit with defences.

    Without a defence the map is its own release: what insertion and deletion of defended maps are to be compared with.
    """
    unit, released, settings = arm.unit, arm.released(SEES), arm.unit.config["metrics"][FUNCTIONALITY]
    if not (unit.config["defences"] and released.explains and settings):
        return {}
    original, defended = released.single()._replace(defences=()), released.single()
    (observed, sources), (maps, _) = defended.observation(REPORTED, seed), original.observation(REPORTED, seed)
    explained = unit.classifier(released.explanation, seed)
    spec = {"metrics": settings, "released": sources, "explained": explained.digest, "reads": list(released.reads)}

    def build(folder: Path, session: train.Session) -> None:
        del session
        logits = unit.logits(released.explanation, REPORTED, seed).array("logits")
        labels = {"label": logits.argmax(axis=-1).astype(np.int32), "explanation": maps.explanation}
        model, variables = unit.model(released.explanation), explained.tree("variables")
        given = {"apply": model.apply, "embed": model.embed, "variables": variables}
        given["release"] = service(defended, seed)
        truth = {"image": unit.images([REPORTED], seed), **labels}
        _save(folder, settings, given, {"truth": truth, "guess": observed.explanation})

    stage = unit.stage("function", f"{defended.label}, seed {seed}", spec, build)
    return {name: stage.array(name) for name in settings}


def budget(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """What the defences of one arm change of the images that the defender holds back, and what they withstand.

    Distortions are mean squared changes, of maps in their units and of probabilities. The queries of one image whose
    mean leaves half the distortion are there for defences that draw; `diverged` for those that were trained.
    """
    released, role = arm.released(SEES).single(), arm.unit.config["defender"]["held_out"]
    if not released.defences or not role:
        return {}
    bare = released._replace(defences=())
    (before, _), (after, _) = bare.observation(role, seed), released.observation(role, seed)
    found = {"prediction_distortion": np.square(after.prediction - before.prediction).mean(axis=1)}
    learned = [state_of(part.learned(seed)) for part in released.prefixes()]
    diverged = [state["diverged"] for state in learned if "diverged" in state]
    found |= {"diverged": np.full(1, max(diverged))} if diverged else {}
    if released.explains:
        found["held_out_distortion"] = released.distortion(seed, bare)
    queries = _queries(released, role, seed)
    return found | ({"queries_withstood": np.full(1, queries)} if np.isfinite(queries) else {})


def _queries(released: Released, role: str, seed: int, examples: int = 100) -> float:
    """See `defences.withstands`, of all defences together."""
    observed, sources = released._replace(defences=()).observation(role, seed)
    spec = released.described(seed) | {"sources": sources, "examples": examples}

    def build(folder: Path, session: train.Session) -> None:
        del session
        few = jax.tree.map(lambda part: np.asarray(part[:examples]), observed)
        withstood = defences.withstands(*released.applied(seed), few, key(seed, "queries"))
        store.save_array(folder / "queries.npy", np.asarray(withstood))

    stage = released.unit.stage("queries", f"{released.label}, seed {seed}", spec, build)
    return float(stage.array("queries"))


def classified(unit: Unit, part: str, seed: int) -> dict[str, np.ndarray]:
    """How right a classifier is on the reported images; of an attribute's, also by the F1 that `attributes` has."""
    truth, guess = unit.answers(part, seed)
    found = {"accuracy": (truth == guess).astype(np.float32), "weighted_f1": classification.weighted_f1(truth, guess)}
    found |= {"f1": _attribute_f1(unit, part, truth, guess)} if part in unit.config["attributes"] else {}
    return {name: np.broadcast_to(value, len(truth)) for name, value in found.items()}


def attributes(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Per attribute, F1 of what its classifier says of one arm's reconstructions (Jeong 2022, Figure 6)."""
    unit, guess, found = arm.unit, arm.reconstruction(seed), {}
    for name in unit.config["attributes"]:
        truth, _ = unit.answers(name, seed)
        said = _judged(arm, name, guess, seed).array("said")
        found[f"f1_{name}"] = np.full(len(truth), _attribute_f1(unit, name, truth, said))
    return found


def _attribute_f1(unit: Unit, name: str, truth: np.ndarray, said: np.ndarray) -> float:
    """F1 of an attribute's presence, or of one with several values the mean over these."""
    binary = len(unit.dataset.classes[unit.settings(name)["label"]]) == 2
    return classification.binary_f1(truth, said) if binary else classification.weighted_f1(truth, said)


def _judged(arm: Arm, name: str, guess: Stage, seed: int) -> Stage:
    """What the classifier of an attribute says of each reconstruction."""
    unit, judge = arm.unit, arm.unit.classifier(name, seed)

    def build(folder: Path, session: train.Session) -> None:
        del session
        answer, variables = _classify(unit.model(name).apply), judge.tree("variables")
        store.save_array(folder / "said.npy", parallel.map_batches(answer, variables, guess.array("guess"), FORWARD))

    spec = {"judge": judge.digest, "guess": guess.digest}
    return unit.stage("attribute", f"{name} of {arm.name}, seed {seed}", spec, build)


def factors(unit: Unit, seed: int) -> dict[str, np.ndarray]:
    """What may make a reported image easy to invert, beside how well each arm inverts it (Zhao 2021, Figure 6)."""
    reported, settings = unit.rows_of([REPORTED], seed), unit.config["analysis"]
    observed, _ = Released(unit, (settings["explanation"],) if settings else ()).observation(REPORTED, seed)
    truth = reported.labels[unit.config["target"]["label"]]
    found = {
        "confidence": metrics.factors.confidence(observed.prediction),
        "target_accuracy": metrics.factors.target_accuracy(observed.prediction, truth),
    }
    if settings:
        found["relevance"] = metrics.factors.relevance(observed.explanation, _region(settings["region"], reported))
        found["typicalness"] = metrics.factors.typicalness(observed.explanation, observed.prediction.argmax(axis=-1))
    for arm in arms(unit):
        judged = functionality(arm, seed) | (scores(arm, seed) if arm.settings["scored"] else {})
        kept = ("ssim", "attack_accuracy", "distortion")
        found |= {f"{name}/{arm.name}": np.asarray(judged[name]) for name in kept if name in judged}
    return found


def _region(name: str, images: data.Dataset) -> np.ndarray:
    regions = {
        "bright": lambda: metrics.factors.bright(images.images[:]),
        "ellipse": lambda: metrics.factors.ellipse(*images.images.shape[1:3]),
    }
    if name not in regions:
        raise InputError(f"unknown region {name!r} for analysis: choose one of {', '.join(regions)}")
    return regions[name]()


def service(released: Released, seed: int) -> Partial:
    """The service that a release comes from, as a pytree: `(images, labels, keys) -> released maps [N,h,w,c]`."""
    unit, parts = released.unit, (released.prediction, released.explanation)
    explainers = tuple(unit.explainer(name, seed, released.explanation) for name in released.reads)
    variables = tuple(unit.classifier(part, seed).tree("variables") for part in parts)
    defence, state = released.applied(seed) if released.defences else (None, {})
    return Partial(_service(explainers, *(unit.model(part).apply for part in parts), defence), variables, state)


@functools.lru_cache(64)
def _service(
    explainers: tuple[Explainer, ...], predict: Apply, explained: Apply, defence: Defence | None
) -> Callable[..., jax.Array]:
    def answer(
        variables: tuple[Variables, Variables], state: Any, images: Array, labels: Array, keys: Key
    ) -> jax.Array:
        def one(image: jax.Array, label: jax.Array, key: Key) -> tuple[jax.Array, ...]:
            return tuple(explainer(explained, variables[1], image, label, key) for explainer in explainers)

        maps = stack(jax.vmap(one)(images, labels, keys))
        if defence is None:
            return maps
        observed = Observation(jax.nn.softmax(predict(variables[0], images)), maps)
        return defences.each(defence, state, observed, keys).explanation

    return answer


@functools.lru_cache(64)
def _classify(apply: Apply) -> Callable[..., jax.Array]:
    return lambda variables, images, keys: apply(variables, as_float(images)).argmax(axis=-1)


def metric(name: str, hyper: Config, given: Config) -> Partial:
    """A metric as a pytree, so that an argument of `score` carries its variables; `given` as in `plugins.build`."""
    fn = plugins.build(metrics, "metric", name, hyper, given)
    return fn if isinstance(fn, Partial) else Partial(fn)


def score(functions: Mapping[str, Partial], batch: Batch, keys: Any) -> dict[str, jax.Array]:
    """Every function's value per example of {"truth", "guess"}."""
    del keys
    return {name: fn(batch["truth"], as_float(batch["guess"])) for name, fn in functions.items()}


def _save(folder: Path, settings: Config, given: Config, batch: Batch) -> None:
    functions = {name: metric(name, hyper, given) for name, hyper in settings.items()}
    for name, values in parallel.map_batches(score, functions, batch, FORWARD).items():
        store.save_array(folder / f"{name}.npy", values)
