"""Images and explanations as PNG data URIs."""

import base64
import io

import matplotlib
import numpy as np
from PIL import Image

_THUMBNAIL = 192
"""Longest side of a stored picture in pixels; larger images are shrunk."""


def picture(image: np.ndarray) -> str:
    """An image [H,W,1 or 3], uint8 or float in [0,1], as a PNG data URI."""
    if image.dtype != np.uint8:
        image = np.round(255 * np.nan_to_num(image).clip(0, 1)).astype(np.uint8)
    # PNG in grey where one channel suffices
    if image.shape[-1] == 1:
        image = image[..., 0]
    else:
        image = image[..., :3]
    picture = Image.fromarray(image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def heatmaps(maps: np.ndarray, signed: bool | None = None) -> list[str]:
    """Explanations as pictures: the mean over channels, scaled by its largest magnitude.

    Args:
      maps: [M,h,w,c].
      signed: True for a diverging colour scale around 0, False for a sequential one from 0; None
        chooses by the sign of the values.

    Returns:
      A PNG data URI per explanation.
    """
    maps = np.nan_to_num(maps.astype(np.float64).mean(axis=-1))
    # Each map by its own magnitude: methods and images differ by orders of magnitude.
    scaled = maps / np.maximum(abs(maps).max(axis=(1, 2), keepdims=True), 1e-12)
    # Negative evidence needs a scale with a middle.
    if signed is None:
        signed = maps.min(initial=0) < 0
    if signed:
        colours = matplotlib.colormaps["RdBu_r"]((scaled + 1) / 2)
    else:
        colours = matplotlib.colormaps["inferno"](scaled)
    return [picture(colour[..., :3]) for colour in colours]
