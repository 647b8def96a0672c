"""MobileNetV2: Sandler et al. 2018 (arXiv 1801.04381)."""

import functools

import flax.linen as nn
import jax

from xinv.models.blocks import check_stem, classifier, conv, conv_each
from xinv.models.regularise import check_norm, norm
from xinv.models.table import scale
from xinv.types import Model

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, blocks and stride of the first of them: the rows of Table 2."""


@functools.cache
def mobilenet_v2(
    classes: int,
    width: float = 1.0,
    stem: str = "small",
    dtype: str = "float32",
    norm: str = "batch",
) -> Model:
    """MobileNetV2: inverted residuals with depthwise convolutions.

    The last feature map is marked "cam"; `embed` returns its mean.

    Args:
      classes: number of logits.
      width: factor on all channels, the last 1280 too; unlike in the paper's code they
        need not be multiples of 8.
      stem: "large" has the paper's strides, which divide the size by 32; "small", for images of
        some 32×32, leaves out the first two and divides it by 8.
      dtype: of the computation, "float32" or "bfloat16"; parameters and logits are float32.
      norm: "batch", or "group" to keep examples independent; see `regularise.norm`.

    Returns:
      A model of images [N,H,W,C] in [0,1], with logits [N,classes].

    Raises:
      InputError: an argument is not one of those.
    """
    return classifier(features(width, stem, norm), classes, dtype)


def features(width: float, stem: str, norm: str = "batch") -> "MobileNetV2":
    """Returns the feature maps of `mobilenet_v2`, as a module; InputError as there."""
    large, (first, *others) = check_stem(stem), STAGES
    # The stem's stride and that of the second row: the first two of the five.
    if not large:
        others[0] = (*others[0][:3], 1)
    rows = (first, *others)
    stages = tuple((expansion, scale(outputs, width), *rest) for expansion, outputs, *rest in rows)
    return MobileNetV2(
        stages,
        scale(32, width),
        scale(1280, width),
        2 if large else 1,
        check_norm(norm),
    )


class MobileNetV2(nn.Module):
    """The feature maps, after rows as in STAGES.

    Attributes:
      stages: the rows.
      first: channels of the convolution before them.
      last: channels of the one after them.
      stride: of the first convolution.
      norm: a kind of `regularise.norm`.
    """

    stages: tuple[tuple[int, int, int, int], ...]
    first: int
    last: int
    stride: int
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # Table 2: a convolution, the rows of inverted residuals, a 1×1 convolution.
        x = jax.nn.relu6(
            norm(
                conv(x, self.first, 3, self.stride),
                train,
                self.norm,
            )
        )
        for expansion, outputs, count, stride in self.stages:
            for index in range(count):
                # A row's stride belongs to its first block.
                x = _InvertedResidual(
                    expansion,
                    outputs,
                    1 if index else stride,
                    self.norm,
                )(x, train)
        return jax.nn.relu6(norm(conv(x, self.last), train, self.norm))


class _InvertedResidual(nn.Module):
    expansion: int
    outputs: int
    stride: int
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = x
        # Expand, filter each channel, project without activation (Sandler et al. 2018, Table 1).
        if self.expansion > 1:
            y = jax.nn.relu6(
                norm(
                    conv(y, self.expansion * x.shape[-1]),
                    train,
                    self.norm,
                )
            )
        y = jax.nn.relu6(norm(conv_each(y, 3, self.stride), train, self.norm))
        y = norm(conv(y, self.outputs), train, self.norm)
        # The shortcut joins the narrow ends, if size and channels are equal.
        if x.shape == y.shape:
            return x + y
        return y
