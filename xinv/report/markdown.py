"""A workdir's tables as Markdown, for the page of a paper (configs/<paper>.md)."""

from collections.abc import Sequence

from xinv.report import columns, control, published
from xinv.report.columns import Columns
from xinv.report.folder import Unit
from xinv.report.headline import defended, headline
from xinv.report.summary import Summary, summarise


def text(units: Sequence[Unit], level: float) -> str:
    """Returns a section per unit, with its tables, and one per published source."""
    summaries = [summarise(unit, level) for unit in units]
    parts = []
    for unit, summary in zip(units, summaries, strict=True):
        parts += _unit(unit, summary)
    for source in published.tables(units, summaries):
        parts.append(f"### {_escaped(source.source)}: measured beside published")
        parts.append(_table(columns.published(source, len(units) > 1)))
        parts.append(_listed(columns.remarks(source)))
    return "\n\n".join(parts)


def _unit(unit: Unit, summary: Summary) -> list[str]:
    """One unit: name, sentences, tables and footnote."""
    # A sentence may be empty
    said = [headline(summary), defended(summary), control.sentence(unit, summary)]
    parts = [f"### {_escaped(unit.name)}", _escaped(" ".join(filter(None, said)))]
    parts += [_table(table) for table in columns.tables(summary)]
    return [*parts, _escaped(columns.footnote(summary))]


def _table(table: Columns) -> str:
    """One line per row; labels to the left, figures to the right."""
    head, *body = zip(*table, strict=True)
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(_row(row) for row in (head, rule, *body))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    """Keeps the signs of a text from being read as Markdown."""
    for sign in "\\|*_<`":
        text = text.replace(sign, f"\\{sign}")
    return text
