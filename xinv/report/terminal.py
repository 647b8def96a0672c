"""A workdir's figures as plain text."""

import itertools
import textwrap
from collections.abc import Sequence

from xinv.report import control, defences, published
from xinv.report.cells import Cell
from xinv.report.folder import Unit
from xinv.report.headline import defended, headline
from xinv.report.league import Entry, Figure, League, Rate
from xinv.report.measures import measure, plain
from xinv.report.summary import Summary, summarise

_Columns = list[list[str]]


def text(units: Sequence[Unit], level: float, width: int) -> str:
    """The figures of units: headline, tables and footnote of each, then published figures.

    Args:
      units: of the workdir.
      level: confidence level of the intervals, in (0,1).
      width: columns of the terminal; a wider table continues in a second one below.
    """
    summaries = [summarise(unit, level) for unit in units]
    parts = []
    for unit, summary in zip(units, summaries, strict=True):
        parts.append(_unit(unit, summary, width))
    return "\n\n".join([*parts, *_published(units, summaries, width)])


def _unit(unit: Unit, summary: Summary, width: int) -> str:
    """One unit: headline, tables and footnote."""
    said = f"{unit.name}: {headline(summary)} {defended(summary)} {control.sentence(unit, summary)}"
    parts = [textwrap.fill(said, width)]
    # A unit of membership attacks alone has no table of reconstructions.
    if summary.arms or not summary.league:
        parts += _tables(_attacks(summary), width)
    if summary.league:
        parts += _tables(_league(summary.league), width)
    parts += _tables(_defences(summary), width)
    parts.append(textwrap.fill(_footnote(summary), width))
    return "\n\n".join(parts)


def _attacks(summary: Summary) -> _Columns:
    """The table by columns: labels, then one per metric."""
    columns = [["attacker sees", *(arm.label for arm in summary.arms)]]
    for metric in summary.metrics:
        texts = [_shown(arm.cells.get(metric)) for arm in summary.arms]
        columns.append([measure(metric).label, *texts])
    return columns


def _shown(found: Cell | Figure | None) -> str:
    """A figure in a table."""
    if found is None:
        return "-"
    return found.text


def _league(found: League) -> _Columns:
    """The membership attacks by columns: labels, verdicts, figures, and the AUC of each control."""
    entries = found.entries
    labels = ["attacker sees"]
    verdicts = ["verdict"]
    areas = ["AUC"]
    ranges = ["single networks"]
    for entry in entries:
        labels.append(entry.label)
        verdicts.append(entry.verdict)
        areas.append(entry.text)
        ranges.append(entry.restarts.ends if entry.restarts else "-")
    columns = [labels, verdicts, areas]
    if any(entry.restarts for entry in entries):
        columns.append(ranges)

    # The controls' AUC are next to the attack's: if both are high, the leak is not of the model.
    for model in found.models:
        texts = [_control(entry, model) for entry in entries]
        columns.append([f"AUC, {plain(model)}", *texts])

    # Rates, other metrics, and costs of the release
    for name in found.rates:
        texts = [_rate(entry.rates.get(name)) for entry in entries]
        columns.append([measure(name).label, *texts])
    for name in found.figures:
        texts = [_shown(entry.figures.get(name)) for entry in entries]
        columns.append([measure(name).label, *texts])
    for name in found.releases:
        texts = [_shown(entry.release.get(name)) for entry in entries]
        columns.append([measure(name).label, *texts])
    return columns


def _control(entry: Entry, model: str) -> str:
    """The AUC of the controls by a model; one with a leak is marked."""
    texts = []
    for found in entry.controls:
        if found.model == model:
            mark = "!" if found.leaks else ""
            texts.append(f"{found.auc.text}{mark}")
    return ", ".join(texts) or "-"


def _rate(found: Rate | None) -> str:
    """A true-positive rate; an unresolved one is marked."""
    if found is None:
        return "-"
    mark = "" if found.resolved else "?"
    return f"{found.tpr.text}{mark}"


def _defences(summary: Summary) -> _Columns:
    """The table by columns: labels, costs of the release, and the share of the leak closed."""
    # Undefended arms are in the table of attacks already.
    arms = []
    shares = []
    for group in defences.groups(summary):
        for arm, closed in zip(group.arms, group.closed, strict=True):
            if arm.defence:
                arms.append(arm)
                shares.append(defences.share(closed) if closed else "-")
    if not arms:
        return []
    columns = [["released", *(arm.label for arm in arms)]]
    for metric in summary.releases:
        texts = [_shown(arm.release.get(metric)) for arm in arms]
        columns.append([measure(metric).label, *texts])
    columns.append(["distance closed", *shares])
    return columns


def _published(
    units: Sequence[Unit],
    summaries: Sequence[Summary],
    width: int,
) -> list[str]:
    """One table per source, under its name."""
    parts = []
    for table in published.tables(units, summaries):
        lines = list(itertools.chain(*table.groups))
        columns = [[table.source], ["published"], ["measured"], ["difference"], ["verdict"]]
        for line in lines:
            label = f"{line.arm}, {line.metric}"
            if len(units) > 1:
                label = f"{line.unit}: {label}"
            value = line.measured or "-"
            if line.interval:
                value = f"{value} ± {line.interval}"
            texts = (label, line.published, value, line.difference, line.verdict)
            for column, text in zip(columns, texts, strict=True):
                column.append(text)
        parts += _tables(columns, width)

        # Notes explain the marks and the verdicts of the table above them.
        if table.by_chance:
            parts.append("*: within chance")
        parts += [f"{arm}: {note}" for arm, note in table.notes]
        parts.append(
            f"{table.within} of {table.measured} within two published deviations or"
            f" {table.tolerance}"
        )
    return parts


def _tables(columns: _Columns, width: int) -> list[str]:
    """The columns as text, in several tables where `width` is too small for one."""
    blocks: list[_Columns] = []
    used = width + 1
    for column in columns[1:]:
        # Each further table begins with the labels again.
        wide = max(map(len, column))
        if used + 2 + wide > width:
            blocks.append([columns[0]])
            used = max(map(len, columns[0]))
        blocks[-1].append(column)
        used += 2 + wide
    return ["\n".join(_lines(block)) for block in blocks]


def _lines(columns: _Columns) -> list[str]:
    """The lines of a table, with a rule below its head."""
    # Labels are to the left, figures to the right.
    widths = [max(map(len, column)) for column in columns]
    head, *body = (_line(row, widths) for row in zip(*columns, strict=True))
    return [head, "-" * len(head), *body]


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells])


def _footnote(summary: Summary) -> str:
    """Figures of the models, numbers of seeds and images, and the meaning of marks."""
    parts = [f"{label} {cell.text}" for label, _, cell in summary.models]
    # One seed has no interval
    if summary.seeds > 1:
        parts.append(f"{summary.seeds} seeds, mean ± {summary.level:.0%} confidence interval")
    else:
        parts.append("1 seed")
    parts.append(f"{summary.examples} images per seed")
    return "; ".join([*parts, *_marks(summary.league)])


def _marks(league: League | None) -> list[str]:
    """The meaning of the marks in a league's table; [] without marks."""
    if league is None:
        return []
    marks = []
    for at, ends in league.unresolved:
        marks.append(f"?: unresolved, true FPR at {at} within {ends}")
    if any(control.leaks for control in league.controls):
        marks.append("!: the control leaks")
    return marks
