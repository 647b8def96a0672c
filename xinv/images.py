"""Converts stored images into the input of a model, and compares images."""

import dm_pix
import jax
import jax.numpy as jnp

from xinv.types import Array


def as_float(images: Array) -> jax.Array:
    """Returns uint8 [0,255] images of any shape as float32 [0,1], and floating images unchanged."""
    # Models see [0,1]; floating images are there already
    images = jnp.asarray(images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def ssim(
    first: jax.Array,
    second: jax.Array,
    window: int,
    sigma: float = 1.5,
) -> jax.Array:
    """Returns the mean SSIM of each pair of images (Wang et al. 2004).

    Args:
      first: images [N,H,W,C], floating, in [0,1].
      second: the images that they are compared with, of the same shape.
      window: side of the window in pixels, at most H and W.
      sigma: standard deviation of the window's Gaussian weights, in pixels.

    Returns:
      an array [N], at most 1.
    """
    # dm_pix mixes integers and floats, whatever promotion the caller allows
    with jax.numpy_dtype_promotion("standard"):
        return dm_pix.ssim(first, second, filter_size=window, filter_sigma=sigma)
