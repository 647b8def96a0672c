"""Converts stored images into the input of a model, here and nowhere else."""

import jax
import jax.numpy as jnp

from xinv.types import Array


def as_float(images: Array) -> jax.Array:
    """Returns uint8 [0,255] images of any shape as float32 [0,1], and floating images unchanged."""
    # Models see [0,1]; floating images are there already
    images = jnp.asarray(images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
