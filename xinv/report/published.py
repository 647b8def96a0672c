"""What a paper states beside what was measured."""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from xinv.report.cells import Cell, cell, number, signed
from xinv.report.folder import Unit
from xinv.report.measures import measure, plain
from xinv.report.summary import Summary

_TOLERANCE = 0.05
"""Share of a published figure by which a measured one may differ and still count as the same."""


class Line(NamedTuple):
    """One published figure.

    Attributes:
      unit: the unit that measured it.
      arm: label of the attack or the model that it is about.
      metric: the metric's label.
      published: mean ± standard deviation as shown, without the latter where it is not published;
        "*" behind a figure that chance gives too.
      measured: the unit's figure, its mean and interval as shown; None where the unit has none.
      interval: the interval's half width as shown; empty for one seed.
      difference: measured − published, signed; empty where nothing was measured.
      verdict: "within", the signed difference in percent of the published figure (as it is where
        that is 0), or "not measured".
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
      source: what the config calls it.
      groups: the lines of one unit and arm each, in the config's order.
      within: number of measured figures that agree with the published ones.
      measured: number of measured figures.
      by_chance: True if a published figure lies within what chance gives.
      notes: the attack or model, and what is to be known of its figures, each once.
      tolerance: the share that decides it beside two standard deviations, for example "5%".
    """

    source: str
    groups: tuple[tuple[Line, ...], ...]
    within: int
    measured: int
    by_chance: bool
    notes: tuple[tuple[str, str], ...]
    tolerance: str


def tables(units: Sequence[Unit], summaries: Sequence[Summary]) -> list[Table]:
    """One table per source that the units' configs name, over all units."""
    entries = [
        (unit, summary, entry)
        for unit, summary in zip(units, summaries, strict=True)
        for entry in unit.published
    ]
    sources = dict.fromkeys(entry["source"] for *_, entry in entries)
    return [
        _table(source, [found for found in entries if found[2]["source"] == source])
        for source in sources
    ]


def within(
    measured: float, value: float, spread: float | None, tolerance: float = _TOLERANCE
) -> bool:
    """Whether two means agree: to the larger of two published standard deviations and `tolerance`
    of the published.
    """
    return abs(measured - value) <= max(2 * (spread or 0.0), tolerance * abs(value))


def _table(source: str, entries: list[tuple[Unit, Summary, dict[str, Any]]]) -> Table:
    digits = {entry["metric"]: measure(entry["metric"]).digits for *_, entry in entries}
    for *_, entry in entries:
        digits[entry["metric"]] = max(digits[entry["metric"]], _decimals(entry["value"]))
    groups: dict[tuple[str, str], list[Line]] = {}
    for unit, summary, entry in entries:
        line = _line(unit, summary, entry, digits[entry["metric"]])
        groups.setdefault((unit.name, entry["arm"]), []).append(line)
    lines = [line for group in groups.values() for line in group]
    notes = [
        (_label(summary, entry), entry["note"]) for _, summary, entry in entries if "note" in entry
    ]
    tolerances = sorted({entry.get("tolerance", _TOLERANCE) for *_, entry in entries})
    return Table(
        source,
        tuple(map(tuple, groups.values())),
        within=sum(line.verdict == "within" for line in lines),
        measured=sum(line.measured is not None for line in lines),
        by_chance=any(_by_chance(entry) for *_, entry in entries),
        notes=tuple(dict.fromkeys(notes)),
        tolerance=" or ".join(f"{100 * tolerance:g}%" for tolerance in tolerances),
    )


def _line(unit: Unit, summary: Summary, entry: dict[str, Any], digits: int) -> Line:
    value = entry["value"]
    spread = entry["spread"]
    published = number(value, digits) + ("" if spread is None else f" ± {number(spread, digits)}")
    published += "*" if _by_chance(entry) else ""
    found = _measured(unit, entry["arm"], entry["metric"], digits, summary.level)
    difference = found.interval.mean - value if found else math.nan
    return Line(
        unit=unit.name,
        arm=_label(summary, entry),
        metric=measure(entry["metric"]).label,
        published=published,
        measured=found.mean if found else None,
        interval=found.half if found else "",
        difference=signed(difference, digits) if found else "",
        verdict=_verdict(found, entry, digits),
    )


def _label(summary: Summary, entry: dict[str, Any]) -> str:
    return summary.labels.get(entry["arm"], plain(entry["arm"]))


def _by_chance(entry: dict[str, Any]) -> bool:
    """Tells if a published figure is at most the upper end of what chance gives."""
    band = entry.get("band")
    return band is not None and entry["value"] <= band


def _verdict(found: Cell | None, entry: dict[str, Any], digits: int) -> str:
    if found is None:
        return "not measured"
    value = entry["value"]
    mean = found.interval.mean
    if within(mean, value, entry["spread"], entry.get("tolerance", _TOLERANCE)):
        return "within"
    if value:
        return f"{signed(100 * (mean - value) / abs(value), 1)}%"
    return signed(mean, digits)


def _measured(unit: Unit, arm: str, metric: str, digits: int, level: float) -> Cell | None:
    """The unit's figure; that of the attack where the defence of the same arm has one of the same
    name.
    """
    rows = [row for row in unit.rows if (row["arm"], row["metric"]) == (arm, metric)]
    if any(row["stage"] == "attack" for row in rows):
        stage = "attack"
    elif rows:
        stage = rows[0]["stage"]
    else:
        stage = None
    rows = [row for row in rows if row["stage"] == stage]
    if rows:
        return cell(rows, digits, level)
    return None


def _decimals(value: float) -> int:
    """Decimals that a figure is stated with, at most 4."""
    return min(4, max(0, -Decimal(repr(value)).as_tuple().exponent))
