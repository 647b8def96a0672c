"""Similarity of pictures: images [N,H,W,C], float32 in [0,1] or uint8, to one number each [N].

The factories are cached, so the same arguments give the same function and compile once.
"""

import functools

import jax
import jax.numpy as jnp

from xinv import images
from xinv.images import as_float
from xinv.numbers import is_number
from xinv.types import Array, InputError, Metric

MAX_PSNR = 100.0
"""PSNR in dB of equal images, in place of infinity, so that a mean stays finite."""


@functools.cache
def mse() -> Metric:
    """Returns the mean squared error over pixels and channels, in [0,1]; 0 for equal images."""
    return _mse


@functools.cache
def one_minus_mse() -> Metric:
    """Returns the similarity 1 − MSE, in [0,1]; 1 for equal images (Zhao 2021, section 4.2)."""
    return lambda truth, guess: 1 - _mse(truth, guess)


@functools.cache
def psnr() -> Metric:
    """Returns the peak signal-to-noise ratio for a data range of 1, in dB; at most `MAX_PSNR`."""
    return lambda truth, guess: jnp.minimum(-10 * jnp.log10(_mse(truth, guess)), MAX_PSNR)


@functools.cache
def ssim(sigma: float = 1.5, window: int | None = None) -> Metric:
    """Returns the mean structural similarity, in [−1,1] (Wang 2004; Zhao 2021, Eq. 3).

    Gaussian weights, population covariance, data range 1; 1 for equal images. The mean is over
    channels and over pixels with their window inside the image, as in
    `skimage.metrics.structural_similarity`.

    Args:
      sigma: width of the Gaussian in pixels; 1.5 in GNIME and for Zhao's faces and MNIST, 2.5 for
        their CelebA.
      window: odd side of the Gaussian in pixels; by default 3.5 sigma to each side, so 11 for 1.5
        and 19 for 2.5.

    Raises:
      InputError: sigma or window is not allowed, or (at the call) the images are smaller than the
        window.
    """
    if not (is_number(sigma) and sigma > 0):
        raise InputError(f"SSIM sigma {sigma} is not allowed: give a positive number of pixels")
    # scikit-image's truncation of the Gaussian at 3.5 sigma
    side = 2 * int(3.5 * sigma + 0.5) + 1 if window is None else window
    if side < 1 or side % 2 == 0:
        raise InputError(
            f"SSIM window {side} is not allowed: give an odd number of pixels, at least 1"
        )

    def fn(truth: Array, guess: Array) -> jax.Array:
        truth, guess = _pair(truth, guess)
        # dm_pix accepts smaller images and returns nonsense
        height, width = truth.shape[1:3]
        if min(height, width) < side:
            raise InputError(
                f"SSIM window of {side}x{side} pixels does not fit in images of {height}x{width}: "
                f"give a window of at most {min(height, width)}"
            )
        return images.ssim(truth, guess, side, sigma)

    return fn


def _mse(truth: Array, guess: Array) -> jax.Array:
    truth, guess = _pair(truth, guess)
    return jnp.square(truth - guess).mean(axis=(1, 2, 3))


def _pair(truth: Array, guess: Array) -> tuple[jax.Array, jax.Array]:
    """Returns both as float images; raises InputError if their shapes differ.

    Without the check broadcasting would compare different shapes.
    """
    if truth.shape != guess.shape or truth.ndim != 4:
        raise InputError(
            f"images of shapes {truth.shape} and {guess.shape} are not comparable: give two"
            " [N,H,W,C]"
        )
    return as_float(truth), as_float(guess)
