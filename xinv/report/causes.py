"""What may make an explanation leak who was in the training set, beside how much it leaks."""

import math
from typing import NamedTuple

from scipy.stats import spearmanr

from xinv.report.cells import Cell, Rows, cell
from xinv.report.folder import Unit
from xinv.report.league import Entry, League
from xinv.report.measures import measure, plain

_COMPARED = "gini", "kurtosis", "l2", "max_sensitivity"
"""Properties of a map of which there is one for members and one for others."""
_FREE = "gini", "kurtosis", "max_sensitivity"
"""Those without a unit, which compare over explainers as they are."""
_LEAST = 5
"""Explainers that a correlation needs."""


class Line(NamedTuple):
    """One explainer.

    Attributes:
      label: the explainer.
      entry: the attack on it that finds most.
      cells: by column; None where the run has none.
    """

    label: str
    entry: Entry
    cells: list[Cell | None]


class Table(NamedTuple):
    """Properties of the explanations by explainer, the highest AUC first.

    Attributes:
      columns: metrics.
      lines: one per explainer.
      correlations: sentences; empty with too few explainers.
      target: what the target learned by heart, in a sentence; empty if unknown.
    """

    columns: list[str]
    lines: list[Line]
    correlations: list[str]
    target: str


def table(unit: Unit, league: League) -> Table | None:
    """The causes in a unit's rows; None without any."""
    rows = [row for row in unit.rows if row["stage"] == "cause"]
    entries = {}
    for entry in league.entries:
        if entry.explainer and not entry.defence:
            entries.setdefault(entry.explainer, entry)
    found = {name: [row for row in rows if row["arm"] == name] for name in entries}
    target = _target(unit.rows, league.level)
    if not any(found.values()):
        if target:
            return Table([], [], [], target)
        return None

    columns = [f"{name}_{kind}" for name in _COMPARED for kind in ("members", "others")]
    columns = [name for name in columns if any(row["metric"] == name for row in rows)]
    lines = []
    for name, mine in found.items():
        if mine:
            lines.append(
                Line(
                    plain(name),
                    entries[name],
                    [_cell(mine, column, league.level) for column in columns],
                )
            )
    return Table(columns, lines, _correlations(columns, lines), target)


def _cell(rows: Rows, metric: str, level: float) -> Cell | None:
    mine = [row for row in rows if row["metric"] == metric]
    if mine:
        return cell(mine, _digits(rows, metric), level)
    return None


def _digits(rows: Rows, metric: str) -> int:
    """Decimals shown of an explainer's rows; maps have units of their own, so sizes have three
    significant figures.
    """
    sizes = []
    for row in rows:
        if row["metric"].startswith("l2_") and row["value"] > 0:
            sizes.append(row["value"])
    if not metric.startswith("l2_") or not sizes:
        return measure(metric).digits
    return max(0, 2 - math.floor(math.log10(max(sizes))))


def _correlations(columns: list[str], lines: list[Line]) -> list[str]:
    """One sentence per property that varies over explainers."""
    found = []
    for name in _COMPARED:
        kinds = [f"{name}_{kind}" for kind in ("members", "others")]
        if set(kinds) <= set(columns):
            first, second = (_means(columns, lines, kind) for kind in kinds)
            if name in _FREE:
                found += _correlation(
                    _word(name), [(a + b) / 2 for a, b in zip(first, second, strict=True)], lines
                )
            gaps = [a - b for a, b in zip(first, second, strict=True)]
            found += _correlation(f"{_word(name)} of members minus others", gaps, lines)
    return found


def _means(columns: list[str], lines: list[Line], metric: str) -> list[float]:
    cells = [line.cells[columns.index(metric)] for line in lines]
    return [math.nan if found is None else found.interval.mean for found in cells]


def _correlation(name: str, values: list[float], lines: list[Line]) -> list[str]:
    pairs = []
    for x, line in zip(values, lines, strict=True):
        if math.isfinite(x):
            pairs.append((x, line.entry.auc.value))
    if len(pairs) < _LEAST or min(len(set(kind)) for kind in zip(*pairs, strict=True)) < 2:
        return []
    rank, p = spearmanr(*zip(*pairs, strict=True))
    return [f"{name}: ρ = {rank:.2f}".replace("-", "−") + f", p = {p:.2g}, {len(pairs)} explainers"]


def _word(name: str) -> str:
    return measure(f"{name}_members").label.partition(",")[0]


def _target(rows: Rows, level: float) -> str:
    """How much better the target knows its training images, and what that alone gives away."""
    mine = [row for row in rows if row["stage"] == "target"]
    trained, gap = (
        _cell(mine, metric, level) for metric in ("train_accuracy", "generalisation_gap")
    )
    if trained is None or gap is None:
        return ""
    learned = trained.interval.mean
    more = gap.interval.mean
    return (
        f"The target is right on {100 * learned:.1f}% of its training images and on"
        f" {100 * (learned - more):.1f}% of others. To take each image that it classifies correctly"
        f" for a training image has by that alone a balanced accuracy of {0.5 + more / 2:.3f}."
    )
