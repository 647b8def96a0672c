"""Every defence at a small size, and observations to treat, shared by the tests of defences."""

import functools

import jax
import numpy as np

from xinv import defences
from xinv.train import Recipe
from xinv.types import Observation

COUNT, CLASSES, SHAPE = 16, 5, (8, 8, 1)
RECIPE = Recipe(batch_size=8, epochs=1, validation=0)
NEEDED: dict[str, dict] = {
    "clip": {"low": 0.2, "high": 0.7},
    "gaussian": {"mse": 0.01},
    "gnime": {
        "width": 1 / 64,
        "inverter_width": 1 / 64,
        "recipe": RECIPE,
        "max_distortion": 1e6,
        "max_inverter_error": 1e6,
        "gamma": 0.01,
    },
    "mask": {"threshold": 0.5},
    "noise": {"stdev": 0.1},
    "pgd": {"mse": 0.01, "steps": 2, "encoder": "flatten", "width": 1 / 64, "recipe": RECIPE},
    "quantise": {"step": 0.3},
    "rescale": {"deviation": 0.5},
    "round_to": {"decimals": 1},
    "truncate": {"m": 2},
}


def observed(count: int = COUNT, seed: int = 0) -> Observation:
    """Predictions, and maps in [0,1] of which half the values lie on 0."""
    draw = np.random.default_rng(seed)
    maps = np.clip(draw.normal(size=(count, *SHAPE)), 0, None)
    maps /= maps.max(axis=(1, 2, 3), keepdims=True)
    return Observation(
        draw.dirichlet(np.ones(CLASSES), count).astype(np.float32),
        maps.astype(np.float32),
    )


def images(count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *SHAPE), np.uint8)


@functools.cache
def fitted(name: str):
    """A defence, its state, and its `apply` compiled, which counts its traces."""
    defence = defences.build(name, **NEEDED.get(name, {}))
    state = defence.init(jax.random.key(0), observed(), images())
    state.pop("history", None)
    traces = []

    def apply(state, observation, key):
        traces.append(None)
        return defence.apply(state, observation, key)

    compiled = jax.jit(apply)
    compiled.traces = traces
    return defence, state, compiled


def changed(name: str, observation: Observation, seed: int = 0) -> Observation:
    _, state, compiled = fitted(name)
    return jax.tree.map(np.asarray, compiled(state, observation, jax.random.key(seed)))
