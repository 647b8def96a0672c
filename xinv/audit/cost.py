"""The cost of defences for the explanation, and the queries that they withstand."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from xinv import defences
from xinv.audit import measure
from xinv.audit.attacker import TEST_VIEW, Arm
from xinv.audit.distortion import distortion
from xinv.audit.release import Release, stack
from xinv.audit.stage import key, state_of
from xinv.types import Apply, Array, Defence, Explainer, Key, Observation, Variables

UTILITY = "explanation"
"""The group of metrics whose truth is the explanation before the defences."""
_SAMPLE = 100  # examples by which the number of queries is estimated


def utility(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Returns each metric [N] of explanations in the test view of an arm, per reported image.

    A unit without defences has none. Without a defence the map is its own release: insertion and
    deletion of defended maps are compared with its values.
    """
    service = arm.service
    release = arm.view(TEST_VIEW).release.single()
    classifiers = service.classifiers
    part = release.explanation
    settings = service.config["metrics"][UTILITY]
    if not (service.config["defences"] and release.explains and settings):
        return {}

    observed, sources = release.observation(service.roles.reported, seed)
    maps, _ = release.bare().observation(service.roles.reported, seed)
    spec = {
        "metrics": settings,
        "released": sources,
        "explained": classifiers.identity(part, seed),
        "inputs": list(release.inputs),
    }

    def compute() -> dict[str, np.ndarray]:
        # The truth: the explanation before the defences, of the predicted class
        prediction, _ = service.prediction(part, service.roles.reported, seed)
        truth = {
            "image": service.roles.images([service.roles.reported], seed),
            "explanation": maps.explanation,
            "label": np.argmax(prediction, axis=-1).astype(np.int32),
        }
        # Some metrics ask the model, which a recorded target has not
        given = {}
        if not classifiers.is_recorded(part):
            model = classifiers.model(part)
            given = {
                "apply": model.apply,
                "embed": model.embed,
                "variables": classifiers.variables(part, seed),
                "release": released_maps(release, seed),
            }
        return measure.judged(
            settings,
            given,
            {"truth": truth, "guess": observed.explanation},
        )

    stage = service.stages.computed(
        "utility",
        f"{release.label}, seed {seed}",
        spec,
        compute,
    )
    return {name: stage.array(name) for name in settings}


def defence_cost(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Returns the cost of an arm's defences on the defender's held-out images.

    Distortions [N] are mean squared changes, of maps and of predictions in their units. Drawing
    defences have the number of queries of one image leaving half the distortion of their mean;
    trained ones have `diverged`.
    """
    release = arm.view(TEST_VIEW).release.single()
    role = arm.service.config["defender"]["held_out"]
    if not release.defences or not role:
        return {}

    # The change of predictions
    before, _ = release.bare().observation(role, seed)
    after, _ = release.observation(role, seed)
    change = np.square(after.prediction - before.prediction)
    found = {"prediction_distortion": change.mean(axis=1)}

    # The training
    diverged = []
    for link in release.chain.links():
        state = state_of(link.learned(seed))
        if "diverged" in state:
            diverged.append(state["diverged"])
    if diverged:
        found["diverged"] = np.full(1, max(diverged))

    # The change of explanations, and how often one asks until half of it is gone
    if release.explains:
        found["held_out_distortion"] = distortion(release.bare(), release, seed)
    queries = _queries(release, role, seed)
    if np.isfinite(queries):
        found["queries_to_halve_distortion"] = np.full(1, queries)
    return found


def released_maps(release: Release, seed: int) -> Partial:
    """Returns the pytree `(images, labels, keys) -> released maps [N,h,w,c]`."""
    # Functions are static and compiled once; weights and states are arguments
    service = release.service
    classifiers = release.service.classifiers
    explainers = []
    for name in release.inputs:
        explainers.append(service.explainer(name, seed, release.explanation))
    defence = None
    state = {}
    if release.defences:
        defence, state = release.chain.applied(seed)
    answer = _explains(
        tuple(explainers),
        classifiers.model(release.prediction).apply,
        classifiers.model(release.explanation).apply,
        defence,
        service.releases_logits,
    )
    variables = (
        classifiers.variables(release.prediction, seed),
        classifiers.variables(release.explanation, seed),
    )
    return Partial(answer, variables, state)


def _queries(release: Release, role: str, seed: int) -> float:
    """See `defences.withstands`, of all defences together."""
    # Measured before the defences, which are applied many times to a few examples
    observed, sources = release.bare().observation(role, seed)
    spec = release.chain.spec(seed) | {"sources": sources, "examples": _SAMPLE}

    def compute() -> dict[str, np.ndarray]:
        # The number is an estimate, and each query a whole release
        few = jax.tree.map(lambda part: np.asarray(part[:_SAMPLE]), observed)
        defence, state = release.chain.applied(seed)
        images = None
        if defence.sees_images:
            images = release.service.roles.images([role], seed)[:_SAMPLE]
        withstood = defences.withstands(
            defence,
            state,
            few,
            key(seed, "queries"),
            logits=release.service.releases_logits,
            images=images,
        )
        return {"queries": np.asarray(withstood)}

    label = f"{release.label}, seed {seed}"
    stage = release.service.stages.computed("queries", label, spec, compute)
    return float(stage.array("queries"))


@functools.lru_cache(64)
def _explains(
    explainers: tuple[Explainer, ...],
    predict: Apply,
    explained: Apply,
    defence: Defence | None,
    logits: bool,
) -> Callable[..., jax.Array]:
    """Returns the released maps of images as a function of all arrays, compiled for every seed."""

    def answer(
        variables: tuple[Variables, Variables],
        state: Any,
        images: Array,
        labels: Array,
        keys: Key,
    ) -> jax.Array:
        of_prediction, of_explanation = variables

        def one(image: jax.Array, label: jax.Array, key: Key) -> list[jax.Array]:
            maps = []
            for explainer in explainers:
                maps.append(
                    explainer(
                        explained,
                        of_explanation,
                        image,
                        label,
                        key,
                    )
                )
            return maps

        # The way of a release: explain, stack, defend
        maps = stack(jax.vmap(one)(images, labels, keys))
        if defence is None:
            return maps
        prediction = predict(of_prediction, images)
        if not logits:
            prediction = jax.nn.softmax(prediction)
        observed = Observation(prediction, maps)
        return defences.each(defence, state, observed, keys, images).explanation

    return answer
