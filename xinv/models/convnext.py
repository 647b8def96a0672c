"""ConvNeXt: Liu et al. 2022 (arXiv 2201.03545)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from xinv.models.blocks import (
    check_stem,
    classifier,
    conv,
    conv_each,
    layer_norm,
    mean_of_map,
    patchify,
)
from xinv.models.table import ACTIVATIONS
from xinv.numbers import require, require_count, require_positive
from xinv.types import InputError, Model


@functools.cache
def convnext(
    classes: int,
    depths: tuple[int, ...] = (3, 3, 9, 3),
    widths: tuple[int, ...] = (96, 192, 384, 768),
    layer_scale: float = 1e-6,
    stem: str = "small",
    dtype: str = "float32",
) -> Model:
    """A ConvNeXt. Its last feature map is marked "cam"; `embed` returns its normalised mean.

    The defaults are ConvNeXt-Tiny.

    Args:
      classes: number of logits.
      depths: blocks of each stage; between stages the size is halved.
      widths: channels of each stage.
      layer_scale: the initial factor of each block's branch.
      stem: "small" for images of some 32×32, a 3×3 convolution; "large" for some
        224×224, patches of 4×4 pixels.
      dtype: of the computation, "float32" or "bfloat16"; parameters and logits are float32.

    Returns:
      A model of images [N,H,W,C] in [0,1], with logits [N,classes].

    Raises:
      InputError: an argument is not one of those. `init` and `apply` raise it for images
        too small for the stages.
    """
    # Refuse a bad depth or width now, not at the first call.
    stages = isinstance(depths, tuple) and len(depths) > 0
    require(stages, "depths", depths, "a tuple of one number of blocks per stage")
    for depth in depths:
        require_count(depths=depth)
    matched = isinstance(widths, tuple) and len(widths) == len(depths)
    require(
        matched,
        "widths",
        widths,
        f"a tuple of one width for each of the {len(depths)} stages",
    )
    for width in widths:
        require_count(widths=width)
    require_positive(layer_scale=layer_scale)
    return classifier(
        ConvNeXt(depths, widths, layer_scale, check_stem(stem)),
        classes,
        dtype,
    )


class ConvNeXt(nn.Module):
    """The normalised mean of the last feature map, [N,widths[-1]]."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    layer_scale: float
    large: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        # Every stage must have a pixel left.
        smallest = 2 ** (len(self.depths) - 1) * (4 if self.large else 1)
        if min(x.shape[1:3]) < smallest:
            raise InputError(
                f"images of {x.shape[1]}×{x.shape[2]} are too small for {len(self.depths)} stages: "
                f"give at least {smallest}×{smallest}"
            )
        # The stem, then stages with a normalised 2×2 patch embedding between them.
        first = self.widths[0]
        x = patchify(x, first, 4) if self.large else conv(x, first, 3, bias=True)
        x = layer_norm(x)
        for stage, (depth, width) in enumerate(
            zip(
                self.depths,
                self.widths,
                strict=True,
            )
        ):
            if stage:
                x = patchify(layer_norm(x), width, 2)
            for _ in range(depth):
                x = _Block(self.layer_scale)(x)
        return layer_norm(mean_of_map(x))


class _Block(nn.Module):
    """A depthwise 7×7 convolution, then an MLP on each pixel."""

    layer_scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        y = layer_norm(conv_each(x, 7, bias=True))
        y = ACTIVATIONS["gelu"](_dense(4 * channels, x.dtype)(y))
        y = _dense(channels, x.dtype)(y)
        # Deep networks start near the identity.
        initial = nn.initializers.constant(self.layer_scale)
        factor = self.param("layer_scale", initial, (channels,), jnp.float32)
        return x + factor.astype(x.dtype)[None, None, None] * y


def _dense(outputs: int, dtype: jnp.dtype) -> nn.Dense:
    return nn.Dense(
        outputs,
        dtype=dtype,
        kernel_init=nn.initializers.truncated_normal(0.02),
    )
