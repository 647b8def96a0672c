"""What every public metric keeps to: a new factory is tested here unasked."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from xinv import metrics, plugins

SHAPE = (5, 16, 16, 3)
LABELED = ("attack_accuracy",)
"""Metrics whose truth is labels."""
EXPLAINING = (
    "distortion",
    "masked_deepsim",
    "spearman",
    "top_overlap",
    "deletion",
    "insertion",
    "max_sensitivity",
)
"""Metrics of released maps; the truth of all others is images."""

every = pytest.mark.parametrize("factory", metrics.FACTORIES, ids=lambda factory: factory.__name__)


def embed(variables, images):
    return jax.nn.relu(images.reshape(len(images), -1) @ variables)


def apply(variables, images):
    return jnp.tanh(embed(variables, images))


def release(variables, images, labels, keys):
    """Maps that depend on everything they are given."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (16, 16, 1)))(keys)
    return (
        images.mean(-1, keepdims=True) * variables.mean()
        + jnp.float32(labels)[:, None, None, None]
        + 0.01 * noise
    )


TRACES = []


@jax.jit
def compiled(fn, truth, guess):
    """The metric as the pipeline calls it: an argument, so that its variables are too."""
    TRACES.append(None)
    return fn(truth, guess)


def bound(factory, seed=0):
    """The metric as the pipeline builds it: a pytree, with what it asks for of a network of that
    seed.
    """
    variables = np.random.default_rng(seed).normal(0, 0.1, (16 * 16 * 3, 7)).astype(np.float32)
    given = {
        "apply": apply,
        "embed": embed,
        "variables": variables,
        "release": Partial(release, variables),
    }
    fn = plugins.build(metrics, "metric", factory.__name__, {}, given)
    return fn if isinstance(fn, Partial) else Partial(fn)


def case(factory, seed=1, constant=None):
    """Truth and guess for a metric."""
    rng = np.random.default_rng(seed)
    image, guess = rng.random((2, *SHAPE)).astype(np.float32)
    if constant is not None:
        image, guess = np.full((2, *SHAPE), constant, np.float32)
    labels = rng.integers(0, 7, SHAPE[0])
    if factory.__name__ in EXPLAINING:
        return {"image": image, "explanation": image[..., :1], "label": labels}, guess[..., :1]
    return labels if factory.__name__ in LABELED else image, guess


@every
def test_is_public_and_documented(factory):
    assert factory.__name__ in metrics.__all__
    assert inspect.getdoc(factory)


@pytest.mark.slow
@every
def test_one_finite_number_each(factory):
    """A metric gives one finite number per example, compiled or not."""
    truth, guess = case(factory)
    values = bound(factory)(truth, guess)
    assert values.shape == SHAPE[:1]
    assert values.dtype == jnp.float32
    assert np.isfinite(values).all()
    np.testing.assert_allclose(compiled(bound(factory), truth, guess), values, rtol=1e-4, atol=1e-5)


@every
def test_neighbours_change_nothing(factory):
    """Neighbours in a batch change nothing."""
    one, other = case(factory), case(factory, seed=2)
    mixed = jax.tree.map(lambda a, b: np.concatenate([a[:1], b[1:]]), one, other)
    assert compiled(bound(factory), *mixed)[0] == compiled(bound(factory), *one)[0]


@every
def test_one_trace_serves_every_seed(factory):
    compiled(bound(factory), *case(factory))
    before = len(TRACES)
    for seed in (1, 2):
        compiled(bound(factory, seed), *case(factory, seed))
    assert len(TRACES) == before


@every
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_input_gives_no_nan(factory, value):
    assert np.isfinite(compiled(bound(factory), *case(factory, constant=value))).all()
