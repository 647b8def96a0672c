"""LRP of whole models of today against a slow walk of its rules, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import call
from lrp_witness import Fast, Slow, Value, Weights
from walked_zoo import GATED, MODELS

from xinv import explain

CASES = [(name, rule, "signal") for name in MODELS for rule in ("epsilon", "epsilon_plus")]
CASES += [(name, "epsilon_plus", "uniform") for name in GATED]


def apply(name, x):
    return MODELS[name](Fast(), Weights(), x)


@pytest.mark.parametrize(("name", "rule", "gates"), CASES)
def test_whole_models_by_hand(name, rule, gates):
    """Both walks give the same logits, and the same relevance of every pixel."""
    image = np.random.default_rng(7).uniform(0.1, 1, (12, 12, 3))
    hyper = {} if gates == "signal" else {"gates": gates}
    with jax.enable_x64(True):
        slow = Slow("epsilon" if rule == "epsilon" else "zplus", gates)
        start = Value(image)
        output = MODELS[name](slow, Weights(), start)
        np.testing.assert_allclose(output.array, apply(name, jnp.asarray(image)[None])[0], rtol=1e-9)
        slow.pull(output, output.array * np.eye(4)[1])
        explainer = explain.lrp(rule, 1e-13, **hyper)
        found = call(explainer, lambda v, x: apply(name, x), {}, jnp.asarray(image))
    np.testing.assert_allclose(found, start.relevance, atol=1e-6 * np.abs(start.relevance).max())
