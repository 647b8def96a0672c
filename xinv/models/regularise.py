"""Layers that behave differently in training.

There they need the axis of `xinv.parallel`, bound by its functions.
"""

import flax.linen as nn
import jax

from xinv import parallel
from xinv.types import InputError

NORMS = ("batch", "group")
"""Kinds of normalisation. With "group" every example is independent of the others."""


def norm(
    x: jax.Array,
    train: bool,
    kind: str = "batch",
    name: str | None = None,
) -> jax.Array:
    """Normalises x [N,...,c], and scales and shifts each channel.

    Args:
      x: the input.
      train: BatchNorm normalises by the batch on all devices in training, and otherwise by running
        averages. GroupNorm (Wu & He 2018) takes each example's own groups of up to 16 channels.
      kind: "batch" or "group".
      name: of the module.

    Returns:
      an array of the shape of x.
    """
    if kind == "group":
        # Groups of equal size, so the largest divisor of up to 16 channels.
        groups = x.shape[-1] // _group_size(x.shape[-1])
        # The variance is the mean square of centred values, as in `blocks.layer_norm`.
        layer = nn.GroupNorm(
            groups,
            epsilon=1e-5,
            dtype=x.dtype,
            use_fast_variance=False,
            name=name,
        )
    else:
        # In training the statistics are those of the whole batch, over all devices.
        layer = nn.BatchNorm(
            not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=x.dtype,
            axis_name=parallel.AXIS if train else None,
            name=name,
        )
    # Flax mixes x with statistics in float32, whatever promotion the caller allows.
    with jax.numpy_dtype_promotion("standard"):
        return layer(x)


def check_norm(norm: str) -> str:
    """Returns `norm` if it is one of NORMS; otherwise raises InputError."""
    if norm not in NORMS:
        raise InputError(f"unknown norm {norm!r}: choose one of {', '.join(NORMS)}")
    return norm


def _group_size(channels: int) -> int:
    """Returns the largest divisor of `channels` that is at most 16."""
    return max(size for size in range(1, 17) if channels % size == 0)


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Drops values of x [N,...] at that rate and scales up the others.

    A mask follows from the first device's key and the example's place in the global batch, so it
    does not depend on the number of devices.
    """
    # One key per example, by its place in the global batch.
    positions = parallel.batch_positions(len(x))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(parallel.shared(key), positions)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jax.numpy.where(kept, x / (1 - rate), 0)
