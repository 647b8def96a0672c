"""Lays a workdir's figures out as one HTML page without network, scripts or further files."""

import json
import math
import shlex
from pathlib import Path
from typing import NamedTuple

import jinja2

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


_ABOUT = ("seed", "stage", "arm", "epoch", "validation_loss")
"""Fields of a curve's line that are not a curve of their own."""
_SHOWN = ("arms", "report")
"""Sections of a config with tables of their own on the page."""


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
    """Figures of several units together; `lines` by the setting of their x axis."""

    comparison: sweep.Comparison | None
    privacy: privacy.Table | None
    galleries: grids.Comparison | None
    published: list[published.Table]
    lines: list[tuple[str, tradeoffs.Diagrams]]
    tradeoffs: tradeoffs.Diagrams | None


def html(folder: Folder, level: float, workdir: Path) -> str:
    """The page of a workdir.

    Args:
      folder: the contents of `workdir`.
      level: confidence level of the intervals, in (0,1).
      workdir: named on the page in the command that makes it.

    Returns:
      The page as HTML.
    """
    # Colours are chosen over all units, so that an attack has one colour on the page.
    summaries = [summarise(unit, level) for unit in folder.units]
    changes = sweep.changed([unit.config for unit in folder.units])
    inks = colours(summaries)
    views = []
    for unit, summary, changed in zip(folder.units, summaries, changes, strict=True):
        views.append(_view(unit, summary, changed, inks))
    several = None
    if len(folder.units) > 1:
        several = _sweep(folder.units, summaries, changes, inks, level)

    template = _environment().get_template("page.html")
    return template.render(
        views=views,
        sweep=several,
        unfinished=folder.unfinished,
        colours=inks,
        metrics=_metrics(views, several),
        level=f"{level:.0%}",
        workdir=shlex.quote(str(workdir)),
    )


def _environment() -> jinja2.Environment:
    """The templates with their filters."""
    # Figures are formatted by the modules that compute them.
    environment = templates()
    environment.filters |= {
        "plain": plain,
        "measure": measure,
        "share": defences.share,
        "number": number,
        "p_value": p_value,
        "json": lambda value: json.dumps(value, indent=2),
        "unbroken": _unbroken,
    }
    return environment


def _unbroken(text: str) -> str:
    """`text` without a line break beside ±."""
    return text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def _metrics(views: list[View], several: Sweep | None) -> list[str]:
    """The metrics of the page's tables, for its glossary."""
    # In the order of the tables, so that metrics without an entry keep theirs
    shown: list[str] = []
    for view in views:
        shown += [*view.summary.metrics, *view.summary.releases]
    for view in views:
        if view.summary.league:
            shown += view.summary.league.metrics
    for view in views:
        if view.causes:
            shown += view.causes.columns
    if several and several.privacy:
        shown += several.privacy.columns
    return order(list(dict.fromkeys(shown)))


def _view(
    unit: Unit,
    summary: Summary,
    changed: dict[str, str],
    inks: dict[str, str],
) -> View:
    """One unit: the contents of each section of its page."""
    bars, scale = _bars(summary)
    groups = defences.groups(summary)

    # Attacks on membership are drawn in the colours of their ROC curves.
    league = summary.league
    curves = None
    found = None
    drawn = inks
    if league:
        curves = roc.diagram(unit, league)
        found = causes.table(unit, league)
        drawn = inks | curves.colours
    return View(
        unit=unit,
        summary=summary,
        headline=headline(summary),
        defended=defended(summary),
        tally=tally(summary),
        control=control.sentence(unit, summary),
        roc=curves,
        causes=found,
        changed=_settings(changed),
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
        panels=_training(unit, summary, drawn),
        facts=list(sweep.flat(unit.environment)),
        reproduce=_REPRODUCE.format(path=str(unit.path / "config.json")),
    )


def _settings(changed: dict[str, str]) -> dict[str, str]:
    """The changed settings of a unit in words: all but those with tables of their own."""
    shown = {}
    for name, value in changed.items():
        section = name.partition(".")[0]
        if section not in _SHOWN:
            shown[name] = value
    return shown


def _sweep(
    units: tuple[Unit, ...],
    summaries: list[Summary],
    changes: list[dict[str, str]],
    inks: dict[str, str],
    level: float,
) -> Sweep:
    """Several units: the contents of each section before the units' own."""
    # Lines over each setting in which units differ by a number
    lines = []
    for axis in sweep.axes(changes):
        mine = [summaries[place] for place in axis.units]
        drawn = trends.sweep_lines(axis.values, axis.setting, mine, inks)
        if drawn:
            lines.append((axis.setting, drawn))

    # One trade-off of the units with comparable figures
    alike = sweep.defended_alike(units, changes)
    together = None
    if len(alike) > 1:
        together = tradeoffs.tradeoffs(
            [units[place] for place in alike],
            [summaries[place] for place in alike],
            inks,
        )
    names = [unit.name for unit in units]
    return Sweep(
        comparison=sweep.compare(names, summaries, control.units(units)),
        privacy=privacy.table(units, summaries, level),
        galleries=grids.side_by_side(units, summaries),
        published=published.tables(units, summaries),
        lines=lines,
        tradeoffs=together,
    )


def _indented(groups: list[defences.Group]) -> dict[str, str]:
    """Short labels by arm of the arms below the undefended one of their group."""
    # A group without an undefended arm has no row above the others.
    labels = {}
    for group in groups:
        if group.arms[0].defence:
            continue
        for arm, name in zip(group.arms[1:], group.names[1:], strict=True):
            labels[arm.name] = f"with {name}" if arm.defence else name
    return labels


def _bars(summary: Summary) -> tuple[dict[str, Bar], tuple[str, ...]]:
    """The main metric's intervals by arm, and the labels of their scale."""
    cells = {}
    ends: list[float] = []
    for arm in summary.arms:
        if summary.main in arm.cells:
            cell = arm.cells[summary.main]
            cells[arm.name] = cell
            ends += [*cell.values, cell.interval.low, cell.interval.high]
    known = [value for value in ends if not math.isnan(value)]
    if not known:
        return {}, ()

    # A scale of 0 to 1 where that holds all, so that bars are comparable over pages
    low = min(known)
    high = max(known)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    # Equal ends still have a place, at the left end
    span = (high - low) or 1.0

    def percent(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    bars = {}
    for name, cell in cells.items():
        mean = cell.interval.mean
        if math.isnan(mean):
            continue
        # One seed has a point without a band.
        half = cell.interval.half_width if cell.half else 0.0
        bars[name] = Bar(
            left=percent(mean - half),
            width=round(200 * half / span, 2),
            point=percent(mean),
        )
    return bars, tuple(number(low + span * step / 4, 2) for step in range(5))


def _training(
    unit: Unit,
    summary: Summary,
    inks: dict[str, str],
) -> list[tradeoffs.Panel]:
    """One panel per stage, arm and metric of a training; a stage's arms share their scale."""
    labels = summary.labels

    def panel(stage: str, arm: str | None, metric: str) -> tradeoffs.Panel:
        # The scale is of all arms of the stage, the lines of one.
        lines = []
        for line in unit.curves:
            if line["stage"] == stage and metric in line:
                validation = line["validation_loss"] if metric == "loss" else None
                lines.append({**line, "loss": line[metric], "validation_loss": validation})
        mine = [line for line in lines if line["arm"] == arm]
        title = plain(stage)
        if arm not in (None, stage):
            title += f": {labels.get(arm, plain(arm))}"
        if metric != "loss":
            title += f", {plain(metric)}"
        diagram = plots.curves(mine, plots.limits(lines))
        return tradeoffs.Panel(title, diagram, inks.get(arm, "c0"))

    # A private training and a game of two networks keep further curves beside the loss.
    kept = {}
    for line in unit.curves:
        for name in line:
            if name not in _ABOUT:
                kept[line["stage"], line["arm"], name] = None
    return [panel(stage, arm, metric) for stage, arm, metric in kept]
