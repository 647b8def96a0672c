"""What an attack is worth: its guesses, and what defences do to explanations, judged image by image."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from xinv import data, defences, metrics, parallel
from xinv.audit import measure
from xinv.audit.attacker import SEES, Arm, arms
from xinv.audit.chain import distortion
from xinv.audit.release import Release, stack
from xinv.audit.roles import REPORTED
from xinv.audit.service import FORWARD, Service
from xinv.audit.stage import key, state_of
from xinv.images import as_float
from xinv.metrics import classification
from xinv.store import Stage
from xinv.types import Apply, Array, Defence, Estimate, Explainer, InputError, Key, Observation, Variables

UTILITY = "explanation"
"""The group of metrics whose truth is the explanation before the defences."""
_SAMPLE = 100  # examples by which the number of queries is estimated


def scores(arm: Arm, seed: int) -> dict[str, np.ndarray | Estimate]:
    """Returns each metric of one arm's guesses of what its goal reports."""
    part = arm.settings[SEES]["prediction"]
    return arm.goal.scores(arm.service, part, arm.guessed(seed), f"{arm.name}, seed {seed}", seed)


def utility(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Returns each metric of explanations, per reported image, of what one arm sees, in a unit with defences.

    Without a defence the map is its own release: what insertion and deletion of defended maps are to be compared with.
    """
    service, classifiers, release = arm.service, arm.service.classifiers, arm.release(SEES).single()
    settings = service.config["metrics"][UTILITY]
    if not (service.config["defences"] and release.explains and settings):
        return {}
    (observed, sources), (maps, _) = release.observation(REPORTED, seed), release.bare().observation(REPORTED, seed)
    explained = classifiers.identity(release.explanation, seed)
    spec = {"metrics": settings, "released": sources, "explained": explained, "reads": list(release.inputs)}

    def compute() -> dict[str, np.ndarray]:
        prediction, _ = service.prediction(release.explanation, REPORTED, seed)
        truth = {"image": service.roles.images([REPORTED], seed), "explanation": maps.explanation}
        truth["label"] = np.argmax(prediction, axis=-1).astype(np.int32)
        given = {}
        if not service.classifiers.is_recorded(release.explanation):
            model, variables = (
                service.classifiers.model(release.explanation),
                service.classifiers.variables(release.explanation, seed),
            )
            given = {"apply": model.apply, "embed": model.embed, "variables": variables}
            given["release"] = released_maps(release, seed)
        return measure.judged(settings, given, {"truth": truth, "guess": observed.explanation})

    stage = service.stages.computed("function", f"{release.label}, seed {seed}", spec, compute)
    return {name: stage.array(name) for name in settings}


def defence_cost(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Returns what the defences of one arm change of the images that the defender holds back, and what they withstand.

    Distortions are mean squared changes, of maps in their units and of probabilities. The queries of one image whose
    mean leaves half the distortion are there for defences that draw; `diverged` for those that were trained.
    """
    release, role = arm.release(SEES).single(), arm.service.config["defender"]["held_out"]
    if not release.defences or not role:
        return {}
    (before, _), (after, _) = release.bare().observation(role, seed), release.observation(role, seed)
    found = {"prediction_distortion": np.square(after.prediction - before.prediction).mean(axis=1)}
    learned = [state_of(link.learned(seed)) for link in release.chain.links()]
    diverged = [state["diverged"] for state in learned if "diverged" in state]
    if diverged:
        found["diverged"] = np.full(1, max(diverged))
    if release.explains:
        found["held_out_distortion"] = distortion(release.bare(), release, seed)
    queries = _queries(release, role, seed)
    if np.isfinite(queries):
        found["queries_to_halve_distortion"] = np.full(1, queries)
    return found


def classified(service: Service, part: str, seed: int) -> dict[str, np.ndarray]:
    """Returns how right a classifier is on the reported images; of an attribute's also the F1 of `attributes`."""
    truth, guess = service.answers(part, seed)
    found = {"accuracy": (truth == guess).astype(np.float32), "weighted_f1": classification.weighted_f1(truth, guess)}
    if part in service.config["attributes"]:
        found["f1"] = _attribute_f1(service, part, truth, guess)
    return {name: np.broadcast_to(value, len(truth)) for name, value in found.items()}


def attributes(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Returns per attribute F1 of what its classifier says of one arm's reconstructions (Jeong 2022, Figure 6)."""
    service, guess, found = arm.service, arm.guessed(seed), {}
    for name in service.config["attributes"]:
        truth, _ = service.answers(name, seed)
        answers = _attribute(arm, name, guess, seed).array("said")
        found[f"f1_{name}"] = np.full(len(truth), _attribute_f1(service, name, truth, answers))
    return found


def factors(service: Service, seed: int) -> dict[str, np.ndarray]:
    """Returns what may make a reported image easy to invert, beside how well each arm does (Zhao 2021, Figure 6)."""
    reported, settings = service.roles.labelled([REPORTED], seed), service.config["analysis"]
    observed, _ = Release(service, (settings["explanation"],) if settings else ()).observation(REPORTED, seed)
    truth = reported.labels[service.config["target"]["label"]]
    found = {
        "confidence": metrics.factors.confidence(observed.prediction),
        "target_accuracy": metrics.factors.target_accuracy(observed.prediction, truth),
    }
    if settings:
        found["relevance"] = metrics.factors.relevance(observed.explanation, _region(settings["region"], reported))
        found["typicalness"] = metrics.factors.typicalness(observed.explanation, observed.prediction.argmax(axis=-1))
    for arm in arms(service):
        judged = utility(arm, seed) | (scores(arm, seed) if arm.rebuilds else {})
        kept = [name for name in ("ssim", "attack_accuracy", "distortion") if name in judged]
        found |= {f"{name}/{arm.name}": np.asarray(judged[name]) for name in kept}
    return found


def released_maps(release: Release, seed: int) -> Partial:
    """Returns the service that a release comes from: a pytree `(images, labels, keys) -> released maps [N,h,w,c]`."""
    service, parts = release.service, (release.prediction, release.explanation)
    explainers = tuple(service.explainer(name, seed, release.explanation) for name in release.inputs)
    variables = tuple(service.classifiers.variables(part, seed) for part in parts)
    defence, state = release.chain.applied(seed) if release.defences else (None, {})
    return Partial(
        _explains(explainers, *(service.classifiers.model(part).apply for part in parts), defence), variables, state
    )


def _queries(release: Release, role: str, seed: int) -> float:
    """See `defences.withstands`, of all defences together."""
    observed, sources = release.bare().observation(role, seed)
    spec = release.chain.spec(seed) | {"sources": sources, "examples": _SAMPLE}

    def compute() -> dict[str, np.ndarray]:
        few = jax.tree.map(lambda part: np.asarray(part[:_SAMPLE]), observed)
        withstood = defences.withstands(*release.chain.applied(seed), few, key(seed, "queries"))
        return {"queries": np.asarray(withstood)}

    stage = release.service.stages.computed("queries", f"{release.label}, seed {seed}", spec, compute)
    return float(stage.array("queries"))


def _attribute_f1(service: Service, name: str, truth: np.ndarray, answers: np.ndarray) -> float:
    """F1 of an attribute's presence, or of one with several values the mean over these."""
    f1 = classification.binary_f1 if service.classifiers.classes(name) == 2 else classification.weighted_f1
    return f1(truth, answers)


def _attribute(arm: Arm, name: str, guess: Stage, seed: int) -> Stage:
    """What the classifier of an attribute says of each reconstruction."""
    service = arm.service

    def compute() -> dict[str, np.ndarray]:
        answer, variables = _classify(service.classifiers.model(name).apply), service.classifiers.variables(name, seed)
        return {"said": parallel.map_batches(answer, variables, guess.array("guess"), FORWARD)}

    spec = {"judge": service.classifiers.identity(name, seed), "guess": guess.digest}
    return service.stages.computed("attribute", f"{name} of {arm.name}, seed {seed}", spec, compute)


def _region(name: str, images: data.Dataset) -> np.ndarray:
    regions = {
        "bright": lambda: metrics.factors.bright(images.images[:]),
        "ellipse": lambda: metrics.factors.ellipse(*images.images.shape[1:3]),
    }
    if name not in regions:
        raise InputError(f"unknown region {name!r} for analysis: choose one of {', '.join(regions)}")
    return regions[name]()


@functools.lru_cache(64)
def _explains(
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
