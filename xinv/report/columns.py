"""A unit's tables as columns of text, each under its heading: for a terminal and for Markdown."""

from collections.abc import Mapping, Sequence

from xinv.report import defences
from xinv.report import published as papers
from xinv.report.cells import Cell
from xinv.report.league import Entry, Figure, League, Rate
from xinv.report.measures import measure, plain
from xinv.report.summary import Summary

Columns = list[list[str]]
"""Cells of one length per column; the first is the heading, the first column has the labels."""


def tables(summary: Summary) -> list[Columns]:
    """Returns the tables of a unit's attacks and of its defended releases, those that it has."""
    found = [] if summary.league and not summary.arms else [_attacks(summary)]
    if summary.league:
        found.append(_league(summary.league))
    defended = _defences(summary)
    return [*found, defended] if defended else found


def published(table: papers.Table, several: bool) -> Columns:
    """Returns one source's figures beside the measured ones; labels name the unit if `several`."""
    lines = [line for group in table.groups for line in group]
    labels, measured = [], []
    for line in lines:
        arm = f"{line.unit}: {line.arm}" if several else line.arm
        labels.append(f"{arm}, {line.metric}")
        interval = f" ± {line.interval}" if line.interval else ""
        measured.append(f"{line.measured or '-'}{interval}")
    return [
        [table.source, *labels],
        ["published", *(line.published for line in lines)],
        ["measured", *measured],
        ["difference", *(line.difference for line in lines)],
        ["verdict", *(line.verdict for line in lines)],
    ]


def remarks(table: papers.Table) -> list[str]:
    """Returns what is to be known of a source's figures, and how many agree."""
    found = ["*: within chance"] if table.by_chance else []
    found += [f"{arm}: {note}" for arm, note in table.notes]
    agree = f"{table.within} of {table.measured} within two published deviations or"
    return [*found, f"{agree} {table.tolerance}"]


def footnote(summary: Summary) -> str:
    """Returns the classifiers' figures, the number of seeds and images, and the marks' meaning."""
    models = [f"{label} {cell.text}" for label, _, cell in summary.models]
    spread = "1 seed"
    if summary.seeds > 1:
        spread = f"{summary.seeds} seeds, mean ± {summary.level:.0%} confidence interval"
    images = f"{summary.examples} images per seed"
    return "; ".join([*models, spread, images, *_marks(summary.league)])


def _attacks(summary: Summary) -> Columns:
    """Labels of the attacks that rebuild images, then one column per metric."""
    columns = [["attacker sees", *(arm.label for arm in summary.arms)]]
    for metric in summary.metrics:
        columns.append(_column(metric, [arm.cells for arm in summary.arms]))
    return columns


def _league(found: League) -> Columns:
    """Labels of the membership attacks, verdicts, figures, and the AUC of each control."""
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

    for name in found.rates:
        rates = [entry.rates.get(name) for entry in entries]
        columns.append([measure(name).label, *map(_rate, rates)])

    for name in found.figures:
        columns.append(_column(name, [entry.figures for entry in entries]))
    for name in found.releases:
        columns.append(_column(name, [entry.release for entry in entries]))
    return columns


def _column(metric: str, rows: Sequence[Mapping[str, Cell | Figure]]) -> list[str]:
    """The metric's label, and its figure in each row; "-" if a row has none."""
    texts = []
    for figures in rows:
        texts.append(figures[metric].text if metric in figures else "-")
    return [measure(metric).label, *texts]


def _rate(rate: Rate | None) -> str:
    """The true-positive rate; one that is not resolved is marked."""
    if rate is None:
        return "-"
    return rate.tpr.text if rate.resolved else f"{rate.tpr.text}?"


def _control(entry: Entry, model: str) -> str:
    """The AUC of the controls by a model; one that leaks is marked."""
    mine = [control for control in entry.controls if control.model == model]
    return ", ".join(f"{control.auc.text}{'!' if control.leaks else ''}" for control in mine) or "-"


def _defences(summary: Summary) -> Columns:
    """Labels of the defended arms, the figures of their releases, and the share of the leak that
    each takes away; empty without a defence.
    """
    rows = []
    for group in defences.groups(summary):
        pairs = zip(group.arms, group.closed, strict=True)
        rows += [(arm, closed) for arm, closed in pairs if arm.defence]
    if not rows:
        return []
    columns = [["released", *(arm.label for arm, _ in rows)]]
    for metric in summary.releases:
        columns.append(_column(metric, [arm.release for arm, _ in rows]))
    shares = [defences.share(closed) if closed else "-" for _, closed in rows]
    return [*columns, ["distance closed", *shares]]


def _marks(league: League | None) -> list[str]:
    """What the marks of a league's table mean, as far as it has them."""
    if league is None:
        return []
    marks = [f"?: unresolved, true FPR at {at} within {ends}" for at, ends in league.unresolved]
    if any(control.leaks for control in league.controls):
        marks.append("!: the control leaks")
    return marks
