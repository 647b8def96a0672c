"""Rows of pictures as in the papers' figures: original, explanation, release, reconstruction."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xinv.report import pictures
from xinv.report.cells import number
from xinv.report.folder import Unit
from xinv.report.measures import plain
from xinv.report.summary import Arm, Summary

_TOGETHER = 12
"""Pictures in a row of a comparison, over all units."""
_COLUMNS = 10
"""Columns of a page beside the original."""


class Column(NamedTuple):
    """One kind of picture.

    Attributes:
      heading: of the column.
      words: a description for readers who do not see the pictures.
      pictures: one per example.
      scores: the SSIM of each as shown, or None.
    """

    heading: str
    words: str
    pictures: Sequence[str]
    scores: Sequence[str | None]


class Strip(NamedTuple):
    """The columns of one explanation under one defence.

    Attributes:
      title: the explanation, or the defence where the grid names the explanation.
      arm: the arm of its colour.
      columns: maps first, then one reconstruction per arm.
    """

    title: str
    arm: str
    columns: tuple[Column, ...]


class Grid(NamedTuple):
    """Strips side by side, one row per example; `title` is the defended explanation, or empty."""

    title: str
    strips: tuple[Strip, ...]


class Gallery(NamedTuple):
    """Explanations without an attack: one row per image, one map per method."""

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
    """The run's pictures in grids of a page's width.

    Each defended explanation has grids of its own; the others are side by side.
    """
    # Attacks on the same release share its maps and so a strip.
    groups: dict[tuple[str | None, str | None], list[Arm]] = {}
    for arm in summary.arms:
        if f"reconstruction/{arm.name}" in unit.examples:
            groups.setdefault((arm.explainer, arm.defence), []).append(arm)
    defended = dict.fromkeys(explainer for explainer, defence in groups if defence)

    others = []
    strips: dict[str | None, list[Strip]] = {explainer: [] for explainer in defended}
    for (explainer, _), arms in groups.items():
        titled = explainer in defended
        place = strips[explainer] if titled else others
        place.append(_strip(unit, arms, titled))

    # Undefended explanations first, then the grids of each defended one
    found = [Grid("", part) for part in _packed(others)]
    for explainer, mine in strips.items():
        title = plain(explainer or "predictions alone")
        found += [Grid(title, part) for part in _packed(mine)]
    return found


def originals(unit: Unit) -> list[str]:
    """The examples as they are."""
    return [pictures.picture(image) for image in unit.examples["images"]]


def gallery(unit: Unit, summary: Summary) -> Gallery | None:
    """The explanations without an attack; None where there are none."""
    maps = _unattacked(unit, summary)
    if not maps:
        return None
    shown = [pictures.heatmaps(array) for array in maps.values()]
    rows = []
    for name, original, *mine in zip(unit.classes, originals(unit), *shown, strict=True):
        rows.append({"name": name, "original": original, "maps": mine})
    return Gallery([plain(name) for name in maps], rows)


def side_by_side(units: Sequence[Unit], summaries: Sequence[Summary]) -> Comparison | None:
    """Galleries of the same images as those of the first unit; None unless there are two."""
    # Maps are comparable over units if they are of the same images.
    found: list[tuple[Unit, dict[str, np.ndarray]]] = []
    for unit, summary in zip(units, summaries, strict=True):
        maps = _unattacked(unit, summary)
        if not maps:
            continue
        if not found or _same_images(unit, found[0][0]):
            found.append((unit, maps))
    if len(found) < 2:
        return None

    # As many images as a row has room for, at least two
    first = found[0][0]
    images = first.examples["images"]
    count = min(len(images), max(2, _TOGETHER // len(found)))

    # A row per method of any unit, in the order of the first one with it
    names: dict[str, None] = {}
    for _, maps in found:
        names |= dict.fromkeys(maps)
    rows = []
    for name in names:
        arrays = [maps.get(name) for _, maps in found]
        rows.append((plain(name), _alike(arrays, count)))
    return Comparison(
        units=[unit.name for unit, _ in found],
        originals=originals(first)[:count],
        names=first.classes[:count],
        rows=rows,
        ratio=f"{images.shape[2]} / {images.shape[1]}",
    )


def _same_images(unit: Unit, other: Unit) -> bool:
    return np.array_equal(unit.examples["images"], other.examples["images"])


def _alike(arrays: Sequence[np.ndarray | None], count: int) -> list[list[str] | None]:
    """The first `count` maps of each of `arrays` as pictures on one kind of colour scale."""
    # The same scale for all, so that a sign looks the same in every unit
    signed = any(_signed(array) for array in arrays if array is not None)
    shown: list[list[str] | None] = []
    for array in arrays:
        if array is None:
            shown.append(None)
        else:
            shown.append(pictures.heatmaps(array[:count], signed))
    return shown


def _signed(maps: np.ndarray) -> bool:
    """True if a map of `maps` [M,h,w,c] is negative somewhere, in the mean over channels."""
    return bool(maps.mean(axis=-1).min() < 0)


def _unattacked(unit: Unit, summary: Summary) -> dict[str, np.ndarray]:
    """The maps of the explanations without an attack, by name."""
    # An attack may read several explanations
    attacked = set()
    for arm in summary.arms:
        if arm.explainer:
            attacked.update(arm.explainer.split("+"))
    found = {}
    for stored, array in unit.examples.items():
        kind, _, name = stored.partition("/")
        if kind == "explanation" and name not in attacked:
            found[name] = array
    return found


def _strip(unit: Unit, arms: Sequence[Arm], titled: bool) -> Strip:
    """The maps of one release and the reconstructions of its attacks.

    Args:
      unit: of the pictures.
      arms: attacks on the release, at least one.
      titled: True if the grid names the explanation.
    """
    first = arms[0]
    explainer = plain(first.explainer or "predictions")
    defence = plain(first.defence or "no defence")
    maps = _released(unit, arms) if first.defence else _explained(unit, first)

    # The shortest distinct heading of each reconstruction
    encoders = {arm.encoder for arm in arms}
    rebuilt = []
    for arm in arms:
        if len(arms) == 1:
            heading = "rebuilt"
        elif len(encoders) == len(arms):
            heading = plain(arm.encoder)
        else:
            heading = arm.name
        rebuilt.append(_rebuilt(unit, arm, heading))
    return Strip(defence if titled else explainer, first.name, (*maps, *rebuilt))


def _explained(unit: Unit, arm: Arm) -> Iterable[Column]:
    """The explanations that an arm reads, one column each."""
    names = arm.explainer.split("+") if arm.explainer else []
    for name in names:
        heading = plain(name) if len(names) > 1 else "explanation"
        shown = pictures.heatmaps(unit.examples[f"explanation/{name}"])
        yield Column(heading, f"Explanation: {plain(name)}", shown, [None] * len(shown))


def _released(unit: Unit, arms: Sequence[Arm]) -> Iterable[Column]:
    """The release of all `arms`, on its explanation's colour scale; nothing if it is not kept."""
    first = arms[0]
    release = unit.examples.get(f"release/{first.name}")
    if release is None:
        return
    # The explanation decides the scale: noise may add signs without a meaning.
    explainers = first.explainer.split("+") if first.explainer else []
    signed = any(_signed(unit.examples[f"explanation/{name}"]) for name in explainers)
    shown = pictures.heatmaps(release, signed)
    yield Column("released", f"Released: {first.label}", shown, [None] * len(shown))


def _rebuilt(unit: Unit, arm: Arm, heading: str) -> Column:
    """The reconstructions of an arm, with their SSIM where it is stored."""
    shown = []
    for image in unit.examples[f"reconstruction/{arm.name}"]:
        shown.append(pictures.picture(image))
    scores = unit.examples.get(f"ssim/{arm.name}")
    texts: list[str | None] = [None] * len(shown)
    if scores is not None:
        texts = [number(float(score), 2) for score in scores]
    return Column(heading, f"Reconstruction from {arm.label}", shown, texts)


def _packed(strips: Sequence[Strip]) -> list[tuple[Strip, ...]]:
    """The strips in order, in rows of at most `_COLUMNS` columns; a wider strip is cut."""
    rows: list[list[Strip]] = []
    room = 0
    for strip in strips:
        for start in range(0, len(strip.columns), _COLUMNS):
            part = strip._replace(columns=strip.columns[start : start + _COLUMNS])
            # A strip that does not fit into the rest of a row begins the next one.
            if len(part.columns) > room:
                rows.append([])
                room = _COLUMNS
            rows[-1].append(part)
            room -= len(part.columns)
    return [tuple(row) for row in rows]
