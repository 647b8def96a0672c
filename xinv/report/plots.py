"""Diagrams as inline SVG that follows the page's colours, light or dark."""

import io
import itertools
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
_VARIABLES = {
    _INK: "--muted",
    _GRID: "--line",
    _LINE: "--arm",
    **{ink: f"--{name}" for name, ink in _ARMS.items()},
}
_NOISE = (
    r"<metadata>.*?</metadata>",
    r"<defs>.*?</defs>",
    r' (id|clip-path)="[^"]*"',
    r" font-family: [^;]*;",
)
"""Parts of matplotlib's SVG that an inline diagram has no use for."""
MARKS = {"○": "o", "■": "s", "▲": "^", "◆": "D", "▼": "v", "✚": "P", "✖": "X"}
"""Marks of points, by their character in a legend."""
UNDEFENDED = "○"
"""The mark of no defence; its points are hollow."""


def marks(names: Iterable[Hashable], none: Hashable) -> dict[Hashable, str]:
    """Assigns a mark to each kind of defence.

    Args:
      names: of the kinds, `none` perhaps among them.
      none: the name of no defence.

    Returns:
      A key of `MARKS` by name, `none` first; repeated where there are more kinds than marks.
    """
    filled = [mark for mark in MARKS if mark != UNDEFENDED]
    different = [name for name in dict.fromkeys(names) if name != none]
    return {none: UNDEFENDED, **dict(zip(different, itertools.cycle(filled), strict=False))}


class Point(NamedTuple):
    """One arm in a trade-off: the CSS class of its colour, a key of `MARKS`, and its figures."""

    colour: str
    mark: str
    x: Interval
    y: Interval


class Line(NamedTuple):
    """A line with a band.

    Attributes:
      colour: CSS class of its colour.
      mark: a key of `MARKS` for its dots; a line with the mark of a defence is dashed.
      x, y, low, high: the line and the band's ends, [n] each.
      dots: x and y of single points, [m] each.
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
      chosen: True for the chosen trial.
    """

    colour: str
    mark: str
    x: float
    y: float
    ends: tuple[float, float] | None
    chosen: bool


def curves(lines: Sequence[dict[str, Any]], limits: tuple[float, float] | None) -> Markup:
    """Draws losses by epoch: one thin line per seed, validation solid, training dotted.

    Args:
      lines: with seed, epoch, loss and validation_loss, which may be None.
      limits: of a logarithmic scale; None for a linear one.

    Returns:
      SVG of 300 x 190 units.
    """
    # One line per seed, its epochs in order
    figure, axes = _axes("epoch")
    seeds: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        seeds.setdefault(line["seed"], []).append(line)
    for own in seeds.values():
        mine = sorted(own, key=lambda line: line["epoch"])
        epochs = []
        training = []
        validation = []
        for line in mine:
            epochs.append(line["epoch"])
            training.append(line["loss"])
            validation.append(line["validation_loss"])
        axes.plot(
            epochs,
            training,
            color=_LINE,
            lw=0.9,
            ls=(0, (1.5, 1.5)),
            alpha=0.75,
        )
        # None becomes NaN, a gap in the line.
        validation = np.array(validation, float)
        if not np.isnan(validation).all():
            axes.plot(epochs, validation, color=_LINE, lw=1.2)
    if limits:
        _logarithmic(axes, limits)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _svg(figure, "loss by epoch")


def limits(lines: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """Limits of a logarithmic axis for all losses; None unless all are positive and finite."""
    values = []
    for line in lines:
        for value in (line["loss"], line["validation_loss"]):
            if value is not None:
                values.append(value)
    if not values or not all(0 < value < math.inf for value in values):
        return None
    # A margin, so that no line lies on the frame
    return min(values) / 1.15, max(values) * 1.15


def tradeoff(
    series: Iterable[Sequence[Point]],
    bounds: Iterable[Interval],
    x: str,
    y: str,
) -> Markup:
    """Draws the leak by the cost of a defence, with intervals both ways.

    Args:
      series: points that a line joins.
      bounds: horizontal lines with bands: predictions alone.
      x: label of the cost.
      y: name of the leak.

    Returns:
      SVG of 300 x 190 units.
    """
    # Predictions alone, the bound that no defence of an explanation passes
    figure, axes = _axes(x)
    for bound in bounds:
        axes.axhline(bound.mean, color=_ARMS["c0"], lw=1.1)
        if bound.count > 1:
            axes.axhspan(bound.low, bound.high, color=_ARMS["c0"], alpha=0.2, lw=0)

    # Each series in the order of its cost
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
            # A single seed has no interval
            across, along = np.nan_to_num([point.x.half_width, point.y.half_width]).tolist()
            axes.errorbar(
                point.x.mean,
                point.y.mean,
                yerr=along,
                xerr=across,
                color=ink,
                marker=MARKS[point.mark],
                ms=4.5,
                mfc=_face(point.mark, ink),
                elinewidth=0.9,
            )
    axes.margins(0.08, 0.12)
    return _svg(figure, f"{y} by {x}")


def pareto(dots: Iterable[Dot], ideal: tuple[float, float]) -> Markup:
    """Draws the leak of a search's trials by their loss of utility.

    Args:
      dots: the trials; the chosen one gets a ring.
      ideal: loss of utility and leak of the ideal point, a cross.

    Returns:
      SVG of 300 x 190 units.
    """
    # The ideal: no leak beyond chance, the map as it was
    figure, axes = _axes("1 − rank correlation with the unhardened map")
    axes.axhline(ideal[1], color=_INK, lw=0.8, ls=(0, (3, 2)))
    axes.plot(*ideal, color=_INK, marker="x", ms=5, lw=0)
    for dot in dots:
        ink = _ARMS[dot.colour]
        if dot.ends is not None:
            axes.plot([dot.x, dot.x], dot.ends, color=ink, lw=0.9)
        axes.plot(
            dot.x,
            dot.y,
            color=ink,
            marker=MARKS[dot.mark],
            ms=4.5,
            mfc=_face(dot.mark, ink),
            lw=0,
        )
        # A ring around the chosen trial
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
    """Draws lines with their intervals as bands, over an x axis that may be logarithmic."""
    figure, axes = _axes(x)
    for line in lines:
        ink = _ARMS[line.colour]
        style = "-" if line.mark == UNDEFENDED else (0, (4, 2))
        axes.fill_between(line.x, line.low, line.high, color=ink, alpha=0.18, lw=0)
        axes.plot(line.x, line.y, color=ink, lw=1.3, ls=style)
        # Points above their line and band
        axes.plot(*line.dots, color=ink, lw=0, marker=MARKS[line.mark], ms=2.8)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return _svg(figure, f"{y} by {x}")


def histogram(values: np.ndarray, limit: float, x: str) -> Markup:
    """Draws counts of `values` [N] in 40 equal bins from 0 to `limit`, and a line at their mean."""
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
    """Draws ROC curves on logarithmic axes.

    Args:
      lines: drawn in this order.
      band: rates [n], and the ends [n] of the true-positive rate by chance.
      unresolved: end of the hatched false-positive rates.
      least: the axes' lower end, positive; rates of 0 stand there.

    Returns:
      SVG of 440 x 410 units.
    """
    figure, axes = _axes(
        "false-positive rate",
        (4.4, 4.1),
        (0.125, 0.11, 0.825, 0.865),
    )
    axes.set_ylabel("true-positive rate", fontsize=8, color=_INK, labelpad=1)

    # Logarithmic both ways: an attack with few false positives is the threat (Carlini 2022).
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(least, 1)
    axes.set_ylim(least, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator())
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    _hatch(axes, np.log(unresolved / least) / np.log(1 / least))

    # Chance: the band of random scores around the diagonal
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

    # The attacks, in steps: no threshold lies between two operating points
    for line in lines:
        axes.plot(
            np.maximum(line.fpr, least),
            np.maximum(line.tpr, least),
            color=_ARMS[line.colour],
            drawstyle="steps-post",
            lw=0.6 if line.thin else 1.4,
            alpha=0.5 if line.thin else None,
        )
    return _svg(figure, "true-positive rate by false-positive rate")


def _face(mark: str, ink: str) -> str:
    """The fill of a mark: none for no defence."""
    if mark == UNDEFENDED:
        return "none"
    return ink


def _hatch(axes: Axes, share: float) -> None:
    """Hatches the left `share` of a diagram by lines, as a pattern would need an id."""
    # Lines at 45 degrees, cut at both edges and separated by NaN
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
    """An empty diagram with the label `x`.

    Args:
      x: label of the x axis.
      size: width and height in hundreds of units.
      box: left, bottom, width and height of the axes, in shares of the diagram.
    """
    figure = Figure(figsize=size, dpi=100)
    axes = figure.add_axes(box)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(x, fontsize=8, color=_INK, labelpad=1)
    axes.tick_params(labelsize=8, labelcolor=_INK, length=0, pad=3)
    axes.grid(axis="y", color=_GRID, lw=0.6)
    axes.set_axisbelow(True)

    # A baseline alone, as the page has no frames; and a real minus sign
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}".replace("-", "−")))
    return figure, axes


def _logarithmic(axes: Axes, limits: tuple[float, float]) -> None:
    """Sets a logarithmic y axis with three to nine labels."""
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    # Powers of ten alone leave a short axis without labels.
    decades = np.log10(limits[1] / limits[0])
    if decades <= 0.8:
        locator = MaxNLocator(4)
    elif decades < 2.3:
        locator = LogLocator(subs=(1, 2, 5), numticks=9)
    else:
        locator = LogLocator(subs=(1,), numticks=9)
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as inline SVG, scaled to its box, with fonts and colours of the page."""
    # Text as text, and nothing that differs between two runs
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xinv"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]

    # A head without a size, so that the page scales it
    head = Markup('<svg viewBox="{}" role="img" aria-label="{}">')
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        lambda found: head.format(found[1], label),
        svg,
        count=1,
    )

    # No ids, which would clash between the page's figures, and nothing that refers to one
    svg = _inline_marks(svg)
    for noise in _NOISE:
        svg = re.sub(noise, "", svg, flags=re.DOTALL)

    # Colours of the page, light or dark
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return Markup(svg)


def _inline_marks(svg: str) -> str:
    """Replaces each reference to a marker's definition by the marker's path, moved into place."""
    # Paths by id, then each use of one
    paths = dict(re.findall(r'<path id="(m[0-9a-f]+)" d="([^"]*)"', svg))

    def drawn(found: re.Match) -> str:
        name, x, y, style = found.groups()
        return f'<path d="{paths[name]}" transform="translate({x} {y})" style="{style}"/>'

    return re.sub(
        r'<use xlink:href="#(m[0-9a-f]+)" x="([^"]*)" y="([^"]*)" style="([^"]*)"/>',
        drawn,
        svg,
    )
