"""Diagrams over a number: a property of the examples, or a setting of a sweep's units."""

from collections.abc import Mapping, Sequence

import numpy as np

from xinv.metrics import trend
from xinv.report import plots
from xinv.report.cells import Cell
from xinv.report.folder import Unit
from xinv.report.measures import measure, order, plain
from xinv.report.summary import Arm, Summary
from xinv.report.tradeoffs import Diagrams, Panel, leaks, measured

_Runs = Sequence[tuple[float, Summary]]
_Cells = list[tuple[float, Cell]]
_BINS = 10
_LINES = 8
"""Largest number of arms in a diagram of factors."""


def factors(
    unit: Unit,
    summary: Summary,
    colours: Mapping[str, str],
) -> Diagrams | None:
    """Draws each metric of an example by each factor, as Figure 6 of Zhao 2021.

    Args:
      unit: with the factors.
      summary: of the unit.
      colours: CSS class by arm.

    Returns:
      A panel per factor and metric, with a smoothed line per undefended arm, or per arm where all
      are defended; None without factors that vary.
    """
    # Arms with metrics per example, as many as a reader can distinguish
    arms = []
    for arm in summary.arms:
        if any(name.endswith(f"/{arm.name}") for name in unit.factors):
            arms.append(arm)
    undefended = [arm for arm in arms if not arm.defence]
    arms = (undefended or arms)[:_LINES]

    # Names with a stroke are metrics of an arm, the others factors.
    kept = [name.partition("/")[0] for name in unit.factors if "/" in name]
    metrics = leaks(order(list(dict.fromkeys(kept))))
    panels = []
    for factor in unit.factors:
        if "/" in factor:
            continue
        for metric in metrics:
            lines = _trends(unit, factor, metric, arms, summary.level, colours)
            if lines:
                x = plain(factor)
                y = measure(metric).label
                panels.append(Panel(f"{y} by {x}", plots.bands(lines, x, y)))
    if not panels:
        return None
    legend = [(colours[arm.name], arm.label) for arm in arms]
    return Diagrams(panels, legend, [])


def binned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bins points by x, in 10 bins of equal counts or one per value if there are at most 10.

    Args:
      x, y: [N] each.

    Returns:
      The means of x and of y in each bin, [n] each.
    """
    # A factor with few values, such as a class, has one bin per value.
    values = np.unique(x)
    if len(values) > _BINS:
        parts = np.array_split(np.argsort(x, kind="stable"), _BINS)
    else:
        parts = [np.flatnonzero(x == value) for value in values]
    centres = []
    means = []
    for part in parts:
        centres.append(x[part].mean())
        means.append(y[part].mean())
    return np.array(centres), np.array(means)


def sweep_lines(
    x: Sequence[float],
    name: str,
    summaries: Sequence[Summary],
    colours: Mapping[str, str],
) -> Diagrams | None:
    """Draws leaks and accuracies by the number in which units differ.

    Args:
      x: the number of each unit.
      name: of the setting.
      summaries: of the units.
      colours: CSS class by arm.

    Returns:
      A panel per metric with a line per arm, and one per model; None without a line.
    """
    # The legend covers the arms of all units.
    runs = sorted(zip(x, summaries, strict=True), key=lambda run: run[0])
    arms: dict[str, Arm] = {}
    for summary in summaries:
        arms |= {arm.name: arm for arm in summary.arms}
    marks = plots.marks((arm.defence for arm in arms.values()), none=None)

    # A number over more than a decade and a half is read on a logarithmic axis.
    wide = min(x) > 0 and max(x) / min(x) >= 30

    # A panel per leak with a line per arm
    panels = []
    for metric in leaks(measured(summaries)):
        title = measure(metric).label
        lines = []
        for arm in arms.values():
            cells = _attack_cells(runs, arm.name, metric)
            if len(cells) > 1:
                lines.append(_line(cells, colours[arm.name], marks[arm.defence]))
        if lines:
            panels.append(Panel(title, plots.bands(lines, name, title, wide)))

    # A panel per model, in grey
    for title, cells in _model_cells(runs).items():
        if len(cells) > 1:
            line = _line(cells, "c0", plots.UNDEFENDED)
            panels.append(Panel(title, plots.bands([line], name, title, wide)))
    if not panels:
        return None

    # The legend: a defended attack has the colour of the undefended one, whose label comes first.
    labels: dict[str, str] = {}
    for arm in sorted(arms.values(), key=lambda arm: bool(arm.defence)):
        labels.setdefault(colours[arm.name], arm.label)
    signs = []
    if len(marks) > 1:
        signs = []
        for defence, mark in marks.items():
            signs.append((mark, plain(defence or "no defence")))
    return Diagrams(panels, list(labels.items()), signs)


def _attack_cells(runs: _Runs, name: str, metric: str) -> _Cells:
    """An arm's figures of a metric, in the order of `runs`."""
    found = []
    for at, summary in runs:
        for arm in summary.arms:
            if arm.name == name and metric in arm.cells:
                found.append((at, arm.cells[metric]))
    return found


def _model_cells(runs: _Runs) -> dict[str, _Cells]:
    """The accuracies of each model by its label, in the order of `runs`."""
    found: dict[str, _Cells] = {}
    for at, summary in runs:
        for label, metric, figure in summary.models:
            if metric == "accuracy":
                found.setdefault(label, []).append((at, figure))
    return found


def _trends(
    unit: Unit,
    factor: str,
    metric: str,
    arms: Sequence[Arm],
    level: float,
    colours: Mapping[str, str],
) -> list[plots.Line]:
    """One line per arm with the metric, where the factor varies over its images."""
    lines = []
    for arm in arms:
        stored = unit.factors.get(f"{metric}/{arm.name}")
        if stored is None:
            continue
        # Factors of some explanations are undefined for some images.
        x = np.asarray(unit.factors[factor], np.float64)
        y = np.asarray(stored, np.float64)
        kept = np.isfinite(x) & np.isfinite(y)
        x = x[kept]
        y = y[kept]
        if len(x) > 2 and np.ptp(x) > 0:
            # A line with its band, and binned means that show how well it fits
            fitted = trend.fit(x, y, level)
            dots = binned(x, y)
            lines.append(plots.Line(colours[arm.name], plots.UNDEFENDED, *fitted, dots))
    return lines


def _line(cells: _Cells, colour: str, mark: str) -> plots.Line:
    """The line through cells at their x; a cell of one seed has no band."""
    places = []
    means = []
    halves = []
    for at, found in cells:
        places.append(at)
        means.append(found.interval.mean)
        halves.append(found.interval.half_width)
    x = np.array(places, float)
    y = np.array(means)
    half = np.nan_to_num(halves)
    return plots.Line(
        colour,
        mark,
        x=x,
        y=y,
        low=y - half,
        high=y + half,
        dots=(x, y),
    )
