"""Residual networks: He et al. 2016 (arXiv 1512.03385, version 1; arXiv 1603.05027, version 2)."""

import functools

import flax.linen as nn
import jax

from xinv.models.blocks import check_stem, classifier, conv, pool_stem
from xinv.models.regularise import check_norm, norm
from xinv.models.table import scale
from xinv.types import InputError, Model

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks per stage; from depth 50 on they are bottlenecks."""


@functools.cache
def resnet(
    classes: int,
    depth: int = 18,
    width: float = 1.0,
    stem: str = "small",
    version: int = 1,
    dtype: str = "float32",
    norm: str = "batch",
) -> Model:
    """A residual network; its last feature map is marked "cam" and `embed` returns the map's mean.

    Args:
      classes: number of logits.
      depth: one of DEPTHS.
      width: factor on all channels.
      stem: "small" for images of some 32×32, a 3×3 convolution; "large" for some 224×224, with
        strides that divide the size by 4.
      version: 2 normalises and rectifies before each convolution, 1 after it.
      dtype: of the computation, "float32" or "bfloat16"; parameters and logits are float32.
      norm: "batch", or "group" to keep examples independent; see `regularise.norm`.

    Returns:
      A model of images [N,H,W,C] in [0,1], with logits [N,classes].

    Raises:
      InputError: an argument is not one of those.
    """
    if depth not in DEPTHS:
        raise InputError(f"there is no ResNet-{depth}: choose one of {', '.join(map(str, DEPTHS))}")
    if version not in BLOCKS:
        raise InputError(f"there is no ResNet version {version}: choose 1 or 2")
    large = check_stem(stem)
    kind = check_norm(norm)
    # From depth 50 on blocks are bottlenecks, of four times the channels.
    features = ResNet(
        DEPTHS[depth],
        depth >= 50,
        scale(64, width),
        large,
        version,
        kind,
    )
    return classifier(features, classes, dtype)


class ResNet(nn.Module):
    """The feature maps; `blocks` of each stage, with channels from `channels` on, doubling."""

    blocks: tuple[int, ...]
    bottleneck: bool
    channels: int
    large: bool
    version: int
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # The stem; version 2 leaves its activation to the first block.
        x = conv(x, self.channels, *((7, 2) if self.large else (3, 1)))
        x = nn.relu(norm(x, train, self.norm)) if self.version == 1 else x
        x = pool_stem(x) if self.large else x
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                # The first block of every later stage halves the size.
                stride = 2 if stage > 0 and index == 0 else 1
                rows = _convolutions(
                    self.channels * 2**stage,
                    stride,
                    self.bottleneck,
                )
                x = BLOCKS[self.version](rows, self.norm)(x, train)
        if self.version == 1:
            return x
        # The last block of version 2 ends in a sum, without norm and ReLU.
        return nn.relu(norm(x, train, self.norm))


Convolutions = tuple[tuple[int, int, int], ...]


def _convolutions(channels: int, stride: int, bottleneck: bool) -> Convolutions:
    """Returns outputs, size and stride of a block's convolutions."""
    if bottleneck:
        return (channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1)
    return (channels, 3, stride), (channels, 3, 1)


class _Block(nn.Module):
    convolutions: Convolutions
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y, outputs, stride = (
            x,
            self.convolutions[-1][0],
            max(stride for *_, stride in self.convolutions),
        )
        # Convolutions with a norm each, and a ReLU between two of them.
        for index, convolution in enumerate(self.convolutions):
            y = norm(
                conv(nn.relu(y) if index else y, *convolution),
                train,
                self.norm,
            )
        # A projection where the shortcut's shape changes.
        if stride > 1 or outputs != x.shape[-1]:
            x = norm(conv(x, outputs, 1, stride), train, self.norm)
        return nn.relu(y + x)


class _PreactivatedBlock(nn.Module):
    convolutions: Convolutions
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        outputs, stride = self.convolutions[-1][0], max(stride for *_, stride in self.convolutions)
        # The projection, where there is one, reads the normalised input too.
        y = first = nn.relu(norm(x, train, self.norm))
        for index, convolution in enumerate(self.convolutions):
            y = conv(
                nn.relu(
                    norm(
                        y,
                        train,
                        self.norm,
                    )
                )
                if index
                else y,
                *convolution,
            )
        return y + (conv(first, outputs, 1, stride) if stride > 1 or outputs != x.shape[-1] else x)


BLOCKS = {1: _Block, 2: _PreactivatedBlock}
