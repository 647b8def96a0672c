"""A workdir's figures as plain text."""

import textwrap
from collections.abc import Sequence

from xinv.report import control, defences, published
from xinv.report.folder import Unit
from xinv.report.headline import defended, headline
from xinv.report.league import Entry, League
from xinv.report.measures import measure, plain
from xinv.report.summary import Summary, summarise

_Columns = list[list[str]]


def text(units: Sequence[Unit], level: float, width: int) -> str:
    """Every unit's headline, tables and footnote, then what is published beside it, in `width`
    columns.

    A wider table continues in a second one below.
    """
    summaries = [summarise(unit, level) for unit in units]
    parts = [_unit(*of, width) for of in zip(units, summaries, strict=True)]
    return "\n\n".join([*parts, *_published(units, summaries, width)])


def _unit(unit: Unit, summary: Summary, width: int) -> str:
    said = f"{unit.name}: {headline(summary)} {defended(summary)} {control.sentence(unit, summary)}"
    first, last = (textwrap.fill(t, width) for t in (said, _footnote(summary)))
    if summary.league and not summary.arms:
        tables = []
    else:
        tables = _tables(_attacks(summary), width)
    tables += _tables(_league(summary.league), width) if summary.league else []
    return "\n\n".join([first, *tables, *_tables(_defences(summary), width), last])


def _attacks(summary: Summary) -> _Columns:
    """The table by columns: labels, then one per metric."""
    columns = [["attacker sees", *(arm.label for arm in summary.arms)]]
    for metric in summary.metrics:
        texts = []
        for arm in summary.arms:
            texts.append(arm.cells[metric].text if metric in arm.cells else "-")
        columns.append([measure(metric).label, *texts])
    return columns


def _league(found: League) -> _Columns:
    """The membership attacks by columns: labels, verdicts, figures, and the AUC of each control."""
    entries = found.entries
    columns = [["attacker sees", *(entry.label for entry in entries)]]
    columns += [["verdict", *(entry.verdict for entry in entries)]]
    columns += [["AUC", *(entry.text for entry in entries)]]
    if any(entry.restarts for entry in entries):
        texts = [entry.restarts.ends if entry.restarts else "-" for entry in entries]
        columns.append(["single networks", *texts])
    for model in found.models:
        texts = [_control(entry, model) for entry in entries]
        columns.append([f"AUC, {plain(model)}", *texts])

    # Rates that are not resolved are marked
    for name in found.rates:
        rates = [entry.rates.get(name) for entry in entries]
        texts = []
        for rate in rates:
            texts.append(f"{rate.tpr.text}{'' if rate.resolved else '?'}" if rate else "-")
        columns.append([measure(name).label, *texts])

    for name in found.figures:
        texts = []
        for entry in entries:
            texts.append(entry.figures[name].text if name in entry.figures else "-")
        columns.append([measure(name).label, *texts])
    for name in found.releases:
        texts = []
        for entry in entries:
            texts.append(entry.release[name].text if name in entry.release else "-")
        columns.append([measure(name).label, *texts])
    return columns


def _control(entry: Entry, model: str) -> str:
    """The AUC of the controls by a model; one that leaks is marked."""
    mine = [control for control in entry.controls if control.model == model]
    return ", ".join(f"{control.auc.text}{'!' if control.leaks else ''}" for control in mine) or "-"


def _defences(summary: Summary) -> _Columns:
    """Labels of the defended arms, what became of the release, and how much of the leak each takes
    away.
    """
    rows = [
        of
        for group in defences.groups(summary)
        for of in zip(group.arms, group.closed, strict=True)
    ]
    rows = [(arm, closed) for arm, closed in rows if arm.defence]
    if not rows:
        return []
    columns = [["released", *(arm.label for arm, _ in rows)]]
    for metric in summary.releases:
        texts = []
        for arm, _ in rows:
            texts.append(arm.release[metric].text if metric in arm.release else "-")
        columns.append([measure(metric).label, *texts])
    return [
        *columns,
        ["distance closed", *(defences.share(closed) if closed else "-" for _, closed in rows)],
    ]


def _published(
    units: Sequence[Unit],
    summaries: Sequence[Summary],
    width: int,
) -> list[str]:
    """One table per source, under its name."""
    parts = []
    for table in published.tables(units, summaries):
        lines = [line for group in table.groups for line in group]
        where = []
        for line in lines:
            where.append(f"{line.unit}: {line.arm}" if len(units) > 1 else line.arm)
        measured = []
        for line in lines:
            measured.append(
                f"{line.measured or '-'}{f' ± {line.interval}' if line.interval else ''}"
            )
        columns = [
            [
                table.source,
                *(f"{place}, {line.metric}" for place, line in zip(where, lines, strict=True)),
            ]
        ]
        columns += [["published", *(line.published for line in lines)], ["measured", *measured]]
        columns += [
            ["difference", *(line.difference for line in lines)],
            ["verdict", *(line.verdict for line in lines)],
        ]
        parts += _tables(columns, width)
        if table.by_chance:
            parts.append("*: within chance")
        parts += [f"{arm}: {note}" for arm, note in table.notes]
        parts.append(
            f"{table.within} of {table.measured} within two published deviations or"
            f" {table.tolerance}"
        )
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
    if summary.seeds > 1:
        spread = f"{summary.seeds} seeds, mean ± {summary.level:.0%} confidence interval"
    else:
        spread = "1 seed"
    models = [f"{label} {cell.text}" for label, _, cell in summary.models]
    return "; ".join(
        [*models, spread, f"{summary.examples} images per seed", *_marks(summary.league)]
    )


def _marks(league: League | None) -> list[str]:
    """What the marks of a league's table mean, as far as it has them."""
    if league is None:
        return []
    marks = []
    for at, ends in league.unresolved:
        marks.append(f"?: unresolved, true FPR at {at} within {ends}")
    if any(control.leaks for control in league.controls):
        marks.append("!: the control leaks")
    return marks
