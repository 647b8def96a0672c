"""Inversion networks of transposed convolutions.

Yang et al. 2019, Figures 14 and 16; Thielen 2024, Figure 26.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from xinv.models.decoder import check_image_shape, powers, side, to_shape
from xinv.models.module import linen
from xinv.models.table import (
    Layer,
    Stack,
    check_activation,
    check_dropout,
    check_dtype,
    scale,
    upsample,
)
from xinv.types import InputError, Model

ENCODERS = ("none", "flatten")


@functools.cache
def tcnn(
    image_shape: tuple[int, int, int],
    encoder: str = "none",
    width: float = 1.0,
    dtype: str = "float32",
    activation: str = "tanh",
    dropout: tuple[float, float] = (0.0, 0.0),
) -> Model:
    """4×4 transposed convolutions with BatchNorm, from a prediction and an explanation to an image.

    The stage before the image has 128 channels, each one before it twice as many: 512 at 4×4 for
    images of 32×32 (Figure 16), 1024 for 64×64 (Figure 14). Images that are no square of a power of
    two are built as the next larger one and resized.

    Args:
      image_shape: (H, W, C).
      encoder: "none" for predictions alone, "flatten" for the explanation's numbers beside them.
      width: factor on the hidden channels; the network has no other hidden counts.
      dtype: of the computation, "float32" or "bfloat16"; parameters and images are float32.
      activation: of the hidden stages, one of "tanh", "relu", "none", "sigmoid", "gelu", "silu".
        Thielen's Section 3.2 has a ReLU, its Figure 26 tanh.
      dropout: the rates after the first stage and after each other hidden one.

    Returns:
      A model of (prediction [N,K], explanation [N,...] or None), with images [N,H,W,C] in (0,1) as
      output, by a sigmoid. Encoder "none" ignores an explanation.

    Raises:
      InputError: an argument is not one of those; or, at the call, an explanation is missing.
    """
    check_image_shape(image_shape)
    if encoder not in ENCODERS:
        raise InputError(f"a TCNN has no encoder {encoder!r}: choose one of {', '.join(ENCODERS)}")
    if not isinstance(dropout, tuple) or len(dropout) != 2:
        raise InputError(
            f"dropout {dropout!r} must be two rates, after the first stage and after each other"
        )
    rows = tcnn_table(image_shape, width, check_activation(activation), dropout)
    return linen(_Tcnn(encoder == "flatten", rows, image_shape, check_dtype(dtype)))


@functools.cache
def dropout_tcnn(
    image_shape: tuple[int, int, int],
    encoder: str = "none",
    width: float = 1.0,
    dtype: str = "float32",
) -> Model:
    """The `tcnn` of Thielen 2024, Figure 26: dropout of 30 % after the first stage, then of 50 %.

    Args:
      image_shape, encoder, width, dtype: as for `tcnn`.

    Returns:
      A model as of `tcnn`.

    Raises:
      InputError: as for `tcnn`.
    """
    return tcnn(image_shape, encoder, width, dtype, dropout=(0.3, 0.5))


def tcnn_table(
    image_shape: tuple[int, int, int],
    width: float = 1.0,
    activation: str = "tanh",
    dropout: tuple[float, float] = (0.0, 0.0),
) -> tuple[Layer, ...]:
    """Returns the rows from the vector to an image."""
    last = side(image_shape)
    # A row drops its inputs, so each rate stands one row after its stage.
    rates = (0.0, *map(check_dropout, dropout))
    # Stages from 4×4 to half the image's size, then the image by a sigmoid.
    sizes = powers(last // 2)
    hidden = []
    for index, size in enumerate(sizes):
        hidden.append(
            upsample(
                scale(64 * last // size, width),
                1 if size == 4 else 2,
                activation,
                "batch",
                rates[min(index, 2)],
            )
        )
    return (
        *hidden,
        upsample(
            image_shape[2],
            2,
            "sigmoid",
            dropout=rates[min(len(sizes), 2)],
        ),
    )


class _Tcnn(nn.Module):
    flatten: bool
    table: tuple[Layer, ...]
    image_shape: tuple[int, int, int]
    dtype: str

    @nn.compact
    def __call__(
        self,
        prediction: jax.Array,
        explanation: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        if self.flatten and explanation is None:
            raise InputError("this network's encoder needs an explanation [N,...], and got None")
        # All numbers become one vector, decoded as a map of 1×1.
        inputs = (prediction, explanation) if self.flatten else (prediction,)
        vector = jnp.concatenate(
            [part.reshape(len(part), -1).astype(self.dtype) for part in inputs], axis=-1
        )
        # Images in (0,1), resized if they are no square of a power of two.
        images, _ = Stack(self.table, self.dtype, name="decoder")(
            vector[:, None, None], train=train
        )
        return to_shape(images.astype(jnp.float32), self.image_shape)
