"""A workdir's figures as plain text."""

import textwrap
from collections.abc import Sequence

from xinv.report import columns, control, published
from xinv.report.columns import Columns
from xinv.report.folder import Unit
from xinv.report.headline import defended, headline
from xinv.report.summary import Summary, summarise


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
    for table in published.tables(units, summaries):
        parts += _blocks(columns.published(table, len(units) > 1), width)
        parts += columns.remarks(table)
    return "\n\n".join(parts)


def _unit(unit: Unit, summary: Summary, width: int) -> str:
    """One unit: headline, tables and footnote."""
    said = f"{unit.name}: {headline(summary)} {defended(summary)} {control.sentence(unit, summary)}"
    parts = [textwrap.fill(said, width)]
    for table in columns.tables(summary):
        parts += _blocks(table, width)
    parts.append(textwrap.fill(columns.footnote(summary), width))
    return "\n\n".join(parts)


def _blocks(table: Columns, width: int) -> list[str]:
    """The columns as text, in several tables where `width` is too small for one."""
    blocks: list[Columns] = []
    used = width + 1
    for column in table[1:]:
        # Each further table begins with the labels again.
        wide = max(map(len, column))
        if used + 2 + wide > width:
            blocks.append([table[0]])
            used = max(map(len, table[0]))
        blocks[-1].append(column)
        used += 2 + wide
    return ["\n".join(_lines(block)) for block in blocks]


def _lines(block: Columns) -> list[str]:
    """The lines of a table, with a rule below its head."""
    # Labels are to the left, figures to the right.
    widths = [max(map(len, column)) for column in block]
    head, *body = (_line(row, widths) for row in zip(*block, strict=True))
    return [head, "-" * len(head), *body]


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells])
