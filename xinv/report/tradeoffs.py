"""Diagrams of defences: what the attacker recovers by what the release lost, and how perturbations
are distributed.
"""

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
"""Leak metrics that diagrams show where a run has them: those of GNIME's Table 1."""


class Panel(NamedTuple):
    """One diagram under its title; `colour` is its CSS class where it is of one arm."""

    title: str
    svg: Markup
    colour: str = ""


class Diagrams(NamedTuple):
    """Panels that share a legend: (CSS class, label) of colours and (character, label) of marks."""

    panels: list[Panel]
    colours: list[tuple[str, str]]
    marks: list[tuple[str, str]]


class _Placed(NamedTuple):
    """An arm in the diagrams, with the title of its group and the factories that defend it, () for
    none.

    Attributes:
      curve: which curve it belongs to: its unit's, where that has several defences by these
        factories (as for γ), or else the one through the units (as for λ), None.
    """

    arm: Arm
    title: str
    factories: tuple[str, ...]
    curve: str | None


def leaks(metrics: Iterable[str], count: int = 3) -> list[str]:
    """The metrics that diagrams show: at most `count`, all with a known leak direction."""
    known = [name for name in metrics if measure(name).leak]
    return ([name for name in _PREFERRED if name in known] or known)[:count]


def tradeoffs(
    units: Sequence[Unit],
    summaries: Sequence[Summary],
    colours: Mapping[str, str],
) -> Diagrams | None:
    """What attackers recover by what the defences cost, over all units; None where no such cost was
    measured.
    """
    placed = [
        found
        for unit, summary in zip(units, summaries, strict=True)
        for found in _placed(unit, summary)
    ]
    costs = order(list(dict.fromkeys(name for found in placed for name in found.arm.release)))
    costs = [name for name in ("distortion", "masked_deepsim") if name in costs] or costs[:1]
    metrics = leaks(
        order(list(dict.fromkeys(name for summary in summaries for name in summary.metrics)))
    )
    if not costs or not metrics:
        return None
    marks = plots.marks((found.factories for found in placed), none=())
    panels = [
        Panel(
            f"{measure(metric).label} by {measure(cost).label}",
            plots.tradeoff(
                _series(placed, cost, metric, marks, colours),
                _bounds(summaries, metric),
                measure(cost).label,
                measure(metric).label,
            ),
        )
        for cost in costs
        for metric in metrics
    ]
    return Diagrams(
        panels,
        list(dict.fromkeys((colours[found.arm.name], found.title) for found in placed)),
        [
            (mark, plain("+".join(names)) if names else "no defence")
            for names, mark in marks.items()
        ],
    )


def histograms(
    unit: Unit,
    summary: Summary,
    colours: Mapping[str, str],
) -> list[Panel]:
    """How the perturbation is distributed over images, one panel per release whose run kept it; as
    GNIME's Figure 5.
    """
    stored = unit.examples | unit.factors
    arms = [arm for arm in summary.arms if arm.defence and f"distortion/{arm.name}" in stored]
    arms = list({(arm.explainer, arm.defence): arm for arm in reversed(arms)}.values())[::-1]
    values = {arm.name: np.asarray(stored[f"distortion/{arm.name}"], np.float64) for arm in arms}
    values = {name: array[np.isfinite(array)] for name, array in values.items()}
    arms = [arm for arm in arms if values[arm.name].size]
    limits = {arm.explainer: 1e-12 for arm in arms}
    for arm in arms:
        limits[arm.explainer] = max(limits[arm.explainer], float(values[arm.name].max()))

    def panel(arm: Arm) -> Panel:
        mine = values[arm.name]
        digits = measure("distortion").digits
        title = (
            f"{arm.label}: mean {mine.mean():.{digits}f}, 95% below"
            f" {np.quantile(mine, 0.95):.{digits}f}"
        )
        diagram = plots.histogram(
            mine,
            limits[arm.explainer],
            "distortion of one image, MSE",
        )
        return Panel(title, diagram, colours[arm.name])

    return [panel(arm) for arm in arms]


def _placed(unit: Unit, summary: Summary) -> list[_Placed]:
    settings = unit.config.get("defences", {})

    def factory(name: str) -> str:
        """Also of one that applies what another has learned, and states no name of its own."""
        own = settings.get(name, {})
        return settings.get(own.get("reuse_state_of"), own).get("name", name)

    def strongest(arms: Iterable[Arm]) -> Iterable[Arm]:
        """Of those that attack one defence, the one that learns from the most releases."""
        single = [arm for arm in arms if arm.queries == 1]
        kept = {arm.defence: arm for arm in sorted(single, key=lambda arm: arm.releases)}
        return [arm for arm in single if arm is kept[arm.defence]]

    found = [
        (arm, group.title, tuple(map(factory, arm.defence.split("+"))) if arm.defence else ())
        for group in groups(summary)
        for arm in strongest(group.arms)
    ]
    counts = Counter((arm.attack, factories) for arm, _, factories in found)
    return [
        _Placed(*one, unit.name if counts[one[0].attack, one[2]] > 1 else None) for one in found
    ]


def _series(
    placed: Iterable[_Placed],
    cost: str,
    metric: str,
    marks: Mapping[Any, str],
    colours: Mapping[str, str],
) -> list[list[plots.Point]]:
    """Points of one kind of attack, kind of defence and curve each; what several units share is
    drawn once.
    """
    series: dict[Any, dict[plots.Point, None]] = {}
    for arm, title, factories, curve in placed:
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
    """What the release lost: as measured, or of an undefended one by definition; None where neither
    is known.
    """
    if cost in arm.release:
        return arm.release[cost].interval
    intact = measure(cost).intact
    if arm.defence or intact is None:
        return None
    return Interval(intact, 0.0, 0.9, 1)


def _bounds(summaries: Iterable[Summary], metric: str) -> list[Interval]:
    """The different figures of predictions alone."""
    found = []
    for s in summaries:
        if s.baseline and metric in s.baseline.cells:
            found.append(s.baseline.cells[metric].interval)
    return list(dict.fromkeys(found))
