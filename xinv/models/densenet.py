"""Densely connected networks: Huang et al. 2017 (arXiv 1608.06993)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from xinv.models.blocks import check_stem, classifier, conv, pool_stem
from xinv.models.regularise import check_norm, norm
from xinv.models.table import scale
from xinv.types import Model


@functools.cache
def densenet(
    classes: int,
    blocks: tuple[int, ...] = (6, 12, 24, 16),
    growth: int = 32,
    width: float = 1.0,
    stem: str = "small",
    dtype: str = "float32",
    norm: str = "batch",
) -> Model:
    """DenseNet-BC: each layer reads the maps of all before it in its block.

    `embed` returns the mean of the last feature map, which is marked "cam". The defaults are
    DenseNet-121; DenseNet-161 has blocks (6, 12, 36, 24) and growth 48.

    Args:
      classes: number of logits.
      blocks: layers of each block; between blocks the channels and the size are halved.
      growth: channels added by each layer.
      width: factor on `growth`.
      stem: "small" for images of some 32×32, a 3×3 convolution; "large" for some 224×224, with
        strides that divide the size by 4.
      dtype: of the computation, "float32" or "bfloat16"; parameters and logits are float32.
      norm: "batch", or "group" for a network whose examples do not see each other: see
        `regularise.norm`.

    Returns:
      A model of images [N,H,W,C] in [0,1], with logits [N,classes].

    Raises:
      InputError: an argument is not one of those.
    """
    features = DenseNet(
        blocks,
        scale(growth, width),
        check_stem(stem),
        check_norm(norm),
    )
    return classifier(features, classes, dtype)


class DenseNet(nn.Module):
    """The feature maps."""

    blocks: tuple[int, ...]
    growth: int
    large: bool
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # BatchNorm and ReLU come before each convolution (Huang et al. 2017, section 3).
        def unit(x: jax.Array, *convolution: int) -> jax.Array:
            return conv(nn.relu(norm(x, train, self.norm)), *convolution)

        # The stem.
        x = nn.relu(
            norm(
                conv(x, 2 * self.growth, *((7, 2) if self.large else (3, 1))),
                train,
                self.norm,
            )
        )
        x = pool_stem(x) if self.large else x
        for index, count in enumerate(self.blocks):
            # The transition before every block but the first.
            x = _halved(unit(x, x.shape[-1] // 2)) if index else x
            for _ in range(count):
                # A bottleneck of 4·growth channels, then `growth` new ones beside all before.
                x = jnp.concatenate(
                    [
                        x,
                        unit(
                            unit(x, 4 * self.growth),
                            self.growth,
                            3,
                        ),
                    ],
                    axis=-1,
                )
        return nn.relu(norm(x, train, self.norm))


def _halved(x: jax.Array) -> jax.Array:
    # Flax divides by an integer, whatever promotion the caller allows.
    with jax.numpy_dtype_promotion("standard"):
        return nn.avg_pool(x, (2, 2), (2, 2))
