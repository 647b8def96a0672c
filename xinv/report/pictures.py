"""Images and explanations as PNG data URIs."""

import base64
import io

import matplotlib
import numpy as np
from PIL import Image

_THUMBNAIL = 192
"""Longest side in pixels of a stored picture; larger images are shrunk, smaller ones kept as they
are.
"""


def picture(image: np.ndarray) -> str:
    """An image [H,W,1 or 3], uint8 or float in [0,1], as a PNG data URI."""
    if image.dtype != np.uint8:
        image = np.round(255 * np.nan_to_num(image).clip(0, 1)).astype(np.uint8)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3])
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def heatmaps(maps: np.ndarray, signed: bool | None = None) -> list[str]:
    """Explanations [M,h,w,c] as PNG data URIs: the mean over channels, each scaled by its own
    largest magnitude.

    On a diverging scale around 0 where `signed`, else on a sequential one from 0; by default as
    their values need.
    """
    maps = np.nan_to_num(maps.astype(np.float64).mean(axis=-1))
    scaled = maps / np.maximum(abs(maps).max(axis=(1, 2), keepdims=True), 1e-12)
    if maps.min(initial=0) < 0 if signed is None else signed:
        colours = matplotlib.colormaps["RdBu_r"]((scaled + 1) / 2)
    else:
        colours = matplotlib.colormaps["inferno"](scaled)
    return [picture(colour[..., :3]) for colour in colours]
