"""Rows to the figures that a page or a terminal shows: intervals, leak levels, and one honest sentence."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from xinv.metrics.stats import Interval, mean_interval, overlap
from xinv.report.folder import Unit
from xinv.report.measures import Measure, measure, order, plain

Rows = list[dict[str, Any]]


class Cell(NamedTuple):
    """One arm's figure for one metric.

    Attributes:
      interval: mean over seeds and its confidence interval.
      values: the seeds' values.
      digits: decimals shown.
      leak: 0 for the arm that gives least away in this metric, 1 for the one that gives most; None where unknown.
      against: "more" or "less" where an explanation leaks more or less than predictions alone and the intervals are
        apart, "overlap" where they are not, None where that cannot be said.
    """

    interval: Interval
    values: tuple[float, ...]
    digits: int
    leak: float | None = None
    against: str | None = None

    @property
    def mean(self) -> str:
        """The mean as shown."""
        return number(self.interval.mean, self.digits)

    @property
    def half(self) -> str:
        """Half the interval as shown; empty for one seed."""
        return number(self.interval.half_width, self.digits) if self.interval.count > 1 else ""

    @property
    def text(self) -> str:
        """Mean ± half the interval."""
        return f"{self.mean} ± {self.half}" if self.half else self.mean

    @property
    def seeds(self) -> str:
        """The seeds' values as shown."""
        return ", ".join(number(value, self.digits) for value in self.values)


class Arm(NamedTuple):
    """One attack: what it saw (`explainer` is None for predictions alone) and how, and its cell of each metric."""

    name: str
    label: str
    explainer: str | None
    inputs: str | None
    cells: dict[str, Cell]


class Summary(NamedTuple):
    """A unit in figures.

    Attributes:
      arms: predictions alone first, the others in the order of the rows.
      metrics: the metrics of the arms, the most telling first.
      models: (label, cell) of each figure of the target and the evaluation model.
      seeds: number of seeds.
      examples: reconstructed images per seed, for example "360".
      level: confidence level.
    """

    arms: tuple[Arm, ...]
    metrics: tuple[str, ...]
    models: tuple[tuple[str, Cell], ...]
    seeds: int
    examples: str
    level: float

    @property
    def main(self) -> str | None:
        """The headline's metric: SSIM, or else the first whose leak direction is known."""
        return next((name for name in self.metrics if measure(name).leak), None)

    @property
    def baseline(self) -> Arm | None:
        """The attack that saw predictions alone."""
        return next((arm for arm in self.arms if arm.explainer is None), None)

    @property
    def explained(self) -> list[Arm]:
        """The attacks on explanations that the headline can rank, the most successful first."""
        found = [arm for arm in self.arms if arm.explainer and self.main in arm.cells]
        found = [arm for arm in found if not math.isnan(arm.cells[self.main].interval.mean)]
        return sorted(found, key=lambda arm: -measure(self.main).leak * arm.cells[self.main].interval.mean)


def summarise(unit: Unit, level: float = 0.90) -> Summary:
    """The figures of `unit` with intervals at confidence `level`."""
    attacks = [row for row in unit.rows if row["stage"] == "attack"]
    metrics = order(_distinct(row["metric"] for row in attacks))
    counts = sorted({row["examples"] for row in attacks or unit.rows})
    return Summary(
        arms=tuple(_arms(attacks, metrics, level)),
        metrics=tuple(metrics),
        models=tuple(_models(unit.rows, level)),
        seeds=len({row["seed"] for row in unit.rows}),
        examples=f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}",
        level=level,
    )


def headline(summary: Summary) -> str:
    """What the audit shows, in one sentence that claims no more than the intervals allow."""
    if not summary.explained:
        return "This run attacked no explanation."
    best, shown = summary.explained[0], measure(summary.main)
    seen = f"{plain(best.explainer)} explanations" + ("" if best.label == plain(best.explainer) else f" ({best.label})")
    value = f"{shown.label} {best.cells[summary.main].text}"
    if summary.baseline is None or summary.main not in summary.baseline.cells:
        return f"From {seen} an attacker rebuilds inputs at {value}."
    alone = f"{summary.baseline.cells[summary.main].text} from predictions alone"
    match best.cells[summary.main].against:
        case "more":
            return f"Releasing {seen} lets an attacker rebuild inputs at {value}, against {alone}."
        case "less":
            return f"No explanation helped the attacker: the best, {best.label}, reaches {value}, against {alone}."
        case "overlap":
            return (
                f"No difference is established: {seen} reach {value}, against {alone}, "
                f"and the {summary.level:.0%} intervals overlap."
            )
    return (
        f"In one run {seen} reach {value}, against {alone}; "
        "a single seed gives no interval, so this difference may be chance."
    )


def tally(summary: Summary) -> str:
    """How many explanations are apart from predictions alone; empty where the headline says it all."""
    verdicts = [arm.cells[summary.main].against for arm in summary.explained]
    if len(verdicts) < 2 or None in verdicts:
        return ""
    said = {
        "more": "leak more than predictions alone, intervals apart",
        "overlap": "cannot be told from predictions alone",
        "less": "leak less than predictions alone, intervals apart",
    }
    parts = [f"{verdicts.count(v)} of {len(verdicts)} explanations {text}" for v, text in said.items() if v in verdicts]
    return f"By {measure(summary.main).label}, {'; '.join(parts)} (confidence {summary.level:.0%})."


def number(value: float, digits: int) -> str:
    """`value` with `digits` decimals and a real minus sign; "n/a" for NaN."""
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def _arms(attacks: Rows, metrics: list[str], level: float) -> list[Arm]:
    groups = {name: [row for row in attacks if row["arm"] == name] for name in _distinct(r["arm"] for r in attacks)}
    heads = sorted((rows[0] for rows in groups.values()), key=lambda row: row["explainer"] is not None)
    alone = next((row["arm"] for row in heads if row["explainer"] is None), None)
    columns = {metric: _column(groups, metric, alone, level) for metric in metrics}
    return [
        Arm(
            row["arm"],
            label,
            row["explainer"],
            row["inputs"],
            {m: column[row["arm"]] for m, column in columns.items() if row["arm"] in column},
        )
        for row, label in zip(heads, _labels(heads), strict=True)
    ]


def _column(groups: dict[str, Rows], metric: str, alone: str | None, level: float) -> dict[str, Cell]:
    """The cells of one metric by arm, each placed between the arm that leaks least and the one that leaks most."""
    shown = measure(metric)
    found = {arm: [row for row in rows if row["metric"] == metric] for arm, rows in groups.items()}
    cells = {arm: _cell(rows, shown, level) for arm, rows in found.items() if rows}
    place = leak_levels(list(cells.values()), shown.leak)
    base = cells.get(alone)
    explained = {arm for arm in cells if groups[arm][0]["explainer"]}
    return {
        arm: place(cell)._replace(against=_against(cell, base, shown.leak) if base and arm in explained else None)
        for arm, cell in cells.items()
    }


def leak_levels(cells: list[Cell], direction: int) -> Callable[[Cell], Cell]:
    """A function that gives a cell its leak level among `cells`, 0 for the one that leaks least and 1 for the most."""
    ranks = [direction * cell.interval.mean for cell in cells if math.isfinite(cell.interval.mean)]
    low, spread = min(ranks, default=0), max(ranks, default=0) - min(ranks, default=0)

    def place(cell: Cell) -> Cell:
        rank = direction * cell.interval.mean
        return cell._replace(leak=(rank - low) / spread if spread and math.isfinite(rank) else None)

    return place


def _against(cell: Cell, alone: Cell, direction: int) -> str | None:
    if not direction or not math.isfinite(cell.interval.half_width + alone.interval.half_width):
        return None
    if overlap(cell.interval, alone.interval):
        return "overlap"
    return "more" if direction * (cell.interval.mean - alone.interval.mean) > 0 else "less"


def _cell(rows: Rows, shown: Measure, level: float) -> Cell:
    values = tuple(float(row["value"]) for row in rows)
    return Cell(mean_interval(values, level), values, shown.digits)


def _labels(rows: Rows) -> list[str]:
    """The shortest labels that tell the arms apart: the explainer, the explainer with its inputs, or the arm's name."""
    short = [plain(row["explainer"]) if row["explainer"] else "predictions alone" for row in rows]
    long = [
        f"{text}, {plain(row['inputs'])}" if row["explainer"] and row["inputs"] else text
        for text, row in zip(short, rows, strict=True)
    ]
    return next((labels for labels in (short, long) if len(set(labels)) == len(rows)), [row["arm"] for row in rows])


def _models(rows: Rows, level: float) -> Iterable[tuple[str, Cell]]:
    others = [row for row in rows if row["stage"] != "attack"]
    for stage, metric in _distinct((row["stage"], row["metric"]) for row in others):
        found = [row for row in others if (row["stage"], row["metric"]) == (stage, metric)]
        yield f"{plain(stage)} {plain(metric)}", _cell(found, measure(metric), level)


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
