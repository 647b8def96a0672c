"""A unit's tables as columns of text, each under its heading: for a terminal and for Markdown."""

import itertools
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
    """Returns the tables of a unit: its attacks, and its defended releases if there are any."""
    # A unit of membership attacks alone has no table of reconstructions.
    found = []
    if summary.arms or not summary.league:
        found.append(_attacks(summary))
    if summary.league:
        found.append(_league(summary.league))
    defended = _defences(summary)
    if defended:
        found.append(defended)
    return found


def published(table: papers.Table, several: bool) -> Columns:
    """Returns one source's figures beside the measured ones; labels name the unit if `several`."""
    # The source is the heading of the labels.
    columns = [[table.source], ["published"], ["measured"], ["difference"], ["verdict"]]
    for line in itertools.chain(*table.groups):
        label = f"{line.arm}, {line.metric}"
        if several:
            label = f"{line.unit}: {label}"
        measured = line.measured or "-"
        if line.interval:
            measured = f"{measured} ± {line.interval}"
        cells = (label, line.published, measured, line.difference, line.verdict)
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    return columns


def remarks(table: papers.Table) -> list[str]:
    """Returns the notes on a source's figures, and the number of figures that agree."""
    found = []
    if table.by_chance:
        found.append("*: within chance")
    for arm, note in table.notes:
        found.append(f"{arm}: {note}")
    agree = f"{table.within} of {table.measured} within two published deviations or"
    found.append(f"{agree} {table.tolerance}")
    return found


def footnote(summary: Summary) -> str:
    """Returns the classifiers' figures, the number of seeds and images, and the marks' meaning."""
    parts = [f"{label} {cell.text}" for label, _, cell in summary.models]
    # One seed has no interval
    if summary.seeds > 1:
        parts.append(f"{summary.seeds} seeds, mean ± {summary.level:.0%} confidence interval")
    else:
        parts.append("1 seed")
    parts.append(f"{summary.examples} {summary.kind} per seed")
    parts += _marks(summary.league)
    return "; ".join(parts)


def _attacks(summary: Summary) -> Columns:
    """Labels of the attacks on images, then one column per metric."""
    columns = [["attacker sees", *(arm.label for arm in summary.arms)]]
    for metric in summary.metrics:
        columns.append(_column(metric, [arm.cells for arm in summary.arms]))
    return columns


def _league(found: League) -> Columns:
    """Labels of the membership attacks, verdicts, figures, and the AUC of each control."""
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
    """The true-positive rate; an unresolved one is marked."""
    if rate is None:
        return "-"
    if rate.resolved:
        return rate.tpr.text
    return f"{rate.tpr.text}?"


def _control(entry: Entry, model: str) -> str:
    """The AUC of the controls by a model; one with a leak is marked."""
    texts = []
    for control in entry.controls:
        if control.model == model:
            mark = "!" if control.leaks else ""
            texts.append(f"{control.auc.text}{mark}")
    return ", ".join(texts) or "-"


def _defences(summary: Summary) -> Columns:
    """Labels, costs and closed share of the leak of the defended arms; empty without a defence."""
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
        columns.append(_column(metric, [arm.release for arm in arms]))
    return [*columns, ["distance closed", *shares]]


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
