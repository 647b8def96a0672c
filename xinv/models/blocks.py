"""What the deep classifiers are made of. Layout is NHWC; everything is computed in the images' dtype."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from xinv.models.layers import convolve, depthwise
from xinv.models.module import linen
from xinv.models.table import check_dtype
from xinv.types import InputError, Model

STEMS = ("small", "large")


def classifier(features: nn.Module, classes: int, dtype: str) -> Model:
    """The model of `features(images, train) -> maps [N,h,w,c]`, which are marked "cam", averaged and classified."""
    return linen(_Classifier(features, classes, check_dtype(dtype)), embed="embed", head=_head)


class _Classifier(nn.Module):
    features: nn.Module
    classes: int
    dtype: str

    def setup(self):
        self.head = nn.Dense(self.classes)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self.head(self.embed(images, train))

    def embed(self, images: jax.Array, train: bool = False) -> jax.Array:
        maps = self.features(images.astype(self.dtype), train).astype(jnp.float32)
        return checkpoint_name(maps, "cam").mean((1, 2))


def _head(module: _Classifier, features: jax.Array) -> jax.Array:
    return module.head(features)


def check_stem(stem: str) -> bool:
    """Whether it is the large one; InputError if there is no such stem."""
    if stem not in STEMS:
        raise InputError(f"unknown stem {stem!r}: choose one of {', '.join(STEMS)}")
    return stem == "large"


def conv(x: jax.Array, outputs: int, size: int = 1, stride: int = 1) -> jax.Array:
    """A convolution without bias, padded by size//2."""
    return _Conv(outputs, size, stride)(x)


def conv_each(x: jax.Array, size: int = 3, stride: int = 1) -> jax.Array:
    """A depthwise convolution without bias, padded by size//2."""
    return _Conv(0, size, stride)(x)


class _Conv(nn.Module):
    """`outputs` is 0 for a depthwise convolution."""

    outputs: int
    size: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1] if self.outputs else 1, self.outputs or x.shape[-1])
        initialise = nn.initializers.variance_scaling(2.0, "fan_out" if self.outputs else "fan_in", "normal")
        kernel = self.param("kernel", initialise, shape, jnp.float32).astype(x.dtype)
        if not self.outputs:
            return depthwise(x, kernel[:, :, 0], self.stride)
        if self.size == 1:
            return convolve(x[:, :: self.stride, :: self.stride], kernel, 0)
        if self.stride == 1:
            return convolve(x, kernel, self.size // 2)
        return lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, [(self.size // 2,) * 2] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


def pool_stem(x: jax.Array) -> jax.Array:
    """The large stem's 3×3 max-pool of stride 2."""
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
