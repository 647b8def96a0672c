"""Diagrams as inline SVG that follows the page's colours, light or dark."""

import io
import math
import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from xinv.metrics.stats import Interval

_INK, _GRID, _LINE = "#010203", "#040506", "#070809"
"""Placeholders that become the page's CSS variables --muted, --line and --arm."""
_ARMS = {f"c{number}": f"#0a0b{number:02d}" for number in range(8)}
"""Placeholders of the variables --c0 to --c7, by the CSS class that an arm has."""
_VARIABLES = {_INK: "--muted", _GRID: "--line", _LINE: "--arm"} | {
    ink: f"--{name}" for name, ink in _ARMS.items()
}
MARKS = {"○": "o", "■": "s", "▲": "^", "◆": "D", "▼": "v", "✚": "P", "✖": "X"}
"""Marks of a trade-off's points, by the character that a legend shows."""
UNDEFENDED = "○"
"""The mark of no defence, hollow in a trade-off."""


def marks(names: Iterable[Hashable], none: Hashable) -> dict[Hashable, str]:
    """A mark for no defence, which is called `none`, and one for each of `names`; repeated where
    they are many.
    """
    filled = [mark for mark in MARKS if mark != UNDEFENDED]
    different = [name for name in dict.fromkeys(names) if name != none]
    return {none: UNDEFENDED} | {
        name: filled[index % len(filled)] for index, name in enumerate(different)
    }


class Point(NamedTuple):
    """One arm in a trade-off: its colour's CSS class, its mark as a key of `MARKS`, and where it
    stands.
    """

    colour: str
    mark: str
    x: Interval
    y: Interval


class Line(NamedTuple):
    """A line with a band.

    Attributes:
      colour: CSS class of its colour.
      mark: a key of `MARKS` for its dots; a line with another mark than that of no defence is
        dashed.
      x, y, low, high: the line and the band's ends, [n] each.
      dots: x and y of points drawn beside it, [m] each.
    """

    colour: str
    mark: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    dots: tuple[np.ndarray, np.ndarray]


class Roc(NamedTuple):
    """One attack's curve.

    Attributes:
      colour: CSS class of its colour.
      fpr, tpr: rates [n] each, rising; a rate holds up to the next.
      thin: True for a curve in the background.
    """

    colour: str
    fpr: np.ndarray
    tpr: np.ndarray
    thin: bool


class Dot(NamedTuple):
    """One trial of a search.

    Attributes:
      colour: CSS class of its colour.
      mark: a key of `MARKS`.
      x, y: the loss of utility, and the leak.
      ends: of the leak's interval, or None.
      chosen: True for the one that is chosen.
    """

    colour: str
    mark: str
    x: float
    y: float
    ends: tuple[float, float] | None
    chosen: bool


def curves(lines: Sequence[dict[str, Any]], limits: tuple[float, float] | None) -> Markup:
    """Losses by epoch as SVG, 300 x 190 units: one thin line per seed, validation solid, training
    dotted.

    The scale is logarithmic between `limits`, linear where they are None.
    """
    figure, axes = _axes("epoch")
    for seed in dict.fromkeys(line["seed"] for line in lines):
        mine = sorted(
            (line for line in lines if line["seed"] == seed), key=lambda line: line["epoch"]
        )
        epochs = [line["epoch"] for line in mine]
        validation = [
            np.nan if line["validation_loss"] is None else line["validation_loss"] for line in mine
        ]
        axes.plot(
            epochs,
            [line["loss"] for line in mine],
            color=_LINE,
            lw=0.9,
            ls=(0, (1.5, 1.5)),
            alpha=0.75,
        )
        if not np.isnan(validation).all():
            axes.plot(epochs, validation, color=_LINE, lw=1.2)
    if limits:
        _logarithmic(axes, limits)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _svg(figure, "loss by epoch")


def limits(lines: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """Limits of a logarithmic axis that holds all losses; None where one is not positive and
    finite.
    """
    values = [
        line[key] for line in lines for key in ("loss", "validation_loss") if line[key] is not None
    ]
    if not values or not all(0 < value < float("inf") for value in values):
        return None
    return min(values) / 1.15, max(values) * 1.15


def tradeoff(
    series: Iterable[Sequence[Point]],
    bounds: Iterable[Interval],
    x: str,
    y: str,
) -> Markup:
    """What the attacker recovers by what the defence costs, with intervals both ways; a series of
    several is joined.

    `bounds` are horizontal lines with bands: predictions alone.
    """
    figure, axes = _axes(x)
    for bound in bounds:
        axes.axhline(bound.mean, color=_ARMS["c0"], lw=1.1)
        if bound.count > 1:
            axes.axhspan(bound.low, bound.high, color=_ARMS["c0"], alpha=0.2, lw=0)
    for points in series:
        points = sorted(points, key=lambda point: point.x.mean)
        ink = _ARMS[points[0].colour]
        if len(points) > 1:
            axes.plot(
                [p.x.mean for p in points],
                [p.y.mean for p in points],
                color=ink,
                lw=1,
                alpha=0.6,
            )
        for point in points:
            mark = MARKS[point.mark]
            face = "none" if point.mark == UNDEFENDED else ink
            halves = []
            for end in (point.x, point.y):
                halves.append(0.0 if math.isnan(end.half_width) else end.half_width)
            where = point.x.mean, point.y.mean
            axes.errorbar(
                *where,
                halves[1],
                halves[0],
                color=ink,
                marker=mark,
                ms=4.5,
                mfc=face,
                elinewidth=0.9,
            )
    axes.margins(0.08, 0.12)
    return _svg(figure, f"{y} by {x}")


def pareto(dots: Iterable[Dot], ideal: tuple[float, float]) -> Markup:
    """Leak by loss of utility of the trials of a search; the chosen one is ringed, the ideal point
    a cross.
    """
    figure, axes = _axes("1 − rank correlation with the unhardened map")
    axes.axhline(ideal[1], color=_INK, lw=0.8, ls=(0, (3, 2)))
    axes.plot(*ideal, color=_INK, marker="x", ms=5, lw=0)
    for dot in dots:
        ink = _ARMS[dot.colour]
        face = "none" if dot.mark == UNDEFENDED else _ARMS[dot.colour]
        if dot.ends is not None:
            axes.plot([dot.x, dot.x], dot.ends, color=ink, lw=0.9)
        axes.plot(
            dot.x,
            dot.y,
            color=ink,
            marker=MARKS[dot.mark],
            ms=4.5,
            mfc=face,
            lw=0,
        )
        if dot.chosen:
            axes.plot(dot.x, dot.y, color=_INK, marker="o", ms=9, mfc="none", lw=0)
    axes.margins(0.08, 0.12)
    return _svg(figure, "leak by loss of utility")


def bands(
    lines: Iterable[Line],
    x: str,
    y: str,
    logarithmic: bool = False,
) -> Markup:
    """Lines with their intervals as bands, over an x axis that may be logarithmic."""
    figure, axes = _axes(x)
    for line in lines:
        ink = _ARMS[line.colour]
        axes.fill_between(line.x, line.low, line.high, color=ink, alpha=0.18, lw=0)
        axes.plot(
            line.x,
            line.y,
            color=ink,
            lw=1.3,
            ls="-" if line.mark == UNDEFENDED else (0, (4, 2)),
        )
        axes.plot(*line.dots, color=ink, lw=0, marker=MARKS[line.mark], ms=2.8)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return _svg(figure, f"{y} by {x}")


def histogram(values: np.ndarray, limit: float, x: str) -> Markup:
    """How many of `values` [N] fall into each of 40 equal bins from 0 to `limit`, their mean
    marked.
    """
    figure, axes = _axes(x)
    axes.hist(values, bins=40, range=(0, limit), color=_LINE, alpha=0.55)
    axes.axvline(values.mean(), color=_LINE, lw=1.4)
    axes.set_xlim(0, limit)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return _svg(figure, f"images by {x}")


def operating(
    lines: Iterable[Roc],
    band: tuple[np.ndarray, np.ndarray, np.ndarray],
    unresolved: float,
    least: float,
) -> Markup:
    """True by false positives on logarithmic axes from `least` to 1; rates of 0 stand at the edge.

    Args:
      lines: drawn in this order.
      band: rates [n], and the ends of what chance gives there.
      unresolved: false-positive rate below which the diagram is hatched.
      least: positive.
    """
    figure, axes = _axes(
        "false-positive rate",
        (4.4, 4.1),
        (0.125, 0.11, 0.825, 0.865),
    )
    axes.set_ylabel("true-positive rate", fontsize=8, color=_INK, labelpad=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(least, 1)
    axes.set_ylim(least, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator())
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    _hatch(axes, np.log(unresolved / least) / np.log(1 / least))

    # What chance gives
    rates, low, high = (np.maximum(values, least) for values in band)
    axes.fill_between(
        rates,
        low,
        high,
        step="post",
        color=_ARMS["c0"],
        alpha=0.2,
        lw=0,
    )
    axes.plot([least, 1], [least, 1], color=_INK, lw=0.8, ls=(0, (3, 2)))

    # The attacks
    for line in lines:
        fpr = np.maximum(line.fpr, least)
        tpr = np.maximum(line.tpr, least)
        looks = dict(lw=0.6, alpha=0.5) if line.thin else dict(lw=1.4)
        axes.plot(
            fpr,
            tpr,
            color=_ARMS[line.colour],
            drawstyle="steps-post",
            **looks,
        )
    return _svg(figure, "true-positive rate by false-positive rate")


def _hatch(axes: Axes, share: float) -> None:
    """Hatches the left `share` of a diagram, in lines of its own: a pattern would need an id."""
    share = min(max(share, 0.0), 1.0)
    x = []
    y = []
    for offset in np.arange(-1, share, 0.03):
        start = max(offset, 0.0)
        end = min(offset + 1, share)
        x += [start, end, np.nan]
        y += [start - offset, end - offset, np.nan]
    axes.plot(x, y, color=_GRID, lw=0.8, transform=axes.transAxes, zorder=0.5)


def _axes(
    x: str,
    size: tuple[float, float] = (3.0, 1.9),
    box: tuple[float, float, float, float] = (0.15, 0.18, 0.79, 0.78),
) -> tuple[Figure, Axes]:
    """An empty diagram of 300 x 190 units, or a hundred times `size`; `box` holds the axes, in
    shares of it.
    """
    figure = Figure(figsize=size, dpi=100)
    axes = figure.add_axes(box)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(x, fontsize=8, color=_INK, labelpad=1)
    axes.tick_params(labelsize=8, labelcolor=_INK, length=0, pad=3)
    axes.grid(axis="y", color=_GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}".replace("-", "−")))
    return figure, axes


def _logarithmic(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    decades = np.log10(limits[1] / limits[0])
    log = LogLocator(subs=(1, 2, 5) if decades < 2.3 else (1,), numticks=9)
    axes.yaxis.set_major_locator(log if decades > 0.8 else MaxNLocator(4))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as inline SVG that scales with its box and takes text, grid and line colours from
    the page.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xinv"}):
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata={"Date": None},
        )
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    head = Markup('<svg viewBox="{}" role="img" aria-label="{}">')
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        lambda found: head.format(found[1], label),
        svg,
        count=1,
    )
    svg = _inline_marks(svg)
    for noise in (
        r"<metadata>.*?</metadata>",
        r"<defs>.*?</defs>",
        r' (id|clip-path)="[^"]*"',
        r" font-family: [^;]*;",
    ):
        svg = re.sub(
            noise,
            "",
            svg,
            flags=re.DOTALL,
        )  # ids must not clash between the page's figures
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return Markup(svg)


def _inline_marks(svg: str) -> str:
    """Matplotlib draws markers by reference to a definition; here each becomes the path itself,
    moved into place.
    """
    paths = dict(re.findall(r'<path id="(m[0-9a-f]+)" d="([^"]*)"', svg))

    def drawn(found: re.Match) -> str:
        name, x, y, style = found.groups()
        return f'<path d="{paths[name]}" transform="translate({x} {y})" style="{style}"/>'

    return re.sub(
        r'<use xlink:href="#(m[0-9a-f]+)" x="([^"]*)" y="([^"]*)" style="([^"]*)"/>',
        drawn,
        svg,
    )
