"""What defences cost the explanation, and what they withstand."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from xinv import defences
from xinv.audit import measure
from xinv.audit.attacker import TEST_VIEW, Arm
from xinv.audit.chain import distortion
from xinv.audit.release import Release, stack
from xinv.audit.roles import REPORTED
from xinv.audit.stage import key, state_of
from xinv.types import Apply, Array, Defence, Explainer, Key, Observation, Variables

UTILITY = "explanation"
"""The group of metrics whose truth is the explanation before the defences."""
_SAMPLE = 100  # examples by which the number of queries is estimated


def utility(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Returns each metric of explanations, per reported image, in what one arm is tested on.

    A unit without defences has none. Without a defence the map is its own release: insertion and deletion of defended
    maps are compared with its values.
    """
    service, release = arm.service, arm.view(TEST_VIEW).release.single()
    classifiers, part = service.classifiers, release.explanation
    settings = service.config["metrics"][UTILITY]
    if not (service.config["defences"] and release.explains and settings):
        return {}

    observed, sources = release.observation(REPORTED, seed)
    maps, _ = release.bare().observation(REPORTED, seed)
    spec = {
        "metrics": settings,
        "released": sources,
        "explained": classifiers.identity(part, seed),
        "reads": list(release.inputs),
    }

    def compute() -> dict[str, np.ndarray]:
        # What the explanation explains
        prediction, _ = service.prediction(part, REPORTED, seed)
        truth = {
            "image": service.roles.images([REPORTED], seed),
            "explanation": maps.explanation,
            "label": np.argmax(prediction, axis=-1).astype(np.int32),
        }
        # What a metric may ask, unless the classifier is known by its releases alone
        given = {}
        if not classifiers.is_recorded(part):
            model = classifiers.model(part)
            given = {
                "apply": model.apply,
                "embed": model.embed,
                "variables": classifiers.variables(part, seed),
                "release": released_maps(release, seed),
            }
        return measure.judged(settings, given, {"truth": truth, "guess": observed.explanation})

    stage = service.stages.computed("function", f"{release.label}, seed {seed}", spec, compute)
    return {name: stage.array(name) for name in settings}


def defence_cost(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Returns what the defences of one arm change of the defender's held-out images, and what they withstand.

    Distortions are mean squared changes, of maps in their units and of probabilities. The queries of one image whose
    mean leaves half the distortion are there for defences that draw; `diverged` for those that were trained.
    """
    release, role = arm.view(TEST_VIEW).release.single(), arm.service.config["defender"]["held_out"]
    if not release.defences or not role:
        return {}

    before, _ = release.bare().observation(role, seed)
    after, _ = release.observation(role, seed)
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


def released_maps(release: Release, seed: int) -> Partial:
    """Returns the service that a release comes from: a pytree `(images, labels, keys) -> released maps [N,h,w,c]`."""
    service, parts = release.service, (release.prediction, release.explanation)
    explainers = tuple(service.explainer(name, seed, release.explanation) for name in release.inputs)
    variables = tuple(service.classifiers.variables(part, seed) for part in parts)
    predict, explained = (service.classifiers.model(part).apply for part in parts)
    defence, state = release.chain.applied(seed) if release.defences else (None, {})
    return Partial(_explains(explainers, predict, explained, defence), variables, state)


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
