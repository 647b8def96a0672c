"""Target classifiers: Zhao et al. 2021, supplementary Tables 1 to 3."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from xinv.models.module import linen
from xinv.models.table import Layer, Stack, check_dtype, conv, fc, pool, scale
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

    Raises:
      InputError: an argument is not one of those; or, at the call, the images are too small.
    """
    return linen(_Classifier(table(classes, channels, hidden, width), check_dtype(dtype)), embed="embed")


def table(classes: int, channels: tuple[int, ...], hidden: int, width: float = 1.0) -> tuple[Layer, ...]:
    """The rows of `cnn`."""
    blocks = [row for count in channels for row in (conv(scale(count, width)), pool())]
    return (*blocks[:-1], pool(mark="cam"), fc(scale(hidden, width)), fc(classes, relu=False))


class _Classifier(nn.Module):
    table: tuple[Layer, ...]
    dtype: str

    def setup(self):
        self.layers = Stack(self.table, self.dtype)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self.layers(images)[0].astype(jnp.float32)

    def embed(self, images: jax.Array) -> jax.Array:
        return self.layers(images, depth=len(self.table) - 1)[0].astype(jnp.float32)
