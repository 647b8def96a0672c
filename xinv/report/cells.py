"""One figure of a table: a mean over seeds, its interval, and where it stands among its column."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from xinv.metrics.stats import Interval, mean_interval, overlap

Rows = list[dict[str, Any]]


class Cell(NamedTuple):
    """One arm's figure for one metric.

    Attributes:
      interval: mean over seeds and its confidence interval.
      values: the seeds' values, by seed.
      digits: decimals shown.
      leak: 0 for the arm that gives least away in this metric, 1 for the one that gives most; None
        where unknown.
      against: "more" or "less" where an arm leaks more or less than the one it is compared with
        (predictions alone, or the same explanation without a defence) and the intervals are apart,
        "overlap" where they are not, None where that cannot be said.
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
        if self.interval.count > 1:
            return number(self.interval.half_width, self.digits)
        return ""

    @property
    def text(self) -> str:
        """Mean ± half the interval."""
        if self.half:
            return f"{self.mean} ± {self.half}"
        return self.mean

    @property
    def seeds(self) -> str:
        """The seeds' values as shown."""
        return ", ".join(number(value, self.digits) for value in self.values)


def of_metric(rows: Rows, metric: str) -> Rows:
    """The rows of a metric, by seed."""
    return sorted((row for row in rows if row["metric"] == metric), key=lambda row: row["seed"])


def cell(rows: Rows, digits: int, level: float) -> Cell:
    """The figure of one (stage, arm, metric): one row per seed."""
    values = tuple(float(row["value"]) for row in sorted(rows, key=lambda row: row["seed"]))
    return Cell(mean_interval(values, level), values, digits)


def leak_levels(cells: Sequence[Cell], direction: int) -> Callable[[Cell], Cell]:
    """A function that gives a cell its leak level among `cells`, 0 for the one that leaks least and
    1 for the most.
    """
    ranks = [direction * cell.interval.mean for cell in cells if math.isfinite(cell.interval.mean)]
    low = min(ranks, default=0)
    spread = max(ranks, default=0) - min(ranks, default=0)

    def place(cell: Cell) -> Cell:
        rank = direction * cell.interval.mean
        return cell._replace(leak=(rank - low) / spread if spread and math.isfinite(rank) else None)

    return place


def against(cell: Cell, other: Cell, direction: int) -> str | None:
    """Whether `cell` leaks "more" or "less" than `other`, or the intervals "overlap"; None where
    that is unknown.
    """
    if not direction or not math.isfinite(cell.interval.half_width + other.interval.half_width):
        return None
    if overlap(cell.interval, other.interval):
        return "overlap"
    if direction * (cell.interval.mean - other.interval.mean) > 0:
        return "more"
    return "less"


def number(value: float, digits: int) -> str:
    """`value` with `digits` decimals and a real minus sign; "n/a" for NaN."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int) -> str:
    """As `number`, with a plus sign where `value` is positive; 0 has none."""
    text = number(value, digits)
    if float(text.replace("−", "-")) > 0:
        return f"+{text}"
    return text
