"""Rows of pictures as in the papers' figures: original, explanation, what was released, what the
attacker rebuilt.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xinv.report import pictures
from xinv.report.cells import number
from xinv.report.folder import Unit
from xinv.report.measures import plain
from xinv.report.summary import Arm, Summary

_TOGETHER = 12
"""Examples that all units of a comparison show together."""
_COLUMNS = 10
"""Columns beside the original that a page is wide enough for."""


class Column(NamedTuple):
    """One kind of picture: its heading, what it shows in words, and one picture and SSIM (or None)
    per example.
    """

    heading: str
    words: str
    pictures: Sequence[str]
    scores: Sequence[str | None]


class Strip(NamedTuple):
    """Columns that belong together: what one explanation, defended in one way, gives the attacker.

    Attributes:
      title: what is explained, or the defence where the grid names the explanation.
      arm: the arm whose colour it has.
      columns: maps first, then one reconstruction per arm.
    """

    title: str
    arm: str
    columns: tuple[Column, ...]


class Grid(NamedTuple):
    """Strips side by side, one row per example; `title` is the explanation that they defend, or
    empty.
    """

    title: str
    strips: tuple[Strip, ...]


class Gallery(NamedTuple):
    """Explanations that no attack of the run reads: one row per image, one map per method."""

    methods: list[str]
    rows: list[dict[str, Any]]


class Comparison(NamedTuple):
    """The same images explained by several units, such as networks: a row per method.

    Attributes:
      units: their names.
      originals: the pictures of the images.
      names: the images' classes.
      rows: a method, and per unit one map per image, or None if the unit lacks the method.
      ratio: of the images' width to their height.
    """

    units: list[str]
    originals: list[str]
    names: list[str]
    rows: list[tuple[str, list[list[str] | None]]]
    ratio: str


def grids(unit: Unit, summary: Summary) -> list[Grid]:
    """The run's pictures in grids of a page's width: one per defended explanation, the others side
    by side.
    """
    arms = [arm for arm in summary.arms if f"reconstruction/{arm.name}" in unit.examples]
    defended = list(dict.fromkeys(arm.explainer for arm in arms if arm.defence))
    groups: dict[tuple[str | None, str | None], list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.explainer, arm.defence), []).append(arm)
    strips = {key: _strip(unit, arms, key[0] in defended) for key, arms in groups.items()}
    others = [strip for key, strip in strips.items() if key[0] not in defended]
    found = [Grid("", part) for part in _packed(others)]
    for explainer in defended:
        mine = [strip for key, strip in strips.items() if key[0] == explainer]
        found += [Grid(plain(explainer or "predictions alone"), part) for part in _packed(mine)]
    return found


def originals(unit: Unit) -> list[str]:
    """The examples as they are."""
    return [pictures.picture(image) for image in unit.examples["images"]]


def gallery(unit: Unit, summary: Summary) -> Gallery | None:
    """The explanations that no arm reads; None where there are none."""
    maps = _unattacked(unit, summary)
    shown = {name: pictures.heatmaps(array) for name, array in maps.items()}
    rows = []
    for index, (name, original) in enumerate(
        zip(
            unit.classes,
            originals(unit),
            strict=True,
        )
    ):
        rows.append(
            {"name": name, "original": original, "maps": [maps[index] for maps in shown.values()]}
        )
    if shown:
        return Gallery([plain(name) for name in shown], rows)
    return None


def side_by_side(units: Sequence[Unit], summaries: Sequence[Summary]) -> Comparison | None:
    """Galleries of the same images as those of the first unit; None unless there are two."""
    of = zip(units, summaries, strict=True)
    found = [(unit, _unattacked(unit, summary)) for unit, summary in of]
    found = [(unit, maps) for unit, maps in found if maps]
    images = found[0][0].examples["images"] if found else None
    found = [
        (unit, maps) for unit, maps in found if np.array_equal(unit.examples["images"], images)
    ]
    if len(found) < 2:
        return None
    first = found[0][0]
    count = min(len(images), max(2, _TOGETHER // len(found)))
    rows = []
    for name in dict.fromkeys(name for _, maps in found for name in maps):
        # One colour scale for a method, so that a sign looks the same in every unit.
        arrays = [maps.get(name) for _, maps in found]
        signed = any(array.mean(axis=-1).min() < 0 for array in arrays if array is not None)
        shown = []
        for array in arrays:
            shown.append(None if array is None else pictures.heatmaps(array[:count], signed))
        rows.append((plain(name), shown))
    return Comparison(
        units=[unit.name for unit, _ in found],
        originals=originals(first)[:count],
        names=first.classes[:count],
        rows=rows,
        ratio=f"{images.shape[2]} / {images.shape[1]}",
    )


def _unattacked(unit: Unit, summary: Summary) -> dict[str, np.ndarray]:
    """The maps of the explanations that no arm reads, by name."""
    attacked = {name for arm in summary.arms if arm.explainer for name in arm.explainer.split("+")}
    stored = [name for name in unit.examples if name.startswith("explanation/")]
    maps = {name.removeprefix("explanation/"): unit.examples[name] for name in stored}
    return {name: array for name, array in maps.items() if name not in attacked}


def _strip(unit: Unit, arms: Sequence[Arm], titled: bool) -> Strip:
    """One explanation's maps under one defence, or none, and what `arms` rebuild; `titled` if the
    grid names it.
    """
    first = arms[0]
    explainer = plain(first.explainer or "predictions")
    defence = plain(first.defence or "no defence")
    maps = _released(unit, arms) if first.defence else _explained(unit, first)
    repeated = len({arm.encoder for arm in arms}) < len(arms)
    headings = [arm.name if repeated else plain(arm.encoder) for arm in arms]
    rebuilt = []
    for arm, heading in zip(arms, headings, strict=True):
        rebuilt.append(_rebuilt(unit, arm, heading if len(arms) > 1 else "rebuilt"))
    return Strip(defence if titled else explainer, first.name, (*maps, *rebuilt))


def _explained(unit: Unit, arm: Arm) -> Iterable[Column]:
    names = arm.explainer.split("+") if arm.explainer else []
    for name in names:
        heading = plain(name) if len(names) > 1 else "explanation"
        shown = pictures.heatmaps(unit.examples[f"explanation/{name}"])
        yield Column(heading, f"Explanation: {plain(name)}", shown, [None] * len(shown))


def _released(unit: Unit, arms: Sequence[Arm]) -> Iterable[Column]:
    """What the first of `arms` saw, which they share, on its explanation's scale; nothing where the
    run kept none.
    """
    name = f"release/{arms[0].name}"
    explainers = (arms[0].explainer or "").split("+")
    if name in unit.examples:
        signed = any(
            unit.examples[f"explanation/{of}"].mean(axis=-1).min() < 0 for of in explainers if of
        )
        shown = pictures.heatmaps(unit.examples[name], signed)
        yield Column("released", f"Released: {arms[0].label}", shown, [None] * len(shown))


def _rebuilt(unit: Unit, arm: Arm, heading: str) -> Column:
    shown = []
    for image in unit.examples[f"reconstruction/{arm.name}"]:
        shown.append(pictures.picture(image))
    scores = unit.examples.get(f"ssim/{arm.name}")
    if scores is None:
        texts = [None] * len(shown)
    else:
        texts = [number(float(score), 2) for score in scores]
    return Column(heading, f"Reconstruction from {arm.label}", shown, texts)


def _packed(strips: Sequence[Strip]) -> list[tuple[Strip, ...]]:
    """The strips in order, in as few rows of `_COLUMNS` columns as that allows; one that is wider
    is cut.
    """
    rows: list[list[Strip]] = []
    room = 0
    for strip in strips:
        for start in range(0, len(strip.columns), _COLUMNS):
            part = strip._replace(columns=strip.columns[start : start + _COLUMNS])
            if len(part.columns) > room:
                rows.append([])
                room = _COLUMNS
            rows[-1].append(part)
            room -= len(part.columns)
    return [tuple(row) for row in rows]
