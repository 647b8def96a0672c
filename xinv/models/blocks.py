"""Blocks of the deep classifiers. Layout is NHWC; computations are in the images' dtype."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from xinv.models.layers import convolve, depthwise
from xinv.models.module import linen
from xinv.models.table import check_dtype
from xinv.numbers import require_count
from xinv.types import InputError, Model

STEMS = ("small", "large")


def classifier(features: nn.Module, classes: int, dtype: str) -> Model:
    """Makes the model that classifies by `features(images, train)`.

    Args:
      features: returns maps [N,h,w,c], which are marked "cam" and averaged, or vectors [N,c].
      classes: number of logits.
      dtype: of the computation.

    Returns:
      A model of images [N,H,W,C] in [0,1], with logits [N,classes]; `embed` returns the vectors.

    Raises:
      InputError: `classes` is no number of classes, or there is no such `dtype`.
    """
    require_count(classes=classes)
    return linen(
        _Classifier(features, classes, check_dtype(dtype)),
        embed="embed",
        head=_head,
    )


class _Classifier(nn.Module):
    features: nn.Module
    classes: int
    dtype: str

    def setup(self):
        self.head = nn.Dense(self.classes)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self.head(self.embed(images, train))

    def embed(self, images: jax.Array, train: bool = False) -> jax.Array:
        # The head is computed in float32, so that logits keep their digits.
        found = self.features(images.astype(self.dtype), train)
        # Vectors are features already; of maps, the mean.
        if found.ndim == 2:
            return found.astype(jnp.float32)
        return mean_of_map(found)


def _head(module: _Classifier, features: jax.Array) -> jax.Array:
    return module.head(features)


def mean_of_map(maps: jax.Array) -> jax.Array:
    """Marks the last feature map [N,h,w,c] "cam"; returns its mean [N,c] in float32."""
    return checkpoint_name(maps.astype(jnp.float32), "cam").mean((1, 2))


def layer_norm(x: jax.Array) -> jax.Array:
    """LayerNorm over channels, with the variance as the mean square of centred values.

    The fast variance, a difference of two means, loses digits and needs a clip at 0.
    """
    layer = nn.LayerNorm(epsilon=1e-6, dtype=x.dtype, use_fast_variance=False)
    # Flax mixes x with statistics in float32, whatever promotion the caller allows.
    with jax.numpy_dtype_promotion("standard"):
        return layer(x)


def check_stem(stem: str) -> bool:
    """Tells if the stem is the large one; InputError if there is no such stem."""
    if stem not in STEMS:
        raise InputError(f"unknown stem {stem!r}: choose one of {', '.join(STEMS)}")
    return stem == "large"


def conv(
    x: jax.Array,
    outputs: int,
    size: int = 1,
    stride: int = 1,
    bias: bool = False,
) -> jax.Array:
    """A convolution, padded by size//2."""
    return _Conv(outputs, size, stride, size // 2, bias)(x)


def conv_each(
    x: jax.Array,
    size: int = 3,
    stride: int = 1,
    bias: bool = False,
) -> jax.Array:
    """A depthwise convolution, padded by size//2."""
    return _Conv(0, size, stride, size // 2, bias)(x)


def patchify(x: jax.Array, outputs: int, size: int) -> jax.Array:
    """A linear map of each patch of size×size pixels, with a bias; pixels left over are dropped."""
    return _Conv(outputs, size, size, 0, True)(x)


class _Conv(nn.Module):
    """A convolution of `outputs` channels; 0 is a depthwise one, padded by size//2."""

    outputs: int
    size: int
    stride: int
    padding: int
    bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # A depthwise convolution keeps the channels; each kernel reads one of them.
        channels = self.outputs or x.shape[-1]
        shape = (self.size, self.size, x.shape[-1] if self.outputs else 1, channels)
        # He et al. 2015: by fan-out as in torchvision; a depthwise output has size² inputs.
        initialise = nn.initializers.variance_scaling(
            2.0,
            "fan_out" if self.outputs else "fan_in",
            "normal",
        )
        kernel = self.param("kernel", initialise, shape, jnp.float32).astype(x.dtype)
        y = self._convolve(x, kernel)
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        return y + bias.astype(x.dtype)[None, None, None]

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        # The fastest exact form of each kind, see `layers`.
        if not self.outputs:
            return depthwise(x, kernel[:, :, 0], self.stride)
        # A pointwise convolution with a stride reads every stride-th pixel only.
        if self.size == 1:
            return convolve(x[:, :: self.stride, :: self.stride], kernel, 0)
        if self.stride == 1:
            return convolve(x, kernel, self.padding)
        return lax.conv_general_dilated(
            x,
            kernel,
            (self.stride,) * 2,
            [(self.padding,) * 2] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def pool_stem(x: jax.Array) -> jax.Array:
    """The large stem's 3×3 max-pool of stride 2."""
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
