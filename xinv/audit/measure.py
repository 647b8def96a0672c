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
    """Returns a metric as a pytree, so that an argument of `score` carries its variables; see `plugins.build`."""
    asks = any(plugins.takes(metrics, "metric", name, needed) for needed in ("apply", "release"))
    if asks and not given:
        raise InputError(f"metric {name!r} asks the target's model, and the target is recorded: leave the metric out")
    fn = plugins.build(metrics, "metric", name, hyper, given)
    return fn if isinstance(fn, Partial) else Partial(fn)


def score(functions: Mapping[str, Partial], batch: Batch, keys: Any) -> dict[str, jax.Array]:
    """Returns every function's value per example of {"truth", "guess"}."""
    del keys
    return {name: fn(batch["truth"], as_float(batch["guess"])) for name, fn in functions.items()}


def judged(settings: Config, given: Config, batch: Batch) -> dict[str, np.ndarray]:
    """Returns the value [N] of each metric of a config's section on {"truth", "guess"}."""
    functions = {name: metric(name, hyper, given) for name, hyper in settings.items()}
    return parallel.map_batches(score, functions, batch, FORWARD)
