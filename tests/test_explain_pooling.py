"""The fast derivative of max-pooling is XLA's, ties and left-over rows included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from xinv.explain.engine.pooling import max_pool


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "window"), [((1, 7, 9, 3), (1, 2, 3, 1)), ((2, 6, 6, 2), (1, 6, 6, 1))]
)
def test_derivative_is_xlas(shape, window):
    def plain(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")

    x = jnp.round(jax.random.normal(jax.random.key(0), shape))  # many ties
    signal = jax.random.normal(jax.random.key(1), plain(x).shape)
    (expected,), (found,) = (
        jax.vjp(pool, x)[1](signal) for pool in (plain, lambda x: max_pool(x, window))
    )
    np.testing.assert_array_equal(found, expected)
    batched = jax.vmap(lambda x, signal: jax.vjp(lambda x: max_pool(x, window), x)[1](signal)[0])
    np.testing.assert_array_equal(batched(x[None], signal[None])[0], expected)
