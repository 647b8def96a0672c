"""Pictures that live inside the page: PNG data URIs and SVG that follows the page's colours."""

import base64
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

_INK, _GRID, _LINE = "#010203", "#040506", "#070809"
"""Placeholders that become the page's CSS variables --muted, --line and --arm."""
_THUMBNAIL = 192
"""Longest side in pixels of a stored picture; larger images are shrunk, smaller ones kept as they are."""


def picture(image: np.ndarray) -> str:
    """An image [H,W,1 or 3], uint8 or float in [0,1], as a PNG data URI."""
    if image.dtype != np.uint8:
        image = np.round(255 * np.nan_to_num(image).clip(0, 1)).astype(np.uint8)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3])
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def heatmaps(maps: np.ndarray) -> list[str]:
    """Explanations [M,h,w,c] as PNG data URIs: the mean over channels, each scaled by its own largest magnitude.

    Maps with negative values are shown on a diverging scale around 0, others on a sequential one from 0.
    """
    maps = np.nan_to_num(maps.astype(np.float64).mean(axis=-1))
    scaled = maps / np.maximum(abs(maps).max(axis=(1, 2), keepdims=True), 1e-12)
    if maps.min(initial=0) < 0:
        colours = matplotlib.colormaps["RdBu_r"]((scaled + 1) / 2)
    else:
        colours = matplotlib.colormaps["inferno"](scaled)
    return [picture(colour[..., :3]) for colour in colours]


def curves(lines: Sequence[dict[str, Any]], limits: tuple[float, float] | None) -> Markup:
    """Losses by epoch as SVG, 300 x 190 units: one thin line per seed, validation solid, training dotted.

    The scale is logarithmic between `limits`, linear where they are None.
    """
    figure = Figure(figsize=(3.0, 1.9), dpi=100)
    axes = figure.add_axes((0.15, 0.17, 0.82, 0.79))
    for seed in dict.fromkeys(line["seed"] for line in lines):
        mine = sorted((line for line in lines if line["seed"] == seed), key=lambda line: line["epoch"])
        epochs = [line["epoch"] for line in mine]
        validation = [np.nan if line["validation_loss"] is None else line["validation_loss"] for line in mine]
        axes.plot(epochs, [line["loss"] for line in mine], color=_LINE, lw=0.9, ls=(0, (1.5, 1.5)), alpha=0.75)
        if not np.isnan(validation).all():
            axes.plot(epochs, validation, color=_LINE, lw=1.2)
    _style(axes, limits)
    return _svg(figure)


def limits(lines: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """Limits of a logarithmic axis that holds all losses; None where one is not positive and finite."""
    values = [line[key] for line in lines for key in ("loss", "validation_loss") if line[key] is not None]
    if not values or not all(0 < value < float("inf") for value in values):
        return None
    return min(values) / 1.15, max(values) * 1.15


def _style(axes: Axes, limits: tuple[float, float] | None) -> None:
    if limits:
        axes.set_yscale("log")
        axes.set_ylim(*limits)
        decades = np.log10(limits[1] / limits[0])
        log = LogLocator(subs=(1, 2, 5) if decades < 2.3 else (1,), numticks=9)
        axes.yaxis.set_major_locator(log if decades > 0.8 else MaxNLocator(4))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("epoch", fontsize=8, color=_INK, labelpad=1)
    axes.tick_params(labelsize=8, labelcolor=_INK, length=0, pad=3)
    axes.grid(axis="y", color=_GRID, lw=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)


def _svg(figure: Figure) -> Markup:
    """The figure as inline SVG that scales with its box and takes text, grid and line colours from the page."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="loss by epoch">', svg, count=1
    )
    for noise in (
        r"<metadata>.*?</metadata>",
        r"<defs>.*?</defs>",
        r' (id|clip-path)="[^"]*"',
        r" font-family: [^;]*;",
    ):
        svg = re.sub(noise, "", svg, flags=re.DOTALL)  # ids must not clash between the page's figures
    for placeholder, variable in ((_INK, "--muted"), (_GRID, "--line"), (_LINE, "--arm")):
        svg = svg.replace(placeholder, f"var({variable})")
    return Markup(svg)
