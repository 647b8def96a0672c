"""Lays a workdir's figures out as one HTML page that needs nothing else: no network, no scripts, no
files.
"""

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from xinv.report import (
    causes,
    control,
    defences,
    grids,
    plots,
    privacy,
    published,
    roc,
    sweep,
    tradeoffs,
    trends,
)
from xinv.report.cells import number
from xinv.report.confusion import Confusion, confusions
from xinv.report.folder import Folder, Unit
from xinv.report.headline import defended, headline, tally
from xinv.report.measures import measure, order, plain
from xinv.report.summary import Summary, colours, summarise
from xinv.report.templates import templates
from xinv.report.verdict import p_value

_REPRODUCE = """\
import json
from pathlib import Path
from xinv import audit, report, store

config = json.loads(Path({path!r}).read_text())
with store.opened(Path("again/stages")) as stages:
    audit.run(config, Path("again"), stages)
print(report.table("again"))
"""


class Bar(NamedTuple):
    """An interval on a scale, in percent of its length."""

    left: float
    width: float
    point: float


_SHOWN = ("arms", "report")
"""Sections of a config that a page shows by its tables and not in words."""


class View(NamedTuple):
    """A unit as the template shows it."""

    unit: Unit
    summary: Summary
    headline: str
    defended: str
    tally: str
    control: str
    roc: roc.Diagram | None
    causes: causes.Table | None
    changed: dict[str, str]
    bars: dict[str, Bar]
    scale: tuple[str, ...]
    indented: dict[str, str]
    published: list[published.Table]
    groups: list[defences.Group]
    leaks: list[str]
    adaptive: bool
    tradeoffs: tradeoffs.Diagrams | None
    histograms: list[tradeoffs.Panel]
    originals: list[str]
    grids: list[grids.Grid]
    gallery: grids.Gallery | None
    factors: tradeoffs.Diagrams | None
    confusions: list[Confusion]
    panels: list[tradeoffs.Panel]
    facts: list[tuple[str, str]]
    reproduce: str


class Sweep(NamedTuple):
    """What several units show together; `lines` by the setting that they are drawn over."""

    comparison: sweep.Comparison | None
    privacy: privacy.Table | None
    galleries: grids.Comparison | None
    published: list[published.Table]
    lines: list[tuple[str, tradeoffs.Diagrams]]
    tradeoffs: tradeoffs.Diagrams | None


def html(folder: Folder, level: float, workdir: Path) -> str:
    """The page of `folder`, read from `workdir`, with intervals at confidence `level`."""
    summaries = [summarise(unit, level) for unit in folder.units]
    changes = sweep.changed([unit.config for unit in folder.units])
    inks = colours(summaries)
    environment = templates()
    environment.filters |= {
        "plain": plain,
        "measure": measure,
        "json": lambda value: json.dumps(value, indent=2),
    }
    environment.filters |= {"share": defences.share, "number": number, "p_value": p_value}
    environment.filters["unbroken"] = lambda text: text.replace(
        " ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
    )
    shown = [metric for summary in summaries for metric in (*summary.metrics, *summary.releases)]
    shown += [
        metric for summary in summaries if summary.league for metric in summary.league.metrics
    ]
    views = []
    for of in zip(folder.units, summaries, changes, strict=True):
        views.append(_view(*of, inks))
    shown += [metric for view in views if view.causes for metric in view.causes.columns]
    several = None
    if len(folder.units) > 1:
        several = _sweep(folder.units, summaries, changes, inks, level)
        shown += several.privacy.columns if several.privacy else []
    return environment.get_template("page.html").render(
        views=views,
        sweep=several,
        unfinished=folder.unfinished,
        colours=inks,
        metrics=order(list(dict.fromkeys(shown))),
        level=f"{level:.0%}",
        workdir=shlex.quote(str(workdir)),
    )


def _view(
    unit: Unit,
    summary: Summary,
    changed: dict[str, str],
    inks: dict[str, str],
) -> View:
    bars, scale = _bars(summary)
    league = summary.league
    curves = roc.diagram(unit, league) if league else None
    groups = defences.groups(summary)
    return View(
        unit=unit,
        summary=summary,
        headline=headline(summary),
        defended=defended(summary),
        tally=tally(summary),
        control=control.sentence(unit, summary),
        roc=curves,
        causes=causes.table(unit, league) if league else None,
        changed={
            name: value for name, value in changed.items() if name.partition(".")[0] not in _SHOWN
        },
        bars=bars,
        scale=scale,
        indented=_indented(groups),
        published=published.tables([unit], [summary]),
        groups=groups,
        leaks=tradeoffs.leaks(summary.metrics, 4),
        adaptive=all(arm.adaptive for arm in summary.arms if arm.defence),
        tradeoffs=tradeoffs.tradeoffs([unit], [summary], inks),
        histograms=tradeoffs.histograms(unit, summary, inks),
        originals=grids.originals(unit) if summary.arms else [],
        grids=grids.grids(unit, summary),
        gallery=grids.gallery(unit, summary),
        factors=trends.factors(unit, summary, inks),
        confusions=confusions(unit),
        panels=_training(unit, summary, inks | (curves.colours if curves else {})),
        facts=list(sweep.flat(unit.environment)),
        reproduce=_REPRODUCE.format(path=str(unit.path / "config.json")),
    )


def _sweep(
    units: tuple[Unit, ...],
    summaries: list[Summary],
    changes: list[dict[str, str]],
    inks: dict[str, str],
    level: float,
) -> Sweep:
    alike = sweep.defended_alike(units, changes)
    lines = []
    for axis in sweep.axes(changes):
        lines.append(
            (
                axis.setting,
                trends.sweep_lines(
                    axis.values,
                    axis.setting,
                    [summaries[place] for place in axis.units],
                    inks,
                ),
            )
        )
    several = [units[place] for place in alike], [summaries[place] for place in alike]
    return Sweep(
        comparison=sweep.compare(
            [unit.name for unit in units],
            summaries,
            control.units(units),
        ),
        privacy=privacy.table(units, summaries, level),
        galleries=grids.side_by_side(units, summaries),
        published=published.tables(units, summaries),
        lines=[(setting, diagrams) for setting, diagrams in lines if diagrams],
        tradeoffs=tradeoffs.tradeoffs(*several, inks) if len(alike) > 1 else None,
    )


def _indented(groups: list[defences.Group]) -> dict[str, str]:
    """Short labels, by arm, of those that stand below the undefended arm of their group."""
    below = []
    for group in groups:
        if not group.arms[0].defence:
            below.append(zip(group.arms[1:], group.names[1:], strict=True))
    return {
        arm.name: f"with {name}" if arm.defence else name for group in below for arm, name in group
    }


def _bars(summary: Summary) -> tuple[dict[str, Bar], tuple[str, ...]]:
    """The main metric's intervals by arm, and the labels of their scale: 0 to 1 where that holds
    them all.
    """
    cells = {}
    for arm in summary.arms:
        if summary.main in arm.cells:
            cells[arm.name] = arm.cells[summary.main]
    ends = [
        value
        for cell in cells.values()
        for value in (*cell.values, cell.interval.low, cell.interval.high)
    ]
    ends = [value for value in ends if value == value]
    if not ends:
        return {}, ()
    low = min(ends)
    high = max(ends)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0

    def percent(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    bars = {}
    for name, cell in cells.items():
        mean = cell.interval.mean
        half = cell.interval.half_width if cell.half else 0.0
        if mean == mean:
            bars[name] = Bar(
                percent(mean - half),
                round(200 * half / span, 2),
                percent(mean),
            )
    return bars, tuple(number(low + span * step / 4, 2) for step in range(5))


def _training(
    unit: Unit,
    summary: Summary,
    inks: dict[str, str],
) -> list[tradeoffs.Panel]:
    """One panel per stage, arm and metric, of losses but for games; a stage's arms share their
    scale.
    """
    labels = summary.labels

    def panel(stage: str, arm: str, metric: str) -> tradeoffs.Panel:
        shown = dict(loss=metric, validation_loss="validation_loss" if metric == "loss" else "")
        lines = []
        for line in unit.curves:
            if line["stage"] == stage and metric in line:
                lines.append({**line, **{place: line.get(name) for place, name in shown.items()}})
        if arm not in (None, stage):
            title = f"{plain(stage)}: {labels.get(arm, plain(arm or ''))}"
        else:
            title = plain(stage)
        title += "" if metric == "loss" else f", {plain(metric)}"
        mine: list[dict[str, Any]] = [line for line in lines if line["arm"] == arm]
        return tradeoffs.Panel(
            title,
            plots.curves(mine, plots.limits(lines)),
            inks.get(arm, "c0"),
        )

    about = "seed", "stage", "arm", "epoch", "validation_loss"
    panels = (
        (line["stage"], line["arm"], name)
        for line in unit.curves
        for name in line
        if name not in about
    )
    return [panel(*of) for of in dict.fromkeys(panels)]
