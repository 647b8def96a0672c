"""Trainings with differential privacy side by side: ε, accuracy, and what attacks still find."""

from collections.abc import Sequence
from typing import NamedTuple

from xinv.report.cells import Cell, cell
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
      entries: the attacks that find most, on predictions and on explanations; None without one.
      bound: the attack whose lower bound of ε is the largest; None without one.
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
    lines = []
    for place, (unit, summary) in enumerate(
        zip(
            units,
            summaries,
            strict=True,
        ),
        start=1,
    ):
        if summary.league:
            lines.append(_line(place, unit, summary, level))
    private = [line for line in lines if line.private]
    if not private:
        return None

    # One unit without noise is enough to compare with
    lines = [line for line in lines if not line.private][:1] + private
    kept = [at for at in range(len(_COLUMNS)) if any(line.cells[at] for line in lines)]
    deltas = {
        f"{row['value']:g}" for unit in units for row in unit.rows if row["metric"] == "delta"
    }
    return Table(
        columns=[_COLUMNS[at] for at in kept],
        deltas=sorted(deltas),
        lines=[line._replace(cells=[line.cells[at] for at in kept]) for line in lines],
    )


def _line(place: int, unit: Unit, summary: Summary, level: float) -> Line:
    mine = [row for row in unit.rows if row["stage"] == _TARGET]
    cells = []
    for name in _COLUMNS:
        found = [row for row in mine if row["metric"] == name]
        cells.append(cell(found, measure(name).digits, level) if found else None)
    # Entries stand in the order of their AUC
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
