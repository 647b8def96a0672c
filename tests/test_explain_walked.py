"""LRP of whole models of today against a slow walk of its rules, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import call, quick
from lrp_witness import Fast, Slow, Value, Weights
from walked_zoo import GATED, MODELS

from xinv import explain

pytestmark = pytest.mark.slow

CASES = [(name, rule, "signal") for name in MODELS for rule in ("epsilon", "epsilon_plus")]
CASES += [(name, "epsilon_plus", "uniform") for name in GATED]
IMAGE = np.random.default_rng(7).uniform(0.1, 1, (12, 12, 3))


def apply(name, x):
    return MODELS[name](Fast(), Weights(), x)


@functools.cache
def logits(name):
    """Of the image; in float64 where that is enabled."""
    return np.asarray(quick(lambda x: apply(name, x))(IMAGE[None])[0])


@pytest.mark.parametrize(("name", "rule", "gates"), CASES)
def test_whole_models_by_hand(name, rule, gates):
    """Both walks give the same logits, and the same relevance of every pixel."""
    hyper = {} if gates == "signal" else {"gates": gates}
    with jax.enable_x64(True):
        slow = Slow("epsilon" if rule == "epsilon" else "zplus", gates)
        start = Value(IMAGE)
        output = MODELS[name](slow, Weights(), start)
        np.testing.assert_allclose(output.array, logits(name), rtol=1e-9)
        slow.pull(output, output.array * np.eye(4)[1])
        explainer = explain.lrp(rule, 1e-13, **hyper)
        found = call(explainer, lambda v, x: apply(name, x), {}, jnp.asarray(IMAGE))
    np.testing.assert_allclose(found, start.relevance, atol=1e-6 * np.abs(start.relevance).max())
