"""Properties of explanations that may make them leak membership, beside how much they leak."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from xinv.report.cells import Cell, Rows, cell, of_metric
from xinv.report.folder import Unit
from xinv.report.league import Entry, League
from xinv.report.measures import measure, plain

_COMPARED = "gini", "kurtosis", "l2", "max_sensitivity"
"""Properties of a map, each measured for members and for others."""
_FREE = "gini", "kurtosis", "max_sensitivity"
"""Properties without a unit, comparable over explainers as they are."""
_LEAST = 5
"""Least number of explainers of a correlation."""


class Line(NamedTuple):
    """One explainer.

    Attributes:
      label: the explainer.
      entry: the most successful attack on it.
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
      target: how far the target memorised its training images, in a sentence; empty if unknown.
    """

    columns: list[str]
    lines: list[Line]
    correlations: list[str]
    target: str


def table(unit: Unit, league: League) -> Table | None:
    """The causes in a unit's rows; None without any."""
    rows = [row for row in unit.rows if row["stage"] == "cause"]
    # Entries are sorted by AUC, so the first on an explainer is the most successful one.
    entries = {}
    for entry in league.entries:
        if entry.explainer and not entry.defence:
            entries.setdefault(entry.explainer, entry)

    # One line per attacked explainer with measured properties
    target = _target(unit.rows, league.level)
    columns = _columns(rows)
    lines = []
    for name, entry in entries.items():
        mine = [row for row in rows if row["arm"] == name]
        if mine:
            cells = [_cell(mine, column, league.level) for column in columns]
            lines.append(Line(plain(name), entry, cells))
    if lines:
        return Table(columns, lines, _correlations(columns, lines), target)
    # The target's gap alone explains much of what a membership attack finds.
    if target:
        return Table([], [], [], target)
    return None


def _columns(rows: Rows) -> list[str]:
    """The metrics of `rows`, in the order of `_COMPARED`."""
    known = {row["metric"] for row in rows}
    columns = []
    for name in _COMPARED:
        for metric in (f"{name}_members", f"{name}_others"):
            if metric in known:
                columns.append(metric)
    return columns


def _cell(rows: Rows, metric: str, level: float) -> Cell | None:
    mine = of_metric(rows, metric)
    if mine:
        return cell(mine, _digits(rows, metric), level)
    return None


def _digits(rows: Rows, metric: str) -> int:
    """Decimals shown of an explainer's rows; sizes of maps have three significant figures."""
    # Each explainer's maps have a unit of their own, so fixed decimals would not suit all.
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
        if f"{name}_members" not in columns or f"{name}_others" not in columns:
            continue
        members = _means(columns, lines, f"{name}_members")
        others = _means(columns, lines, f"{name}_others")

        # The property itself, where it has no unit
        if name in _FREE:
            both = (members + others) / 2
            found += _correlation(_word(name), both, lines)

        # Its gap between members and others, which an attack could use directly
        gaps = members - others
        found += _correlation(f"{_word(name)} of members minus others", gaps, lines)
    return found


def _means(columns: list[str], lines: list[Line], metric: str) -> np.ndarray:
    """The mean of each line [n], NaN where it has none."""
    column = columns.index(metric)
    means = []
    for line in lines:
        found = line.cells[column]
        means.append(math.nan if found is None else found.interval.mean)
    return np.array(means)


def _correlation(name: str, values: np.ndarray, lines: list[Line]) -> list[str]:
    """Spearman's correlation of `values` [n] with the lines' AUC, in a sentence; [] without one."""
    areas = np.array([line.entry.auc.value for line in lines])
    known = np.isfinite(values)
    values = values[known]
    areas = areas[known]
    if len(values) < _LEAST:
        return []
    # A constant has no ranks
    if len(set(values)) < 2 or len(set(areas)) < 2:
        return []
    rank, p = spearmanr(values, areas)
    shown = f"{rank:.2f}".replace("-", "−")
    return [f"{name}: ρ = {shown}, p = {p:.2g}, {len(values)} explainers"]


def _word(name: str) -> str:
    return measure(f"{name}_members").label.partition(",")[0]


def _target(rows: Rows, level: float) -> str:
    """The target's accuracy on its training images and on others, and what the gap gives away."""
    mine = [row for row in rows if row["stage"] == "target"]
    trained = _cell(mine, "train_accuracy", level)
    gap = _cell(mine, "generalisation_gap", level)
    if trained is None or gap is None:
        return ""
    learned = trained.interval.mean
    more = gap.interval.mean
    # To call an example a member if it is classified correctly has the gap as its advantage
    # (Yeom 2018), which is twice the balanced accuracy above 0.5.
    return (
        f"The target is right on {100 * learned:.1f}% of its training images and on"
        f" {100 * (learned - more):.1f}% of others. To take each image that it classifies correctly"
        f" for a training image has by that alone a balanced accuracy of {0.5 + more / 2:.3f}."
    )
