"""Diagrams of defences: the leak by the cost of the release, and histograms of perturbations."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from xinv.metrics.stats import Interval
from xinv.report import plots
from xinv.report.defences import groups
from xinv.report.folder import Unit
from xinv.report.measures import measure, order, plain
from xinv.report.summary import Arm, Summary

_PREFERRED = "ssim", "attack_accuracy", "deepsim", "mse"
"""Leak metrics of diagrams where a run has them: those of GNIME's Table 1."""


class Panel(NamedTuple):
    """One diagram under its title; `colour` is the CSS class of its arm, empty for several."""

    title: str
    svg: Markup
    colour: str = ""


class Diagrams(NamedTuple):
    """Panels with one legend: (CSS class, label) of colours and (character, label) of marks."""

    panels: list[Panel]
    colours: list[tuple[str, str]]
    marks: list[tuple[str, str]]


class _Placed(NamedTuple):
    """An arm in the diagrams.

    Attributes:
      arm: the arm.
      title: of its group.
      factories: of its defences; () for none.
      curve: the unit, if it has several defences by these factories (as for γ), which it joins;
        None for the curve through the units (as for λ).
    """

    arm: Arm
    title: str
    factories: tuple[str, ...]
    curve: str | None


def leaks(metrics: Iterable[str], count: int = 3) -> list[str]:
    """Chooses the metrics of diagrams: at most `count`, all with a known direction."""
    known = [name for name in metrics if measure(name).leak]
    return ([name for name in _PREFERRED if name in known] or known)[:count]


def tradeoffs(
    units: Sequence[Unit],
    summaries: Sequence[Summary],
    colours: Mapping[str, str],
) -> Diagrams | None:
    """Draws leaks by costs of the defences.

    Args:
      units: in one set of diagrams.
      summaries: of the units.
      colours: CSS class by arm.

    Returns:
      One panel per cost and leak; None without a measured cost.
    """
    placed: list[_Placed] = []
    for unit, summary in zip(units, summaries, strict=True):
        placed += _placed(unit, summary)
    costs = _costs(placed)
    metrics = leaks(measured(summaries))
    if not costs or not metrics:
        return None

    # Colours are of attacks, marks of the kinds of defences.
    marks = plots.marks((found.factories for found in placed), none=())
    panels = []
    for cost in costs:
        for metric in metrics:
            x = measure(cost).label
            y = measure(metric).label
            series = _series(placed, cost, metric, marks, colours)
            diagram = plots.tradeoff(series, _bounds(summaries, metric), x, y)
            panels.append(Panel(f"{y} by {x}", diagram))

    # The legend: attacks by colour, defences by mark
    labels = dict.fromkeys((colours[found.arm.name], found.title) for found in placed)
    signs = []
    for names, mark in marks.items():
        signs.append((mark, plain("+".join(names)) if names else "no defence"))
    return Diagrams(panels, list(labels), signs)


def measured(summaries: Iterable[Summary]) -> list[str]:
    """The metrics of several units' arms, each once, in the order of a table."""
    found: dict[str, None] = {}
    for summary in summaries:
        found |= dict.fromkeys(summary.metrics)
    return order(list(found))


def _costs(placed: Iterable[_Placed]) -> list[str]:
    """The costs of diagrams: the papers' where they are measured, or else the first one."""
    found: dict[str, None] = {}
    for one in placed:
        found |= dict.fromkeys(one.arm.release)
    preferred = [name for name in ("distortion", "masked_deepsim") if name in found]
    return preferred or order(list(found))[:1]


def histograms(
    unit: Unit,
    summary: Summary,
    colours: Mapping[str, str],
) -> list[Panel]:
    """Draws histograms of the perturbation of images, one per stored release; GNIME's Figure 5."""
    # Attacks on one release share its perturbations: the first of them stands for all.
    stored = unit.examples | unit.factors
    releases: dict[tuple[str | None, str | None], Arm] = {}
    for arm in reversed(summary.arms):
        if arm.defence and f"distortion/{arm.name}" in stored:
            releases[arm.explainer, arm.defence] = arm
    arms = []
    values = {}
    for arm in reversed(releases.values()):
        distortion = np.asarray(stored[f"distortion/{arm.name}"], np.float64)
        known = distortion[np.isfinite(distortion)]
        if known.size:
            arms.append(arm)
            values[arm.name] = known

    # Defences of one explanation share their scale.
    limits: dict[str | None, float] = {}
    for arm in arms:
        largest = float(values[arm.name].max())
        limits[arm.explainer] = max(limits.get(arm.explainer, 1e-12), largest)

    panels = []
    for arm in arms:
        mine = values[arm.name]
        limit = limits[arm.explainer]
        diagram = plots.histogram(mine, limit, "distortion of one image, MSE")
        digits = measure("distortion").digits
        mean = f"{mine.mean():.{digits}f}"
        end = f"{np.quantile(mine, 0.95):.{digits}f}"
        title = f"{arm.label}: mean {mean}, 95% below {end}"
        panels.append(Panel(title, diagram, colours[arm.name]))
    return panels


def _placed(unit: Unit, summary: Summary) -> list[_Placed]:
    """The arms of a unit in the diagrams."""
    settings = unit.config.get("defences", {})

    def factory(name: str) -> str:
        # A defence that reuses another's state has no name of its own.
        own = settings.get(name, {})
        return settings.get(own.get("reuse_state_of"), own).get("name", name)

    found = []
    for group in groups(summary):
        for arm in _strongest(group.arms):
            names = arm.defence.split("+") if arm.defence else []
            factories = tuple(map(factory, names))
            found.append(_Placed(arm, group.title, factories, None))

    # Several defences of one kind in a unit differ in a setting, and are a curve of their own.
    counts = Counter((one.arm.attack, one.factories) for one in found)
    placed = []
    for one in found:
        if counts[one.arm.attack, one.factories] > 1:
            placed.append(one._replace(curve=unit.name))
        else:
            placed.append(one)
    return placed


def _strongest(arms: Iterable[Arm]) -> Iterable[Arm]:
    """Of the attacks with one query on each defence, the one trained on the most releases."""
    # The mean of several queries is another threat than one release.
    single = [arm for arm in arms if arm.queries == 1]
    kept = {}
    for arm in sorted(single, key=lambda arm: arm.releases):
        kept[arm.defence] = arm
    return [arm for arm in single if arm is kept[arm.defence]]


def _series(
    placed: Iterable[_Placed],
    cost: str,
    metric: str,
    marks: Mapping[Any, str],
    colours: Mapping[str, str],
) -> list[list[plots.Point]]:
    """Points of each kind of attack, kind of defence and curve; units share equal points."""
    series: dict[Any, dict[plots.Point, None]] = {}
    for arm, title, factories, curve in placed:
        # A dict, as units with one undefended attack repeat its point.
        x = _cost(arm, cost)
        if x and metric in arm.cells:
            point = plots.Point(
                colours[arm.name],
                marks[factories],
                x,
                arm.cells[metric].interval,
            )
            series.setdefault((title, arm.attack, factories, curve), {})[point] = None
    return [list(points) for points in series.values()]


def _cost(arm: Arm, cost: str) -> Interval | None:
    """The cost of a release: measured, or of an undefended one by definition; None if unknown."""
    # An undefended release has no rows of its cost, but by definition no distortion.
    if cost in arm.release:
        return arm.release[cost].interval
    intact = measure(cost).intact
    if arm.defence or intact is None:
        return None
    return Interval(intact, 0.0, 0.9, 1)


def _bounds(summaries: Iterable[Summary], metric: str) -> list[Interval]:
    """The different figures of predictions alone."""
    # Units that differ in defences alone share it
    found = {}
    for summary in summaries:
        baseline = summary.baseline
        if baseline and metric in baseline.cells:
            found[baseline.cells[metric].interval] = None
    return list(found)
