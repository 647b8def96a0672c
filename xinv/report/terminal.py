"""A unit's figures as plain text."""

import textwrap

from xinv.report.folder import Unit
from xinv.report.measures import measure
from xinv.report.summary import Summary, headline, summarise


def text(unit: Unit, level: float, width: int) -> str:
    """Headline, table and footnote in `width` columns; a wider table continues in a second one below."""
    summary = summarise(unit, level)
    tables = [_table(summary, metrics) for metrics in _blocks(summary, width)]
    first, last = (textwrap.fill(t, width) for t in (f"{unit.name}: {headline(summary)}", _footnote(summary)))
    return "\n\n".join([first, *tables, last])


def _columns(summary: Summary, metrics: list[str]) -> list[list[str]]:
    """The table by columns: labels, then one per metric."""
    columns = [["attacker sees", *(arm.label for arm in summary.arms)]]
    for metric in metrics:
        texts = [arm.cells[metric].text if metric in arm.cells else "-" for arm in summary.arms]
        columns.append([measure(metric).label, *texts])
    return columns


def _blocks(summary: Summary, width: int) -> list[list[str]]:
    """The metrics in groups whose tables fit into `width`."""
    first, *rest = (max(map(len, column)) for column in _columns(summary, list(summary.metrics)))
    blocks, used = [], width + 1
    for metric, wide in zip(summary.metrics, rest, strict=True):
        if used + 2 + wide > width:
            blocks.append([])
            used = first
        blocks[-1].append(metric)
        used += 2 + wide
    return blocks


def _table(summary: Summary, metrics: list[str]) -> str:
    columns = _columns(summary, metrics)
    widths = [max(map(len, column)) for column in columns]
    head, *body = (_line(row, widths) for row in zip(*columns, strict=True))
    return "\n".join([head, "-" * len(head), *body])


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells])


def _footnote(summary: Summary) -> str:
    spread = f"{summary.seeds} seeds, mean ± {summary.level:.0%} confidence interval" if summary.seeds > 1 else "1 seed"
    models = [f"{label} {cell.text}" for label, cell in summary.models]
    return "; ".join([*models, spread, f"{summary.examples} images per seed"])
