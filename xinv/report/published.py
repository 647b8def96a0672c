"""Published figures beside measured ones."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from xinv.report.cells import Cell, cell, number, signed
from xinv.report.folder import Unit
from xinv.report.measures import measure, plain
from xinv.report.summary import Summary

_TOLERANCE = 0.05
"""Largest difference of two figures that agree, as a share of the published one."""


class Line(NamedTuple):
    """One published figure.

    Attributes:
      unit: the unit that measured it.
      arm: label of the attack or the model.
      metric: the metric's label.
      published: mean ± standard deviation as shown, the latter where it is published; with "*"
        where chance gives the figure too.
      measured: the unit's mean as shown; None where the unit has none.
      interval: half width of its interval as shown; empty for one seed.
      difference: measured − published, signed; empty where nothing was measured.
      verdict: "within", the signed difference in percent of the published figure (the difference
        itself where that figure is 0), or "not measured".
    """

    unit: str
    arm: str
    metric: str
    published: str
    measured: str | None
    interval: str
    difference: str
    verdict: str


class Table(NamedTuple):
    """The figures of one source, for example "Table 4".

    Attributes:
      source: its name in the config.
      groups: the lines of one unit and arm each, in the config's order.
      within: number of measured figures that agree with the published ones.
      measured: number of measured figures.
      by_chance: True if chance gives one of the published figures too.
      notes: attack or model, and a note on its figures, each once.
      tolerance: largest difference beside two standard deviations, as shown: "5%".
    """

    source: str
    groups: tuple[tuple[Line, ...], ...]
    within: int
    measured: int
    by_chance: bool
    notes: tuple[tuple[str, str], ...]
    tolerance: str


def tables(units: Sequence[Unit], summaries: Sequence[Summary]) -> list[Table]:
    """One table per source in the units' configs, over all units."""
    sources: dict[str, list[tuple[Unit, Summary, dict[str, Any]]]] = {}
    for unit, summary in zip(units, summaries, strict=True):
        for entry in unit.published:
            sources.setdefault(entry["source"], []).append((unit, summary, entry))
    return [_table(source, entries) for source, entries in sources.items()]


def within(measured: float, value: float, spread: float | None) -> bool:
    """True if two means agree.

    Args:
      measured: mean over seeds.
      value: the published mean.
      spread: its published standard deviation; None without one.

    Returns:
      True if the means differ by at most two `spread`, or by 5 % of `value`.
    """
    return abs(measured - value) <= max(2 * (spread or 0.0), _TOLERANCE * abs(value))


def _table(source: str, entries: list[tuple[Unit, Summary, dict[str, Any]]]) -> Table:
    """The table of one source."""
    # A metric has the decimals of its most precise published figure.
    digits: dict[str, int] = {}
    for *_, entry in entries:
        metric = entry["metric"]
        known = digits.get(metric, measure(metric).digits)
        digits[metric] = max(known, _decimals(entry["value"]))

    # Lines of one unit and arm are a group; a note of several lines is given once.
    lines = []
    groups: dict[tuple[str, str], list[Line]] = {}
    notes = {}
    for unit, summary, entry in entries:
        line = _line(unit, summary, entry, digits[entry["metric"]])
        lines.append(line)
        groups.setdefault((unit.name, entry["arm"]), []).append(line)
        if "note" in entry:
            notes[_label(summary, entry), entry["note"]] = None
    return Table(
        source,
        tuple(map(tuple, groups.values())),
        within=sum(line.verdict == "within" for line in lines),
        measured=sum(line.measured is not None for line in lines),
        by_chance=any(_by_chance(entry) for *_, entry in entries),
        notes=tuple(notes),
        tolerance=f"{100 * _TOLERANCE:g}%",
    )


def _line(unit: Unit, summary: Summary, entry: dict[str, Any], digits: int) -> Line:
    """One published figure beside the unit's."""
    value = entry["value"]
    published = number(value, digits)
    if entry["spread"] is not None:
        published += f" ± {number(entry['spread'], digits)}"
    if _by_chance(entry):
        published += "*"
    line = Line(
        unit=unit.name,
        arm=_label(summary, entry),
        metric=measure(entry["metric"]).label,
        published=published,
        measured=None,
        interval="",
        difference="",
        verdict="not measured",
    )
    # A published arm may not be in this run.
    found = _measured(unit, entry["arm"], entry["metric"], digits, summary.level)
    if found is None:
        return line
    return line._replace(
        measured=found.mean,
        interval=found.half,
        difference=signed(found.interval.mean - value, digits),
        verdict=_verdict(found.interval.mean, entry, digits),
    )


def _label(summary: Summary, entry: dict[str, Any]) -> str:
    return summary.labels.get(entry["arm"], plain(entry["arm"]))


def _by_chance(entry: dict[str, Any]) -> bool:
    """True if a published figure is at most the upper end of the figure by chance."""
    band = entry.get("band")
    return band is not None and entry["value"] <= band


def _verdict(mean: float, entry: dict[str, Any], digits: int) -> str:
    """The verdict on a measured mean."""
    value = entry["value"]
    if within(mean, value, entry["spread"]):
        return "within"
    # A published 0 has no percentage
    if value:
        return f"{signed(100 * (mean - value) / abs(value), 1)}%"
    return signed(mean, digits)


def _measured(unit: Unit, arm: str, metric: str, digits: int, level: float) -> Cell | None:
    """The unit's figure; None without one."""
    rows = [row for row in unit.rows if (row["arm"], row["metric"]) == (arm, metric)]
    if not rows:
        return None
    # The defence of an arm may have a metric of the same name: papers state the attack's.
    stages = [row["stage"] for row in rows]
    stage = "attack" if "attack" in stages else stages[0]
    return cell([row for row in rows if row["stage"] == stage], digits, level)


def _decimals(value: float) -> int:
    """Decimals of a figure as stated, at most 4."""
    # repr is the shortest text that gives the value back, so it is as in the config.
    return min(4, max(0, -Decimal(repr(value)).as_tuple().exponent))
