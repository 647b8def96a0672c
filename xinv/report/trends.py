"""Diagrams over a number: reconstructions by a property of their example, and a sweep's units by
what changed.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xinv.metrics import trend
from xinv.report import plots
from xinv.report.cells import Cell
from xinv.report.folder import Unit
from xinv.report.measures import measure, order, plain
from xinv.report.summary import Arm, Summary
from xinv.report.tradeoffs import Diagrams, Panel, leaks

_BINS = 10
_LINES = 8
"""Arms that one diagram of factors shows, so that they can be told apart."""


def factors(
    unit: Unit,
    summary: Summary,
    colours: Mapping[str, str],
) -> Diagrams | None:
    """Each factor against each kept metric, one smoothed line per arm, as in Figure 6 of Zhao 2021.

    Defended arms are left out where others are there; so are factors that are the same in every
    image.
    """
    arms = []
    for arm in summary.arms:
        if any(name.endswith(f"/{arm.name}") for name in unit.factors):
            arms.append(arm)
    arms = ([arm for arm in arms if not arm.defence] or arms)[:_LINES]
    kept = [name.partition("/")[0] for name in unit.factors if "/" in name]
    metrics = leaks(order(list(dict.fromkeys(kept))))
    panels = [
        Panel(
            f"{measure(metric).label} by {plain(factor)}",
            plots.bands(lines, plain(factor), measure(metric).label),
        )
        for factor in unit.factors
        if "/" not in factor
        for metric in metrics
        if (lines := _trends(unit, factor, metric, arms, summary.level, colours))
    ]
    if panels:
        return Diagrams(
            panels,
            [(colours[arm.name], arm.label) for arm in arms],
            [],
        )
    return None


def binned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of x and y in up to 10 bins of equally many points; one bin per value where x has no
    more than 10.
    """
    values = np.unique(x)
    if len(values) > _BINS:
        parts = np.array_split(np.argsort(x, kind="stable"), _BINS)
    else:
        parts = [np.flatnonzero(x == value) for value in values]
    return np.array([x[part].mean() for part in parts]), np.array(
        [y[part].mean() for part in parts]
    )


def sweep_lines(
    x: Sequence[float],
    name: str,
    summaries: Sequence[Summary],
    colours: Mapping[str, str],
) -> Diagrams | None:
    """Each leak metric, and the models' figures, by the number `x` in which the units differ; one
    line per arm.
    """
    runs = sorted(zip(x, summaries, strict=True), key=lambda run: run[0])
    arms = {arm.name: arm for summary in summaries for arm in summary.arms}
    metrics = leaks(
        order(list(dict.fromkeys(metric for summary in summaries for metric in summary.metrics)))
    )
    models = dict.fromkeys(
        label
        for summary in summaries
        for label, metric, _ in summary.models
        if metric == "accuracy"
    )
    found = {}
    for label in models:
        found[(label, None)] = [(at, c) for at, s in runs for of, _, c in s.models if of == label]
    found |= {
        (measure(metric).label, arm): [
            (at, a.cells[metric]) for at, s in runs for a in s.arms if _has(a, arm, metric)
        ]
        for metric in metrics
        for arm in arms
    }
    marks = plots.marks((arm.defence for arm in arms.values()), none=None)
    looks = {name: (colours[name], marks[arm.defence]) for name, arm in arms.items()}
    looks[None] = "c0", plots.UNDEFENDED
    lines = {}
    for key, cells in found.items():
        if len(cells) > 1:
            lines[key] = _line(cells, *looks[key[1]])
    titles = [*(measure(metric).label for metric in metrics), *models]
    wide = min(x) > 0 and max(x) / min(x) >= 30
    panels = [
        Panel(title, plots.bands(mine, name, title, wide))
        for title in titles
        if (mine := [line for (of, _), line in lines.items() if of == title])
    ]
    labels: dict[str, str] = {}
    for arm in sorted(arms.values(), key=lambda arm: bool(arm.defence)):
        labels.setdefault(colours[arm.name], arm.label)
    if len(marks) > 1:
        shown = [(mark, plain(name or "no defence")) for name, mark in marks.items()]
    else:
        shown = []
    if panels:
        return Diagrams(panels, list(labels.items()), shown)
    return None


def _trends(
    unit: Unit,
    factor: str,
    metric: str,
    arms: Sequence[Arm],
    level: float,
    colours: Mapping[str, str],
) -> list[plots.Line]:
    """One line per arm that kept the metric; none where the factor does not vary over the images
    that have it.
    """
    lines = []
    for arm in arms:
        x = np.asarray(unit.factors[factor], np.float64)
        y = np.asarray(
            unit.factors.get(f"{metric}/{arm.name}", np.full(x.shape, np.nan)), np.float64
        )
        kept = np.isfinite(x) & np.isfinite(y)
        x, y = x[kept], y[kept]
        if len(x) > 2 and np.ptp(x) > 0:
            fitted = trend.fit(x, y, level)
            lines.append(
                plots.Line(
                    colours[arm.name],
                    plots.UNDEFENDED,
                    *fitted,
                    binned(x, y),
                )
            )
    return lines


def _line(
    cells: Sequence[tuple[float, Cell]],
    colour: str,
    mark: str,
) -> plots.Line:
    """The line through cells at their x; a cell of one seed has no band."""
    x = np.array([at for at, _ in cells], float)
    y = np.array([found.interval.mean for _, found in cells])
    half = np.nan_to_num([found.interval.half_width for _, found in cells])
    return plots.Line(colour, mark, x, y, y - half, y + half, (x, y))


def _has(arm: Arm, name: str, metric: str) -> bool:
    return arm.name == name and metric in arm.cells
