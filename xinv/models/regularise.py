"""Layers that behave differently in training. There they need the axis of `xinv.parallel`, which its functions bind."""

import flax.linen as nn
import jax

from xinv import parallel


def norm(x: jax.Array, train: bool, name: str | None = None) -> jax.Array:
    """BatchNorm: in training over the batch on all devices, otherwise by the running averages."""
    axis = parallel.AXIS if train else None
    return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=x.dtype, axis_name=axis, name=name)(x)


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Drops values of x [N,...] at that rate and scales up the others.

    A mask follows from the first device's key and the example's place in the global batch, so that the number of
    devices changes nothing.
    """
    shared = jax.lax.all_gather(jax.random.key_data(key), parallel.AXIS)[0]
    shared = jax.random.wrap_key_data(shared, impl=jax.random.key_impl(key))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(shared, parallel.batch_positions(len(x)))
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jax.numpy.where(kept, x / (1 - rate), 0)
