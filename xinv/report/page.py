"""Lays a workdir's figures out as one HTML page that needs nothing else: no network, no scripts, no files."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from xinv.report import figures, sweep
from xinv.report.folder import Folder, Unit
from xinv.report.measures import measure, order, plain
from xinv.report.summary import Arm, Summary, headline, number, summarise, tally

_COLOURS = 7
"""Colours of page.css (Okabe-Ito, told apart by colour-blind readers) besides the grey of predictions alone."""

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


class Gallery(NamedTuple):
    """Explanations that no attack of the run reads: one row per image, one map per method."""

    methods: list[str]
    rows: list[dict[str, Any]]


class View(NamedTuple):
    """A unit as the template shows it."""

    unit: Unit
    summary: Summary
    headline: str
    tally: str
    changed: dict[str, str]
    bars: dict[str, Bar]
    scale: tuple[str, ...]
    examples: list[dict[str, Any]]
    gallery: Gallery | None
    panels: list[dict[str, Any]]
    facts: list[tuple[str, str]]
    reproduce: str


def html(folder: Folder, level: float, workdir: Path) -> str:
    """The page of `folder`, read from `workdir`, with intervals at confidence `level`."""
    summaries = [summarise(unit, level) for unit in folder.units]
    changes = sweep.changed([unit.config for unit in folder.units])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "measure": measure, "json": lambda value: json.dumps(value, indent=2)}
    environment.filters["unbroken"] = lambda text: text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    return environment.get_template("page.html").render(
        views=[_view(*of) for of in zip(folder.units, summaries, changes, strict=True)],
        unfinished=folder.unfinished,
        comparison=sweep.compare([unit.name for unit in folder.units], summaries),
        colours=_colours(summaries),
        metrics=order(list(dict.fromkeys(metric for summary in summaries for metric in summary.metrics))),
        level=f"{level:.0%}",
        workdir=shlex.quote(str(workdir)),
    )


def _view(unit: Unit, summary: Summary, changed: dict[str, str]) -> View:
    bars, scale = _bars(summary)
    return View(
        unit=unit,
        summary=summary,
        headline=headline(summary),
        tally=tally(summary),
        changed=changed,
        bars=bars,
        scale=scale,
        examples=_examples(unit, summary) if summary.arms else [],
        gallery=_gallery(unit, summary),
        panels=_panels(unit, summary),
        facts=list(sweep.flat(unit.environment)),
        reproduce=_REPRODUCE.format(path=str(unit.path / "config.json")),
    )


def _bars(summary: Summary) -> tuple[dict[str, Bar], tuple[str, ...]]:
    """The main metric's intervals by arm, and the labels of their scale: 0 to 1 where that holds them all."""
    cells = {arm.name: arm.cells[summary.main] for arm in summary.arms if summary.main in arm.cells}
    ends = [value for cell in cells.values() for value in (*cell.values, cell.interval.low, cell.interval.high)]
    ends = [value for value in ends if value == value]
    if not ends:
        return {}, ()
    low, high = min(ends), max(ends)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0

    def percent(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    bars = {}
    for name, cell in cells.items():
        mean, half = cell.interval.mean, cell.interval.half_width if cell.half else 0.0
        if mean == mean:
            bars[name] = Bar(percent(mean - half), round(200 * half / span, 2), percent(mean))
    return bars, tuple(number(low + span * step / 4, 2) for step in range(5))


def _examples(unit: Unit, summary: Summary) -> list[dict[str, Any]]:
    """One entry per example: its original, then a group of pictures per explainer, predictions alone first."""
    arrays = unit.examples
    pictures = {
        name: [figures.picture(x) for x in arrays[name]] for name in arrays if name.startswith("reconstruction/")
    }
    pictures |= {name: figures.heatmaps(arrays[name]) for name in arrays if name.startswith("explanation/")}
    originals = [figures.picture(image) for image in arrays["images"]]
    groups: dict[str | None, list[Arm]] = {}
    for arm in summary.arms:
        groups.setdefault(arm.explainer, []).append(arm)

    def group(explainer: str | None, arms: list[Arm], index: int) -> dict[str, Any]:
        rebuilt = [
            {
                "arm": arm,
                "picture": pictures[f"reconstruction/{arm.name}"][index],
                "ssim": number(float(arrays[f"ssim/{arm.name}"][index]), 2) if f"ssim/{arm.name}" in arrays else None,
            }
            for arm in arms
        ]
        map_ = pictures[f"explanation/{explainer}"][index] if explainer else None
        return {"title": plain(explainer) if explainer else "predictions", "map": map_, "rebuilt": rebuilt}

    return [
        {"name": name, "original": original, "groups": [group(e, arms, index) for e, arms in groups.items()]}
        for index, (name, original) in enumerate(zip(unit.classes, originals, strict=True))
    ]


def _gallery(unit: Unit, summary: Summary) -> Gallery | None:
    attacked = {arm.explainer for arm in summary.arms}
    stored = [name for name in unit.examples if name.startswith("explanation/")]
    maps = {name.removeprefix("explanation/"): unit.examples[name] for name in stored}
    pictures = {name: figures.heatmaps(array) for name, array in maps.items() if name not in attacked}
    rows = [
        {"name": name, "original": figures.picture(image), "maps": [maps[index] for maps in pictures.values()]}
        for index, (name, image) in enumerate(zip(unit.classes, unit.examples["images"], strict=True))
    ]
    return Gallery([plain(name) for name in pictures], rows) if pictures else None


def _panels(unit: Unit, summary: Summary) -> list[dict[str, Any]]:
    """One entry per stage and arm: its losses; a stage's arms share their scale."""
    labels = {arm.name: arm.label for arm in summary.arms}
    panels = []
    for stage, arm in dict.fromkeys((line["stage"], line["arm"]) for line in unit.curves):
        lines = [line for line in unit.curves if line["stage"] == stage]
        limits = figures.limits(lines)
        svg = figures.curves([line for line in lines if line["arm"] == arm], limits)
        panels.append({"stage": plain(stage), "arm": arm, "label": labels.get(arm, ""), "svg": svg})
    return panels


def _colours(summaries: Iterable[Summary]) -> dict[str, str]:
    """The CSS class of each arm, one per explainer and the same in every unit; grey is for predictions alone."""
    arms = [arm for summary in summaries for arm in summary.arms]
    explainers = list(dict.fromkeys(arm.explainer for arm in arms if arm.explainer))
    return {arm.name: f"c{explainers.index(arm.explainer) % _COLOURS + 1}" if arm.explainer else "c0" for arm in arms}
