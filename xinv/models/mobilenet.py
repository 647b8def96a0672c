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
    """Inverted residuals with depthwise convolutions; the last feature map is marked "cam", `embed`
    gives its mean.

    Args:
      classes: number of logits.
      width: factor on all channels, the last 1280 too; unlike in the paper's code they stay no
          multiples of 8.
      stem: "large" has the paper's strides, which divide the size by 32; "small", for images of
        some 32×32, leaves out the first two and divides it by 8.
      dtype: of the computation, "float32" or "bfloat16"; parameters and logits are float32.
      norm: "batch", or "group" for a network whose examples do not see each other: see
          `regularise.norm`.

    Returns:
      A model of images [N,H,W,C] in [0,1] that gives logits [N,classes].

    Raises:
      InputError: an argument is not one of those.
    """
    return classifier(features(width, stem, norm), classes, dtype)


def features(width: float, stem: str, norm: str = "batch") -> "MobileNetV2":
    """The feature maps of `mobilenet_v2`, as a module; InputError if there is no such stem or norm."""
    large, (first, *others) = check_stem(stem), STAGES
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
    """The feature maps; rows as in STAGES, after a convolution to `first` channels and before one
    to `last`.
    """

    stages: tuple[tuple[int, int, int, int], ...]
    first: int
    last: int
    stride: int
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = jax.nn.relu6(
            norm(
                conv(x, self.first, 3, self.stride),
                train,
                self.norm,
            )
        )
        for expansion, outputs, count, stride in self.stages:
            for index in range(count):
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
        if x.shape == y.shape:
            return x + y
        return y
