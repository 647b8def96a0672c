"""Networks with one logit for yes or no, of a map, a vector of numbers, or both."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from xinv.models.blocks import mean_of_map
from xinv.models.cnn import table as cnn_table
from xinv.models.mobilenet import features as mobilenet_features
from xinv.models.module import linen
from xinv.models.regularise import dropout
from xinv.models.table import Layer, Stack, check_dropout, check_dtype, fc, scale
from xinv.types import InputError, Model

TRUNKS = ("cnn", "mlp", "mobilenet_v2")
CHANNELS = (32, 64, 128, 256, 256)
"""Channels of the CNN's blocks; a map has as many blocks as leave it at least 4 pixels a side."""
HIDDEN = 128
LARGE = 64
"""Pixels a side from which on MobileNetV2 has strides in its first layers."""


@functools.cache
def detector(
    trunk: str = "mobilenet_v2",
    width: float = 1.0,
    rate: float = 0.5,
    dtype: str = "float32",
) -> Model:
    """A trunk that reads a map, and a head that reads its features beside a vector.

    | trunk | reads a map by |
    |---|---|
    | "mobilenet_v2" | Sandler et al. 2018; from 64 pixels a side on with the paper's strides |
    | "cnn" | blocks of a 3×3 convolution, BatchNorm and a 2×2 max-pool, then a full layer |
    | "mlp" | two fully connected layers of 256 and 128 units with BatchNorm, for maps of any size |

    The head is one linear layer. With a vector there is a hidden layer of 128 units before it: only
    so can the vector change the meaning of a feature of the map.

    Args:
      trunk: one of these.
      width: factor on all channels and units.
      rate: share of the features dropped in training.
      dtype: of the trunk, "float32" or "bfloat16"; parameters, head and logits are float32.

    Returns:
      A model of maps [N,h,w,c] or None and vectors [N,D], D at least 0, with logits [N].

    Raises:
      InputError: an argument is not one of those; at the call: a convolution's map has one pixel a
        side, or there is neither map nor vector.
    """
    if trunk not in TRUNKS:
        raise InputError(f"unknown trunk {trunk!r}: choose one of {', '.join(TRUNKS)}")
    # Rejects a bad width now, not at the first call.
    scale(HIDDEN, width)
    return linen(_Detector(trunk, width, check_dropout(rate), check_dtype(dtype)))


class _Detector(nn.Module):
    trunk: str
    width: float
    rate: float
    dtype: str

    @nn.compact
    def __call__(
        self,
        maps: jax.Array | None,
        vector: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        x = vector
        if maps is not None:
            features = self._features(maps.astype(self.dtype), train).astype(jnp.float32)
            if train and self.rate:
                features = dropout(features, self.rate, self.make_rng("dropout"))
            x = jnp.concatenate([features, vector], axis=-1)
        if not x.shape[-1]:
            raise InputError("a detector needs a map or a vector, and there is neither")
        # The hidden layer is for the vector; features of the map alone need none.
        if vector.shape[-1]:
            x = nn.relu(nn.Dense(scale(HIDDEN, self.width), name="hidden")(x))
        return nn.Dense(1, name="logit")(x)[:, 0]

    def _features(self, maps: jax.Array, train: bool) -> jax.Array:
        """Returns the features [N,d] of maps [N,h,w,c]."""
        # A trunk of convolutions has its depth or strides from the map's size.
        side = min(maps.shape[1:3])
        if self.trunk == "mlp":
            return Stack(_full_layers(self.width), self.dtype)(maps, train=train)[0]
        if side < 2:
            raise InputError(
                f"trunk {self.trunk!r} reads maps of at least 2×2 pixels, and these have "
                f"{maps.shape[1]}×{maps.shape[2]}: use trunk='mlp'"
            )
        if self.trunk == "cnn":
            return Stack(cnn_rows(side, self.width), self.dtype)(maps, train=train)[0]
        # Small maps would not survive all strides.
        stem = "large" if side >= LARGE else "small"
        return mean_of_map(mobilenet_features(self.width, stem)(maps, train))


def _full_layers(width: float) -> tuple[Layer, ...]:
    """Returns the rows of the "mlp" trunk."""
    return tuple(fc(scale(units, width))._replace(norm="batch") for units in (2 * HIDDEN, HIDDEN))


def cnn_rows(side: int, width: float) -> tuple[Layer, ...]:
    """Returns the rows of the CNN for maps of `side` pixels along their smaller side."""
    # Each block halves the map; the classifier's last row, its logit, is left to the head.
    count = min(max(side.bit_length() - 3, 1), len(CHANNELS))
    rows = cnn_table(
        1,
        CHANNELS[:count],
        HIDDEN,
        width,
        norm="batch",
        activation="relu",
    )
    return rows[:-1]
