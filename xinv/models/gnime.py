"""The inversion networks of GNIME's released code (Jeong et al. 2022).

Its paper names Zhao's networks, which are `decoder`.
"""

import functools

from xinv.models.decoder import CODE, ENCODERS, InversionNetwork, check_image_shape, powers, side
from xinv.models.module import linen
from xinv.models.table import Layer, check_dtype, conv, fc, pool, scale
from xinv.types import InputError, Model

CHANNELS = {"none": (1024, 4096), "flatten_unet": (512, 1024)}
"""The dense layer's outputs, at any width, and the decoder's channels times the size."""


@functools.cache
def gnime_decoder(
    image_shape: tuple[int, int, int],
    encoder: str = "none",
    width: float = 1.0,
    dtype: str = "float32",
) -> Model:
    """Dense layers and 3×3 convolutions on upsampled maps, to an image.

    With "flatten_unet" (ExpMI, and the noise generator) the encoder has 2048/s channels at size s,
    down to 2×2 and 64 features; these, the map's pixels and the prediction become 512 numbers, and
    each of the decoder's convolutions reads the encoder's map beside its own and has 1024/s output
    channels. At 32×32 it takes a tenth of the operations of `decoder`. With "none" (PredMI) a
    prediction becomes 1024 numbers, and the convolutions have 4096/s channels. Pixels are upsampled
    by repeating; the last convolution's output is the image. Maps and images of other sizes are
    treated as by `decoder`.

    Args:
      image_shape: (H, W, C).
      encoder: "none" or "flatten_unet".
      width: factor on the hidden channels. The encoder has 64 features and the dense layer 512 or
        1024 outputs at any width.
      dtype: of the computation, "float32" or "bfloat16"; parameters and images are float32.

    Returns:
      A model of (prediction [N,K], explanation [N,h,w,c] or None), with images [N,H,W,C] as output,
      around [0,1] but not clipped.

    Raises:
      InputError: an argument is not one of those; or, at the call, an
        explanation is missing or no map.
    """
    check_image_shape(image_shape)
    if encoder not in CHANNELS:
        raise InputError(
            f"GNIME's network has no encoder {encoder!r}: choose one of {', '.join(CHANNELS)}"
        )
    # The network is `decoder`'s; only its tables of rows differ.
    encoding = gnime_encoder_table(image_shape, width)
    rows = gnime_table(image_shape, encoder, width)
    return linen(
        InversionNetwork(
            ENCODERS[encoder],
            encoding,
            rows,
            image_shape,
            check_dtype(dtype),
        )
    )


def gnime_table(
    image_shape: tuple[int, int, int],
    encoder: str,
    width: float = 1.0,
) -> tuple[Layer, ...]:
    """Rows from the vector to an image: a dense layer, as a 1×1 convolution, and one per size."""
    (dense, channels), sizes = CHANNELS[encoder], powers(side(image_shape))
    table = [Layer("conv", dense, activation="relu")]
    # Pixels of 1×1 are repeated to 4×4 first, later ones to twice the size.
    for size in sizes[:-1]:
        table.append(
            conv(
                scale(channels // size, width),
                bypass=True,
                repeat=4 if size == 4 else 2,
            )
        )
    return (*table, conv(image_shape[2], "none", bypass=True, repeat=2))


def gnime_encoder_table(image_shape: tuple[int, int, int], width: float = 1.0) -> tuple[Layer, ...]:
    """Rows from a map of the images' size, over 2×2, to the embedding."""
    table = []
    # From the images' size down to 4×4, each with a pool.
    for size in reversed(powers(side(image_shape))):
        table += [conv(scale(2048 // size, width)), pool()]
    return (*table, fc(CODE))
