"""Inversion networks: Zhao et al. 2021, supplementary Tables 4 to 8."""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from xinv.models.module import linen
from xinv.models.table import Layer, Stack, check_dtype, conv, fc, pool, scale, upsample
from xinv.types import InputError, Model

CODE = 64
"""Features of the encoder of convolutions, at any width: a code's size is no count of channels."""


class Encoder(NamedTuple):
    """The parts of the explanation that reach the decoder.

    Attributes:
      flatten: its pixels, beside the prediction.
      embed: the `CODE` features of an encoder of convolutions.
      bypass: that encoder's maps, each at the decoder's stage of the same size.
    """

    flatten: bool = False
    embed: bool = False
    bypass: bool = False


ENCODERS = {
    "none": Encoder(),
    "flatten": Encoder(flatten=True),
    "cnn": Encoder(embed=True),
    "unet": Encoder(embed=True, bypass=True),
    "flatten_unet": Encoder(flatten=True, embed=True, bypass=True),
}


@functools.cache
def decoder(
    image_shape: tuple[int, int, int],
    encoder: str = "none",
    width: float = 1.0,
    dtype: str = "float32",
) -> Model:
    """The transposed CNN of Zhao 2021, from a prediction and an explanation to an image.

    Encoders "none", "flatten", "cnn", "unet" and "flatten_unet" are Tables 4, 5, 6, 7 and 8. The
    stage of size s has 4096/s channels; that of the image's size has the image's. A map with a size
    other than the powers of two from 4 to the image's is resized to the nearest of these before the
    convolutions. Images that are no such square are built as the next larger one (of at least 8×8)
    and resized. The tables' "fc" of as many outputs as inputs is read as the concatenated vector
    itself: as a matrix it would hold 4·10⁹ weights for CelebA. The paper states no activations:
    here a ReLU follows every layer but those of the image's channels, since a ReLU on a single
    channel can die.

    Args:
      image_shape: (H, W, C).
      encoder: one of ENCODERS.
      width: factor on the hidden channels. The encoder has 64 features at any width.
      dtype: of the computation, "float32" or "bfloat16"; parameters and images are float32.

    Returns:
      A model of (prediction [N,K], explanation [N,h,w,c] or None), with images [N,H,W,C] as output,
      around [0,1] but not clipped.

    Raises:
      InputError: an argument is not one of those; or, at the call, an
        explanation is missing or no map.
    """
    check_image_shape(image_shape)
    if encoder not in ENCODERS:
        raise InputError(f"unknown encoder {encoder!r}: choose one of {', '.join(ENCODERS)}")
    # The rows of the encoder, for maps of the images' size, and of the decoder.
    encoding = encoder_table(image_shape, side(image_shape), width)
    rows = decoder_table(image_shape, width)
    return linen(
        InversionNetwork(
            ENCODERS[encoder],
            encoding,
            rows,
            image_shape,
            check_dtype(dtype),
        )
    )


class InversionNetwork(nn.Module):
    """From a prediction, and the parts of an explanation chosen by `encoder`, to an image.

    Attributes:
      encoder: the parts that reach the decoder.
      encoding: for a map of the images' size a convolution and a pool per size, and a last row; a
        smaller map enters at its size.
      decoding: from the vector to the image.
      image_shape, dtype: see `decoder`.
    """

    encoder: Encoder
    encoding: tuple[Layer, ...]
    decoding: tuple[Layer, ...]
    image_shape: tuple[int, int, int]
    dtype: str

    @nn.compact
    def __call__(
        self,
        prediction: jax.Array,
        explanation: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        if any(self.encoder) and explanation is None:
            raise InputError("this decoder's encoder needs an explanation [N,h,w,c], and got None")
        # Everything that enters as numbers becomes one vector.
        parts = [prediction]
        maps = {}
        if self.encoder.embed:
            embedding, maps = self.encode(explanation)
            parts.append(embedding)
        if self.encoder.flatten:
            parts.append(explanation.reshape(len(explanation), -1))
        vector = jnp.concatenate([part.astype(self.dtype) for part in parts], axis=-1)
        # Decode it as a map of 1×1, with the encoder's maps at their sizes.
        bypass = maps if self.encoder.bypass else {}
        images, _ = Stack(
            self.decoding,
            self.dtype,
            name="decoder",
        )(vector[:, None, None], bypass)
        return to_shape(images.astype(jnp.float32), self.image_shape)

    def encode(self, explanation: jax.Array) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Returns an explanation's embedding [N,64] and the convolutions' outputs by size."""
        explanation = _to_power_of_two(explanation, side(self.image_shape))
        # Two rows per size: a smaller map skips those of the larger sizes.
        entered = len(self.encoding) - 1 - 2 * len(powers(explanation.shape[1]))
        return Stack(
            self.encoding[entered:],
            self.dtype,
            name="encoder",
        )(explanation)


def decoder_table(image_shape: tuple[int, int, int], width: float = 1.0) -> tuple[Layer, ...]:
    """Rows from the vector to an image; convolutions read the encoder's map of their size."""
    table = []
    # Per size: upsample to it (from 1×1 to 4×4 first), then a convolution.
    for size in powers(side(image_shape)):
        outputs, activation = _stage(size, image_shape, width)
        table += [
            upsample(outputs, 1 if size == 4 else 2, activation),
            conv(outputs, activation, bypass=True),
        ]
    return tuple(table)


def encoder_table(
    image_shape: tuple[int, int, int],
    map_size: int,
    width: float = 1.0,
) -> tuple[Layer, ...]:
    """Rows from a map of that size, over 2×2, to the embedding."""
    table = []
    # From the largest size down: the decoder's stages in reverse, each with a pool.
    for size in reversed(powers(map_size)):
        table += [conv(*_stage(size, image_shape, width)), pool()]
    return (*table, fc(CODE))


def _stage(
    size: int,
    image_shape: tuple[int, int, int],
    width: float,
) -> tuple[int, str]:
    """Channels and activation of the stage of that size, in the encoder and the decoder alike."""
    # The stage of the images' size ends in the image itself.
    if size == side(image_shape):
        return (image_shape[2], "none")
    return (scale(4096 // size, width), "relu")


def check_image_shape(image_shape: tuple[int, int, int]) -> None:
    """Raises InputError if this is no (H, W, C)."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(
            "an inversion network builds images (H, W, C) with at least one pixel: got"
            f" {image_shape}"
        )


def side(image_shape: tuple[int, int, int]) -> int:
    """Returns the side of the square to build images on: a power of two, at least 8."""
    return max(8, 2 ** math.ceil(math.log2(max(image_shape[:2]))))


def powers(largest: int) -> list[int]:
    """Returns 4, 8, … up to `largest`."""
    return [2**exponent for exponent in range(2, largest.bit_length())]


def to_shape(images: jax.Array, image_shape: tuple[int, int, int]) -> jax.Array:
    """Resizes images [N,h,w,c] to [N,*image_shape], unless they have this shape."""
    same = images.shape[1:] == image_shape
    if same:
        return images
    return jax.image.resize(images, (len(images), *image_shape), "linear")


def _to_power_of_two(maps: jax.Array, largest: int) -> jax.Array:
    """Resizes maps [N,h,w,c] to the nearest square of a size of the encoder."""
    if maps.ndim != 4:
        raise InputError(
            f"an encoder reads maps [N,h,w,c]: got {maps.shape}, for which there is encoder"
            " 'flatten'"
        )
    # The nearest by ratio.
    extent = max(maps.shape[1:3])
    size = min(powers(largest), key=lambda power: max(power / extent, extent / power))
    return to_shape(maps, (size, size, maps.shape[3]))
