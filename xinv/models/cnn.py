"""Target classifiers: Zhao et al. 2021, supplementary Tables 1 to 3."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from xinv.models import layers
from xinv.models.module import linen
from xinv.types import Model


@functools.cache
def cnn(
    classes: int,
    channels: tuple[int, ...] = (128, 256),
    hidden: int = 512,
    width: float = 1.0,
    dtype: str = "float32",
) -> Model:
    """Blocks of a 3×3 convolution, ReLU and a 2×2 max-pool, then two fully connected layers.

    The defaults are Table 3 (MNIST, 32×32). Table 1 (iCV-MEFED, 128×128) has channels (128, 256, 512) and hidden 512,
    Table 2 (CelebA, 256×256) channels (128, 256, 512, 1024) and hidden 1024. The last pooled map is marked "cam", since
    the paper's Grad-CAM maps are 8×8 (Table 3) and 16×16 (Tables 1, 2).

    Args:
      classes: number of logits.
      channels: one block each.
      hidden: features of the penultimate layer, which `embed` gives after its ReLU.
      width: factor on `channels` and `hidden`.
      dtype: of the computation, "float32" or "bfloat16"; parameters and logits are float32.

    Returns:
      A model of images [N,H,W,C] in [0,1], H and W at least 2^len(channels), that gives logits [N,classes].
    """
    blocks = [(layers.conv(layers.scale(count, width)), layers.pool()) for count in channels]
    table = [row for block in blocks for row in block]
    table[-1] = layers.pool(mark="cam")
    table += [layers.fc(layers.scale(hidden, width)), layers.fc(classes, relu=False)]
    return linen(_Classifier(tuple(table), dtype), embed="embed")


class _Classifier(nn.Module):
    table: tuple[layers.Layer, ...]
    dtype: str

    def setup(self):
        self.layers = layers.Stack(self.table, self.dtype)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self.layers(images)[0].astype(jnp.float32)

    def embed(self, images: jax.Array) -> jax.Array:
        return self.layers(images, depth=len(self.table) - 1)[0].astype(jnp.float32)
