"""Target classifiers of Zhao 2021, Yang 2019 and Thielen 2024.

Zhao: supplementary Tables 1 to 3. Yang: Figures 13 and 15. Thielen: Figure 25.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from xinv.models import regularise
from xinv.models.module import linen
from xinv.models.table import (
    Layer,
    Stack,
    check_activation,
    check_dropout,
    check_dtype,
    conv,
    fc,
    pool,
    scale,
)
from xinv.numbers import require, require_count
from xinv.types import InputError, Model

NORMS = ("none", *regularise.NORMS)


@functools.cache
def cnn(
    classes: int,
    channels: tuple[int, ...] = (128, 256),
    hidden: int = 512,
    width: float = 1.0,
    dtype: str = "float32",
    norm: str = "none",
    activation: str = "relu",
    dropout: tuple[float, float] = (0.0, 0.0),
) -> Model:
    """Blocks of a 3×3 convolution and a 2×2 max-pool, then two fully connected layers.

    | network | channels | hidden | norm | activation | dropout |
    |---|---|---|---|---|---|
    | Zhao's MNIST (Table 3, 32×32): the defaults | 128, 256 | 512 | none | relu | 0, 0 |
    | Zhao's iCV-MEFED (Table 1, 128×128) | 128, 256, 512 | 512 | none | relu | 0, 0 |
    | Zhao's CelebA (Table 2, 256×256) | 128, 256, 512, 1024 | 1024 | none | relu | 0, 0 |
    | GNIME's CelebA (Jeong 2022) | 128, 256, 512 | 512 | none | relu | 0.5, 0.5 |
    | Yang's MNIST (Fig. 15, 32×32), Thielen's (25) | 128, …, 512 | 50 | batch | none | 0, 0.5 |
    | Yang's FaceScrub (Fig. 13, 64×64) | 128, …, 1024 | 5 · classes | batch | none | 0, 0.5 |

    The last pooled map is marked "cam", since Zhao's Grad-CAM maps are 8×8 (Table 3)
    and 16×16 (Tables 1, 2).

    Args:
      classes: number of logits.
      channels: one block each.
      hidden: features of the penultimate layer; `embed` returns them after its activation.
      width: factor on `channels` and `hidden`. For a stated code, such as Yang's 50 features, give
        `hidden` divided by it.
      dtype: of the computation, "float32" or "bfloat16"; parameters and logits are float32.
      norm: "none" for convolution, ReLU, pool; "batch" for Yang's convolution, BatchNorm, pool,
        ReLU; "group" for GroupNorm in its place, as training with differential privacy needs.
      activation: of the penultimate layer, one of "none", "relu", "tanh", "sigmoid", "gelu", "silu"
        (Thielen, Table 1).
      dropout: the rates before the penultimate layer and before the last.

    Returns:
      A model of images [N,H,W,C] in [0,1], H and W at least 2^len(channels),
      with logits [N,classes].

    Raises:
      InputError: an argument is not one of those; or, at the call, the images are too small.
    """
    # All checks of the arguments happen here, before any array is made.
    rows = table(classes, channels, hidden, width, norm, activation, dropout)
    return linen(_Classifier(rows, check_dtype(dtype)), embed="embed", head="head")


def table(
    classes: int,
    channels: tuple[int, ...],
    hidden: int,
    width: float = 1.0,
    norm: str = "none",
    activation: str = "relu",
    dropout: tuple[float, float] = (0.0, 0.0),
) -> tuple[Layer, ...]:
    """Returns the rows of `cnn`; arguments and errors as there."""
    if norm not in NORMS:
        raise InputError(f"unknown norm {norm!r}: choose one of {', '.join(NORMS)}")
    if len(dropout) != 2:
        raise InputError(
            f"dropout {dropout!r} must be two rates, before the penultimate layer and before the"
            " last"
        )
    first, last = map(check_dropout, dropout)
    require(len(channels) > 0, "channels", channels, "those of at least one block")
    require_count(hidden=hidden)
    # Only the last block's map is marked.
    marks = ("",) * (len(channels) - 1) + ("cam",)
    blocks: list[Layer] = []
    for count, mark in zip(channels, marks, strict=True):
        blocks += _block(scale(count, width), norm, mark)
    return (
        *blocks,
        fc(scale(hidden, width), check_activation(activation), first),
        fc(classes, "none", last),
    )


def _block(outputs: int, norm: str, mark: str) -> tuple[Layer, ...]:
    if norm == "none":
        return conv(outputs), pool(mark=mark)
    # Yang's order has the ReLU after the pool: of a maximum it is the same, and cheaper.
    return conv(outputs, "none", norm), pool("relu", mark)


class _Classifier(nn.Module):
    table: tuple[Layer, ...]
    dtype: str

    def setup(self):
        self.layers = Stack(self.table, self.dtype)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self.layers(images, train=train)[0].astype(jnp.float32)

    def embed(self, images: jax.Array) -> jax.Array:
        # All rows but the last give the features, the last gives the logits.
        return self.layers(images, rows=slice(-1))[0].astype(jnp.float32)

    def head(self, features: jax.Array) -> jax.Array:
        return self.layers(features, rows=slice(-1, None))[0].astype(jnp.float32)
