"""The one place that fixes how stored images become what a model sees."""

import jax
import jax.numpy as jnp

from xinv.types import Array


def as_float(images: Array) -> jax.Array:
    """uint8 [0,255] images of any shape as float32 [0,1]; floating images pass unchanged."""
    images = jnp.asarray(images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
