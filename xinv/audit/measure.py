"""Metrics of a config, applied example by example."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from xinv import metrics, parallel, plugins
from xinv.audit.results import Config
from xinv.audit.service import FORWARD
from xinv.images import as_float
from xinv.types import Batch, InputError


def metric(name: str, hyper: Config, given: Config) -> Partial:
    """Returns a metric as a pytree of its variables; see `plugins.build`."""
    # Such a metric evaluates the model on other images, or explains them
    asks_model = plugins.takes(metrics, "metric", name, "apply")
    asks_release = plugins.takes(metrics, "metric", name, "release")
    if (asks_model or asks_release) and not given:
        raise InputError(
            f"metric {name!r} asks the target's model, and the target is recorded: "
            "leave the metric out"
        )
    fn = plugins.build(
        metrics,
        "metric",
        name,
        hyper,
        given,
    )
    # Partial is a pytree: its variables are traced, its function is static
    if isinstance(fn, Partial):
        return fn
    return Partial(fn)


def score(
    functions: Mapping[str, Partial],
    batch: Batch,
    keys: Any,
) -> dict[str, jax.Array]:
    """Returns every function's value [N] per example of {"truth", "guess"}."""
    del keys
    # Reconstructions are bytes, maps are floats: metrics see floats
    guess = as_float(batch["guess"])
    values = {}
    for name, fn in functions.items():
        values[name] = fn(batch["truth"], guess)
    return values


def judged(settings: Config, given: Config, batch: Batch) -> dict[str, np.ndarray]:
    """Returns the value [N] of each metric of a config's section on {"truth", "guess"}."""
    # Variables are arguments, so that one compiled program serves every seed
    functions = {}
    for name, hyper in settings.items():
        functions[name] = metric(name, hyper, given)
    return parallel.map_batches(score, functions, batch, FORWARD)
