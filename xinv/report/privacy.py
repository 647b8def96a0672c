"""Trainings with differential privacy side by side: ε, accuracy and attacks."""

from collections.abc import Sequence
from typing import NamedTuple

from xinv.report.cells import Cell, cell, of_metric
from xinv.report.folder import Unit
from xinv.report.league import Entry
from xinv.report.measures import measure
from xinv.report.summary import Summary

_TARGET = "target"
_COLUMNS = ("noise", "epsilon", "epsilon_of_group", "accuracy", "generalisation_gap")


class Line(NamedTuple):
    """One unit.

    Attributes:
      place: of the unit in the sweep, from 1.
      unit: its name.
      private: True if the target is trained with noise.
      cells: by column; None where the target has none.
      entries: the most successful attacks on predictions and on explanations; None without one.
      bound: the attack with the largest lower bound of ε; None without one.
    """

    place: int
    unit: str
    private: bool
    cells: list[Cell | None]
    entries: tuple[Entry | None, Entry | None]
    bound: Entry | None


class Table(NamedTuple):
    """The units with noise, after the first one without.

    Attributes:
      columns: metrics of the target.
      deltas: the δ of the ε, as shown.
      lines: one per unit.
    """

    columns: list[str]
    deltas: list[str]
    lines: list[Line]


def table(
    units: Sequence[Unit],
    summaries: Sequence[Summary],
    level: float,
) -> Table | None:
    """The table of units with membership attacks; None if no target is trained with noise."""
    # Accuracy costs are read beside attacks, so units without these are left out.
    private = []
    plain = []
    for place, (unit, summary) in enumerate(zip(units, summaries, strict=True), start=1):
        if summary.league:
            line = _line(place, unit, summary, level)
            group = private if line.private else plain
            group.append(line)
    if not private:
        return None

    # One unit without noise is enough to compare with.
    lines = [*plain[:1], *private]

    # Columns that no unit has are left out.
    kept = []
    for at in range(len(_COLUMNS)):
        if any(line.cells[at] for line in lines):
            kept.append(at)
    shown = []
    for line in lines:
        cells = [line.cells[at] for at in kept]
        shown.append(line._replace(cells=cells))
    return Table(
        columns=[_COLUMNS[at] for at in kept],
        deltas=_deltas(units),
        lines=shown,
    )


def _deltas(units: Sequence[Unit]) -> list[str]:
    """The different δ of all units, as shown."""
    found = set()
    for unit in units:
        for row in unit.rows:
            if row["metric"] == "delta":
                found.add(f"{row['value']:g}")
    return sorted(found)


def _line(place: int, unit: Unit, summary: Summary, level: float) -> Line:
    """One unit with membership attacks; `place` counts from 1."""
    mine = [row for row in unit.rows if row["stage"] == _TARGET]
    cells = []
    for name in _COLUMNS:
        found = of_metric(mine, name)
        cells.append(cell(found, measure(name).digits, level) if found else None)

    # Entries are in the order of their AUC, so the first is the most successful. A defence of the
    # release is no part of the training.
    entries = [entry for entry in summary.league.entries if not entry.defence]
    predicted = next((entry for entry in entries if not entry.explainer), None)
    explained = next((entry for entry in entries if entry.explainer), None)
    bounded = [entry for entry in entries if "epsilon_lower_bound" in entry.figures]
    bound = max(
        bounded,
        key=lambda entry: entry.figures["epsilon_lower_bound"].value,
        default=None,
    )
    return Line(
        place,
        unit.name,
        cells[0] is not None,
        cells,
        (predicted, explained),
        bound,
    )
