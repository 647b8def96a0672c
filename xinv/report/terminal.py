"""A workdir's figures as plain text."""

import textwrap
from collections.abc import Sequence

from xinv.report import defences, published
from xinv.report.folder import Unit
from xinv.report.headline import defended, headline
from xinv.report.measures import measure
from xinv.report.summary import Summary, summarise

_Columns = list[list[str]]


def text(units: Sequence[Unit], level: float, width: int) -> str:
    """Every unit's headline, tables and footnote, then what is published beside it, in `width` columns.

    A wider table continues in a second one below.
    """
    summaries = [summarise(unit, level) for unit in units]
    parts = [_unit(*of, width) for of in zip(units, summaries, strict=True)]
    return "\n\n".join([*parts, *_published(units, summaries, width)])


def _unit(unit: Unit, summary: Summary, width: int) -> str:
    said = f"{unit.name}: {headline(summary)} {defended(summary)}"
    first, last = (textwrap.fill(t, width) for t in (said, _footnote(summary)))
    tables = _tables(_attacks(summary), width)
    return "\n\n".join([first, *tables, *_tables(_defences(summary), width), last])


def _attacks(summary: Summary) -> _Columns:
    """The table by columns: labels, then one per metric."""
    columns = [["attacker sees", *(arm.label for arm in summary.arms)]]
    for metric in summary.metrics:
        texts = [arm.cells[metric].text if metric in arm.cells else "-" for arm in summary.arms]
        columns.append([measure(metric).label, *texts])
    return columns


def _defences(summary: Summary) -> _Columns:
    """Labels of the defended arms, what became of the release, and how much of the leak each takes away."""
    rows = [of for group in defences.groups(summary) for of in zip(group.arms, group.closed, strict=True)]
    rows = [(arm, closed) for arm, closed in rows if arm.defence]
    if not rows:
        return []
    columns = [["released", *(arm.label for arm, _ in rows)]]
    for metric in summary.releases:
        texts = [arm.release[metric].text if metric in arm.release else "-" for arm, _ in rows]
        columns.append([measure(metric).label, *texts])
    return [*columns, ["distance closed", *(defences.share(closed) if closed else "-" for _, closed in rows)]]


def _published(units: Sequence[Unit], summaries: Sequence[Summary], width: int) -> list[str]:
    """One table per source, under its name."""
    parts = []
    for table in published.tables(units, summaries):
        lines = [line for group in table.groups for line in group]
        where = [f"{line.unit}: {line.arm}" if len(units) > 1 else line.arm for line in lines]
        measured = [f"{line.measured or '-'}{f' ± {line.interval}' if line.interval else ''}" for line in lines]
        columns = [[table.source, *(f"{place}, {line.metric}" for place, line in zip(where, lines, strict=True))]]
        columns += [["published", *(line.published for line in lines)], ["measured", *measured]]
        columns += [
            ["difference", *(line.difference for line in lines)],
            ["verdict", *(line.verdict for line in lines)],
        ]
        parts += _tables(columns, width)
        parts.append(f"{table.within} of {table.measured} within two published deviations or {table.tolerance}")
    return parts


def _tables(columns: _Columns, width: int) -> list[str]:
    """The columns as text; those that do not fit beside the first one stand in further tables."""
    blocks: list[_Columns] = []
    used = width + 1
    for column in columns[1:]:
        wide = max(map(len, column))
        if used + 2 + wide > width:
            blocks.append([columns[0]])
            used = max(map(len, columns[0]))
        blocks[-1].append(column)
        used += 2 + wide
    return ["\n".join(_lines(block)) for block in blocks]


def _lines(columns: _Columns) -> list[str]:
    widths = [max(map(len, column)) for column in columns]
    head, *body = (_line(row, widths) for row in zip(*columns, strict=True))
    return [head, "-" * len(head), *body]


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells])


def _footnote(summary: Summary) -> str:
    spread = f"{summary.seeds} seeds, mean ± {summary.level:.0%} confidence interval" if summary.seeds > 1 else "1 seed"
    models = [f"{label} {cell.text}" for label, _, cell in summary.models]
    return "; ".join([*models, spread, f"{summary.examples} images per seed"])
